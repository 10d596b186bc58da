package nearcache

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/go-nearcache/nearcache/internal/redistest"
	"github.com/go-nearcache/nearcache/localcache"
)

// pastDeadline is a context whose deadline has come and which, as happens for a moment then, does not know it yet.
type pastDeadline struct{ context.Context }

func (pastDeadline) Deadline() (time.Time, bool) { return time.Now().Add(-time.Second), true }

// late is a rueidis.Client that fails as rueidis does when the connection notices a deadline.
type late struct{ rueidis.Client }

func (late) DoMulti(_ context.Context, commands ...rueidis.Completed) []rueidis.RedisResult {
	results := make([]rueidis.RedisResult, len(commands))
	for i := range results {
		results[i] = rueidis.NewErrorResult(context.DeadlineExceeded)
	}
	return results
}

// A reader's deadline, which the connection may notice before the context does, is nobody else's.
func TestRueidisKeepsADeadlineApart(t *testing.T) {
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
	m := r.readOf(r.B().Get().Key("test:a").Cache(), 1, r.view.Key("test:a"), time.Hour)
	now := localcache.Now()
	q := query{began: now, notBefore: now}
	f, leader := r.join(m, q)
	if joined, second := r.join(m, q); !leader || second || joined != f {
		t.Fatal("two readers do not share a request")
	}
	owner := client.servers()[0]
	inner := owner.redis
	owner.redis = late{inner}
	if err := r.lead(pastDeadline{t.Context()}, m, f).Error(); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the first: %v", err)
	}
	owner.redis = inner
	if err := r.follow(t.Context(), m, f, q).Error(); !rueidis.IsRedisNil(err) {
		t.Errorf("the second: %v", err)
	}
}
