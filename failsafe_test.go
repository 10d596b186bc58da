package nearcache_test

import (
	"context"
	"errors"
	"maps"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-nearcache/nearcache"
	"github.com/go-nearcache/nearcache/internal/redistest"
)

// failing is a cache with FailSafe whose loader fails on demand.
func failing(t *testing.T, failSafe nearcache.FailSafe) (*redistest.Server, *nearcache.Client, *nearcache.Cache[string], *atomic.Pointer[error], *atomic.Int64) {
	t.Helper()
	server := redistest.Start(t, redistest.Config{})
	options := optionsFor(server)
	options.SettleFills = true
	client := open(t, options)
	fail, loads := new(atomic.Pointer[error]), new(atomic.Int64)
	cache := newCache(t, client, nearcache.Config[string]{
		Codec: nearcache.String(), FailSafe: failSafe,
		Load: func(context.Context, string) (string, error) {
			loads.Add(1)
			if err := fail.Load(); err != nil {
				return "", *err
			}
			return "loaded", nil
		},
	})
	return server, client, cache, fail, loads
}

func TestFailSafe(t *testing.T) {
	t.Parallel()
	server, client, cache, fail, loads := failing(t, nearcache.FailSafe{MaxAge: time.Hour})
	failure := errors.New("the database is on fire")
	want(t, cache, "k", "loaded")
	fail.Store(&failure)
	server.Do(t, "DEL", prefix+"k")
	fence(t, client)

	item, err := cache.GetItem(t.Context(), "k")
	if err != nil || item.Value != "loaded" || !item.Stale || item.Age <= 0 || !errors.Is(item.Reason, failure) {
		t.Errorf("%+v, %v", item, err)
	}
	want(t, cache, "k", "loaded")
	if items, err := cache.GetMany(t.Context(), []string{"k"}); err != nil || items["k"] != "loaded" {
		t.Errorf("%v, %v", items, err)
	}
	if n := statsOf(client).FailSafe; n != 3 {
		t.Errorf("%d reads are counted", n)
	}
	// Who asks for a bound gets nothing past it, and another key has no last good value.
	for _, option := range []nearcache.ReadOption{nearcache.Fresh(), nearcache.MaxStaleness(time.Hour)} {
		if _, err := cache.Get(t.Context(), "k", option); !errors.Is(err, failure) {
			t.Errorf("%v", err)
		}
	}
	if _, err := cache.Get(t.Context(), "other"); !errors.Is(err, failure) {
		t.Errorf("%v", err)
	}
	if loads.Load() != 7 {
		t.Errorf("%d loads", loads.Load())
	}
	// When the source is back, so is the truth.
	fail.Store(nil)
	item, err = cache.GetItem(t.Context(), "k")
	if err != nil || item.Stale || item.Reason != nil || item.Value != "loaded" {
		t.Errorf("%+v, %v", item, err)
	}
}

// A loader is told what the item was before, unless that is forgotten, and only of its own item.
func TestPrevious(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{})
	client := open(t, optionsFor(server))
	type seen struct {
		value string
		ok    bool
	}
	var outer, inner seen
	other := newCache(t, client, nearcache.Config[string]{
		Name: "other", Prefix: prefix + "other:", Codec: nearcache.String(),
		Load: func(ctx context.Context, _ string) (string, error) {
			inner.value, inner.ok = nearcache.Previous[string](ctx)
			return "of another cache", nil
		},
	})
	loads, panics := 0, false
	cache := newCache(t, client, nearcache.Config[string]{
		Codec: nearcache.String(), FailSafe: nearcache.FailSafe{MaxAge: time.Hour},
		Clone: func(s string) string {
			if panics {
				panic("no clone")
			}
			return s + ", cloned"
		},
		Load: func(ctx context.Context, _ string) (string, error) {
			outer.value, outer.ok = nearcache.Previous[string](ctx)
			if n, ok := nearcache.Previous[int](ctx); ok {
				t.Errorf("a value of another type: %d", n)
			}
			if _, err := other.Get(ctx, strconv.Itoa(loads)); err != nil {
				return "", err
			}
			loads++
			return "value " + strconv.Itoa(loads), nil
		},
	})
	load := func(doing string, want seen) {
		t.Helper()
		n := loads
		if _, err := cache.Get(t.Context(), "k"); err != nil || loads != n+1 {
			t.Fatalf("%s: %d loads, %v", doing, loads-n, err)
		}
		if outer != want || inner.ok {
			t.Errorf("%s: the loader is told of %+v, the one that it calls of %+v", doing, outer, inner)
		}
	}
	load("the first time", seen{})
	server.Do(t, "DEL", prefix+"k")
	fence(t, client)
	load("after another node's delete", seen{"value 1, cloned", true})
	server.Do(t, "DEL", prefix+"k")
	fence(t, client)
	panics = true
	_, err := cache.Get(t.Context(), "k", nearcache.Fresh())
	if _, ok := errors.AsType[*nearcache.PanicError](err); !ok {
		t.Errorf("Clone panics in the loader: %v", err)
	}
	panics = false
	if err := cache.Delete(t.Context(), "k"); err != nil {
		t.Fatal(err)
	}
	load("after this node's delete", seen{})
}

// The loader says that there is none, or this node writes: what was good before is not any more.
func TestFailSafeForgets(t *testing.T) {
	t.Parallel()
	server, client, cache, fail, _ := failing(t, nearcache.FailSafe{MaxAge: time.Hour})
	failure, none := errors.New("the database is on fire"), nearcache.ErrNotFound
	for name, gone := range map[string]func(){
		"absent": func() {
			fail.Store(&none)
			server.Do(t, "DEL", prefix+"k")
			fence(t, client)
			if _, err := cache.Get(t.Context(), "k"); !errors.Is(err, nearcache.ErrNotFound) {
				t.Errorf("%v", err)
			}
		},
		"deleted": func() { check(t, cache.Delete(t.Context(), "k")) },
		"written": func() {
			check(t, cache.Set(t.Context(), "k", "new"))
			server.Do(t, "DEL", prefix+"k")
			fence(t, client)
		},
		"flushed": func() {
			server.Do(t, "DEL", prefix+"k")
			check(t, client.Flush(t.Context()))
			fence(t, client)
		},
	} {
		fail.Store(nil)
		want(t, cache, "k", "loaded")
		gone()
		fail.Store(&failure)
		if value, err := cache.Get(t.Context(), "k"); !errors.Is(err, failure) {
			t.Errorf("%s: %q, %v", name, value, err)
		}
	}
}

func TestFailSafeWithoutServer(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{})
	options := optionsFor(server)
	options.SettleFills = true
	client := open(t, options)
	cache := newCache(t, client, nearcache.Config[string]{Codec: nearcache.String(), FailSafe: nearcache.FailSafe{MaxAge: time.Hour}})
	server.Do(t, "SET", prefix+"k", "v")
	fence(t, client)
	want(t, cache, "k", "v")
	server.Kill()
	awaitDown(t, client)
	item, err := cache.GetItem(bounded(t), "k")
	if err != nil || item.Value != "v" || !item.Stale || !errors.Is(item.Reason, nearcache.ErrUnavailable) {
		t.Errorf("%+v, %v", item, err)
	}
}

func TestFailSafeEnds(t *testing.T) {
	t.Parallel()
	failure := errors.New("the database is on fire")
	var loads atomic.Int64
	cache := newCache(t, open(t, optionsFor(redistest.Start(t, redistest.Config{}))), nearcache.Config[string]{
		Codec: nearcache.String(), TTL: 100 * time.Millisecond, FailSafe: nearcache.FailSafe{MaxAge: time.Millisecond},
		Load: func(context.Context, string) (string, error) {
			if loads.Add(1) > 1 {
				return "", failure
			}
			return "loaded", nil
		},
	})
	want(t, cache, "k", "loaded")
	eventually(t, "the last good value is too old", func() bool {
		_, err := cache.Get(t.Context(), "k")
		return errors.Is(err, failure)
	})
}

func TestFailSafeSoftTimeout(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{})
	options := optionsFor(server)
	options.SettleFills = true
	client := open(t, options)
	stop := newCheckpoint(t)
	var loads atomic.Int64
	cache := newCache(t, client, nearcache.Config[string]{
		Codec: nearcache.String(), LoadTimeout: patience, FailSafe: nearcache.FailSafe{MaxAge: time.Hour, SoftTimeout: time.Millisecond},
		Load: func(context.Context, string) (string, error) {
			stop.pass()
			if loads.Add(1) == 1 {
				return "first", nil
			}
			return "second", nil
		},
	})
	want(t, cache, "k", "first")
	server.Do(t, "DEL", prefix+"k")
	fence(t, client)
	stop.arm()
	for range 2 { // who leads the load, and who joins it
		item, err := cache.GetItem(bounded(t), "k")
		if err != nil || item.Value != "first" || !item.Stale {
			t.Errorf("%+v, %v", item, err)
		}
		mentions(t, item.Reason, "SoftTimeout")
	}
	fresh := reading(t.Context(), cache, "k", nearcache.Fresh())
	stop.release()
	if a := receive(t, "the fresh read ends", fresh); a.value != "second" || a.err != nil {
		t.Errorf("%+v", a)
	}
	want(t, cache, "k", "second", nearcache.Fresh())
	if loads.Load() != 2 {
		t.Errorf("%d loads", loads.Load())
	}
}

func TestFailSafeRetryAfter(t *testing.T) {
	t.Parallel()
	server, client, cache, fail, loads := failing(t, nearcache.FailSafe{MaxAge: time.Hour, RetryAfter: time.Hour})
	failure := errors.New("the database is on fire")
	want(t, cache, "k", "loaded")
	fail.Store(&failure)
	server.Do(t, "DEL", prefix+"k")
	fence(t, client)
	for range 5 {
		want(t, cache, "k", "loaded")
	}
	if _, err := cache.Get(t.Context(), "k", nearcache.Fresh()); !errors.Is(err, failure) {
		t.Errorf("%v", err)
	}
	if loads.Load() != 2 {
		t.Errorf("%d loads", loads.Load())
	}
	// Redis is asked all the same.
	server.Do(t, "SET", prefix+"k", "new")
	want(t, cache, "k", "new", nearcache.Fresh())
}

func TestFailSafeRefusesContradictions(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{})
	client := open(t, optionsFor(server))
	options := optionsFor(server)
	options.OnDisconnect = nearcache.FailReads
	strict := open(t, options)
	for _, test := range []struct {
		client   *nearcache.Client
		failSafe nearcache.FailSafe
		words    []string
	}{
		{client, nearcache.FailSafe{SoftTimeout: time.Second}, []string{"SoftTimeout", "MaxAge"}},
		{client, nearcache.FailSafe{RetryAfter: time.Second}, []string{"RetryAfter", "MaxAge"}},
		{client, nearcache.FailSafe{MaxAge: -1}, []string{"MaxAge", "-1ns"}},
		{client, nearcache.FailSafe{MaxAge: time.Hour, SoftTimeout: time.Hour}, []string{"SoftTimeout", "LoadTimeout"}},
		{strict, nearcache.FailSafe{MaxAge: time.Hour}, []string{"FailSafe.MaxAge", "OnDisconnect", "FailReads"}},
	} {
		_, err := nearcache.New(test.client, nearcache.Config[string]{Name: "c", Prefix: prefix, FailSafe: test.failSafe})
		mentions(t, err, test.words...)
	}
}

// A reader of a cache with Clone may change what it gets.
func TestClone(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{})
	options := optionsFor(server)
	options.SettleFills = true
	client := open(t, options)
	cache := newCache(t, client, nearcache.Config[map[string]int]{
		FailSafe: nearcache.FailSafe{MaxAge: time.Hour},
		Clone: func(m map[string]int) map[string]int {
			return maps.Clone(m)
		},
	})
	server.Do(t, "SET", prefix+"k", `{"a":1}`)
	fence(t, client)
	spoil := func(m map[string]int, err error) {
		t.Helper()
		if err != nil || len(m) != 1 || m["a"] != 1 {
			t.Fatalf("%v, %v", m, err)
		}
		m["a"], m["b"] = 2, 3
	}
	for range 3 {
		spoil(cache.Get(t.Context(), "k"))
		spoil(cache.Get(t.Context(), "k", nearcache.Fresh()))
		items, err := cache.GetMany(t.Context(), []string{"k"})
		spoil(items["k"], err)
		item, err := cache.GetItem(t.Context(), "k")
		spoil(item.Value, err)
	}
	server.Kill()
	awaitDown(t, client)
	for range 2 {
		spoil(cache.Get(bounded(t), "k"))
	}
}

func TestMaxValueBytes(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{})
	options := optionsFor(server)
	options.SettleFills = true
	client := open(t, options)
	cache := newCache(t, client, nearcache.Config[string]{
		Codec: nearcache.String(), MaxValueBytes: 4,
		Load: func(_ context.Context, key string) (string, error) { return key, nil },
	})
	err := cache.Set(t.Context(), "k", "large")
	if !errors.Is(err, nearcache.ErrInvalidValue) {
		t.Errorf("%v", err)
	}
	mentions(t, err, "MaxValueBytes", "5 bytes", "4")
	check(t, cache.Set(t.Context(), "k", "tiny"))
	want(t, cache, "large", "large")
	if value, ok := stored(t, server, prefix+"large"); ok {
		t.Errorf("Redis holds %q", value)
	}
	server.Do(t, "SET", prefix+"outside", "large")
	fence(t, client)
	want(t, cache, "outside", "large")
	if cache.Explain(t.Context(), "outside").Local.Present {
		t.Error("L1 holds it")
	}
	if n := statsOf(client).Oversized; n != 2 {
		t.Errorf("%d are counted", n)
	}
	_, err = nearcache.New(client, nearcache.Config[string]{Name: "c", Prefix: prefix + "c:", MaxValueBytes: -1})
	mentions(t, err, "MaxValueBytes", "-1")
}
