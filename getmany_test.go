package nearcache_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/go-nearcache/nearcache"
	"github.com/go-nearcache/nearcache/internal/redistest"
)

func TestGetManyMovesWhatIsMissingInOneRoundTrip(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{})
	proxy := startProxy(t, server)
	options := optionsAt(proxy.addr())
	oneConnection(&options)
	client := open(t, options)
	cache := stringCache(t, client, nil)
	expected := make(map[string]string)
	var keys []string
	for i := range 100 {
		key := fmt.Sprint("k", i)
		keys = append(keys, key)
		expected[key] = fmt.Sprint("v", i)
		server.Do(t, "SET", prefix+key, expected[key])
	}
	fence(t, client)
	for _, key := range keys[:90] {
		warm(t, cache, key, expected[key])
	}

	onData := func() []request { return proxy.requests(func(r request) bool { return !r.link }) }
	before := len(onData())
	proxy.hold(dataReplies)
	type result struct {
		items map[string]string
		err   error
	}
	results := make(chan result, 1)
	go func() {
		items, err := cache.GetMany(t.Context(), keys)
		results <- result{items, err}
	}()
	// Whatever it sends before it has a reply is one round trip.
	eventually(t, "the request is on its way", func() bool { return len(onData()) > before })
	sent := onData()[before:]
	if len(sent) != 1 || !sent[0].is("MGET") || len(sent[0].args) != 1+10 {
		t.Errorf("for 10 keys of 100 it sent %d commands, first %q", len(sent), sent[0].args)
	}
	mget := proxy.count("MGET")
	proxy.release(dataReplies)
	if r := receive(t, "GetMany ends", results); r.err != nil || !maps.Equal(r.items, expected) {
		t.Errorf("%v, %v", r.items, r.err)
	}
	if n := proxy.count("MGET"); n != mget {
		t.Errorf("%d round trips more", n-mget)
	}

	eventually(t, "L1 holds all", func() bool {
		return !slices.ContainsFunc(keys, func(key string) bool { return !inLocal(cache, key) })
	})
	before = len(onData())
	items, err := cache.GetMany(t.Context(), keys)
	if err != nil || !maps.Equal(items, expected) {
		t.Errorf("%v, %v", items, err)
	}
	items, err = cache.GetMany(t.Context(), keys, nearcache.Fresh())
	if err != nil || !maps.Equal(items, expected) {
		t.Errorf("fresh: %v, %v", items, err)
	}
	if sent := onData()[before:]; len(sent) != 0 {
		t.Errorf("what L1 holds was asked for again: %v", sent)
	}
}

func TestGetManyOfAllKinds(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{})
	failure := errors.New("the database is on fire")
	client := open(t, optionsFor(server))
	var loads sync.Map
	cache := newCache(t, client, nearcache.Config[int]{Load: func(_ context.Context, key string) (int, error) {
		n, _ := loads.LoadOrStore(key, new(atomic.Int64))
		n.(*atomic.Int64).Add(1)
		switch {
		case strings.HasPrefix(key, "absent"):
			return 0, nearcache.ErrNotFound
		case strings.HasPrefix(key, "failing"):
			return 0, failure
		case strings.HasPrefix(key, "panicking"):
			panic(failure)
		}
		return len(key), nil
	}})
	server.Do(t, "SET", prefix+"local", "1")
	server.Do(t, "SET", prefix+"remote", "2")
	server.Do(t, "SET", prefix+"undecodable", "no number")
	server.Do(t, "LPUSH", prefix+"list", "v")
	fence(t, client)
	warm(t, cache, "local", 1)

	items, err := cache.GetMany(t.Context(), []string{
		"local", "remote", "loaded", "loaded", "absent", "failing", "panicking", "undecodable", "list", "", "local", "failing",
	})
	if expected := map[string]int{"local": 1, "remote": 2, "loaded": 6, "undecodable": 11}; !maps.Equal(items, expected) {
		t.Errorf("%v, want %v", items, expected)
	}
	failures := make(map[string]error)
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		t.Fatalf("%v", err)
	}
	for _, err := range joined.Unwrap() {
		var ofKey *nearcache.KeyError
		if !errors.As(err, &ofKey) {
			t.Fatalf("no KeyError: %v", err)
		}
		failures[ofKey.Key] = ofKey.Err
		mentions(t, err, fmt.Sprintf("key %q", ofKey.Key))
	}
	if got := slices.Sorted(maps.Keys(failures)); !slices.Equal(got, []string{"", "failing", "list", "panicking"}) {
		t.Errorf("failures for %q", got)
	}
	if failures["failing"] != failure { //nolint:errorlint // it is promised as it is
		t.Errorf("%v", failures["failing"])
	}
	if _, ok := errors.AsType[*nearcache.PanicError](failures["panicking"]); !ok {
		t.Errorf("%v", failures["panicking"])
	}
	var wrong *nearcache.WrongTypeError
	if !errors.As(failures["list"], &wrong) || wrong.Type != "list" {
		t.Errorf("%v", failures["list"])
	}
	if !errors.Is(failures[""], nearcache.ErrInvalidKey) {
		t.Errorf("%v", failures[""])
	}
	loads.Range(func(key, n any) bool {
		if count := n.(*atomic.Int64).Load(); count != 1 {
			t.Errorf("%q was loaded %d times", key, count)
		}
		return true
	})
}

func TestGetManyOfNothing(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{})
	cache := stringCache(t, open(t, optionsFor(server)), nil)
	for _, keys := range [][]string{nil, {}} {
		items, err := cache.GetMany(t.Context(), keys)
		if err != nil || items == nil || len(items) != 0 {
			t.Errorf("%v, %v", items, err)
		}
	}
	if n := calls(t, server, "mget"); n != 0 {
		t.Errorf("%d commands for nothing", n)
	}
	server.Do(t, "SADD", prefix+"set", "v")
	items, err := cache.GetMany(t.Context(), []string{"absent", "set"})
	var wrong *nearcache.WrongTypeError
	if len(items) != 0 || !errors.As(err, &wrong) || wrong.Type != "set" {
		t.Errorf("without a loader: %v, %v", items, err)
	}
}

func TestGetManyLoadsAFewAtATime(t *testing.T) {
	t.Parallel()
	const keys, atOnce = 200, 16
	var running, most atomic.Int64
	release := make(chan struct{})
	cache := stringCache(t, open(t, optionsFor(redistest.Start(t, redistest.Config{}))), func(_ context.Context, key string) (string, error) {
		n := running.Add(1)
		for known := most.Load(); n > known && !most.CompareAndSwap(known, n); known = most.Load() {
		}
		<-release
		running.Add(-1)
		return "of " + key, nil
	})
	all := make([]string, keys)
	for i := range all {
		all[i] = fmt.Sprint(i)
	}
	results := make(chan map[string]string, 1)
	go func() {
		items, err := cache.GetMany(t.Context(), all)
		if err != nil {
			t.Error(err)
		}
		results <- items
	}()
	eventually(t, "the loaders run", func() bool { return running.Load() == atOnce })
	close(release)
	if items := receive(t, "GetMany ends", results); len(items) != keys {
		t.Errorf("%d items of %d", len(items), keys)
	}
	if most.Load() != atOnce {
		t.Errorf("%d loaders ran at once", most.Load())
	}
}

// Crossing calls wait for each other's flights and must not do so in a circle.
func TestGetManyInBothDirections(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{})
	client := open(t, optionsFor(server))
	var loads atomic.Int64
	cache := stringCache(t, client, func(_ context.Context, key string) (string, error) {
		loads.Add(1)
		return "of " + key, nil
	})
	const keys, callers = 100, 20
	forward := make([]string, keys)
	for i := range forward {
		forward[i] = fmt.Sprint(i)
	}
	backward := slices.Clone(forward)
	slices.Reverse(backward)
	var working sync.WaitGroup
	for i := range callers {
		working.Go(func() {
			all := forward
			if i%2 == 1 {
				all = backward
			}
			items, err := cache.GetMany(t.Context(), all)
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
	working.Wait()
	if n := loads.Load(); n != keys {
		t.Errorf("%d loads of %d keys", n, keys)
	}
}

func TestGetManySharesWithGet(t *testing.T) {
	t.Parallel()
	stop := newCheckpoint(t)
	stop.arm()
	client, cache, loads := loaded(t, redistest.Start(t, redistest.Config{}), stop)
	first := reading(t.Context(), cache, "k")
	receive(t, "the loader runs", stop.reached)
	results := make(chan map[string]string, 1)
	go func() {
		items, err := cache.GetMany(t.Context(), []string{"k", "other"})
		if err != nil {
			t.Error(err)
		}
		results <- items
	}()
	eventually(t, "GetMany waits", func() bool { return statsOf(client).LocalMisses == 3 })
	stop.release()
	receive(t, "Get ends", first)
	if items := receive(t, "GetMany ends", results); items["k"] != "loaded k" || items["other"] != "loaded other" {
		t.Errorf("%q", items)
	}
	if n := loads.Load(); n != 2 {
		t.Errorf("%d loads", n)
	}
}

func TestGetManyEndsWithItsContext(t *testing.T) {
	t.Parallel()
	for _, step := range []string{"fetch", "load"} {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t, redistest.Config{})
			proxy := startProxy(t, server)
			stop := newCheckpoint(t)
			defer stop.release()
			options := optionsAt(proxy.addr())
			oneConnection(&options)
			client := open(t, options)
			cache := stringCache(t, client, func(context.Context, string) (string, error) {
				stop.pass()
				return "loaded", nil
			})
			server.Do(t, "SET", prefix+"there", "v")
			fence(t, client)
			warm(t, cache, "there", "v")
			mget := proxy.count("MGET")
			if step == "fetch" {
				proxy.hold(dataReplies)
			} else {
				stop.arm()
			}
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() {
				items, err := cache.GetMany(ctx, []string{"there", "k"})
				if items["there"] != "v" {
					t.Errorf("what L1 holds is not returned: %v", items)
				}
				ended <- err
			}()
			if step == "fetch" {
				eventually(t, "the fetch is on its way", func() bool { return proxy.count("MGET") > mget })
			} else {
				receive(t, "the loader runs", stop.reached)
			}
			cancel()
			err := receive(t, "GetMany ends with its context", ended)
			var ofKey *nearcache.KeyError
			if !errors.Is(err, context.Canceled) || !errors.As(err, &ofKey) || ofKey.Key != "k" {
				t.Errorf("%v", err)
			}
			proxy.release(dataReplies)
			stop.release()
			want(t, cache, "k", "loaded")
		})
	}
}
