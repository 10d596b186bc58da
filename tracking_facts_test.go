package nearcache_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-nearcache/nearcache"
	"github.com/go-nearcache/nearcache/internal/redistest"
)

// The facts about a single server that the promise rests on: each as the server shows it on the wire, where that can be seen, and as
// a node copes with it. A server version that breaks one of them breaks the test that has its name.

func TestFact01OnePushPerTurn(t *testing.T) {
	t.Parallel()
	const many = 100_000
	const script = `for i = 1, ARGV[1] do redis.call('SET', KEYS[1] .. i, ARGV[2]) end`

	t.Run("on the wire", func(t *testing.T) {
		t.Parallel()
		server := redistest.Start(t, redistest.Config{})
		link := dialLink(t, server, prefix)
		server.Do(t, "EVAL", script, "1", prefix, strconv.Itoa(many), "v")
		if keys := link.invalidated(t); len(keys) != many {
			t.Errorf("the first push has %d keys of %d", len(keys), many)
		}
		server.Do(t, "EVAL", "for _, k in ipairs({'b', 'a', 'b', 'a'}) do redis.call('SET', KEYS[1] .. k, 'v') end", "1", prefix)
		if keys := link.invalidated(t); !slices.Equal(keys, []string{prefix + "a", prefix + "b"}) {
			t.Errorf("a turn that wrote two keys twice each was pushed as %q", keys)
		}
		link.settles(t)
	})

	t.Run("on a node", func(t *testing.T) {
		t.Parallel()
		server := redistest.Start(t, redistest.Config{})
		options := optionsFor(server)
		options.MaxStaleness = endless
		options.RemoteTimeout = time.Minute // the race detector makes a large push slow
		client := open(t, options)
		cache := stringCache(t, client, nil)
		server.Do(t, "EVAL", script, "1", prefix, strconv.Itoa(many), "old")
		fence(t, client)
		for i := 1; i <= many; i += many / 100 {
			warm(t, cache, strconv.Itoa(i), "old")
		}
		server.Do(t, "EVAL", script, "1", prefix, strconv.Itoa(many), "new")
		fence(t, client)
		for i := 1; i <= many; i += many / 100 {
			want(t, cache, strconv.Itoa(i), "new")
		}
		if link := client.Stats().Link; link.Reconnects != 0 || !link.Live {
			t.Errorf("a large push cost the link: %+v", link)
		}
	})
}

// A push that came before the reply of a read would be forgotten by the time the read is stored.
func TestFact02PushNeverPrecedesTheReplyOfAnEarlierRead(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{})
	link := dialLink(t, server, prefix)
	outside := server.Client(t)
	var writing sync.WaitGroup
	defer writing.Wait()
	end := make(chan struct{})
	defer close(end)
	server.Do(t, "SET", prefix+"k", "0")
	link.invalidated(t)
	writing.Go(func() {
		for !isClosed(end) {
			if err := outside.Do(context.Background(), outside.B().Incr().Key(prefix+"k").Build()).Error(); err != nil {
				t.Error(err)
				return
			}
		}
	})
	// Each push stands for one increment or more, so a reply of n comes after n pushes at most.
	pushes := 0
	for range 2000 {
		link.send(t, "GET", prefix+"k")
		for reply := false; !reply; {
			switch message := link.receive(t).(type) {
			case push:
				pushes++
			case string:
				reply = true
				version, err := strconv.Atoi(message)
				check(t, err)
				if pushes > version {
					t.Fatalf("%d pushes came before the reply of a read that saw %d writes", pushes, version)
				}
			}
		}
	}
}

func TestFact03FenceIsTwoRoundTrips(t *testing.T) {
	t.Parallel()

	t.Run("sees every acknowledged write", func(t *testing.T) {
		t.Parallel()
		server := redistest.Start(t, redistest.Config{})
		options := optionsFor(server)
		options.MaxStaleness = endless
		client := open(t, options)
		cache := newCache(t, client, nearcache.Config[int]{})
		outside := server.Client(t)
		server.Do(t, "SET", prefix+"k", "0")
		end := make(chan struct{})
		var noise sync.WaitGroup
		defer noise.Wait()
		defer close(end)
		for range 2 {
			noise.Go(func() { // readers keep L1 filled, and fences outstanding
				for !isClosed(end) {
					_, _ = cache.Get(t.Context(), "k")
					_ = client.Fence(t.Context())
				}
			})
		}
		for range 1000 {
			version, err := outside.Do(t.Context(), outside.B().Incr().Key(prefix+"k").Build()).AsInt64()
			check(t, err)
			fence(t, client)
			if got := get(t, cache, "k"); int64(got) < version {
				t.Fatalf("after a fence that followed write %d, a read was given %d", version, got)
			}
		}
	})

	t.Run("with one question outstanding", func(t *testing.T) {
		t.Parallel()
		server := redistest.Start(t, redistest.Config{})
		proxy := startProxy(t, server)
		client := open(t, optionsAt(proxy.addr()))
		onLink := func() int { return proxy.count("ROLE") } // which the next link, if there is one already, does not come to
		proxy.hold(linkReplies)
		ctx, cancel := context.WithCancel(t.Context())
		var fences sync.WaitGroup
		before := onLink()
		for range 50 {
			fences.Go(func() { _ = client.Fence(ctx) })
		}
		// The link is given up when its deadline passes without a reply: all that time it asked once.
		awaitDown(t, client)
		if asked := onLink() - before; asked > 1 {
			t.Errorf("%d questions were sent without waiting for a reply", asked)
		}
		cancel()
		fences.Wait()
	})

	t.Run("shared by its callers", func(t *testing.T) {
		t.Parallel()
		server := redistest.Start(t, redistest.Config{})
		proxy := startProxy(t, server)
		options := optionsAt(proxy.addr())
		options.MaxStaleness = endless
		client := open(t, options)
		fence(t, client)
		before := proxy.count("ROLE")
		const callers = 2000
		var fences sync.WaitGroup
		for range callers {
			fences.Go(func() {
				if err := client.Fence(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		fences.Wait()
		if trips := proxy.count("ROLE") - before; trips > callers/2 {
			t.Errorf("%d fences made %d round trips", callers, trips)
		}
	})

	t.Run("BUSY is no answer", func(t *testing.T) {
		t.Parallel()
		n := startNetwork(t, func(o *nearcache.Options) { o.MaxStaleness = bound })
		n.server.Do(t, "CONFIG", "SET", "lua-time-limit", "20")
		busy := make(chan struct{})
		go func() {
			defer close(busy)
			_ = n.server.Command(context.Background(), "EVAL", "while true do end", "0").Error() // it is killed below
		}()
		eventually(t, "the server is busy", func() bool {
			err := n.server.Command(t.Context(), "PING").Error()
			return err != nil && strings.HasPrefix(err.Error(), "BUSY")
		})
		ctx, cancel := context.WithTimeout(t.Context(), bound)
		defer cancel()
		if err := n.client.Fence(ctx); err == nil {
			t.Error("a fence succeeded on a server that answers BUSY")
		}
		if value, err := n.cache.Get(t.Context(), "k", nearcache.MaxStaleness(bound)); err == nil {
			t.Errorf("past the bound, from a server that answers BUSY: %q", value)
		} else if !errors.Is(err, nearcache.ErrUnavailable) {
			t.Error(err)
		}
		n.server.Do(t, "SCRIPT", "KILL")
		receive(t, "the script ends", busy)
		n.recover(t, "old")
	})
}

func TestFact04ExpiryIsBoundedByPTTL(t *testing.T) {
	t.Parallel()
	const life = time.Second
	milliseconds := strconv.FormatInt(life.Milliseconds(), 10)

	start := func(t *testing.T) (*redistest.Server, *nearcache.Client, *nearcache.Cache[string]) {
		t.Helper()
		server := redistest.Start(t, redistest.Config{})
		server.Do(t, "DEBUG", "SET-ACTIVE-EXPIRE", "0") // it never gets round to it
		options := optionsFor(server)
		options.MaxStaleness = endless
		client := open(t, options)
		return server, client, stringCache(t, client, nil)
	}
	gone := func(t *testing.T, cache *nearcache.Cache[string], key string) {
		t.Helper()
		if value, err := cache.Get(t.Context(), key); !errors.Is(err, nearcache.ErrNotFound) {
			t.Errorf("after its life had ended: %q, %v", value, err)
		}
	}

	// alive writes a key that lives for life, has it read in time, which a busy machine may take several attempts for, and returns when
	// its life is over.
	alive := func(t *testing.T, write func(), read func() bool) {
		t.Helper()
		for {
			write()
			end := time.Now().Add(life)
			for time.Now().Before(end) {
				if read() {
					elapse(time.Until(end) + 2*time.Millisecond) // the server reckons in whole milliseconds, and the last is still life
					return
				}
			}
		}
	}
	inL1 := func(t *testing.T, client *nearcache.Client, cache *nearcache.Cache[string]) func() bool {
		return func() bool {
			fence(t, client)
			value, err := cache.Get(t.Context(), "k")
			if err == nil && value != "v" || err != nil && !errors.Is(err, nearcache.ErrNotFound) {
				t.Fatalf("%q, %v", value, err)
			}
			return err == nil && inLocal(cache, "k")
		}
	}

	t.Run("nothing is pushed", func(t *testing.T) {
		t.Parallel()
		server := redistest.Start(t, redistest.Config{})
		server.Do(t, "DEBUG", "SET-ACTIVE-EXPIRE", "0")
		link := dialLink(t, server, prefix)
		server.Do(t, "SET", prefix+"k", "v", "PX", "1")
		link.invalidated(t)
		elapse(5 * time.Millisecond)
		link.settles(t)
	})

	t.Run("life of the key", func(t *testing.T) {
		t.Parallel()
		server, client, cache := start(t)
		var evicted uint64
		alive(t, func() {
			server.Do(t, "SET", prefix+"k", "v", "PX", milliseconds)
			fence(t, client)
			evicted = client.Stats().Local.Invalidations.Tracking.Evicted
		}, inL1(t, client, cache))
		if pushed := client.Stats().Local.Invalidations.Tracking.Evicted - evicted; pushed != 0 {
			t.Errorf("%d pushes: the test proves nothing", pushed)
		}
		gone(t, cache, "k")
	})

	t.Run("EXPIRE", func(t *testing.T) {
		t.Parallel()
		server, client, cache := start(t)
		alive(t, func() {
			server.Do(t, "SET", prefix+"k", "v")
			fence(t, client)
			warm(t, cache, "k", "v")
			server.Do(t, "PEXPIRE", prefix+"k", milliseconds)
		}, inL1(t, client, cache))
		gone(t, cache, "k")
	})

	t.Run("PERSIST", func(t *testing.T) {
		t.Parallel()
		server, client, cache := start(t)
		server.Do(t, "SET", prefix+"k", "v", "PX", "60000")
		fence(t, client)
		warm(t, cache, "k", "v")
		server.Do(t, "PERSIST", prefix+"k")
		fence(t, client)
		warm(t, cache, "k", "v")
		if ttl := cache.Explain(t.Context(), "k").Remote.TTL; ttl >= 0 {
			t.Errorf("Redis reports a life of %v after PERSIST", ttl)
		}
	})

	t.Run("GetMany", func(t *testing.T) {
		t.Parallel()
		server, client, cache := start(t)
		server.Do(t, "SET", prefix+"other", "v")
		alive(t, func() { server.Do(t, "SET", prefix+"k", "v", "PX", milliseconds) }, func() bool {
			fence(t, client)
			items, err := cache.GetMany(t.Context(), []string{"k", "other"})
			check(t, err)
			return len(items) == 2 && inLocal(cache, "k")
		})
		gone(t, cache, "k")
		want(t, cache, "other", "v")
	})

	t.Run("LocalTTL is shorter", func(t *testing.T) {
		t.Parallel()
		server, client, _ := start(t)
		cache := newCache(t, client, nearcache.Config[string]{Name: "short", Prefix: prefix + "s:", Codec: nearcache.String(), LocalTTL: life})
		server.Do(t, "SET", prefix+"s:k", "v")
		fence(t, client)
		warm(t, cache, "k", "v")
		elapse(life)
		if inLocal(cache, "k") {
			t.Error("L1 still serves after LocalTTL")
		}
	})
}

func TestFact05NullPushAndDatabases(t *testing.T) {
	t.Parallel()
	inDatabase := func(t *testing.T, server *redistest.Server, database int, command ...string) {
		t.Helper()
		quoted := make([]string, len(command))
		for i, word := range command {
			quoted[i] = "'" + word + "'"
		}
		server.Do(t, "EVAL", fmt.Sprintf("redis.call('SELECT', %d) redis.call(%s)", database, strings.Join(quoted, ", ")), "0")
	}

	t.Run("on the wire", func(t *testing.T) {
		t.Parallel()
		server := redistest.Start(t, redistest.Config{})
		link := dialLink(t, server, prefix)
		for _, command := range []string{"FLUSHALL", "FLUSHDB"} {
			server.Do(t, command)
			if keys := link.invalidated(t); len(keys) != 0 {
				t.Errorf("%s was pushed as %q", command, keys)
			}
		}
		inDatabase(t, server, 7, "FLUSHDB")
		if keys := link.invalidated(t); len(keys) != 0 {
			t.Errorf("FLUSHDB of another database was pushed as %q", keys)
		}
		inDatabase(t, server, 7, "SET", prefix+"k", "v")
		if keys := link.invalidated(t); !slices.Equal(keys, []string{prefix + "k"}) {
			t.Errorf("a write in another database was pushed as %q", keys)
		}
		server.Do(t, "DEBUG", "RELOAD")
		if keys := link.invalidated(t); len(keys) != 0 {
			t.Errorf("DEBUG RELOAD was pushed as %q", keys)
		}
	})

	t.Run("on a node", func(t *testing.T) {
		t.Parallel()
		server := redistest.Start(t, redistest.Config{})
		options := optionsFor(server)
		options.Redis.SelectDB = 3
		options.MaxStaleness = endless
		client := open(t, options)
		cache := stringCache(t, client, nil)
		check(t, cache.Set(t.Context(), "k", "three"))
		fence(t, client)
		warm(t, cache, "k", "three")
		server.Do(t, "SET", prefix+"k", "zero") // database 0
		fence(t, client)
		if inLocal(cache, "k") {
			t.Error("a write to the same key of another database, which looks the same, did not evict")
		}
		warm(t, cache, "k", "three")
		inDatabase(t, server, 7, "FLUSHDB")
		fence(t, client)
		if inLocal(cache, "k") {
			t.Error("FLUSHDB of another database, which looks the same, did not evict")
		}
		want(t, cache, "k", "three")
		inDatabase(t, server, 3, "SET", prefix+"k", "new")
		fence(t, client)
		want(t, cache, "k", "new")
	})
}

func TestFact06RoleIsPolled(t *testing.T) {
	t.Parallel()

	t.Run("nothing is pushed", func(t *testing.T) {
		t.Parallel()
		server := redistest.Start(t, redistest.Config{})
		link := dialLink(t, server, prefix)
		server.Do(t, "REPLICAOF", "127.0.0.1", "1")
		link.settles(t)
		server.Do(t, "REPLICAOF", "NO", "ONE")
		link.settles(t)
	})

	t.Run("REPLICAOF by hand", func(t *testing.T) {
		t.Parallel()
		primary := redistest.Start(t, redistest.Config{})
		n := startNetwork(t, func(o *nearcache.Options) { o.MaxStaleness = endless })
		epoch := n.client.Stats().Link.Epoch
		n.server.Do(t, "REPLICAOF", "127.0.0.1", "1") // a primary that cannot be reached, so that there is no resynchronisation
		awaitDown(t, n.client)
		if inLocal(n.cache, "k") {
			t.Error("L1 serves what a demoted server announced")
		}
		if reason := n.client.Health().Reason; !strings.Contains(reason, "primary") {
			t.Errorf("the reason does not say that the server is not a primary: %q", reason)
		}
		n.server.Do(t, "REPLICAOF", "NO", "ONE")
		n.recover(t, "old")
		if got := n.client.Stats().Link.Epoch; got <= epoch {
			t.Errorf("the epoch is %d after %d", got, epoch)
		}

		// And with one that can: its data set takes the place of this one's.
		primary.Do(t, "SET", prefix+"k", "of the primary")
		n.server.Do(t, "REPLICAOF", "127.0.0.1", strconv.Itoa(primary.Port()))
		eventually(t, "the data set is replaced", func() bool {
			value, _ := stored(t, n.server, prefix+"k")
			return value == "of the primary"
		})
		awaitDown(t, n.client)
		n.server.Do(t, "REPLICAOF", "NO", "ONE")
		awaitReady(t, n.client)
		want(t, n.cache, "k", "of the primary")
	})

	t.Run("replica from the start", func(t *testing.T) {
		t.Parallel()
		replica := redistest.StartReplica(t, redistest.Start(t, redistest.Config{}), redistest.Config{})
		_, err := nearcache.Open(t.Context(), optionsFor(replica))
		mentions(t, err, "primary")
	})
}

func TestFact08LinkIsOfClassNormal(t *testing.T) {
	t.Parallel()

	t.Run("nothing subscribes on it", func(t *testing.T) {
		t.Parallel()
		server := redistest.Start(t, redistest.Config{})
		open(t, optionsFor(server))
		link := linkFields(t, server)
		if strings.Contains(link["flags"], "P") || link["sub"] != "0" || link["psub"] != "0" {
			t.Errorf("the link is of class pubsub: %v", link)
		}
		if link["resp"] != "" && link["resp"] != "3" {
			t.Errorf("the link speaks RESP%s", link["resp"])
		}
	})

	t.Run("past the output limit it is closed", func(t *testing.T) {
		t.Parallel()
		n := startNetwork(t, func(o *nearcache.Options) { o.MaxStaleness = endless })
		n.server.Do(t, "CONFIG", "SET", "client-output-buffer-limit", "normal 1mb 0 0")
		id, epoch := linkOf(t, n.server), n.client.Stats().Link.Epoch
		n.proxy.hold(linkReplies)
		n.server.Do(t, "EVAL", `
			local long = string.rep('x', 200)
			for i = 1, 150000 do redis.call('SET', KEYS[1] .. long .. i, '') end
			redis.call('SET', KEYS[1] .. 'k', 'new')`, "1", prefix)
		eventually(t, "the server has closed the link", func() bool {
			return !strings.Contains(text(t, n.server, "CLIENT", "LIST"), "id="+id+" ")
		})
		n.proxy.release(linkReplies)
		eventually(t, "a new link is live", func() bool { return n.client.Health().Ready && n.client.Stats().Link.Epoch > epoch })
		want(t, n.cache, "k", "new")
	})
}

func TestFact09TrackingNeedsRESP3(t *testing.T) {
	t.Parallel()

	t.Run("on the wire", func(t *testing.T) {
		t.Parallel()
		server := redistest.Start(t, redistest.Config{})
		w := dialWire(t, server)
		w.send(t, "CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", prefix)
		if reply := w.receive(t); reply != "OK" {
			t.Fatalf("CLIENT TRACKING in RESP2: %v", reply)
		}
		server.Do(t, "SET", prefix+"k", "v")
		w.settles(t)
	})

	refused := func(t *testing.T, options nearcache.Options, words ...string) {
		t.Helper()
		client, err := nearcache.Open(t.Context(), options)
		if err == nil {
			closeNode(t, client)
			t.Fatal("Open succeeded")
		}
		if !errors.Is(err, nearcache.ErrNoTracking) {
			t.Errorf("not ErrNoTracking: %v", err)
		}
		mentions(t, err, words...)
	}

	t.Run("AlwaysRESP2", func(t *testing.T) {
		t.Parallel()
		options := optionsFor(redistest.Start(t, redistest.Config{}))
		options.Redis.AlwaysRESP2 = true
		refused(t, options, "RESP3", "AlwaysRESP2")
	})

	t.Run("server without HELLO", func(t *testing.T) {
		t.Parallel()
		server := redistest.Start(t, redistest.Config{Settings: []string{`rename-command HELLO ""`}})
		refused(t, optionsFor(server), "RESP3")
	})

	t.Run("server without CLIENT TRACKING", func(t *testing.T) {
		t.Parallel()
		server := redistest.Start(t, redistest.Config{})
		proxy := startProxy(t, server)
		proxy.setIntercept(func(args []string) ([]string, bool) {
			if (request{args: args}).is("CLIENT", "TRACKING") {
				return []string{"CLIENT", "UNHEARDOF"}, true
			}
			return args, true
		})
		refused(t, optionsAt(proxy.addr()), "CLIENT TRACKING")
	})

	// A proxy that takes the command and never pushes shows only when something was written.
	t.Run("proxy that lies", func(t *testing.T) {
		t.Parallel()
		for _, candid := range []bool{false, true} {
			server := redistest.Start(t, redistest.Config{})
			proxy := startProxy(t, server)
			proxy.setIntercept(func(args []string) ([]string, bool) {
				switch r := (request{args: args}); {
				case r.is("CLIENT", "TRACKING"):
					return []string{"CLIENT", "SETNAME", "x"}, true
				case r.is("CLIENT", "TRACKINGINFO") && !candid:
					return []string{"CLIENT", "UNHEARDOF"}, true
				}
				return args, true
			})
			refused(t, optionsAt(proxy.addr()))
		}
	})
}

func TestFact10PrefixesAreSentOnce(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{})
	proxy := startProxy(t, server)
	options := optionsAt(proxy.addr())
	options.Prefixes = []string{"a:", "b:", "c:"}
	client := open(t, options)
	perPrefix := func(words []string) int {
		n := 0
		for _, word := range words {
			if strings.EqualFold(word, "PREFIX") {
				n++
			}
		}
		return n
	}
	links := func() (onLinks []request) {
		return proxy.requests(func(r request) bool { return r.is("CLIENT", "TRACKING", "ON") && perPrefix(r.args) == 3 })
	}
	all := func() []request {
		return proxy.requests(func(r request) bool { return r.link && r.is("CLIENT", "TRACKING") })
	}
	if len(links()) != 1 {
		t.Fatalf("the prefixes went out in %d commands", len(links()))
	}
	before := len(all())
	fence(t, client)
	proxy.cut(isLink)
	eventually(t, "a new link", func() bool { return client.Health().Ready && client.Stats().Link.Reconnects == 1 })
	if n := len(all()) - before; n != 1 || len(links()) != 2 {
		t.Errorf("a new link took %d commands CLIENT TRACKING", n)
	}
	for _, p := range options.Prefixes {
		cache := newCache(t, client, nearcache.Config[string]{Name: p, Prefix: p, Codec: nearcache.String()})
		server.Do(t, "SET", p+"k", "old")
		fence(t, client)
		warm(t, cache, "k", "old")
		server.Do(t, "SET", p+"k", "new")
		fence(t, client)
		want(t, cache, "k", "new")
	}
}

// NOLOOP would save the echo of a node's own writes, and lose with it another writer's push in the same turn.
func TestFact11NoLoopIsNotUsed(t *testing.T) {
	t.Parallel()
	n := startNetwork(t, func(o *nearcache.Options) { o.MaxStaleness = endless })
	for _, r := range n.proxy.requests(func(r request) bool { return r.is("CLIENT", "TRACKING") }) {
		if slices.ContainsFunc(r.args, func(arg string) bool { return strings.EqualFold(arg, "NOLOOP") }) {
			t.Errorf("%q", r.args)
		}
	}

	outside := n.server.Client(t)
	for i := range 20 {
		theirs := fmt.Sprintf("theirs %d", i)
		// What comes in while the server is frozen is carried out in one turn.
		check(t, n.server.Pause())
		done := make(chan error, 2)
		go func() { done <- n.cache.Set(t.Context(), "k", "mine") }()
		go func() {
			done <- outside.Do(t.Context(), outside.B().Set().Key(prefix+"k").Value(theirs).Build()).Error()
		}()
		eventually(t, "the write is on its way", func() bool { return n.proxy.count("SET") > i })
		check(t, n.server.Resume())
		for range 2 {
			check(t, receive(t, "the writes are answered", done))
		}
		fence(t, n.client)
		last, _ := stored(t, n.server, prefix+"k")
		want(t, n.cache, "k", last)
		warm(t, n.cache, "k", last)
	}
}

// The push of a write may come long after the writer was told that it is done, also to the node that wrote.
func TestFact12AcknowledgementBeforePush(t *testing.T) {
	t.Parallel()
	n := startNetwork(t, func(o *nearcache.Options) { o.MaxStaleness = endless })
	for i := range 10 {
		value := strconv.Itoa(i)
		n.proxy.hold(linkReplies)
		check(t, n.cache.Set(t.Context(), "k", value)) // acknowledged
		for range 3 {
			want(t, n.cache, "k", value) // and before its push read, and filled
		}
		n.proxy.release(linkReplies)
		fence(t, n.client) // the push: what was filled is evicted by it, for it may be another writer's
		want(t, n.cache, "k", value)
	}
	warm(t, n.cache, "k", "9") // nothing comes after the echo
}

func TestFact13Rights(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{Users: []string{
		"none on >secret ~* &* +@all -client", // Redis 6.2 cannot take away a part of it
		"narrow on >secret ~" + prefix + "* resetchannels -@all +client|tracking +role +get +set +del +pttl +mget +evalsha +eval +type",
		"reader on >secret ~" + prefix + "* -@all +client|tracking +role +get +pttl +mget +type",
		"elsewhere on >secret ~elsewhere:* resetchannels -@all +client|tracking +ping",
	}})
	optionsOf := func(user string) nearcache.Options {
		options := optionsFor(server)
		options.Redis.Username, options.Redis.Password = user, "secret"
		return options
	}

	t.Run("missing", func(t *testing.T) {
		_, err := nearcache.Open(t.Context(), optionsOf("none"))
		if !errors.Is(err, nearcache.ErrNoTracking) {
			t.Errorf("not ErrNoTracking: %v", err)
		}
		mentions(t, err, "CLIENT TRACKING", "+client|tracking")
	})

	t.Run("all that is needed", func(t *testing.T) {
		client := open(t, optionsOf("narrow"))
		cache := stringCache(t, client, func(context.Context, string) (string, error) { return "loaded", nil })
		want(t, cache, "k", "loaded")
		check(t, cache.Set(t.Context(), "k", "set"))
		warm(t, cache, "k", "set")
		check(t, cache.Delete(t.Context(), "k"))
		if items, err := cache.GetMany(t.Context(), []string{"k", "l"}); err != nil || len(items) != 2 {
			t.Errorf("GetMany: %q, %v", items, err)
		}
	})

	t.Run("a reader", func(t *testing.T) {
		client := open(t, optionsOf("reader"))
		cache := stringCache(t, client, func(context.Context, string) (string, error) { return "loaded", nil })
		server.Do(t, "SET", prefix+"r", "v")
		fence(t, client)
		warm(t, cache, "r", "v")
		want(t, cache, "absent", "loaded") // and stored nowhere
		mentions(t, cache.Set(t.Context(), "r", "v"), "NOPERM")
	})

	t.Run("no right to a key is checked", func(t *testing.T) {
		w := dialWire(t, server)
		w.send(t, "HELLO", "3", "AUTH", "elsewhere", "secret")
		w.receive(t)
		w.send(t, "CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", prefix+"seen") // the probes of the other clients expire meanwhile
		if reply := w.receive(t); reply != "OK" {
			t.Fatalf("CLIENT TRACKING: %v", reply)
		}
		server.Do(t, "SET", prefix+"seen", "v")
		if keys := w.invalidated(t); !slices.Equal(keys, []string{prefix + "seen"}) {
			t.Errorf("pushed: %q", keys)
		}
	})
}

func TestFact14ServerTimeoutClosesIdleConnections(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{Settings: []string{"timeout 4"}})
	options := optionsFor(server)
	options.MaxStaleness = endless // and with it the longest heartbeat
	client := open(t, options)
	cache := stringCache(t, client, nil)
	server.Do(t, "SET", prefix+"k", "v")
	fence(t, client)
	warm(t, cache, "k", "v")
	idle := dialWire(t, server)
	check(t, idle.conn.SetDeadline(time.Now().Add(patience)))
	if _, err := idle.read(); !errors.Is(err, io.EOF) {
		t.Fatalf("an idle connection: %v", err)
	}
	elapse(time.Second)
	link := client.Stats().Link
	if link.Reconnects != 0 || !link.Live {
		t.Errorf("the link did not outlive the server's timeout: %+v", link)
	}
	want(t, cache, "k", "v")
	if _, err := cache.Get(t.Context(), "absent"); !errors.Is(err, nearcache.ErrNotFound) {
		t.Errorf("a read on connections that the server has closed: %v", err)
	}
}
