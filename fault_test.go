package nearcache_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-nearcache/nearcache"
	"github.com/go-nearcache/nearcache/internal/redistest"
)

// Redis is gone, in each of the ways in which it can be: the source still serves, once for all who ask, and nothing is kept of what it
// says, since nobody would tell when that changes.
func TestRedisUnreachable(t *testing.T) {
	t.Parallel()
	for _, fault := range []struct {
		name       string
		begin, end func(*testing.T, *redistest.Server, *proxy)
	}{
		{
			name:  "killed",
			begin: func(_ *testing.T, s *redistest.Server, _ *proxy) { s.Kill() },
			end:   func(t *testing.T, s *redistest.Server, _ *proxy) { check(t, s.Restart(t.Context())) },
		},
		{
			name:  "frozen",
			begin: func(t *testing.T, s *redistest.Server, _ *proxy) { check(t, s.Pause()) },
			end:   func(t *testing.T, s *redistest.Server, _ *proxy) { check(t, s.Resume()) },
		},
		{
			name:  "half-open network",
			begin: func(_ *testing.T, _ *redistest.Server, p *proxy) { p.hold(wholeNetwork...) },
			end:   func(_ *testing.T, _ *redistest.Server, p *proxy) { p.release(wholeNetwork...) },
		},
		{
			name:  "refused connections",
			begin: func(_ *testing.T, _ *redistest.Server, p *proxy) { p.refuse(true) },
			end:   func(_ *testing.T, _ *redistest.Server, p *proxy) { p.refuse(false) },
		},
	} {
		t.Run(fault.name, func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t, redistest.Config{})
			proxy := startProxy(t, server)
			options := optionsAt(proxy.addr())
			options.RemoteTimeout = time.Second
			client := open(t, options)
			var loads atomic.Int64
			stop := newCheckpoint(t)
			defer stop.release()
			cache := stringCache(t, client, func(_ context.Context, key string) (string, error) {
				loads.Add(1)
				stop.pass()
				return "of " + key, nil
			})
			bare := newCache(t, client, nearcache.Config[string]{Name: "bare", Prefix: prefix + "bare:", Codec: nearcache.String()})
			warm(t, cache, "held", "of held")

			fault.begin(t, server, proxy)
			awaitDown(t, client)
			filled := client.Stats().Local.Fills.Accepted

			// Coalesced.
			loads.Store(0)
			stop.arm()
			const readers = 500
			before := statsOf(client).LocalBypasses
			var working sync.WaitGroup
			for range readers {
				working.Go(func() {
					if value, err := cache.Get(t.Context(), "k"); value != "of k" || err != nil {
						t.Errorf("%q, %v", value, err)
					}
				})
			}
			eventually(t, "all readers wait", func() bool { return statsOf(client).LocalBypasses == before+readers })
			stop.release()
			working.Wait()
			// Who comes when a load has begun waits for another one: this one's result is kept nowhere, and may be too old for him.
			if n := loads.Load(); n < 1 || n > 5 {
				t.Errorf("%d loads for %d readers", n, readers)
			}

			// None waits for its own timeout: Redis is asked again now and then, not by everybody.
			began := time.Now()
			for i := range 40 {
				want(t, cache, fmt.Sprint(i), "of "+fmt.Sprint(i))
			}
			if took := time.Since(began); took > 20*options.RemoteTimeout {
				t.Errorf("40 reads took %v with a RemoteTimeout of %v", took, options.RemoteTimeout)
			}
			want(t, cache, "held", "of held")
			items, err := cache.GetMany(t.Context(), []string{"a", "b", "held"})
			if err != nil || len(items) != 3 {
				t.Errorf("GetMany: %v, %v", items, err)
			}

			// Nothing is stored.
			n := loads.Load()
			want(t, cache, "k", "of k")
			if loads.Load() != n+1 {
				t.Error("what the source said was stored")
			}
			if got := client.Stats().Local.Fills.Accepted; got != filled {
				t.Errorf("%d values were stored in L1", got-filled)
			}

			// Without a loader there is nobody to ask.
			_, err = bare.Get(t.Context(), "k")
			if !errors.Is(err, nearcache.ErrUnavailable) {
				t.Errorf("without a loader: %v", err)
			}
			mentions(t, err, `"bare"`)
			items, err = bare.GetMany(t.Context(), []string{"k"})
			if !errors.Is(err, nearcache.ErrUnavailable) || len(items) != 0 {
				t.Errorf("GetMany without a loader: %v, %v", items, err)
			}
			if err := client.Fence(t.Context()); err == nil {
				t.Error("a fence succeeds without a link")
			}
			for what, err := range map[string]error{
				"Set": cache.Set(t.Context(), "k", "v"), "Delete": cache.Delete(t.Context(), "k"),
			} {
				if err == nil {
					t.Errorf("%s reports success", what)
				} else {
					mentions(t, err, `"test"`, strings.ToLower(what))
				}
			}
			if e := cache.Explain(t.Context(), "k"); e.Remote.Err == nil {
				t.Errorf("Explain does not say why Redis says nothing: %v", e)
			}

			// And all is normal again.
			fault.end(t, server, proxy)
			awaitReady(t, client)
			eventually(t, "L1 serves again", func() bool {
				_, err := cache.Get(t.Context(), "again")
				check(t, err)
				return inLocal(cache, "again")
			})
			if value, _ := stored(t, server, prefix+"again"); value != "of again" {
				t.Errorf("Redis holds %q", value)
			}
			eventually(t, "writes succeed", func() bool { return cache.Set(t.Context(), "k", "set") == nil })
			want(t, cache, "k", "set")
		})
	}
}

// A server that freezes in the middle of a load costs the load nothing but its storing.
func TestRedisLostDuringALoad(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{})
	stop := newCheckpoint(t)
	stop.arm()
	options := optionsFor(server)
	options.RemoteTimeout = time.Second
	client := open(t, options)
	cache := stringCache(t, client, func(context.Context, string) (string, error) {
		stop.pass()
		return "loaded", nil
	})
	first := reading(t.Context(), cache, "k")
	receive(t, "the loader runs", stop.reached)
	check(t, server.Pause())
	stop.release()
	if a := receive(t, "the read ends", first); a.value != "loaded" || a.err != nil {
		t.Errorf("%+v", a)
	}
	if n := statsOf(client).Unstored; n != 1 {
		t.Errorf("%d loads are counted as not stored", n)
	}
	check(t, server.Resume())
	awaitReady(t, client)
	warm(t, cache, "k", "loaded")
}

func TestConnectionsKilled(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{})
	client := open(t, optionsFor(server))
	cache := stringCache(t, client, nil)
	server.Do(t, "SET", prefix+"k", "v")
	for i := range 10 {
		server.Do(t, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
		if i%2 == 0 {
			want(t, cache, "k", "v")
		} else if items, err := cache.GetMany(t.Context(), []string{"k"}); err != nil || items["k"] != "v" {
			t.Errorf("GetMany: %v, %v", items, err)
		}
	}
	awaitReady(t, client)
	warm(t, cache, "k", "v")
}

func TestMaxMemoryEviction(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{})
	options := optionsFor(server)
	options.MaxStaleness = endless
	client := open(t, options)
	cache := stringCache(t, client, nil)
	server.Do(t, "SET", prefix+"k", "v")
	fence(t, client)
	warm(t, cache, "k", "v")
	server.Do(t, "CONFIG", "SET", "maxmemory-policy", "allkeys-random")
	server.Do(t, "CONFIG", "SET", "maxmemory", "1")
	eventually(t, "Redis has evicted the key", func() bool {
		_, ok := stored(t, server, prefix+"k")
		return !ok
	})
	fence(t, client)
	if inLocal(cache, "k") {
		t.Error("L1 serves what Redis has evicted")
	}
	if _, err := cache.Get(t.Context(), "k"); !errors.Is(err, nearcache.ErrNotFound) {
		t.Errorf("%v", err)
	}
}

func TestRedisFull(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{})
	client := open(t, optionsFor(server))
	var loads atomic.Int64
	cache := stringCache(t, client, func(context.Context, string) (string, error) { return fmt.Sprint("load ", loads.Add(1)), nil })
	server.Do(t, "SET", prefix+"there", "v")
	server.Do(t, "CONFIG", "SET", "maxmemory", "1") // and no eviction
	mentions(t, cache.Set(t.Context(), "k", "v"), "OOM", `"test"`, "set")
	want(t, cache, "k", "load 1")
	want(t, cache, "k", "load 2") // stored nowhere
	items, err := cache.GetMany(t.Context(), []string{"k", "there"})
	if err != nil || items["k"] != "load 3" || items["there"] != "v" {
		t.Errorf("GetMany: %v, %v", items, err)
	}
	warm(t, cache, "there", "v")
	if !client.Health().Ready {
		t.Errorf("%+v", client.Health())
	}
	server.Do(t, "CONFIG", "SET", "maxmemory", "0")
	warm(t, cache, "k", "load 4")
}

// The lease is taken, and what was loaded is refused: the lease must not stay behind.
func TestRedisFullAfterALoad(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{})
	stop := newCheckpoint(t)
	stop.arm()
	client := open(t, optionsFor(server))
	cache := stringCache(t, client, func(context.Context, string) (string, error) {
		stop.pass()
		return "loaded", nil
	})
	first := reading(t.Context(), cache, "k")
	receive(t, "the loader runs", stop.reached)
	server.Do(t, "CONFIG", "SET", "maxmemory", "1")
	stop.release()
	if a := receive(t, "the read ends", first); a.value != "loaded" || a.err != nil {
		t.Errorf("%+v", a)
	}
	if value, ok := stored(t, server, prefix+"k"); ok {
		t.Errorf("Redis holds %q", value)
	}
	server.Do(t, "CONFIG", "SET", "maxmemory", "0")
	warm(t, cache, "k", "loaded")
}

func TestReadOnlyServer(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{})
	client := open(t, optionsFor(server))
	cache := stringCache(t, client, func(context.Context, string) (string, error) { return "loaded", nil })
	server.Do(t, "REPLICAOF", "127.0.0.1", "1")
	mentions(t, cache.Set(t.Context(), "k", "v"), "READONLY")
	want(t, cache, "k", "loaded")
	server.Do(t, "REPLICAOF", "NO", "ONE")
	awaitReady(t, client)
	check(t, cache.Set(t.Context(), "k", "v"))
}

func TestClientPause(t *testing.T) {
	t.Parallel()

	t.Run("of all commands", func(t *testing.T) {
		t.Parallel()
		n := startNetwork(t, func(o *nearcache.Options) { o.MaxStaleness = bound })
		const pause = 5 * bound
		began := time.Now()
		n.server.Do(t, "CLIENT", "PAUSE", strconv.FormatInt(pause.Milliseconds(), 10), "ALL") // not even UNPAUSE is carried out now
		elapse(2 * bound)                                                                     // so that L1 has to ask
		want(t, n.cache, "k", "old")
		if took := time.Since(began); took < pause {
			t.Errorf("a read past the bound was answered %v into a pause of %v", took, pause)
		}
		n.recover(t, "old")
	})

	t.Run("of writes", func(t *testing.T) {
		t.Parallel()
		n := startNetwork(t, func(o *nearcache.Options) { o.MaxStaleness = endless })
		n.server.Do(t, "CLIENT", "PAUSE", "600000", "WRITE")
		ended := make(chan error, 1)
		go func() { ended <- n.cache.Set(t.Context(), "k", "new") }()
		eventually(t, "the write is on its way", func() bool { return n.proxy.count("SET") > 0 })
		want(t, n.cache, "k", "old")
		check(t, n.server.Command(t.Context(), "CLIENT", "UNPAUSE").Error())
		check(t, receive(t, "the write ends", ended))
		want(t, n.cache, "k", "new")
	})
}

func TestLogOfTheLink(t *testing.T) {
	t.Parallel()
	logged := new(logs)
	n := startNetwork(t, func(o *nearcache.Options) { o.Logger = logged.logger() })
	n.proxy.cut(isLink)
	eventually(t, "a new link", func() bool { return n.client.Health().Ready && n.client.Stats().Link.Reconnects > 0 })
	eventually(t, "the log tells it", func() bool {
		text := logged.String()
		return strings.Contains(text, "lost") && strings.Contains(text, "live")
	})
	if text := logged.String(); strings.Contains(text, "old") || strings.Contains(text, prefix) {
		t.Errorf("the log has a key or a value:\n%s", text)
	}
}
