package nearcache_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-nearcache/nearcache"
	"github.com/go-nearcache/nearcache/internal/redistest"
)

// loaded is a cache on a node of its own whose loader stops at a checkpoint.
func loaded(t *testing.T, server *redistest.Server, stop *checkpoint) (*nearcache.Client, *nearcache.Cache[string], *atomic.Int64) {
	t.Helper()
	loads := new(atomic.Int64)
	options := optionsFor(server)
	options.MaxStaleness = endless
	client := open(t, options)
	cache := stringCache(t, client, func(ctx context.Context, key string) (string, error) {
		loads.Add(1)
		stop.pass()
		return "loaded " + key, nil
	})
	return client, cache, loads
}

func TestLoadOnceForAllReadersOfAProcess(t *testing.T) {
	t.Parallel()
	const readers = 10_000
	stop := newCheckpoint(t)
	stop.arm()
	client, cache, loads := loaded(t, redistest.Start(t, redistest.Config{}), stop)
	var working sync.WaitGroup
	for range readers {
		working.Go(func() {
			if value, err := cache.Get(t.Context(), "k"); value != "loaded k" || err != nil {
				t.Errorf("%q, %v", value, err)
			}
		})
	}
	eventually(t, "all readers wait", func() bool { return statsOf(client).LocalMisses == readers })
	stop.release()
	working.Wait()
	if n := loads.Load(); n != 1 {
		t.Errorf("%d loads for %d readers", n, readers)
	}
}

func TestLoadOnceForAllReadersOfAFleet(t *testing.T) {
	t.Parallel()
	const nodes, readers = 20, 500
	server := redistest.Start(t, redistest.Config{})
	stop := newCheckpoint(t)
	stop.arm()
	var loads atomic.Int64
	var clients []*nearcache.Client
	var working sync.WaitGroup
	for range nodes {
		client := open(t, optionsFor(server))
		clients = append(clients, client)
		cache := newCache(t, client, nearcache.Config[string]{
			Codec:       nearcache.String(),
			LoadTimeout: patience,
			Load: func(context.Context, string) (string, error) {
				loads.Add(1)
				stop.pass()
				return "loaded", nil
			},
		})
		for range readers {
			working.Go(func() {
				if value, err := cache.Get(t.Context(), "k"); value != "loaded" || err != nil {
					t.Errorf("%q, %v", value, err)
				}
			})
		}
	}
	for _, client := range clients {
		eventually(t, "all readers wait", func() bool { return statsOf(client).LocalMisses == readers })
	}
	stop.release()
	working.Wait()
	if n := loads.Load(); n != 1 {
		t.Errorf("%d loads for %d readers on %d nodes", n, nodes*readers, nodes)
	}
}

// Two nodes find nothing, and then both want the lease.
func TestLoadOnceForNodesThatComeTogether(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{})
	proxy := startProxy(t, server)
	var loads atomic.Int64
	var caches []*nearcache.Cache[string]
	for range 2 {
		caches = append(caches, stringCache(t, open(t, optionsAt(proxy.addr())), func(context.Context, string) (string, error) {
			return fmt.Sprint("load ", loads.Add(1)), nil
		}))
	}
	both := make(chan struct{})
	var arrived atomic.Int64
	proxy.setIntercept(func(args []string) ([]string, bool) {
		if (request{args: args}).is("SET", prefix+"k") {
			if arrived.Add(1) == 2 {
				close(both)
			}
			select {
			case <-both:
			case <-t.Context().Done():
			}
		}
		return args, true
	})
	first, second := reading(t.Context(), caches[0], "k"), reading(t.Context(), caches[1], "k")
	for _, answers := range []<-chan answer{first, second} {
		if a := receive(t, "a read ends", answers); a.value != "load 1" || a.err != nil {
			t.Errorf("%+v", a)
		}
	}
	if n := loads.Load(); n != 1 {
		t.Errorf("%d loads", n)
	}
}

// The readers of another node are woken by the push, whoever it was that ended the lease.
func TestLoadWaitsForAnotherNodesLease(t *testing.T) {
	t.Parallel()
	start := func(t *testing.T) (server *redistest.Server, stop *checkpoint, holder, waiter *nearcache.Cache[string], waiting *nearcache.Client, loads *atomic.Int64) {
		t.Helper()
		server = redistest.Start(t, redistest.Config{})
		stop = newCheckpoint(t)
		stop.arm()
		_, holder, _ = loaded(t, server, stop)
		waiting, waiter, loads = loaded(t, server, newCheckpoint(t))
		return
	}

	t.Run("and takes its result", func(t *testing.T) {
		t.Parallel()
		server, stop, holder, waiter, waiting, loads := start(t)
		first := reading(t.Context(), holder, "k")
		receive(t, "the loader runs", stop.reached)
		second := reading(t.Context(), waiter, "k")
		eventually(t, "the other node waits", func() bool { return statsOf(waiting).LeaseWaits > 0 })
		gets := calls(t, server, "get")
		elapse(500 * time.Millisecond)
		if polled := calls(t, server, "get") - gets; polled > 4 { // the push of the lease itself may be late, and wake it once
			t.Errorf("the waiting node asked %d times in 500ms", polled)
		}
		stop.release()
		for _, answers := range []<-chan answer{first, second} {
			if a := receive(t, "a read ends", answers); a.value != "loaded k" || a.err != nil {
				t.Errorf("%+v", a)
			}
		}
		if n := loads.Load(); n != 0 {
			t.Errorf("the waiting node loaded %d times", n)
		}
	})

	t.Run("until anybody writes the key", func(t *testing.T) {
		t.Parallel()
		server, stop, holder, waiter, waiting, _ := start(t)
		first := reading(t.Context(), holder, "k")
		receive(t, "the loader runs", stop.reached)
		second := reading(t.Context(), waiter, "k")
		eventually(t, "the other node waits", func() bool { return statsOf(waiting).LeaseWaits > 0 })
		server.Do(t, "SET", prefix+"k", "written")
		if a := receive(t, "the waiting read ends while the loader still runs", second); a.value != "written" || a.err != nil {
			t.Errorf("%+v", a)
		}
		stop.release()
		if a := receive(t, "the load ends", first); a.value != "loaded k" || a.err != nil {
			t.Errorf("%+v", a)
		}
		if value, _ := stored(t, server, prefix+"k"); value != "written" {
			t.Errorf("Redis holds %q", value)
		}
	})

	t.Run("until it is deleted", func(t *testing.T) {
		t.Parallel()
		server, stop, holder, waiter, waiting, loads := start(t)
		first := reading(t.Context(), holder, "k")
		receive(t, "the loader runs", stop.reached)
		second := reading(t.Context(), waiter, "k")
		eventually(t, "the other node waits", func() bool { return statsOf(waiting).LeaseWaits > 0 })
		server.Do(t, "DEL", prefix+"k")
		if a := receive(t, "the other node loads", second); a.value != "loaded k" || a.err != nil || loads.Load() != 1 {
			t.Errorf("%+v, %d loads", a, loads.Load())
		}
		stop.release()
		receive(t, "the load ends", first)
	})

	t.Run("without a link", func(t *testing.T) {
		t.Parallel()
		server := redistest.Start(t, redistest.Config{})
		proxy := startProxy(t, server)
		stop := newCheckpoint(t)
		stop.arm()
		_, holder, _ := loaded(t, server, stop)
		waiting := open(t, optionsAt(proxy.addr()))
		waiter := stringCache(t, waiting, func(context.Context, string) (string, error) { return "loaded twice", nil })
		first := reading(t.Context(), holder, "k")
		receive(t, "the loader runs", stop.reached)
		second := reading(t.Context(), waiter, "k")
		eventually(t, "the other node waits", func() bool { return statsOf(waiting).LeaseWaits > 0 })
		proxy.refuseLinks(true)
		awaitDown(t, waiting)
		stop.release()
		for _, answers := range []<-chan answer{first, second} {
			if a := receive(t, "a read ends", answers); a.value != "loaded k" || a.err != nil {
				t.Errorf("%+v", a)
			}
		}
	})
}

func TestLoadAfterTheHolderDied(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{})
	c := startChild(t, server.Addr(), bound)
	c.say(t, "load k")
	c.hear(t, "loading")
	c.kill(t)
	if _, ok := stored(t, server, prefix+"blocking:k"); !ok {
		t.Fatal("the lease ended with its holder: the test proves nothing")
	}
	cache := newCache(t, open(t, optionsFor(server)), nearcache.Config[string]{
		Prefix: prefix + "blocking:",
		Codec:  nearcache.String(),
		Load:   func(context.Context, string) (string, error) { return "loaded", nil },
	})
	want(t, cache, "k", "loaded")
	if value, _ := stored(t, server, prefix+"blocking:k"); value != "loaded" {
		t.Errorf("Redis holds %q", value)
	}
}

// Anybody may write a marker, even one without an end. It delays a load; it does not prevent it.
func TestLoadDespiteAForgedLease(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{})
	options := optionsFor(server)
	options.RemoteTimeout = time.Second // part of the life of a lease
	client := open(t, options)
	cache := newCache(t, client, nearcache.Config[string]{
		Codec:       nearcache.String(),
		LoadTimeout: 100 * time.Millisecond,
		Load:        func(context.Context, string) (string, error) { return "loaded", nil },
	})
	const marker = "\x00nearcache\x00lease\x00forged"
	for _, end := range [][]string{nil, {"PX", "300"}} {
		server.Do(t, append([]string{"SET", prefix + "k", marker}, end...)...)
		fence(t, client)
		want(t, cache, "k", "loaded")
		if value, _ := stored(t, server, prefix+"k"); value != "loaded" {
			t.Errorf("Redis holds %q", value)
		}
	}
}

func TestLoadIsDetachedFromItsCallers(t *testing.T) {
	t.Parallel()
	for _, step := range []string{"fetch", "load", "store"} {
		t.Run("leader cancelled during the "+step, func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t, redistest.Config{})
			proxy := startProxy(t, server)
			loading, storing := newCheckpoint(t), newCheckpoint(t)
			options := optionsAt(proxy.addr())
			oneConnection(&options)
			client := open(t, options)
			var loads atomic.Int64
			type contextKey struct{}
			cache := newCache(t, client, nearcache.Config[string]{
				Codec: hooked(nil, storing),
				Load: func(ctx context.Context, _ string) (string, error) {
					loads.Add(1)
					loading.pass()
					if err := ctx.Err(); err != nil {
						return "", err
					}
					return fmt.Sprint("loaded for ", ctx.Value(contextKey{})), nil
				},
			})
			before := proxy.count("GET")
			switch step {
			case "fetch":
				proxy.hold(dataReplies)
			case "load":
				loading.arm()
			case "store":
				storing.arm()
			}
			ctx, cancel := context.WithCancel(context.WithValue(t.Context(), contextKey{}, "the leader"))
			first := reading(ctx, cache, "k")
			switch step {
			case "fetch":
				eventually(t, "the fetch is on its way", func() bool { return proxy.count("GET") > before })
			case "load":
				receive(t, "the loader runs", loading.reached)
			case "store":
				receive(t, "the value is loaded", storing.reached)
			}
			second := reading(t.Context(), cache, "k")
			eventually(t, "the second reader waits", func() bool { return statsOf(client).LocalMisses == 2 })
			cancel()
			if a := receive(t, "the leader's read ends with its context", first); !errors.Is(a.err, context.Canceled) {
				t.Errorf("the leader: %+v", a)
			}
			proxy.release(dataReplies)
			loading.release()
			storing.release()
			if a := receive(t, "the other read ends", second); a.value != "loaded for the leader" || a.err != nil {
				t.Errorf("the other reader: %+v", a)
			}
			if n := loads.Load(); n != 1 {
				t.Errorf("%d loads", n)
			}
			eventually(t, "the value is stored", func() bool {
				value, _ := stored(t, server, prefix+"k")
				return value == "loaded for the leader"
			})
		})
	}

	t.Run("cancelled before", func(t *testing.T) {
		t.Parallel()
		_, cache, loads := loaded(t, redistest.Start(t, redistest.Config{}), newCheckpoint(t))
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := cache.Get(ctx, "k"); !errors.Is(err, context.Canceled) {
			t.Errorf("Get: %v", err)
		}
		if _, err := cache.GetMany(ctx, []string{"k"}); !errors.Is(err, context.Canceled) {
			t.Errorf("GetMany: %v", err)
		}
		if n := loads.Load(); n != 0 {
			t.Errorf("a read whose context had ended began %d loads", n)
		}
		want(t, cache, "k", "loaded k")
		warm(t, cache, "k", "loaded k")
		if value, err := cache.Get(ctx, "k"); value != "loaded k" || err != nil {
			t.Errorf("a hit looks at the context: %q, %v", value, err)
		}
	})

	t.Run("waiters leave on their own", func(t *testing.T) {
		t.Parallel()
		stop := newCheckpoint(t)
		stop.arm()
		_, cache, loads := loaded(t, redistest.Start(t, redistest.Config{}), stop)
		first := reading(t.Context(), cache, "k")
		receive(t, "the loader runs", stop.reached)
		reason := errors.New("the reader has had enough")
		ctx, cancel := context.WithCancelCause(t.Context())
		second := reading(ctx, cache, "k")
		ctxWithDeadline, cancelDeadline := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancelDeadline()
		third := reading(ctxWithDeadline, cache, "k")
		cancel(reason)
		if a := receive(t, "the waiter leaves", second); !errors.Is(a.err, reason) {
			t.Errorf("%+v", a)
		}
		if a := receive(t, "the waiter leaves", third); !errors.Is(a.err, context.DeadlineExceeded) {
			t.Errorf("%+v", a)
		}
		stop.release()
		if a := receive(t, "the leader's read ends", first); a.value != "loaded k" || a.err != nil {
			t.Errorf("%+v", a)
		}
		if n := loads.Load(); n != 1 {
			t.Errorf("%d loads", n)
		}
	})
}

// What others write while a load runs lets other readers past it, and yet never two loads run at once.
func TestLoadsOfAKeyNeverOverlap(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{})
	client := open(t, optionsFor(server))
	var running, most, loads atomic.Int64
	stop := newCheckpoint(t)
	stop.arm()
	cache := stringCache(t, client, func(context.Context, string) (string, error) {
		most.Store(max(most.Load(), running.Add(1)))
		defer running.Add(-1)
		n := loads.Add(1)
		stop.pass()
		return fmt.Sprint("load ", n), nil
	})
	first := reading(t.Context(), cache, "k")
	receive(t, "the first load runs", stop.reached)
	server.Do(t, "SET", prefix+"k", "written")
	fence(t, client)
	want(t, cache, "k", "written") // a reader that came later, and has left already
	server.Do(t, "DEL", prefix+"k")
	fence(t, client)
	misses := statsOf(client).RemoteMisses
	second := reading(t.Context(), cache, "k")
	eventually(t, "the second reader found nothing", func() bool { return statsOf(client).RemoteMisses > misses })
	select {
	case a := <-second:
		t.Errorf("the second read ended before the first load: %+v", a)
	case <-time.After(time.Second): // time for a second load to begin, if it could
	}
	stop.release()
	if a := receive(t, "the first read ends", first); a.value != "load 1" || a.err != nil {
		t.Errorf("%+v", a)
	}
	if a := receive(t, "the second read ends", second); a.value != "load 2" || a.err != nil {
		t.Errorf("%+v", a)
	}
	if most.Load() != 1 {
		t.Errorf("%d loads ran at once", most.Load())
	}
}
