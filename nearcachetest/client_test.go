package nearcachetest_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-nearcache/nearcache"
	"github.com/go-nearcache/nearcache/broadcast"
	"github.com/go-nearcache/nearcache/nearcachetest"
)

// counted is a cache over a slot, and how often it loads.
type counted struct {
	*nearcache.Cache[string]
	loads atomic.Int64
}

func newCounted(t testing.TB, client *nearcache.Client, source *slot) *counted {
	t.Helper()
	c := new(counted)
	var err error
	c.Cache, err = nearcache.New(client, nearcache.Config[string]{
		Name: "counted", Prefix: "counted:", TTL: time.Minute, NegativeTTL: time.Minute,
		Load: func(ctx context.Context, key string) (string, error) {
			c.loads.Add(1)
			return source.reader().Get(ctx, key)
		},
	})
	check(t, err)
	return c
}

func (c *counted) reads(t testing.TB, want string, loads int64) {
	t.Helper()
	value, err := c.Get(t.Context(), "k")
	if err != nil || value != want || c.loads.Load() != loads {
		t.Errorf("read %q, %v after %d loads; want %q after %d", value, err, c.loads.Load(), want, loads)
	}
}

func TestNewClient(t *testing.T) {
	t.Parallel()
	source := new(slot)
	source.set("old", nil)
	// The options of production go in as they are.
	production := nearcache.Options{Prefixes: []string{"counted:"}, MaxBytes: 1 << 20, OnDisconnect: nearcache.FailReads}
	production.Redis.InitAddress = []string{"redis.example:6379"}
	production.Verify.SampleRate, production.Canary = 0.001, time.Second
	cache := newCounted(t, nearcachetest.NewClient(t, production), source)
	for range 100 {
		cache.reads(t, "old", 1)
	}
	source.set("new", nil)
	check(t, cache.Delete(t.Context(), "k"))
	cache.reads(t, "new", 2)
	check(t, cache.Set(t.Context(), "k", "stored nowhere"))
	cache.reads(t, "new", 3)

	source.set("", nearcache.ErrNotFound)
	check(t, cache.Delete(t.Context(), "k"))
	for range 3 {
		if _, err := cache.Get(t.Context(), "k"); !errors.Is(err, nearcache.ErrNotFound) || cache.loads.Load() != 4 {
			t.Errorf("%v after %d loads", err, cache.loads.Load())
		}
	}
	mentions(t, record(t, func(t testing.TB) {
		nearcachetest.NewClient(t, nearcache.Options{MaxStaleness: time.Hour})
	}), "Options.MaxStaleness")
}

// In a bubble everything is exact: when an announcement has arrived, and when a value's time is over.
func TestNodesInABubble(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		source := new(slot)
		source.set("old", nil)
		network := broadcast.NewNetwork(broadcast.NetworkOptions{})
		a := newCounted(t, nearcachetest.NewClientOn(t, network, nearcache.Options{}), source)
		b := newCounted(t, nearcachetest.NewClientOn(t, network, nearcache.Options{}), source)
		for range 2 {
			a.reads(t, "old", 1)
			b.reads(t, "old", 1)
		}
		source.set("new", nil)
		check(t, a.Delete(t.Context(), "k"))
		synctest.Wait()
		b.reads(t, "new", 2)
		b.reads(t, "new", 2)
		a.reads(t, "new", 2)

		time.Sleep(time.Minute - time.Nanosecond)
		a.reads(t, "new", 2)
		time.Sleep(time.Nanosecond)
		a.reads(t, "new", 3)

		network.Disconnect()
		synctest.Wait()
		source.set("newest", nil)
		b.reads(t, "newest", 3)
		b.reads(t, "newest", 4) // nothing is kept that nobody would invalidate
		network.Connect()
		synctest.Wait()
		b.reads(t, "newest", 5)
		b.reads(t, "newest", 5)
	})
}
