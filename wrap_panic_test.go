package nearcache

import (
	"context"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/go-nearcache/nearcache/internal/redistest"
)

// panicking is a rueidis.Client that panics, as rueidis does for commands that it considers wrong.
type panicking struct{ rueidis.Client }

func (panicking) DoMulti(context.Context, ...rueidis.Completed) []rueidis.RedisResult {
	panic("wrong command")
}

// A panic of rueidis is its caller's, and leaves nothing behind that others would wait for.
func TestRueidisPanics(t *testing.T) {
	server := redistest.Start(t, redistest.Config{})
	options := Options{Prefixes: []string{"test:"}}
	options.Redis.InitAddress = server.ClientOption().InitAddress
	client, err := Open(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	whole, err := client.Rueidis()
	if err != nil {
		t.Fatal(err)
	}
	defer whole.Close()
	r := whole.(*rueidisClient)
	owner := client.servers()[0]
	inner := owner.redis
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	b := r.B()
	for name, read := range map[string]func() error{
		"DoCache":      func() error { return r.DoCache(ctx, b.Get().Key("test:a").Cache(), time.Hour).Error() },
		"MGET":         func() error { return r.DoCache(ctx, b.Mget().Key("test:a", "test:b").Cache(), time.Hour).Error() },
		"DoMultiCache": func() error { return r.DoMultiCache(ctx, gets(b, "test:a", "test:b")...)[1].Error() },
	} {
		owner.redis = panicking{inner}
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			_ = read()
		}()
		owner.redis = inner
		if err := read(); err != nil && !rueidis.IsRedisNil(err) {
			t.Errorf("%s afterwards: %v", name, err)
		}
		client.local.Wait()
		client.invalidate("test:a", 0)
		client.invalidate("test:b", 0)
	}
}

// gets are the GETs of keys.
func gets(b rueidis.Builder, keys ...string) (all []rueidis.CacheableTTL) {
	for _, key := range keys {
		all = append(all, rueidis.CT(b.Get().Key(key).Cache(), time.Hour))
	}
	return all
}
