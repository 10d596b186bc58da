package nearcache_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/go-nearcache/nearcache"
	"github.com/go-nearcache/nearcache/internal/redistest"
)

func TestClear(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{})
	client, other := open(t, optionsFor(server)), open(t, optionsFor(server))
	const odd = prefix + `a*b[c]?\d:`
	cache := newCache(t, client, nearcache.Config[string]{Prefix: odd, Codec: nearcache.String()})
	newCache(t, client, nearcache.Config[string]{Name: "nested", Prefix: odd + "nested:"})
	reader := newCache(t, other, nearcache.Config[string]{Prefix: odd, Codec: nearcache.String()})
	const keys = 1500
	for i := range keys {
		server.Do(t, "SET", odd+fmt.Sprint(i), "v")
	}
	for _, key := range []string{prefix + "axb", prefix + "outside", odd + "nested:k"} {
		server.Do(t, "SET", key, "v")
	}
	fence(t, client)
	fence(t, other)
	warm(t, cache, "7", "v")
	warm(t, reader, "7", "v")
	told := 0
	removed, err := cache.Clear(t.Context(), nearcache.BulkOptions{KeysPerSecond: 1_000_000, Progress: func(done int) { told = done }})
	if removed != keys || err != nil || told == 0 {
		t.Errorf("%d removed, %v, %d told", removed, err, told)
	}
	if message := server.Do(t, "DBSIZE"); fmt.Sprint(must(message.AsInt64())) != "3" {
		t.Errorf("%v keys are left", message)
	}
	if _, err := cache.Get(t.Context(), "7"); !errors.Is(err, nearcache.ErrNotFound) {
		t.Errorf("%v", err)
	}
	if _, err := reader.Get(t.Context(), "7", nearcache.Fresh()); !errors.Is(err, nearcache.ErrNotFound) {
		t.Errorf("%v", err)
	}
	_, err = cache.Clear(t.Context(), nearcache.BulkOptions{KeysPerSecond: -1})
	mentions(t, err, "KeysPerSecond", "-1")
}

func must(n int64, err error) int64 {
	if err != nil {
		panic(err)
	}
	return n
}

func TestWarm(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{})
	options := optionsFor(server)
	options.SettleFills = true
	client := open(t, options)
	failure := errors.New("no such shard")
	cache := newCache(t, client, nearcache.Config[string]{Codec: nearcache.String(), LoadMany: func(_ context.Context, keys []string) (map[string]string, error) {
		values := make(map[string]string)
		for _, key := range keys {
			values[key] = "of " + key
		}
		if slices.Contains(keys, "7") {
			delete(values, "7")
			return values, &nearcache.KeyError{Key: "7", Err: failure}
		}
		return values, nil
	}})
	const keys = 1200
	all := func(yield func(string) bool) {
		for i := range keys {
			if !yield(fmt.Sprint(i)) {
				return
			}
		}
	}
	var told []int
	err := cache.Warm(t.Context(), all, nearcache.BulkOptions{KeysPerSecond: 1_000_000, Progress: func(done int) { told = append(told, done) }})
	if !errors.Is(err, failure) || !slices.Equal(told, []int{500, 1000, 1200}) {
		t.Errorf("%v, %v", err, told)
	}
	if n := statsOf(client).Loads; n != keys {
		t.Errorf("%d loads", n)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := cache.Warm(ctx, all, nearcache.BulkOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

// What L1 holds is not looked at, and what Redis holds is found and kept.
func TestSkipLocal(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{})
	options := optionsFor(server)
	options.MaxStaleness, options.SettleFills = endless, true
	client := open(t, options)
	cache := stringCache(t, client, nil)
	server.Do(t, "SET", prefix+"k", "v")
	fence(t, client)
	warm(t, cache, "k", "v")
	gets := calls(t, server, "get")
	for range 3 {
		want(t, cache, "k", "v", nearcache.SkipLocal())
	}
	if n := calls(t, server, "get") - gets; n != 3 {
		t.Errorf("Redis was asked %d times", n)
	}
	gets = calls(t, server, "get")
	want(t, cache, "k", "v")
	if n := calls(t, server, "get") - gets; n != 0 {
		t.Errorf("Redis was asked %d times for what L1 holds", n)
	}
}
