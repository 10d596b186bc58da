package nearcache_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/go-nearcache/nearcache"
	"github.com/go-nearcache/nearcache/broadcast"
	"github.com/go-nearcache/nearcache/internal/redistest"
)

const (
	degradedLine = "nearcache: L1 is degraded: the server does not announce what changes; will try again"
	promotedLine = "nearcache: L1 is kept coherent by tracking again"
)

// degrading has a node degrade, with this life in L1.
func degrading(options *nearcache.Options, ttl time.Duration) {
	options.Tracking, options.DegradedTTL = nearcache.Degrade, ttl
	options.SettleFills = true
}

func awaitMode(t *testing.T, client *nearcache.Client, mode nearcache.Mode) {
	t.Helper()
	eventually(t, fmt.Sprintf("the mode is %v", mode), func() bool { return client.Health().Mode == mode })
}

// unpromised fails the test if reads with a bound of their own are answered from L1, or a fence is, while nothing is promised.
func unpromised(t *testing.T, server *redistest.Server, client *nearcache.Client, cache *nearcache.Cache[string]) {
	t.Helper()
	_, _ = cache.Get(t.Context(), "bounded")
	before := statsOf(client)
	for i, option := range []nearcache.ReadOption{nearcache.Fresh(), nearcache.SkipLocal(), nearcache.MaxStaleness(endless)} {
		value := fmt.Sprintf("fresh %d", i)
		server.Do(t, "SET", prefix+"bounded", value)
		one := get(t, cache, "bounded", option)
		many, err := cache.GetMany(t.Context(), []string{"bounded"}, option)
		check(t, err)
		// A read with a weak bound may share the fetch of the one before.
		if weak := i == 2; !weak && (one != value || many["bounded"] != value) {
			t.Errorf("read %d: %q and %q, want %q", i, one, many["bounded"], value)
		}
	}
	if after := statsOf(client); after.LocalHits+after.LocalStale != before.LocalHits+before.LocalStale {
		t.Errorf("a read with a bound was answered from L1: %+v, before %+v", after, before)
	}
	if err := client.Fence(bounded(t)); !errors.Is(err, nearcache.ErrNoTracking) {
		t.Errorf("a fence where nothing is promised: %v", err)
	}
}

// A user without the right to tracking is given it, and loses it again.
func TestDegradeToTTL(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{Users: []string{"node on >secret ~* +@all -client"}}) // Redis 6.2 cannot take away a part of it
	options := optionsFor(server)
	options.Redis.Username, options.Redis.Password = "node", "secret"
	_, err := nearcache.Open(bounded(t), options)
	mentions(t, err, "CLIENT TRACKING", "+client|tracking")
	if !errors.Is(err, nearcache.ErrNoTracking) {
		t.Errorf("RequireTracking: %v", err)
	}

	const ttl = time.Second
	book, provider := new(logbook), new(observables)
	degrading(&options, ttl)
	options.Name = "degraded to ttl"
	options.Logger, options.MeterProvider = book.logger(), provider
	options.OnDisconnect = nearcache.FailReads // which is about another thing
	client := open(t, options)
	cache := stringCache(t, client, nil)
	modeIs := func(mode nearcache.Mode) {
		t.Helper()
		health, stats := client.Health(), client.Stats()
		if !health.Ready || health.Mode != mode || health.Link.Mode != mode || stats.Link.Mode != mode || stats.Link.Live != (mode == nearcache.ModeTracking) {
			t.Errorf("health %+v, stats %+v", health, stats.Link)
		}
		encoded, err := json.Marshal(health)
		check(t, err)
		if !strings.Contains(string(encoded), fmt.Sprintf(`"ready":true,"mode":%q`, mode)) {
			t.Errorf("%s", encoded)
		}
		if degraded := mode != nearcache.ModeTracking; degraded != strings.Contains(health.Reason, "+client|tracking") {
			t.Errorf("reason %q", health.Reason)
		}
		for _, m := range []nearcache.Mode{nearcache.ModeTracking, nearcache.ModeBroadcast, nearcache.ModeTTL, nearcache.ModeOff} {
			got := provider.collect(t)[fmt.Sprintf("nearcache.tracking.mode %v degraded to ttl primary 127.0.0.1", m)]
			if (got == 1) != (m == mode) {
				t.Errorf("the metric of mode %v is %v", m, got)
			}
		}
	}
	modeIs(nearcache.ModeTTL)
	unpromised(t, server, client, cache)

	// Served from L1 for as long as its life, and no longer.
	server.Do(t, "SET", prefix+"k", "old")
	want(t, cache, "k", "old")
	read := time.Now()
	item, err := cache.GetItem(t.Context(), "k")
	check(t, err)
	if time.Since(read) < ttl/2 && (!item.Stale || !errors.Is(item.Reason, nearcache.ErrNoTracking) || item.Age > time.Since(read)+time.Second) {
		t.Errorf("%+v", item)
	}
	if stale := statsOf(client).LocalStale; stale == 0 && time.Since(read) < ttl/2 {
		t.Error("nothing was served from L1")
	}
	server.Do(t, "SET", prefix+"k", "new")
	overwritten := time.Now()
	for {
		began := time.Now()
		value := get(t, cache, "k")
		if value == "new" {
			break
		}
		if late := began.Sub(overwritten); late > ttl {
			t.Fatalf("a read that began %v after the write was given the old value", late)
		}
	}
	wrapped, err := client.Rueidis()
	check(t, err)
	for _, value := range []string{"one", "two", "two"} {
		server.Do(t, "SET", prefix+"wrapped", value)
		result := wrapped.DoCache(bounded(t), wrapped.B().Get().Key(prefix+"wrapped").Cache(), time.Minute)
		if got, err := result.ToString(); err != nil || got != value || result.IsCacheHit() {
			t.Errorf("DoCache: %q, %v, from L1: %v", got, err, result.IsCacheHit())
		}
	}
	check(t, cache.Set(t.Context(), "k", "mine"))
	want(t, cache, "k", "mine")
	check(t, cache.Delete(t.Context(), "k"))
	if _, err := cache.Get(t.Context(), "k"); !errors.Is(err, nearcache.ErrNotFound) {
		t.Errorf("after Delete: %v", err)
	}
	if got := book.messages(t); got[degradedLine] != 1 || got[promotedLine] != 0 {
		t.Errorf("log: %v", got)
	}

	// Promotion, without a new connection for data.
	server.Do(t, "SET", prefix+"k", "old")
	want(t, cache, "k", "old")
	server.Do(t, "ACL", "SETUSER", "node", "+client", "+client|tracking")
	awaitMode(t, client, nearcache.ModeTracking)
	modeIs(nearcache.ModeTracking)
	server.Do(t, "SET", prefix+"k", "promised")
	want(t, cache, "k", "promised", nearcache.Fresh())
	warm(t, cache, "k", "promised")
	fence(t, client)
	if got := book.messages(t); got[degradedLine] != 1 || got[promotedLine] != 1 {
		t.Errorf("log: %v", got)
	}

	// Demotion, when the link is lost and may not be made again.
	server.Do(t, "ACL", "SETUSER", "node", "-client")
	server.Do(t, "CLIENT", "KILL", "USER", "node")
	awaitMode(t, client, nearcache.ModeTTL)
	modeIs(nearcache.ModeTTL)
	eventually(t, "the connections for data are made anew", func() bool {
		_, err := cache.Get(t.Context(), "k", nearcache.SkipLocal())
		return err == nil
	})
	unpromised(t, server, client, cache)
	if got := book.messages(t); got[degradedLine] != 2 || got[promotedLine] != 1 {
		t.Errorf("log: %v", got)
	}

	// A degraded node whose server is away is not ready.
	server.Kill()
	eventually(t, "the node is not ready", func() bool { return !client.Health().Ready })
	check(t, server.Restart(t.Context()))
	eventually(t, "the node is ready again", func() bool { return client.Health().Ready })
}

// A proxy that does not know RESP3, and is replaced by one that does.
func TestDegradeBehindAProxyWithoutRESP3(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{})
	p := startProxy(t, server)
	p.setIntercept(func(args []string) ([]string, bool) {
		if (request{args: args}).is("HELLO") {
			args = append([]string{"HELLO?"}, args[1:]...)
		}
		return args, true
	})
	options := optionsAt(p.addr())
	_, err := nearcache.Open(bounded(t), options)
	if !errors.Is(err, nearcache.ErrNoTracking) {
		t.Errorf("RequireTracking: %v", err)
	}
	degrading(&options, nearcache.NoLocal)
	client := open(t, options)
	cache := stringCache(t, client, newSource(map[string]string{"k": "loaded"}).load)
	if health := client.Health(); !health.Ready || health.Mode != nearcache.ModeOff || !strings.Contains(health.Reason, "HELLO") {
		t.Errorf("%+v", health)
	}
	want(t, cache, "k", "loaded")
	for i := range 5 {
		value := fmt.Sprint(i)
		server.Do(t, "SET", prefix+"k", value)
		want(t, cache, "k", value) // without an L1 every read sees the last write
	}
	unpromised(t, server, client, cache)
	stats := client.Stats()
	if got := stats.Caches["test"]; got.LocalHits+got.LocalStale != 0 || got.LocalBypasses < 5 || stats.Local.Fills.Accepted != 0 {
		t.Errorf("%+v", stats)
	}
	p.setIntercept(nil)
	awaitMode(t, client, nearcache.ModeTracking)
	warm(t, cache, "k", "4")
	server.Do(t, "SET", prefix+"k", "promised")
	want(t, cache, "k", "promised", nearcache.Fresh())
}

// A program that can speak RESP2 alone.
func TestDegradeInRESP2(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{Password: "secret"})
	options := optionsFor(server)
	options.Redis.AlwaysRESP2, options.Redis.Password = true, "secret"
	if _, err := nearcache.Open(bounded(t), options); !errors.Is(err, nearcache.ErrNoTracking) {
		t.Errorf("RequireTracking: %v", err)
	}
	degrading(&options, time.Minute)
	client := open(t, options)
	cache := stringCache(t, client, newSource(map[string]string{"k": "loaded"}).load)
	want(t, cache, "k", "loaded")
	want(t, cache, "k", "loaded")
	check(t, cache.SetMany(t.Context(), map[string]string{"a": "1", "b": "2"}))
	_, err := cache.Update(t.Context(), "a", func(current string, _ bool) (string, error) { return current + "1", nil })
	check(t, err)
	items, err := cache.GetMany(t.Context(), []string{"a", "b"})
	check(t, err)
	if items["a"] != "11" || items["b"] != "2" {
		t.Errorf("GetMany: %v", items)
	}
	unpromised(t, server, client, cache)
	if health := client.Health(); !health.Ready || health.Mode != nearcache.ModeTTL || !strings.Contains(health.Reason, "AlwaysRESP2") {
		t.Errorf("%+v", health)
	}
}

// A proxy that takes the command and passes nothing on: only a write shows it.
func TestDegradeBehindAProxyThatLies(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{})
	p := startProxy(t, server)
	p.setIntercept(func(args []string) ([]string, bool) {
		switch r := (request{args: args}); {
		case r.is("CLIENT", "TRACKING"):
			return []string{"CLIENT", "SETNAME", "x"}, true
		case r.is("CLIENT", "TRACKINGINFO"):
			return []string{"CLIENT", "UNHEARDOF"}, true
		}
		return args, true
	})
	options := optionsAt(p.addr())
	degrading(&options, 0) // MaxStaleness
	options.MaxStaleness = bound
	client := open(t, options)
	cache := stringCache(t, client, nil)
	if health := client.Health(); health.Mode != nearcache.ModeTTL || !strings.Contains(health.Reason, "not announced") {
		t.Errorf("%+v", health)
	}
	unpromised(t, server, client, cache)
	server.Do(t, "SET", prefix+"k", "old")
	want(t, cache, "k", "old")
	server.Do(t, "SET", prefix+"k", "new")
	overwritten := time.Now()
	for began := time.Now(); get(t, cache, "k") != "new"; began = time.Now() {
		if began.Sub(overwritten) > bound {
			t.Fatal("the bound does not hold")
		}
	}
	// A new link that is no better does not count, and one that is does.
	p.cut(isLink)
	p.setIntercept(nil)
	p.cut(func(bool) bool { return true })
	awaitMode(t, client, nearcache.ModeTracking)
	warm(t, cache, "k", "new")
	server.Do(t, "SET", prefix+"k", "promised")
	want(t, cache, "k", "promised", nearcache.Fresh())
}

// With a bus, what is written through this library is seen at once.
func TestDegradeToBroadcast(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{Users: []string{"poor on >secret ~* +@all -client"}})
	network := broadcast.NewNetwork(broadcast.NetworkOptions{})
	const ttl = 10 * time.Minute
	node := func(user string) (*nearcache.Client, *nearcache.Cache[string]) {
		bus, err := broadcast.New(broadcast.Options{Transport: network.Transport()})
		check(t, err)
		t.Cleanup(func() { check(t, bus.Close(context.Background())) })
		options := optionsFor(server)
		if user != "" {
			options.Redis.Username, options.Redis.Password = user, "secret"
		}
		degrading(&options, ttl)
		options.Bus = bus
		client := open(t, options)
		return client, stringCache(t, client, nil)
	}
	rich, richCache := node("")
	poor, poorCache := node("poor")
	if rich.Health().Mode != nearcache.ModeTracking || poor.Health().Mode != nearcache.ModeBroadcast {
		t.Fatalf("modes %v and %v", rich.Health().Mode, poor.Health().Mode)
	}
	unpromised(t, server, poor, poorCache)
	seen := func(value string) {
		t.Helper()
		eventually(t, "the degraded node has seen "+value, func() bool {
			got, err := poorCache.Get(t.Context(), "k")
			return err == nil && got == value
		})
		if !inLocal(poorCache, "k") {
			want(t, poorCache, "k", value)
		}
	}
	check(t, richCache.Set(t.Context(), "k", "one"))
	seen("one")
	check(t, richCache.SetMany(t.Context(), map[string]string{"k": "two"}))
	seen("two")
	_, err := richCache.Update(t.Context(), "k", func(string, bool) (string, error) { return "three", nil })
	check(t, err)
	seen("three")
	eventually(t, "the degraded node uses L1", func() bool {
		want(t, poorCache, "k", "three")
		return statsOf(poor).LocalStale > 0
	})
	_, err = richCache.Clear(t.Context(), nearcache.BulkOptions{})
	check(t, err)
	eventually(t, "the degraded node has seen Clear", func() bool {
		_, err := poorCache.Get(t.Context(), "k")
		return errors.Is(err, nearcache.ErrNotFound)
	})

	// A gap is the next step down, and what messages might have told is forgotten.
	check(t, richCache.Set(t.Context(), "k", "four"))
	seen("four")
	network.Disconnect()
	awaitMode(t, poor, nearcache.ModeTTL)
	server.Do(t, "SET", prefix+"k", "five")
	want(t, poorCache, "k", "five")
	network.Connect()
	awaitMode(t, poor, nearcache.ModeBroadcast)
	check(t, richCache.Set(t.Context(), "k", "six"))
	seen("six")

	check(t, rich.Flush(t.Context()))
	eventually(t, "a flush reaches the degraded node", func() bool { return !inLocal(poorCache, "k") })
	seen("six")

	// The other way about: what the degraded node writes the tracked one is told of by Redis.
	warm(t, richCache, "k", "six")
	check(t, poorCache.Set(t.Context(), "k", "seven"))
	want(t, richCache, "k", "seven", nearcache.Fresh())

	server.Do(t, "ACL", "SETUSER", "poor", "+client")
	awaitMode(t, poor, nearcache.ModeTracking)
	server.Do(t, "SET", prefix+"k", "eight")
	want(t, poorCache, "k", "eight", nearcache.Fresh())
}

// A link that turns out to be mute is given up, and the next one is not trusted before it has proved itself.
func TestDegradeWhenTheCanaryIsNotHeard(t *testing.T) {
	t.Parallel()
	v := withCanary(t, 20*time.Millisecond, func(o *nearcache.Options) {
		o.MaxStaleness = 100 * time.Millisecond
		degrading(o, time.Minute)
	})
	v.faults.DropPushes(1 << 30)
	awaitMode(t, v.client, nearcache.ModeTTL)
	if reason := v.client.Health().Reason; !strings.Contains(reason, "Options.Canary") && !strings.Contains(reason, "not announced") {
		t.Errorf("reason %q", reason)
	}
	unpromised(t, v.server, v.client, v.cache)
	v.faults.Heal()
	awaitMode(t, v.client, nearcache.ModeTracking)
	warm(t, v.cache, "k", "of k")
}

// What is read all the time is refreshed in time where nothing is promised, too.
func TestDegradeRefreshesAhead(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{Users: []string{"node on >secret ~* +@all -client"}})
	options := optionsFor(server)
	options.Redis.Username, options.Redis.Password = "node", "secret"
	degrading(&options, time.Minute)
	items := newSource(map[string]string{"k": "one"})
	cache := newCache(t, open(t, options), nearcache.Config[string]{Codec: nearcache.String(), Load: items.load, TTL: time.Hour, RefreshAhead: 0.5})
	want(t, cache, "k", "one")
	server.Do(t, "PEXPIRE", prefix+"k", "60000") // into the last half of its life
	want(t, cache, "k", "one")
	items.set("k", "two")
	eventually(t, "the key is loaded anew", func() bool { return get(t, cache, "k") == "two" })
}

func TestDegradeOptions(t *testing.T) {
	t.Parallel()
	bus, err := broadcast.New(broadcast.Options{Transport: broadcast.NewNetwork(broadcast.NetworkOptions{}).Transport()})
	check(t, err)
	t.Cleanup(func() { check(t, bus.Close(context.Background())) })
	for name, test := range map[string]struct {
		change func(*nearcache.Options)
		words  []string
	}{
		"unknown policy":       {func(o *nearcache.Options) { o.Tracking = 7 }, []string{"Tracking", "TrackingPolicy(7)", "RequireTracking", "Degrade"}},
		"a life without":       {func(o *nearcache.Options) { o.DegradedTTL = time.Second }, []string{"DegradedTTL", "Degrade"}},
		"a tiny life":          {func(o *nearcache.Options) { degrading(o, 1) }, []string{"DegradedTTL", "1ns", "1ms"}},
		"a long life":          {func(o *nearcache.Options) { degrading(o, time.Hour) }, []string{"DegradedTTL", "10m"}},
		"a bus for no L1":      {func(o *nearcache.Options) { degrading(o, nearcache.NoLocal); o.Bus = bus }, []string{"DegradedTTL", "Bus"}},
		"a bus and no Degrade": {func(o *nearcache.Options) { o.Bus = bus }, []string{"Bus", "Redis", "Degrade"}},
		"no Redis": {func(o *nearcache.Options) {
			degrading(o, time.Second)
			o.Bus, o.Redis.InitAddress, o.Prefixes = bus, nil, nil
		}, []string{"Tracking", "Redis"}},
	} {
		options := optionsAt("127.0.0.1:1")
		test.change(&options)
		_, err := nearcache.Open(t.Context(), options)
		if err == nil {
			t.Fatalf("%s: no error", name)
		}
		mentions(t, err, append(test.words, "nearcache: Options.")...)
	}
	for mode, name := range map[nearcache.Mode]string{nearcache.ModeTracking: "tracking", nearcache.ModeBroadcast: "broadcast", nearcache.ModeTTL: "ttl",
		nearcache.ModeOff: "off", 7: "Mode(7)"} {
		if got := mode.String(); got != name {
			t.Errorf("%q, want %q", got, name)
		}
		var read nearcache.Mode
		if err := read.UnmarshalText([]byte(name)); mode <= nearcache.ModeOff && (err != nil || read != mode) || mode > nearcache.ModeOff && err == nil {
			t.Errorf("%q is read as %v, %v", name, read, err)
		}
	}
	if nearcache.RequireTracking.String() != "RequireTracking" || nearcache.Degrade.String() != "Degrade" {
		t.Error("names of policies")
	}
}
