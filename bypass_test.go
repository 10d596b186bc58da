package nearcache_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/go-nearcache/nearcache"
	"github.com/go-nearcache/nearcache/broadcast"
	"github.com/go-nearcache/nearcache/internal/redistest"
)

// SkipRemote and ReadOnly return what the source says, and neither Redis nor L1 nor another reader gets to see it.
func TestReadsThatStoreNothing(t *testing.T) {
	t.Parallel()
	for _, batch := range []bool{false, true} {
		server := redistest.Start(t, redistest.Config{})
		client := open(t, optionsFor(server))
		source := newSource(map[string]string{"a": "1", "b": "2"})
		config := nearcache.Config[string]{Name: "test", Prefix: prefix, Codec: nearcache.String(), NegativeTTL: time.Minute, Load: source.load}
		if batch {
			config.LoadMany = func(ctx context.Context, keys []string) (map[string]string, error) {
				found := make(map[string]string)
				for _, key := range keys {
					if value, err := source.load(ctx, key); err == nil {
						found[key] = value
					}
				}
				return found, nil
			}
		}
		cache := newCache(t, client, config)
		ctx := bounded(t)
		sets := calls(t, server, "set")
		for _, option := range []nearcache.ReadOption{nearcache.SkipRemote(), nearcache.ReadOnly()} {
			for range 2 {
				want(t, cache, "a", "1", option)
				if _, err := cache.Get(ctx, "absent", option); !errors.Is(err, nearcache.ErrNotFound) {
					t.Errorf("an absent item: %v", err)
				}
				if items, err := cache.GetMany(ctx, []string{"a", "b", "absent"}, option); err != nil || len(items) != 2 || items["b"] != "2" {
					t.Errorf("GetMany: %q, %v", items, err)
				}
			}
			for _, key := range []string{"a", "b", "absent"} {
				if value, ok := stored(t, server, prefix+key); ok || inLocal(cache, key) {
					t.Errorf("%q was stored: %q in Redis, in L1: %t", key, value, inLocal(cache, key))
				}
			}
		}
		if n := source.loads.Load(); n != 2*2*5 {
			t.Errorf("%d loads, want one a key and read: 20", n)
		}
		if calls(t, server, "set") != sets {
			t.Error("a lease was taken")
		}

		// ReadOnly asks Redis and SkipRemote does not.
		server.Do(t, "SET", prefix+"a", "of Redis")
		want(t, cache, "a", "of Redis", nearcache.Fresh(), nearcache.ReadOnly())
		want(t, cache, "a", "1", nearcache.Fresh(), nearcache.SkipRemote())
		if inLocal(cache, "a") {
			t.Error("a read that stores nothing filled L1")
		}
		// Both are served from L1, within the bound.
		warm(t, cache, "a", "of Redis")
		want(t, cache, "a", "of Redis", nearcache.SkipRemote())
		want(t, cache, "a", "of Redis", nearcache.ReadOnly())
		want(t, cache, "a", "1", nearcache.SkipRemote(), nearcache.SkipLocal())
	}
}

func TestSkippingRedisWithoutALoader(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{})
	cache := stringCache(t, open(t, optionsFor(server)), nil)
	server.Do(t, "SET", prefix+"a", "1")
	if _, err := cache.Get(bounded(t), "a", nearcache.SkipRemote()); !errors.Is(err, nearcache.ErrUnavailable) {
		t.Errorf("neither L1 nor Redis nor a loader: %v", err)
	}
	if _, err := cache.Get(bounded(t), "b", nearcache.ReadOnly()); !errors.Is(err, nearcache.ErrNotFound) {
		t.Errorf("Redis has nothing: %v", err)
	}
	want(t, cache, "a", "1", nearcache.ReadOnly())
}

// A load for one reader ends with that reader.
func TestAReaderAsideTakesItsLoadAlong(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{})
	loading, ended := make(chan struct{}), make(chan error, 1)
	cache := stringCache(t, open(t, optionsFor(server)), func(ctx context.Context, _ string) (string, error) {
		close(loading)
		<-ctx.Done()
		ended <- context.Cause(ctx)
		return "", ctx.Err()
	})
	ctx, cancel := context.WithCancelCause(bounded(t))
	answers := reading(ctx, cache, "a", nearcache.ReadOnly())
	receive(t, "the load", loading)
	cause := errors.New("gone")
	cancel(cause)
	if got := receive(t, "the answer", answers); !errors.Is(got.err, cause) {
		t.Errorf("the reader got %v", got.err)
	}
	if err := receive(t, "the end of the load", ended); !errors.Is(err, cause) {
		t.Errorf("the load ended with %v", err)
	}
}

// A switch of the cache is as the option on each read, and is off again when it is.
func TestSetBypass(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{})
	options := optionsFor(server)
	options.SettleFills = true
	client := open(t, options)
	source := newSource(map[string]string{"a": "1", "u": "1"})
	cache := stringCache(t, client, source.load)
	ctx := bounded(t)
	want(t, cache, "a", "1")
	before := calls(t, server, "get")
	cache.SetBypass(nearcache.BypassL1)
	want(t, cache, "a", "1")
	if calls(t, server, "get") == before {
		t.Error("BypassL1 did not ask Redis")
	}
	cache.SetBypass(nearcache.BypassL1 | nearcache.BypassRedis)
	source.set("a", "2")
	want(t, cache, "a", "2")
	if b := cache.Bypass(); b != nearcache.BypassL1|nearcache.BypassRedis {
		t.Errorf("Bypass: %v", b)
	}
	// A writer who builds on what the loader says still gets it.
	value, err := cache.Update(ctx, "u", func(current string, exists bool) (string, error) { return fmt.Sprint(current, exists), nil })
	if value != "1true" || err != nil {
		t.Errorf("Update: %q, %v", value, err)
	}
	check(t, client.SetBypass(ctx, "test", 0))
	want(t, cache, "a", "1")

	check(t, client.SetBypass(ctx, "", nearcache.BypassStores))
	later := newCache(t, client, nearcache.Config[string]{Name: "later", Prefix: prefix + "later:", Codec: nearcache.String(), Load: source.load})
	if later.Bypass() != nearcache.BypassStores || cache.Bypass() != nearcache.BypassStores {
		t.Errorf("for all caches: %v and %v", later.Bypass(), cache.Bypass())
	}
	if err := client.SetBypass(ctx, "", 1<<7); err == nil || !strings.Contains(err.Error(), "Bypass(128)") {
		t.Errorf("unknown parts: %v", err)
	}
	closeNode(t, client)
	if err := client.SetBypass(ctx, "", 0); !errors.Is(err, nearcache.ErrClosed) {
		t.Errorf("closed: %v", err)
	}
}

func TestNamesOfBypasses(t *testing.T) {
	t.Parallel()
	for b, want := range map[nearcache.Bypass]string{
		0: "none", nearcache.BypassL1 | nearcache.BypassRedis: "BypassL1|BypassRedis", nearcache.BypassStores | 1<<6: "BypassStores|Bypass(64)",
	} {
		if b.String() != want {
			t.Errorf("%d: %q, want %q", b, b.String(), want)
		}
	}
}

// One call reaches the whole fleet, nodes that start after it included, and the later of two calls holds.
func TestBypassOfAFleet(t *testing.T) {
	t.Parallel()
	network := broadcast.NewNetwork(broadcast.NetworkOptions{})
	source := func(string) (string, error) { return "v", nil }
	a, b := newBusNode(t, network, nearcache.BypassLocal, source), newBusNode(t, network, nearcache.BypassLocal, source)
	b.reads(t, "k", "v")
	ctx := bounded(t)
	check(t, a.client.SetBypass(ctx, "things", nearcache.BypassL1))
	eventually(t, "another node has heard of it", func() bool { return b.cache.Bypass() == nearcache.BypassL1 })
	b.reads(t, "k", "v")
	if n := b.loads.Load(); n != 2 {
		t.Errorf("%d loads: L1 was not passed", n)
	}
	c := newBusNode(t, network, nearcache.BypassLocal, source)
	eventually(t, "a later node has asked for it", func() bool { return c.cache.Bypass() == nearcache.BypassL1 })
	check(t, c.client.SetBypass(ctx, "", 0))
	eventually(t, "all nodes have heard of the end", func() bool { return a.cache.Bypass() == 0 && b.cache.Bypass() == 0 })
	check(t, b.client.SetBypass(ctx, "another", nearcache.BypassL1))
	d := newBusNode(t, network, nearcache.BypassLocal, source)
	d.reads(t, "k", "v")
	if d.cache.Bypass() != 0 {
		t.Errorf("a node that starts later bypasses %v", d.cache.Bypass())
	}
	if b.reads(t, "k", "v"); b.loads.Load() != 2 {
		t.Error("the announcement of a bypass made a node forget what it holds")
	}
}
