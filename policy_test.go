package nearcache_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-nearcache/nearcache"
)

// While the link is down and Redis is not, the policy decides.

func TestBypassLocal(t *testing.T) {
	t.Parallel()
	n := startNetwork(t, func(o *nearcache.Options) { o.MaxStaleness = endless })
	var loads atomic.Int64
	loading := newCache(t, n.client, nearcache.Config[string]{Name: "loading", Prefix: prefix + "l:", Codec: nearcache.String(),
		Load: func(context.Context, string) (string, error) { loads.Add(1); return "loaded", nil }})
	n.proxy.refuseLinks(true)
	awaitDown(t, n.client)
	filled, before := n.client.Stats().Local.Fills.Accepted, statsOf(n.client)
	for range 5 {
		want(t, n.cache, "k", "old")
	}
	n.write(t, "new")
	want(t, n.cache, "k", "new")
	want(t, n.cache, "k", "new", nearcache.Fresh())
	items, err := n.cache.GetMany(t.Context(), []string{"k"})
	if err != nil || items["k"] != "new" {
		t.Errorf("GetMany: %v, %v", items, err)
	}
	check(t, n.cache.Set(t.Context(), "k", "mine"))
	want(t, n.cache, "k", "mine")

	// A load goes through Redis as ever.
	want(t, loading, "k", "loaded")
	want(t, loading, "k", "loaded")
	if loads.Load() != 1 {
		t.Errorf("%d loads", loads.Load())
	}

	after := statsOf(n.client)
	if after.LocalHits != before.LocalHits || after.LocalStale != 0 {
		t.Errorf("L1 was not bypassed: %+v", after)
	}
	if got := n.client.Stats().Local.Fills.Accepted; got != filled {
		t.Errorf("%d values were stored in L1", got-filled)
	}
	n.proxy.refuseLinks(false)
	n.recover(t, "mine")
}

func TestServeStale(t *testing.T) {
	t.Parallel()
	const limit = 3 * time.Second
	n := startNetwork(t, func(o *nearcache.Options) {
		o.MaxStaleness = bound
		o.OnDisconnect = nearcache.ServeStale
		o.StaleLimit = limit
	})
	n.server.Do(t, "SET", prefix+"unread", "remote")
	fence(t, n.client)
	n.proxy.refuseLinks(true)
	awaitDown(t, n.client)
	lost := time.Now()
	overwritten := n.write(t, "new")
	elapse(time.Until(overwritten.Add(bound + time.Millisecond)))
	if value := get(t, n.cache, "k"); value != "old" && time.Since(lost) < limit/2 {
		t.Errorf("within the limit: %q", value)
	}
	items, err := n.cache.GetMany(t.Context(), []string{"k"})
	if err != nil || items["k"] != "old" && time.Since(lost) < limit/2 {
		t.Errorf("GetMany: %v, %v", items, err)
	}
	if stale := statsOf(n.client).LocalStale; stale != 2 && time.Since(lost) < limit/2 {
		t.Errorf("%d reads are counted as stale", stale)
	}
	// What L1 does not hold comes from Redis, and is not kept.
	filled := n.client.Stats().Local.Fills.Accepted
	want(t, n.cache, "unread", "remote")
	want(t, n.cache, "k", "new", nearcache.Fresh()) // a bound of the caller's own comes before the policy
	if got := n.client.Stats().Local.Fills.Accepted; got != filled {
		t.Errorf("%d values were stored in L1", got-filled)
	}
	elapse(time.Until(lost.Add(limit)))
	want(t, n.cache, "k", "new")
	n.proxy.refuseLinks(false)
	n.recover(t, "new")
}

// A write of the node itself is read at once, whatever the policy.
func TestServeStaleReadsOwnWrites(t *testing.T) {
	t.Parallel()
	n := startNetwork(t, func(o *nearcache.Options) {
		o.OnDisconnect = nearcache.ServeStale
		o.StaleLimit = endless
	})
	n.proxy.refuseLinks(true)
	awaitDown(t, n.client)
	want(t, n.cache, "k", "old")
	check(t, n.cache.Set(t.Context(), "k", "mine"))
	want(t, n.cache, "k", "mine")
	check(t, n.cache.Delete(t.Context(), "k"))
	if value, err := n.cache.Get(t.Context(), "k"); !errors.Is(err, nearcache.ErrNotFound) {
		t.Errorf("%q, %v", value, err)
	}
}

// It serves also while Redis itself is away, which is what it is for.
func TestServeStaleWithoutRedis(t *testing.T) {
	t.Parallel()
	n := startNetwork(t, func(o *nearcache.Options) {
		o.MaxStaleness = 10 * time.Millisecond
		o.OnDisconnect = nearcache.ServeStale
		o.StaleLimit = endless
	})
	var reading sync.WaitGroup
	for range 16 { // in the moment of the loss as well
		reading.Go(func() {
			for n.client.Health().Ready {
				if value, err := n.cache.Get(t.Context(), "k"); value != "old" {
					t.Errorf("%q, %v", value, err)
				}
			}
		})
	}
	n.server.Kill()
	reading.Wait()
	elapse(10 * time.Millisecond)
	for range 5 {
		want(t, n.cache, "k", "old")
	}
	if _, err := n.cache.Get(t.Context(), "unread"); !errors.Is(err, nearcache.ErrUnavailable) {
		t.Errorf("%v", err)
	}
}

func TestFailReads(t *testing.T) {
	t.Parallel()
	n := startNetwork(t, func(o *nearcache.Options) { o.OnDisconnect = nearcache.FailReads })
	var loads atomic.Int64
	loading := newCache(t, n.client, nearcache.Config[string]{Name: "loading", Prefix: prefix + "l:", Codec: nearcache.String(),
		Load: func(context.Context, string) (string, error) { loads.Add(1); return "loaded", nil }})
	n.proxy.refuseLinks(true)
	awaitDown(t, n.client)
	for _, option := range [][]nearcache.ReadOption{nil, {nearcache.Fresh()}, {nearcache.MaxStaleness(endless)}} {
		_, err := n.cache.Get(t.Context(), "k", option...)
		if !errors.Is(err, nearcache.ErrDisconnected) {
			t.Errorf("Get: %v", err)
		}
		mentions(t, err, "FailReads", "Health")
	}
	items, err := n.cache.GetMany(t.Context(), []string{"k", "l"})
	if !errors.Is(err, nearcache.ErrDisconnected) || len(items) != 0 {
		t.Errorf("GetMany: %v, %v", items, err)
	}
	if _, err := loading.Get(t.Context(), "k"); !errors.Is(err, nearcache.ErrDisconnected) || loads.Load() != 0 {
		t.Errorf("%v, %d loads", err, loads.Load())
	}
	check(t, n.cache.Set(t.Context(), "k", "new")) // writes go on
	n.proxy.refuseLinks(false)
	n.recover(t, "new")
}

func TestPolicyNames(t *testing.T) {
	t.Parallel()
	for policy, name := range map[nearcache.DisconnectPolicy]string{
		nearcache.BypassLocal: "BypassLocal", nearcache.ServeStale: "ServeStale", nearcache.FailReads: "FailReads", 7: "DisconnectPolicy(7)",
	} {
		if got := policy.String(); got != name {
			t.Errorf("%q, want %q", got, name)
		}
	}
}
