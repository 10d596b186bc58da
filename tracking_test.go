package nearcache_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/go-nearcache/nearcache"
	"github.com/go-nearcache/nearcache/internal/redistest"
)

// The promise, line by line, against a real server. The facts about the server that it rests on are in tracking_facts_test.go.

// bound is the MaxStaleness of the nodes whose bound is tested, and endless one that is never reached: what protects a node with it is
// something else.
const (
	bound   = 300 * time.Millisecond
	endless = 10 * time.Minute
)

// network is a server, a node behind a proxy whose L1 holds "old" under "k", and a way to write past both.
type network struct {
	server *redistest.Server
	proxy  *proxy
	client *nearcache.Client
	cache  *nearcache.Cache[string]
}

func startNetwork(t *testing.T, change func(*nearcache.Options)) *network {
	t.Helper()
	return networkOn(t, redistest.Start(t, redistest.Config{}), change)
}

func networkOn(t *testing.T, server *redistest.Server, change func(*nearcache.Options)) *network {
	t.Helper()
	n := &network{server: server, proxy: startProxy(t, server)}
	options := optionsAt(n.proxy.addr())
	if change != nil {
		change(&options)
	}
	n.client = open(t, options)
	n.cache = stringCache(t, n.client, nil)
	n.write(t, "old")
	warm(t, n.cache, "k", "old")
	return n
}

// write overwrites the value from outside and returns when that was acknowledged, or a little later.
func (n *network) write(t *testing.T, value string) time.Time {
	t.Helper()
	n.server.Do(t, "SET", prefix+"k", value)
	return time.Now()
}

// recover waits until the node serves the value from L1 again.
func (n *network) recover(t *testing.T, value string) {
	t.Helper()
	awaitReady(t, n.client)
	eventually(t, "L1 serves again", func() bool {
		got, err := n.cache.Get(t.Context(), "k")
		return err == nil && got == value && inLocal(n.cache, "k")
	})
}

// holdsBound reads until a read has begun after the bound and has been answered, and fails if such a read is given the old value.
func (n *network) holdsBound(t *testing.T, overwritten time.Time) {
	t.Helper()
	for {
		began := time.Now()
		value, err := n.cache.Get(t.Context(), "k")
		switch late := began.Sub(overwritten); {
		case late <= bound:
		case err == nil && value == "old":
			t.Fatalf("a read that began %v after the write was acknowledged, with a bound of %v, was given the old value", late, bound)
		case err != nil && !errors.Is(err, nearcache.ErrUnavailable):
			t.Fatal(err)
		default:
			return
		}
	}
}

func TestPromise1BoundedStaleness(t *testing.T) {
	t.Parallel()
	for _, fault := range []struct {
		name       string
		begin, end func(*testing.T, *network)
	}{
		{
			name:  "half-open link",
			begin: func(_ *testing.T, n *network) { n.proxy.hold(wholeLink...) },
			end:   func(_ *testing.T, n *network) { n.proxy.release(wholeLink...) },
		},
		{
			name:  "link that loses what the server says",
			begin: func(_ *testing.T, n *network) { n.proxy.hold(linkReplies) },
			end:   func(_ *testing.T, n *network) { n.proxy.release(linkReplies) },
		},
		{
			name:  "link that loses what the node says",
			begin: func(_ *testing.T, n *network) { n.proxy.hold(linkRequests) },
			end:   func(_ *testing.T, n *network) { n.proxy.release(linkRequests) },
		},
		{
			name:  "half-open network",
			begin: func(_ *testing.T, n *network) { n.proxy.hold(wholeNetwork...) },
			end:   func(_ *testing.T, n *network) { n.proxy.release(wholeNetwork...) },
		},
		{
			name:  "closed link",
			begin: func(_ *testing.T, n *network) { n.proxy.refuseLinks(true) },
			end:   func(_ *testing.T, n *network) { n.proxy.refuseLinks(false) },
		},
		{
			name:  "closed network",
			begin: func(_ *testing.T, n *network) { n.proxy.refuse(true) },
			end:   func(_ *testing.T, n *network) { n.proxy.refuse(false) },
		},
		{
			name: "demoted server",
			begin: func(t *testing.T, n *network) {
				// The write that follows goes to what is no longer a primary, and which therefore has to take it.
				n.server.Do(t, "CONFIG", "SET", "replica-read-only", "no")
				n.server.Do(t, "REPLICAOF", "127.0.0.1", "1")
			},
			end: func(t *testing.T, n *network) { n.server.Do(t, "REPLICAOF", "NO", "ONE") },
		},
	} {
		t.Run(fault.name, func(t *testing.T) {
			t.Parallel()
			n := startNetwork(t, func(o *nearcache.Options) { o.MaxStaleness = bound })
			fault.begin(t, n)
			n.holdsBound(t, n.write(t, "new"))
			fault.end(t, n)
			n.recover(t, "new")
		})
	}

	t.Run("frozen server", func(t *testing.T) {
		t.Parallel()
		n := startNetwork(t, func(o *nearcache.Options) { o.MaxStaleness = bound })
		n.proxy.hold(linkReplies) // or the push would be out before the signal
		overwritten := n.write(t, "new")
		check(t, n.server.Pause())
		n.proxy.release(linkReplies)
		n.holdsBound(t, overwritten)
		check(t, n.server.Resume())
		n.recover(t, "new")
	})

	t.Run("answer that comes late", func(t *testing.T) {
		t.Parallel()
		n := startNetwork(t, func(o *nearcache.Options) { o.MaxStaleness = bound })
		onLink := func() int { return len(n.proxy.requests(func(r request) bool { return r.link })) }
		n.proxy.hold(linkReplies)
		asked := onLink()
		eventually(t, "the link asks", func() bool { return onLink() > asked })
		elapse(bound / 10) // the answer lies in the proxy when the write comes
		overwritten := n.write(t, "new")
		elapse(time.Until(overwritten.Add(bound)))
		n.proxy.step(t, linkReplies)
		eventually(t, "the link has its answer, without the push, and asks again", func() bool { return onLink() > asked+1 })
		n.holdsBound(t, overwritten)
	})

	t.Run("bound of one read", func(t *testing.T) {
		t.Parallel()
		n := startNetwork(t, func(o *nearcache.Options) { o.MaxStaleness = endless })
		n.proxy.hold(wholeLink...)
		overwritten := n.write(t, "new")
		elapse(time.Until(overwritten.Add(bound)))
		want(t, n.cache, "k", "new", nearcache.MaxStaleness(bound))
	})

	t.Run("bound of GetMany", func(t *testing.T) {
		t.Parallel()
		n := startNetwork(t, func(o *nearcache.Options) { o.MaxStaleness = bound })
		n.proxy.hold(wholeLink...)
		overwritten := n.write(t, "new")
		elapse(time.Until(overwritten.Add(bound + time.Millisecond)))
		items, err := n.cache.GetMany(t.Context(), []string{"k"})
		check(t, err)
		if items["k"] != "new" {
			t.Fatalf("GetMany: %q", items)
		}
	})
}

// A process that was stopped for longer than the bound, and whose first act is a read, must not trust anything that one of its own
// timers has not yet had the time to correct.
func TestPromise1BoundedStalenessOfAFrozenClient(t *testing.T) {
	t.Parallel()
	for _, link := range []struct {
		name string
		hold []flow
	}{
		{name: "pushes wait in the kernel"},
		{name: "pushes are lost", hold: wholeLink},
	} {
		t.Run(link.name, func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t, redistest.Config{})
			proxy := startProxy(t, server)
			server.Do(t, "SET", prefix+"k", "old")
			c := startChild(t, proxy.addr(), bound)
			eventually(t, "L1 of the child serves", func() bool {
				c.say(t, "get k")
				return receive(t, "the child answers", c.out) == "local old"
			})

			c.signal(t, syscall.SIGSTOP)
			proxy.hold(link.hold...)
			server.Do(t, "SET", prefix+"k", "new")
			elapse(bound + time.Millisecond)
			c.say(t, "get k") // it lies in the pipe when the process wakes up
			c.signal(t, syscall.SIGCONT)

			if answer := receive(t, "the child answers", c.out); answer != "remote new" && answer != "local new" {
				t.Errorf("the child says %q after it was frozen for longer than its bound", answer)
			}
		})
	}
}

// Everything at once, with each read checked against the history of the writes.
func TestPromise1BoundedStalenessInChaos(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{Persistent: true})
	n := networkOn(t, server, func(o *nearcache.Options) {
		o.MaxStaleness = bound
		o.RemoteTimeout = time.Second
		o.SettleFills = true
	})
	numbers := newCache(t, n.client, nearcache.Config[int]{Name: "numbers", Prefix: prefix + "n:"})

	// overwritten[i] is when the write that followed version i was known to be acknowledged.
	var mu sync.Mutex
	overwritten := make(map[int]time.Time)
	n.server.Do(t, "SET", prefix+"n:k", "0")
	end := make(chan struct{})
	var working sync.WaitGroup
	working.Go(func() {
		outside := n.server.Client(t)
		for {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			version, err := outside.Do(ctx, outside.B().Incr().Key(prefix+"n:k").Build()).AsInt64()
			cancel()
			now := time.Now()
			if err == nil {
				mu.Lock()
				overwritten[int(version)-1] = now
				mu.Unlock()
			}
			select {
			case <-end:
				return
			case <-time.After(50 * time.Millisecond): // the rate of the writes
			}
		}
	})
	for range 3 {
		working.Go(func() {
			for !isClosed(end) {
				<-time.After(100 * time.Microsecond) // the rate of the reads
				began := time.Now()
				version, err := numbers.Get(t.Context(), "k")
				if err != nil {
					continue // Redis was away
				}
				mu.Lock()
				since, known := overwritten[version]
				mu.Unlock()
				if age := began.Sub(since); known && age > bound {
					t.Errorf("version %d had been overwritten for %v when the read began; the bound is %v", version, age, bound)
					return
				}
			}
		})
	}

	calm := func() { // and L1 serves
		hits := func() uint64 { return n.client.Stats().Caches["numbers"].LocalHits }
		before := hits()
		eventually(t, "L1 serves again", func() bool { return hits() > before })
	}
	calm()
	for range 2 {
		n.proxy.hold(wholeLink...)
		elapse(2 * bound)
		n.proxy.release(wholeLink...)
		calm()

		n.server.Do(t, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
		calm()

		check(t, n.server.Pause())
		elapse(2 * bound)
		check(t, n.server.Resume())
		calm()

		check(t, n.server.Restart(t.Context()))
		calm()

		n.proxy.hold(wholeNetwork...)
		elapse(2 * bound)
		n.proxy.release(wholeNetwork...)
		calm()

		n.server.Do(t, "CLIENT", "PAUSE", "200", "WRITE")
		calm()
	}
	close(end)
	working.Wait()
}

func TestPromise2FreshReadsAreLinearizable(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{})
	server.Do(t, "SET", prefix+"k", "0")
	var acknowledged, sent atomic.Int64
	end := make(chan struct{})
	var writing, reading sync.WaitGroup
	for range 2 {
		outside := server.Client(t)
		writing.Go(func() {
			for !isClosed(end) {
				sent.Add(1)
				version, err := outside.Do(t.Context(), outside.B().Incr().Key(prefix+"k").Build()).AsInt64()
				if err != nil {
					t.Error(err)
					return
				}
				for {
					known := acknowledged.Load()
					if version <= known || acknowledged.CompareAndSwap(known, version) {
						break
					}
				}
			}
		})
	}
	for range 2 {
		client := open(t, optionsFor(server))
		cache := newCache(t, client, nearcache.Config[int64]{})
		for reader := range 4 {
			reading.Go(func() {
				for range 300 {
					least := acknowledged.Load()
					var version int64
					var err error
					if reader == 0 {
						var items map[string]int64
						items, err = cache.GetMany(t.Context(), []string{"k"}, nearcache.Fresh())
						version = items["k"]
					} else {
						version, err = cache.Get(t.Context(), "k", nearcache.Fresh())
					}
					most := sent.Load()
					if err != nil || version < least || version > most {
						t.Errorf("version %d, %v: %d had been acknowledged before the read, %d been sent by its end", version, err, least, most)
						return
					}
				}
			})
		}
	}
	reading.Wait()
	close(end)
	writing.Wait()
}

func TestPromise2FreshReads(t *testing.T) {
	t.Parallel()

	t.Run("wait for a push that is late", func(t *testing.T) {
		t.Parallel()
		n := startNetwork(t, func(o *nearcache.Options) { o.MaxStaleness = endless })
		n.proxy.hold(linkReplies)
		n.write(t, "new")
		want(t, n.cache, "k", "old") // the bound allows it, and shows that the push is not here yet
		answers := make(chan string)
		go func() {
			answers <- "the read begins"
			value, err := n.cache.Get(t.Context(), "k", nearcache.Fresh())
			answers <- fmt.Sprint(value, err)
		}()
		receive(t, "the read begins", answers)
		n.proxy.release(linkReplies)
		if answer := receive(t, "the read ends", answers); answer != "new<nil>" {
			t.Fatalf("a fresh read: %s", answer)
		}
	})

	t.Run("go to Redis when the fence fails", func(t *testing.T) {
		t.Parallel()
		n := startNetwork(t, func(o *nearcache.Options) { o.MaxStaleness = endless })
		n.proxy.hold(wholeLink...)
		n.write(t, "new")
		want(t, n.cache, "k", "new", nearcache.Fresh())
	})

	t.Run("move no value that has not changed", func(t *testing.T) {
		t.Parallel()
		n := startNetwork(t, func(o *nearcache.Options) { o.MaxStaleness = endless })
		before, hits := n.proxy.count("GET"), statsOf(n.client).LocalHits
		for range 20 {
			want(t, n.cache, "k", "old", nearcache.Fresh())
		}
		if gets := n.proxy.count("GET") - before; gets != 0 {
			t.Errorf("%d values were moved", gets)
		}
		if got := statsOf(n.client).LocalHits - hits; got != 20 {
			t.Errorf("%d of 20 reads were hits of L1", got)
		}
	})

	t.Run("join no fetch that is older", func(t *testing.T) {
		t.Parallel()
		n := startNetwork(t, func(o *nearcache.Options) {
			o.MaxStaleness = endless
			oneConnection(o)
		})
		check(t, n.cache.Delete(t.Context(), "k"))
		n.write(t, "old")
		fence(t, n.client)
		executed := calls(t, n.server, "get")
		n.proxy.hold(dataReplies)
		first := reading(t.Context(), n.cache, "k")
		eventually(t, "the first fetch was carried out", func() bool {
			select {
			case a := <-first:
				t.Fatalf("the first read ended without the server: %+v", a)
			default:
			}
			return calls(t, n.server, "get") > executed
		})
		n.write(t, "new")
		joined := statsOf(n.client).LocalMisses
		second := reading(t.Context(), n.cache, "k", nearcache.Fresh())
		eventually(t, "the second read is past L1", func() bool { return statsOf(n.client).LocalMisses > joined })
		n.proxy.release(dataReplies)
		if a := receive(t, "the second read ends", second); a.value != "new" || a.err != nil {
			t.Errorf("a fresh read was given %+v", a)
		}
		if a := receive(t, "the first read ends", first); a.value != "old" || a.err != nil {
			t.Errorf("the first read was given %+v", a)
		}
		want(t, n.cache, "k", "new")
	})

	t.Run("are never served stale by policy", func(t *testing.T) {
		t.Parallel()
		n := startNetwork(t, func(o *nearcache.Options) {
			o.MaxStaleness = bound
			o.OnDisconnect = nearcache.ServeStale
			o.StaleLimit = endless
		})
		n.proxy.refuseLinks(true)
		awaitDown(t, n.client)
		overwritten := n.write(t, "new")
		want(t, n.cache, "k", "new", nearcache.Fresh())
		elapse(time.Until(overwritten.Add(bound + time.Millisecond)))
		want(t, n.cache, "k", "new", nearcache.MaxStaleness(bound))
		want(t, n.cache, "k", "old") // the policy, for a read that names no bound of its own
	})
}

func TestPromise3ReadYourWrites(t *testing.T) {
	t.Parallel()

	t.Run("before the push", func(t *testing.T) {
		t.Parallel()
		n := startNetwork(t, func(o *nearcache.Options) { o.MaxStaleness = endless })
		n.proxy.hold(wholeLink...)
		check(t, n.cache.Set(t.Context(), "k", "mine"))
		want(t, n.cache, "k", "mine")
		items, err := n.cache.GetMany(t.Context(), []string{"k"})
		if err != nil || items["k"] != "mine" {
			t.Errorf("GetMany: %q, %v", items, err)
		}
		check(t, n.cache.Delete(t.Context(), "k"))
		if value, err := n.cache.Get(t.Context(), "k"); !errors.Is(err, nearcache.ErrNotFound) {
			t.Errorf("after Delete: %q, %v", value, err)
		}
	})

	t.Run("of a write whose answer is lost", func(t *testing.T) {
		t.Parallel()
		n := startNetwork(t, func(o *nearcache.Options) {
			o.MaxStaleness = endless
			oneConnection(o)
		})
		n.proxy.hold(linkReplies, dataReplies)
		if err := n.cache.Set(t.Context(), "k", "mine"); err == nil {
			t.Fatal("Set reports success without an answer")
		}
		if value, ok := stored(t, n.server, prefix+"k"); !ok || value != "mine" {
			t.Fatalf("the server holds %q", value)
		}
		n.proxy.release(dataReplies)
		eventually(t, "Redis can be reached", func() bool {
			value, err := n.cache.Get(t.Context(), "k")
			if err == nil && value != "mine" {
				t.Fatalf("after a Set that may have been carried out, and was: %q", value)
			}
			return err == nil
		})
	})

	t.Run("after a fill while the write was on its way", func(t *testing.T) {
		t.Parallel()
		n := startNetwork(t, func(o *nearcache.Options) {
			o.MaxStaleness = endless
			o.RemoteTimeout = time.Minute // of the write that waits
			o.SettleFills = true
		})
		stop := newCheckpoint(t)
		stop.arm()
		n.proxy.setIntercept(func(args []string) ([]string, bool) {
			if (request{args: args}).is("SET", prefix+"k") {
				stop.pass()
			}
			return args, true
		})
		ended := make(chan error, 1)
		go func() { ended <- n.cache.Set(t.Context(), "k", "mine") }()
		receive(t, "the write is on its way", stop.reached)
		eventually(t, "a read overtakes the write and fills L1", func() bool {
			// The push of this lets a new read take the place of one that is stuck on the connection of the write.
			n.write(t, "old")
			fence(t, n.client)
			ctx, cancel := context.WithTimeout(t.Context(), bound)
			defer cancel()
			_, _ = n.cache.Get(ctx, "k")
			return n.cache.Explain(ctx, "k").Local.Servable
		})
		n.proxy.hold(wholeLink...)
		stop.release()
		check(t, receive(t, "the write ends", ended))
		want(t, n.cache, "k", "mine")
	})

	t.Run("of another cache of the node", func(t *testing.T) {
		t.Parallel()
		n := startNetwork(t, func(o *nearcache.Options) { o.MaxStaleness = endless })
		narrow := newCache(t, n.client, nearcache.Config[string]{Name: "narrow", Prefix: prefix + "n:", Codec: nearcache.String()})
		check(t, narrow.Set(t.Context(), "x", "old"))
		warm(t, n.cache, "n:x", "old") // the same key of Redis
		n.proxy.hold(wholeLink...)
		check(t, narrow.Set(t.Context(), "x", "new"))
		want(t, n.cache, "n:x", "new")
	})

	for _, write := range []struct {
		name  string
		write func(*testing.T, *nearcache.Cache[string])
		value string
	}{
		{"during a fetch", func(t *testing.T, c *nearcache.Cache[string]) { check(t, c.Set(t.Context(), "k", "mine")) }, "mine"},
		{"Delete during a fetch", func(t *testing.T, c *nearcache.Cache[string]) { check(t, c.Delete(t.Context(), "k")) }, ""},
		{"DeleteMany during a fetch", func(t *testing.T, c *nearcache.Cache[string]) {
			check(t, c.DeleteMany(t.Context(), []string{"other", "k"}))
		}, ""},
	} {
		t.Run(write.name, func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t, redistest.Config{})
			proxy := startProxy(t, server)
			fetched := newCheckpoint(t)
			client := open(t, optionsAt(proxy.addr()))
			cache := newCache(t, client, nearcache.Config[string]{Codec: hooked(fetched, nil)})
			server.Do(t, "SET", prefix+"k", "old")
			fence(t, client)
			fetched.arm()
			first := make(chan string, 1)
			go func() {
				value, _ := cache.Get(t.Context(), "k")
				first <- value
			}()
			receive(t, "the value is fetched", fetched.reached)
			proxy.hold(wholeLink...) // only what the node does of its own accord counts
			write.write(t, cache)
			read := func() {
				t.Helper()
				value, err := cache.Get(bounded(t), "k")
				if value != write.value || (write.value == "") != errors.Is(err, nearcache.ErrNotFound) {
					t.Fatalf("after the write: %q, %v; want %q", value, err, write.value)
				}
			}
			read() // while the older fetch is still under way
			fetched.release()
			if value := receive(t, "the older read ends", first); value != "old" {
				t.Errorf("the older read was given %q", value)
			}
			for range 10 {
				read()
			}
		})
	}

	t.Run("during a load", func(t *testing.T) {
		t.Parallel()
		server := redistest.Start(t, redistest.Config{})
		loading := newCheckpoint(t)
		loading.arm()
		client := open(t, optionsFor(server))
		cache := stringCache(t, client, func(context.Context, string) (string, error) {
			loading.pass()
			return "loaded", nil
		})
		first := make(chan string, 1)
		go func() {
			value, _ := cache.Get(t.Context(), "k")
			first <- value
		}()
		receive(t, "the loader runs", loading.reached)
		check(t, cache.Set(t.Context(), "k", "mine"))
		want(t, cache, "k", "mine")
		loading.release()
		receive(t, "the load ends", first)
		for range 10 {
			want(t, cache, "k", "mine")
		}
		if value, _ := stored(t, server, prefix+"k"); value != "mine" {
			t.Errorf("Redis holds %q", value)
		}
	})
}

// Two nodes write one key from several goroutines each. What the server carried out, in which order, comes from MONITOR; no
// read may return what lies before its reader's own last write.
func TestPromise3ReadYourWritesAmongWriters(t *testing.T) {
	t.Parallel()
	const goroutines, writes = 3, 150
	server := redistest.Start(t, redistest.Config{})
	monitor := startMonitor(t, server)

	type read struct{ own, got string }
	var mu sync.Mutex
	var reads []read
	var working sync.WaitGroup
	for node := range 2 {
		cache := stringCache(t, open(t, optionsFor(server)), nil)
		for writer := range goroutines {
			working.Go(func() {
				for i := range writes {
					own := fmt.Sprintf("%d-%d-%d", node, writer, i)
					if err := cache.Set(t.Context(), "k", own); err != nil {
						t.Error(err)
						return
					}
					for range 3 {
						got, err := cache.Get(t.Context(), "k")
						if err != nil {
							t.Error(err)
							return
						}
						mu.Lock()
						reads = append(reads, read{own, got})
						mu.Unlock()
					}
				}
			})
		}
	}
	working.Wait()

	order := monitor.sets(t, prefix+"k", 2*goroutines*writes)
	for _, r := range reads {
		if order[r.got] < order[r.own] {
			t.Fatalf("after the write %q (number %d on the server) a read was given %q (number %d)", r.own, order[r.own], r.got, order[r.got])
		}
	}
}

func TestPromise4NoLostInvalidationOutlivesALink(t *testing.T) {
	t.Parallel()
	for _, fault := range []struct {
		name string
		// lose breaks the link so that the push of the write it makes, "new", is lost.
		lose func(*testing.T, *network)
		heal func(*testing.T, *network)
	}{
		{
			name: "closed",
			lose: func(t *testing.T, n *network) {
				n.proxy.refuseLinks(true)
				n.write(t, "new")
			},
			heal: func(_ *testing.T, n *network) { n.proxy.refuseLinks(false) },
		},
		{
			name: "half-open",
			lose: func(t *testing.T, n *network) {
				n.proxy.hold(wholeLink...)
				n.write(t, "new")
			},
			heal: func(_ *testing.T, n *network) {
				n.proxy.cut(isLink)
				n.proxy.release(wholeLink...)
			},
		},
		{
			name: "CLIENT KILL",
			lose: func(t *testing.T, n *network) {
				n.proxy.setIntercept(noTracking)
				killThenWrite(t, n, "new")
			},
			heal: func(_ *testing.T, n *network) { n.proxy.refuseLinks(false) },
		},
		{
			name: "restart",
			lose: func(t *testing.T, n *network) {
				n.server.Kill()
				n.proxy.refuse(true)
				check(t, n.server.Restart(t.Context()))
				n.write(t, "new")
			},
			heal: func(_ *testing.T, n *network) { n.proxy.refuse(false) },
		},
		{
			name: "frozen server",
			lose: func(t *testing.T, n *network) {
				check(t, n.server.Pause())
				awaitDown(t, n.client)
				n.proxy.refuse(true)
				check(t, n.server.Resume())
				n.write(t, "new")
			},
			heal: func(_ *testing.T, n *network) { n.proxy.refuse(false) },
		},
	} {
		t.Run(fault.name, func(t *testing.T) {
			t.Parallel()
			// No read of this test comes near the bound: only the end of the epoch protects it.
			n := startNetwork(t, func(o *nearcache.Options) { o.MaxStaleness = endless })
			epoch := n.client.Stats().Link.Epoch
			fault.lose(t, n)
			awaitDown(t, n.client)
			hits := statsOf(n.client).LocalHits
			for range 20 {
				if value, err := n.cache.Get(t.Context(), "k"); err == nil && value == "old" {
					t.Fatal("L1 serves what it held before the link was lost")
				}
			}
			if got := statsOf(n.client).LocalHits; got != hits {
				t.Errorf("%d hits of L1 without a link", got-hits)
			}
			fault.heal(t, n)
			awaitReady(t, n.client)
			if got := n.client.Stats().Link.Epoch; got <= epoch {
				t.Errorf("the epoch is %d after %d", got, epoch)
			}
			n.recover(t, "new")
			if got := n.client.Stats().Link.Reconnects; got == 0 {
				t.Error("no reconnect is counted")
			}
		})
	}
}

// killThenWrite closes the link on the server and writes before the server runs another turn of its loop: nothing announces the write.
func killThenWrite(t *testing.T, n *network, value string) {
	t.Helper()
	id := linkOf(t, n.server)
	outside, release := n.server.Client(t).Dedicate()
	defer release()
	results := outside.DoMulti(t.Context(),
		outside.B().Multi().Build(),
		outside.B().Arbitrary("CLIENT", "KILL", "ID", id).Build(),
		outside.B().Set().Key(prefix+"k").Value(value).Build(),
		outside.B().Exec().Build(),
	)
	executed, err := results[3].ToArray()
	check(t, err)
	for i := range executed {
		check(t, executed[i].Error())
	}
}

// A null push says that everything may have changed, and the link lives on.
func TestPromise4NullPush(t *testing.T) {
	t.Parallel()
	for _, command := range [][]string{
		{"FLUSHALL"}, {"FLUSHALL", "ASYNC"}, {"FLUSHDB"}, {"DEBUG", "RELOAD"},
	} {
		t.Run(fmt.Sprint(command), func(t *testing.T) {
			t.Parallel()
			n := startNetwork(t, func(o *nearcache.Options) { o.MaxStaleness = endless })
			epoch := n.client.Stats().Link.Epoch
			n.server.Do(t, command...)
			fence(t, n.client)
			if inLocal(n.cache, "k") {
				t.Error("L1 still serves")
			}
			value, err := n.cache.Get(t.Context(), "k")
			if command[0] == "DEBUG" {
				check(t, err)
			} else if !errors.Is(err, nearcache.ErrNotFound) {
				t.Errorf("after %s: %q, %v", command, value, err)
			}
			link := n.client.Stats().Link
			if link.Epoch <= epoch || !link.Live || link.Reconnects != 0 {
				t.Errorf("the link after a null push: %+v, before it the epoch was %d", link, epoch)
			}
			n.write(t, "new")
			fence(t, n.client)
			warm(t, n.cache, "k", "new")
		})
	}
}

// Something happens to the key, or to all keys, at each step of a read. What the read was given is then stored nowhere.
func TestPromise5NoStaleFill(t *testing.T) {
	t.Parallel()
	type node struct {
		server *redistest.Server
		client *nearcache.Client
		cache  *nearcache.Cache[string]
	}
	relinked := func(t *testing.T, n *node) {
		before := n.client.Stats().Link.Epoch
		n.server.Do(t, "CLIENT", "KILL", "ID", linkOf(t, n.server))
		eventually(t, "a new epoch", func() bool { return n.client.Health().Ready && n.client.Stats().Link.Epoch > before })
	}
	events := []struct {
		name string
		// happen returns once the node knows.
		happen func(*testing.T, *node)
		// after is what Redis holds then: "" for nothing, "*" if the event does not say.
		after string
	}{
		{"outside SET", func(t *testing.T, n *node) { n.server.Do(t, "SET", prefix+"k", "new"); fence(t, n.client) }, "new"},
		{"outside DEL", func(t *testing.T, n *node) { n.server.Do(t, "DEL", prefix+"k"); fence(t, n.client) }, ""},
		{"FLUSHALL", func(t *testing.T, n *node) { n.server.Do(t, "FLUSHALL"); fence(t, n.client) }, ""},
		{"null push", func(t *testing.T, n *node) {
			// That of another database, so that the key stays as it is.
			n.server.Do(t, "EVAL", "redis.call('SELECT', 5) return redis.call('FLUSHDB')", "0")
			fence(t, n.client)
		}, "*"},
		{"new link", relinked, "*"},
		{"Set", func(t *testing.T, n *node) { check(t, n.cache.Set(t.Context(), "k", "new")) }, "new"},
		{"Delete", func(t *testing.T, n *node) { check(t, n.cache.Delete(t.Context(), "k")) }, ""},
	}
	steps := []struct {
		name   string
		stored bool // Redis has the value at the start
		fetched,
		loading,
		loaded bool // which checkpoint stops the read
	}{
		{name: "between fetch and fill", stored: true, fetched: true},
		{name: "during the load", loading: true},
		{name: "between load and store", loaded: true},
	}
	for _, step := range steps {
		for _, event := range events {
			t.Run(step.name+"/"+event.name, func(t *testing.T) {
				t.Parallel()
				n := &node{server: redistest.Start(t, redistest.Config{})}
				stop := newCheckpoint(t)
				stop.arm()
				at := func(here bool) *checkpoint {
					if here {
						return stop
					}
					return nil
				}
				n.client = open(t, optionsFor(n.server))
				var loads atomic.Int64
				n.cache = newCache(t, n.client, nearcache.Config[string]{
					Codec: hooked(at(step.fetched), at(step.loaded)),
					Load: func(context.Context, string) (string, error) {
						if loads.Add(1) > 1 {
							return "", nearcache.ErrNotFound
						}
						if step.loading {
							stop.pass()
						}
						return "old", nil
					},
				})
				if step.stored {
					loads.Store(1)
					n.server.Do(t, "SET", prefix+"k", "old")
					fence(t, n.client)
				}
				first := make(chan string, 1)
				go func() {
					value, _ := n.cache.Get(t.Context(), "k")
					first <- value
				}()
				receive(t, "the read is stopped", stop.reached)
				event.happen(t, n)
				stop.release()
				if value := receive(t, "the read ends", first); value != "old" {
					t.Errorf("the read was given %q", value)
				}
				if inLocal(n.cache, "k") {
					t.Error("L1 holds what was fetched before")
				}
				if event.after == "*" {
					return
				}
				if value, _ := stored(t, n.server, prefix+"k"); value != event.after {
					t.Errorf("Redis holds %q, want %q", value, event.after)
				}
				value, err := n.cache.Get(bounded(t), "k")
				if value != event.after || (event.after == "") != errors.Is(err, nearcache.ErrNotFound) {
					t.Errorf("the next read: %q, %v; want %q", value, err, event.after)
				}
			})
		}
	}
}

// The source is slow, and an outside writer changes both it and Redis while it answers: the old way to poison a cache.
func TestPromise5StaleLoaderAgainstWriters(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{})
	var database atomic.Int64
	outside := server.Client(t)
	var caches []*nearcache.Cache[int]
	for range 2 {
		caches = append(caches, newCache(t, open(t, optionsFor(server)), nearcache.Config[int]{
			Load: func(context.Context, string) (int, error) {
				version := database.Load()
				<-time.After(time.Millisecond) // what it read grows old
				return int(version), nil
			},
		}))
	}
	var working sync.WaitGroup
	end := make(chan struct{})
	for _, cache := range caches {
		for range 3 {
			working.Go(func() {
				for !isClosed(end) {
					if _, err := cache.Get(t.Context(), "k"); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
	}
	for i := range 200 {
		version := database.Add(1)
		var err error
		if i%2 == 0 {
			err = outside.Do(t.Context(), outside.B().Del().Key(prefix+"k").Build()).Error()
		} else {
			err = outside.Do(t.Context(), outside.B().Set().Key(prefix+"k").Value(strconv.FormatInt(version, 10)).Build()).Error()
		}
		check(t, err)
		for _, cache := range caches {
			if got := get(t, cache, "k", nearcache.Fresh()); int64(got) < version {
				t.Fatalf("a fresh read was given version %d after version %d had replaced it in the source and in Redis", got, version)
			}
		}
	}
	close(end)
	working.Wait()
}

// SWAPDB is outside the promise: the server announces nothing. The life of the entry bounds the damage.
func TestPromise6SwapDBIsBoundedByLife(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{})
	client := open(t, optionsFor(server))
	const life = 200 * time.Millisecond
	cache := newCache(t, client, nearcache.Config[string]{Codec: nearcache.String(), LocalTTL: life})
	server.Do(t, "EVAL", "redis.call('SELECT', 1) redis.call('SET', KEYS[1], 'new')", "1", prefix+"k")
	server.Do(t, "SET", prefix+"k", "old")
	fence(t, client)
	warm(t, cache, "k", "old")
	server.Do(t, "SWAPDB", "0", "1")
	elapse(life + time.Millisecond)
	want(t, cache, "k", "new")
}

// hooked is the codec of strings with a stop after the fetch, in Decode, and one after the load, in Encode.
func hooked(fetched, loaded *checkpoint) nearcache.Codec[string] {
	plain := nearcache.String()
	return nearcache.Codec[string]{
		Encode: func(value string) ([]byte, error) {
			if loaded != nil {
				loaded.pass()
			}
			return plain.Encode(value)
		},
		Decode: func(data []byte) (string, error) {
			if fetched != nil {
				fetched.pass()
			}
			return plain.Decode(data)
		},
	}
}
