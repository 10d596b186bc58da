package nearcache_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-nearcache/nearcache"
	"github.com/go-nearcache/nearcache/internal/redistest"
)

// batches records what LoadMany was asked for.
type batches struct {
	mu    sync.Mutex
	asked [][]string
}

func (b *batches) note(keys []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	keys = slices.Clone(keys)
	slices.Sort(keys)
	b.asked = append(b.asked, keys)
}

func (b *batches) take() [][]string {
	b.mu.Lock()
	defer b.mu.Unlock()
	asked := b.asked
	b.asked = nil
	return asked
}

// All that is missing is asked for in one call, and each key gets what it deserves.
func TestLoadMany(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{})
	client := open(t, optionsFor(server))
	failure := errors.New("the shard of c is on fire")
	var calls batches
	cache := newCache(t, client, nearcache.Config[string]{
		Codec:       nearcache.String(),
		NegativeTTL: time.Minute,
		LoadMany: func(_ context.Context, keys []string) (map[string]string, error) {
			calls.note(keys)
			values, errs := map[string]string{"stranger": "not asked for", "here": "nor this"}, []error(nil)
			for _, key := range keys {
				switch key {
				case "absent":
				case "failing":
					errs = append(errs, &nearcache.KeyError{Key: key, Err: failure})
				case "gone":
					errs = append(errs, &nearcache.KeyError{Key: key, Err: nearcache.ErrNotFound})
				default:
					values[key] = "loaded " + key
				}
			}
			return values, errors.Join(errs...)
		},
	})
	server.Do(t, "SET", prefix+"here", "v")
	server.Do(t, "SET", prefix+"there", "w")
	fence(t, client)
	warm(t, cache, "here", "v")
	keys := []string{"a", "here", "absent", "failing", "there", "gone", "b", "a"}
	items, err := cache.GetMany(t.Context(), keys)
	want := map[string]string{"a": "loaded a", "b": "loaded b", "here": "v", "there": "w"}
	if fmt.Sprint(items) != fmt.Sprint(want) {
		t.Errorf("%q", items)
	}
	var ofKey *nearcache.KeyError
	if !errors.As(err, &ofKey) || ofKey.Key != "failing" || ofKey.Err != failure { //nolint:errorlint // it is promised as it is
		t.Errorf("%v", err)
	}
	if asked := calls.take(); len(asked) != 1 || !slices.Equal(asked[0], []string{"a", "absent", "b", "failing", "gone"}) {
		t.Errorf("asked for %q", asked)
	}
	for key, want := range map[string]string{"a": "loaded a", "b": "loaded b", "here": "v"} {
		if value, _ := stored(t, server, prefix+key); value != want {
			t.Errorf("Redis holds %q under %q", value, key)
		}
	}
	if value, ok := stored(t, server, prefix+"failing"); ok {
		t.Errorf("Redis holds %q for a key that failed", value)
	}
	if stats := statsOf(client); stats.Loads != 5 || stats.LoadNegatives != 2 || stats.LoadErrors != 1 || stats.LoadsUnasked != 2 {
		t.Errorf("%+v", stats)
	}
	// The second time there is only what failed to ask for: what is absent is remembered.
	items, err = cache.GetMany(t.Context(), keys)
	if len(items) != len(want) || err == nil {
		t.Errorf("%q, %v", items, err)
	}
	if asked := calls.take(); len(asked) != 1 || !slices.Equal(asked[0], []string{"failing"}) {
		t.Errorf("asked again for %q", asked)
	}
	// Get has the same loader.
	if _, err := cache.Get(t.Context(), "failing"); err != failure { //nolint:errorlint // it is promised as it is
		t.Errorf("%v", err)
	}
	want2 := "loaded single"
	if value := get(t, cache, "single"); value != want2 {
		t.Errorf("%q", value)
	}
}

func TestLoadManyThatFailsAltogether(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{})
	failure := errors.New("no connection")
	for name, test := range map[string]struct {
		load func(keys []string) (map[string]string, error)
		is   func(error) bool
	}{
		"error": {
			func([]string) (map[string]string, error) { return map[string]string{"a": "loaded"}, failure },
			func(err error) bool { return errors.Is(err, failure) },
		},
		"panic": {
			func([]string) (map[string]string, error) { panic(failure) },
			func(err error) bool { _, ok := errors.AsType[*nearcache.PanicError](err); return ok },
		},
	} {
		t.Run(name, func(t *testing.T) {
			client := open(t, optionsFor(server))
			cache := newCache(t, client, nearcache.Config[string]{Prefix: prefix + name, Codec: nearcache.String(),
				LoadMany: func(_ context.Context, keys []string) (map[string]string, error) { return test.load(keys) }})
			items, err := cache.GetMany(t.Context(), []string{"a", "b"})
			if !test.is(err) {
				t.Errorf("%v", err)
			}
			if name == "error" && items["a"] != "loaded" {
				t.Errorf("what was loaded is not returned: %q", items)
			}
			if value, ok := stored(t, server, prefix+name+"b"); ok {
				t.Errorf("a lease is left behind: %q", value)
			}
		})
	}
}

// Of two nodes that want overlapping keys, each key is loaded by one.
func TestLoadManyOnceInTheFleet(t *testing.T) {
	t.Parallel()
	const nodes, keys = 4, 1200
	server := redistest.Start(t, redistest.Config{})
	var mu sync.Mutex
	loads := make(map[string]int)
	var longest atomic.Int64
	all := make([]string, keys)
	for i := range all {
		all[i] = fmt.Sprint(i)
	}
	var working sync.WaitGroup
	for node := range nodes {
		cache := newCache(t, open(t, optionsFor(server)), nearcache.Config[string]{
			Codec: nearcache.String(), LoadTimeout: patience,
			LoadMany: func(_ context.Context, keys []string) (map[string]string, error) {
				longest.Store(max(longest.Load(), int64(len(keys))))
				values := make(map[string]string)
				mu.Lock()
				defer mu.Unlock()
				for _, key := range keys {
					loads[key]++
					values[key] = "of " + key
				}
				return values, nil
			},
		})
		for reader := range 3 {
			working.Go(func() {
				mine := slices.Clone(all)
				if (node+reader)%2 == 0 {
					slices.Reverse(mine)
				}
				items, err := cache.GetMany(t.Context(), mine)
				if err != nil || len(items) != keys {
					t.Errorf("%d items, %v", len(items), err)
				}
				for key, value := range items {
					if value != "of "+key {
						t.Errorf("%q under %q", value, key)
					}
				}
			})
		}
	}
	working.Wait()
	if len(loads) != keys {
		t.Errorf("%d keys were loaded", len(loads))
	}
	for key, n := range loads {
		if n != 1 {
			t.Errorf("%q was loaded %d times", key, n)
		}
	}
	if longest.Load() > 500 {
		t.Errorf("LoadMany was asked for %d keys at once", longest.Load())
	}
}

// Who writes a key while it is loaded ends its lease, and no other.
func TestLoadManyYieldsToWriters(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{})
	client := open(t, optionsFor(server))
	cache := newCache(t, client, nearcache.Config[string]{
		Codec: nearcache.String(),
		LoadMany: func(_ context.Context, keys []string) (map[string]string, error) {
			server.Do(t, "SET", prefix+"written", "by another")
			server.Do(t, "DEL", prefix+"deleted")
			values := make(map[string]string)
			for _, key := range keys {
				values[key] = "loaded"
			}
			return values, nil
		},
	})
	items, err := cache.GetMany(t.Context(), []string{"written", "deleted", "left"})
	if err != nil || len(items) != 3 {
		t.Errorf("%q, %v", items, err)
	}
	if value, _ := stored(t, server, prefix+"written"); value != "by another" {
		t.Errorf("the load has overwritten what came during it: %q", value)
	}
	if value, ok := stored(t, server, prefix+"deleted"); ok {
		t.Errorf("the load has stored %q after the key was deleted", value)
	}
	if value, _ := stored(t, server, prefix+"left"); value != "loaded" {
		t.Errorf("Redis holds %q", value)
	}
	if stats := statsOf(client); stats.Unstored != 2 {
		t.Errorf("%+v", stats)
	}
	want(t, cache, "written", "by another", nearcache.Fresh())
}

func TestLoadManyWhileRedisIsAway(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{})
	client := open(t, optionsFor(server))
	var calls batches
	cache := newCache(t, client, nearcache.Config[string]{
		Codec: nearcache.String(),
		LoadMany: func(_ context.Context, keys []string) (map[string]string, error) {
			calls.note(keys)
			return map[string]string{"a": "loaded a", "b": "loaded b"}, nil
		},
	})
	server.Kill()
	awaitDown(t, client)
	items, err := cache.GetMany(bounded(t), []string{"a", "b", "c"})
	if err != nil || len(items) != 2 || items["a"] != "loaded a" {
		t.Errorf("%q, %v", items, err)
	}
	if asked := calls.take(); len(asked) != 1 || len(asked[0]) != 3 {
		t.Errorf("asked for %q", asked)
	}
}

func TestLoadManyGoesOnWithoutItsCaller(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{})
	client := open(t, optionsFor(server))
	stop := newCheckpoint(t)
	stop.arm()
	cache := newCache(t, client, nearcache.Config[string]{
		Codec: nearcache.String(),
		LoadMany: func(_ context.Context, keys []string) (map[string]string, error) {
			stop.pass()
			return map[string]string{"a": "loaded a"}, nil
		},
	})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, err := cache.GetMany(ctx, []string{"a", "b"})
		ended <- err
	}()
	receive(t, "the loader runs", stop.reached)
	cancel()
	if err := receive(t, "GetMany ends with its context", ended); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	stop.release()
	want(t, cache, "a", "loaded a")
	if n := statsOf(client).Loads; n != 2 {
		t.Errorf("%d items were asked for", n)
	}
}
