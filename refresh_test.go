package nearcache_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-nearcache/nearcache"
	"github.com/go-nearcache/nearcache/internal/redistest"
)

// due is a node of a fleet whose items are due as soon as less than 90 % of an hour is left.
func due(t *testing.T, server *redistest.Server, load func(context.Context, string) (string, error)) (*nearcache.Client, *nearcache.Cache[string]) {
	t.Helper()
	options := optionsFor(server)
	options.SettleFills = true
	client := open(t, options)
	return client, newCache(t, client, nearcache.Config[string]{
		Codec: nearcache.String(), TTL: time.Hour, RefreshAhead: 0.9, LoadTimeout: patience, NegativeTTL: time.Minute, Load: load,
	})
}

// Of all nodes that read an item shortly before its end one loads it anew, while all go on reading, and then all have the new value.
func TestRefreshAheadOnceInTheFleet(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{})
	stop := newCheckpoint(t)
	stop.arm()
	var loads atomic.Int64
	var clients []*nearcache.Client
	var caches []*nearcache.Cache[string]
	for range 4 {
		client, cache := due(t, server, func(ctx context.Context, _ string) (string, error) {
			if previous, ok := nearcache.Previous[string](ctx); previous != "old" {
				t.Errorf("the loader is told of %q, %t", previous, ok)
			}
			loads.Add(1)
			stop.pass()
			return "new", nil
		})
		clients, caches = append(clients, client), append(caches, cache)
	}
	server.Do(t, "SET", prefix+"k", "old", "EX", "600")
	for i, cache := range caches {
		fence(t, clients[i])
		warm(t, cache, "k", "old")
	}
	for _, cache := range caches {
		for range 10 {
			want(t, cache, "k", "old")
		}
	}
	receive(t, "one node loads", stop.reached)
	for _, cache := range caches {
		want(t, cache, "k", "old") // nobody waits for it
	}
	stop.release()
	eventually(t, "Redis holds the new value", func() bool { value, _ := stored(t, server, prefix+"k"); return value == "new" })
	for _, cache := range caches {
		want(t, cache, "k", "new", nearcache.Fresh())
		warm(t, cache, "k", "new")
	}
	if life := remaining(t, server, prefix+"k"); life < 50*time.Minute {
		t.Errorf("it lives for %v", life)
	}
	if loads.Load() != 1 {
		t.Errorf("%d loads", loads.Load())
	}
}

// What is written during the load stays, even if it has the bytes of the old value.
func TestRefreshAheadYieldsToWriters(t *testing.T) {
	t.Parallel()
	for name, write := range map[string]struct {
		arguments []string
		want      string
	}{
		"another value":  {[]string{"SET", prefix + "k", "written", "EX", "600"}, "written"},
		"the same value": {[]string{"SET", prefix + "k", "old", "EX", "3600"}, "old"},
		"no end":         {[]string{"SET", prefix + "k", "old"}, "old"},
		"deleted":        {[]string{"DEL", prefix + "k"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t, redistest.Config{})
			stop := newCheckpoint(t)
			stop.arm()
			client, cache := due(t, server, func(context.Context, string) (string, error) {
				stop.pass()
				return "loaded", nil
			})
			server.Do(t, "SET", prefix+"k", "old", "EX", "600")
			fence(t, client)
			warm(t, cache, "k", "old")
			want(t, cache, "k", "old")
			receive(t, "the load runs", stop.reached)
			server.Do(t, write.arguments...)
			stop.release()
			eventually(t, "the load has ended", func() bool { return statsOf(client).Unstored == 1 })
			if value, _ := stored(t, server, prefix+"k"); value != write.want {
				t.Errorf("Redis holds %q, want %q", value, write.want)
			}
		})
	}
}

func TestRefreshAheadThatFails(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		err error
		is  func(*testing.T, *redistest.Server, *nearcache.Cache[string])
	}{
		"error": {errors.New("the database is on fire"), func(t *testing.T, _ *redistest.Server, cache *nearcache.Cache[string]) {
			want(t, cache, "k", "old")
		}},
		"absent": {nearcache.ErrNotFound, func(t *testing.T, server *redistest.Server, cache *nearcache.Cache[string]) {
			eventually(t, "it is remembered", func() bool {
				_, err := cache.Get(t.Context(), "k", nearcache.Fresh())
				return errors.Is(err, nearcache.ErrNotFound)
			})
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t, redistest.Config{})
			client, cache := due(t, server, func(context.Context, string) (string, error) { return "", test.err })
			server.Do(t, "SET", prefix+"k", "old", "EX", "600")
			fence(t, client)
			warm(t, cache, "k", "old")
			for range 5 {
				_, _ = cache.Get(t.Context(), "k")
			}
			eventually(t, "the load has run", func() bool { return statsOf(client).Loads == 1 })
			test.is(t, server, cache)
			if n := statsOf(client).Loads; n != 1 {
				t.Errorf("%d loads", n)
			}
		})
	}
}

// What is not due, or has no end, is left alone.
func TestRefreshAheadWaits(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{})
	client, cache := due(t, server, func(context.Context, string) (string, error) { return "loaded", nil })
	server.Do(t, "SET", prefix+"endless", "v")
	server.Do(t, "SET", prefix+"young", "v", "EX", "3600")
	fence(t, client)
	for _, key := range []string{"endless", "young"} {
		warm(t, cache, key, "v")
		want(t, cache, key, "v")
	}
	if n := statsOf(client).Loads; n != 0 {
		t.Errorf("%d loads", n)
	}
	load := func(context.Context, string) (string, error) { return "", nil }
	for _, test := range []struct {
		config nearcache.Config[string]
		words  []string
	}{
		{nearcache.Config[string]{RefreshAhead: 1, Load: load}, []string{"RefreshAhead", "less than 1"}},
		{nearcache.Config[string]{RefreshAhead: 0.5}, []string{"RefreshAhead", "Load"}},
	} {
		test.config.Name, test.config.Prefix = "c", prefix+"c:"
		_, err := nearcache.New(client, test.config)
		mentions(t, err, test.words...)
	}
}

// Past its TTL a value is served while one load runs, and is as coherent as before.
func TestStaleWhileRevalidate(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{})
	options := optionsFor(server)
	options.SettleFills = true
	client := open(t, options)
	source, loading := newSource(map[string]string{"a": "1"}), newCheckpoint(t)
	cache := newCache(t, client, nearcache.Config[string]{
		Name: "test", Prefix: prefix, Codec: nearcache.String(), TTL: time.Millisecond, LocalTTL: time.Hour, StaleWhileRevalidate: time.Hour, LoadTimeout: patience,
		Load: func(ctx context.Context, key string) (string, error) {
			value, err := source.load(ctx, key)
			loading.pass()
			return value, err
		},
	})
	ctx := bounded(t)
	want(t, cache, "a", "1")
	source.set("a", "2") // and nobody says so
	loading.arm()
	eventually(t, "a read past the TTL begins a load", func() bool {
		want(t, cache, "a", "1")
		return source.loads.Load() == 2
	})
	receive(t, "the load", loading.reached)
	eventually(t, "GetItem shows it", func() bool {
		item, err := cache.GetItem(ctx, "a")
		return err == nil && item.Value == "1" && item.Revalidating && !item.Stale
	})
	// An invalidation ends the value all the same, and what is being loaded is not put over what was written.
	server.Do(t, "SET", prefix+"a", "3", "EX", "7200")
	want(t, cache, "a", "3", nearcache.Fresh())
	loading.release()
	eventually(t, "the load has ended", func() bool { return statsOf(client).Unstored == 1 })
	want(t, cache, "a", "3", nearcache.Fresh())

	check(t, cache.Set(ctx, "b", "1", nearcache.TTL(time.Minute)))
	check(t, cache.Set(ctx, "c", "1"))
	check(t, cache.Touch(ctx, "c"))
	for key, most := range map[string]time.Duration{"b": time.Hour + time.Minute, "c": time.Hour + time.Second} {
		if left := cache.Explain(ctx, key).Remote.TTL; left > most || left < time.Minute*59 {
			t.Errorf("%q has %v left in Redis", key, left)
		}
	}
}

// What nobody else announced is replaced by what the source says.
func TestStaleWhileRevalidateStoresWhatItLoaded(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{})
	client := open(t, optionsFor(server))
	source := newSource(map[string]string{"a": "1"})
	cache := newCache(t, client, nearcache.Config[string]{
		Name: "test", Prefix: prefix, Codec: nearcache.String(), TTL: time.Millisecond, StaleWhileRevalidate: time.Hour, Load: source.load,
	})
	want(t, cache, "a", "1")
	source.set("a", "2")
	eventually(t, "the new value is read", func() bool { return get(t, cache, "a") == "2" })
	if errors := statsOf(client).LoadErrors; errors != 0 {
		t.Errorf("%d loads failed", errors)
	}
}
