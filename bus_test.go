package nearcache_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-nearcache/nearcache"
	"github.com/go-nearcache/nearcache/broadcast"
	"github.com/go-nearcache/nearcache/internal/redistest"
)

// busNode is a client without Redis on a network of this process, with a cache of what a source holds.
type busNode struct {
	client *nearcache.Client
	cache  *nearcache.Cache[string]
	loads  atomic.Int64
}

func newBusNode(t *testing.T, network *broadcast.Network, policy nearcache.DisconnectPolicy, source func(key string) (string, error)) *busNode {
	t.Helper()
	return newBusNodeOver(t, network.Transport(), policy, source)
}

func newBusNodeOver(t *testing.T, transport broadcast.Transport, policy nearcache.DisconnectPolicy, source func(key string) (string, error)) *busNode {
	t.Helper()
	bus, err := broadcast.New(broadcast.Options{Transport: transport})
	check(t, err)
	t.Cleanup(func() { check(t, bus.Close(context.Background())) })
	n := new(busNode)
	options := nearcache.Options{Bus: bus, SettleFills: true, OnDisconnect: policy}
	if policy == nearcache.ServeStale {
		options.StaleLimit = time.Hour
	}
	n.client, err = nearcache.Open(t.Context(), options)
	check(t, err)
	t.Cleanup(func() { check(t, n.client.Close(context.Background())) })
	n.cache, err = nearcache.New(n.client, nearcache.Config[string]{
		Name:   "things",
		Prefix: "thing:",
		Load: func(_ context.Context, key string) (string, error) {
			n.loads.Add(1)
			return source(key)
		},
	})
	check(t, err)
	return n
}

func (n *busNode) reads(t *testing.T, key, want string) {
	t.Helper()
	if got, err := n.cache.Get(t.Context(), key); err != nil || got != want {
		t.Errorf("Get: %q, %v; want %q", got, err, want)
	}
}

func TestWithoutRedisNodesTellEachOther(t *testing.T) {
	t.Parallel()
	var stored atomic.Value
	stored.Store("old")
	source := func(string) (string, error) { return stored.Load().(string), nil }
	network := broadcast.NewNetwork(broadcast.NetworkOptions{})
	a, b := newBusNode(t, network, nearcache.BypassLocal, source), newBusNode(t, network, nearcache.BypassLocal, source)
	key := "any \x00\xff bytes"
	for _, node := range []*busNode{a, b} {
		node.reads(t, key, "old")
		node.reads(t, key, "old")
		if n := node.loads.Load(); n != 1 {
			t.Errorf("two reads made %d loads", n)
		}
	}

	stored.Store("new")
	check(t, a.cache.Delete(t.Context(), key))
	a.reads(t, key, "new")
	eventually(t, "the other node reads what was announced", func() bool {
		value, err := b.cache.Get(t.Context(), key)
		return err == nil && value == "new"
	})
	if n := b.loads.Load(); n != 2 {
		t.Errorf("one announcement made %d loads, after the first", n-1)
	}
	if e := b.cache.Explain(t.Context(), key); e.LastInvalidation == nil || e.LastInvalidation.Cause.String() != "broadcast" {
		t.Errorf("Explain does not name the message: %v", e)
	}

	stored.Store("newest")
	if value, err := b.cache.Get(t.Context(), key, nearcache.Fresh()); err != nil || value != "newest" {
		t.Errorf("a fresh read, which nothing but the loader can serve: %q, %v", value, err)
	}
	mentions(t, b.client.Fence(t.Context()), "without Redis", "no fence")
}

func TestWithoutRedisAGapLoadsAnew(t *testing.T) {
	t.Parallel()
	var stored atomic.Value
	stored.Store("old")
	source := func(string) (string, error) { return stored.Load().(string), nil }
	network := broadcast.NewNetwork(broadcast.NetworkOptions{})
	node := newBusNode(t, network, nearcache.BypassLocal, source)
	node.reads(t, "k", "old")

	network.Disconnect()
	eventually(t, "the node knows", func() bool { return !node.client.Health().Ready })
	mentions(t, errors.New(node.client.Health().Reason), "down", "reconnect")
	stored.Store("new") // nobody can tell
	node.reads(t, "k", "new")

	network.Connect()
	eventually(t, "the node is back", func() bool { return node.client.Health().Ready })
	node.reads(t, "k", "new")
}

func TestWithoutRedisNothingIsRememberedOfWhatIsAbsent(t *testing.T) {
	t.Parallel()
	network := broadcast.NewNetwork(broadcast.NetworkOptions{})
	node := newBusNode(t, network, nearcache.BypassLocal, func(string) (string, error) { return "", nearcache.ErrNotFound })
	for range 3 {
		if _, err := node.cache.Get(t.Context(), "none"); !errors.Is(err, nearcache.ErrNotFound) {
			t.Errorf("Get: %v", err)
		}
	}
	if n := node.loads.Load(); n != 3 {
		t.Errorf("NegativeTTL is off, and three reads made %d loads", n)
	}
}

func TestWithoutRedisOptionsThatAreRefused(t *testing.T) {
	t.Parallel()
	network := broadcast.NewNetwork(broadcast.NetworkOptions{})
	bus, err := broadcast.New(broadcast.Options{Transport: network.Transport()})
	check(t, err)
	t.Cleanup(func() { check(t, bus.Close(context.Background())) })

	both := optionsAt("127.0.0.1:1")
	both.Bus = bus
	_, err = nearcache.Open(t.Context(), both)
	mentions(t, err, "Options.Bus", "leave one of the two out")

	client, err := nearcache.Open(t.Context(), nearcache.Options{Bus: bus})
	check(t, err)
	t.Cleanup(func() { check(t, client.Close(context.Background())) })
	_, err = nearcache.New(client, nearcache.Config[string]{Name: "n", Prefix: "n:"})
	mentions(t, err, "Config.Load", "required without Redis")
}

// tapped lets a test say of the link what it likes.
type tapped struct {
	broadcast.Transport
	receiver broadcast.Receiver
}

func (t *tapped) Listen(ctx context.Context, topic string, receiver broadcast.Receiver) (broadcast.Listener, error) {
	if topic == nearcache.BusTopic {
		t.receiver = receiver
	}
	return t.Transport.Listen(ctx, topic, receiver)
}

// newBus is a bus for a test to say what no client of this version would.
func newBus(t *testing.T, network *broadcast.Network) *broadcast.Bus {
	t.Helper()
	bus, err := broadcast.New(broadcast.Options{Transport: network.Transport()})
	check(t, err)
	t.Cleanup(func() { check(t, bus.Close(context.Background())) })
	return bus
}

func announce(t *testing.T, bus *broadcast.Bus, kind string, version uint16) {
	t.Helper()
	check(t, bus.Publish(t.Context(), broadcast.Message{Topic: nearcache.BusTopic, Type: kind, Version: version}))
}

func TestWithoutRedisWhatIsNotUnderstoodMayBeAnything(t *testing.T) {
	t.Parallel()
	network := broadcast.NewNetwork(broadcast.NetworkOptions{})
	node := newBusNode(t, network, nearcache.BypassLocal, func(string) (string, error) { return "value", nil })
	bus := newBus(t, network)
	for _, announcement := range []struct {
		kind    string
		version uint16
	}{{"tags", 1}, {"keys", 2}, {"", 0}} {
		node.reads(t, "k", "value")
		before := node.loads.Load()
		epoch := node.client.Health().Link.Epoch
		announce(t, bus, announcement.kind, announcement.version)
		eventually(t, "a new epoch", func() bool { return node.client.Health().Link.Epoch > epoch })
		node.reads(t, "k", "value")
		if n := node.loads.Load() - before; n != 1 {
			t.Errorf("after %+v a read made %d loads", announcement, n)
		}
	}
}

// While the link is down nothing may be held, whatever is announced.
func TestWithoutRedisNoAnnouncementBringsBackALinkThatIsDown(t *testing.T) {
	t.Parallel()
	for _, policy := range []nearcache.DisconnectPolicy{nearcache.BypassLocal, nearcache.ServeStale} {
		network := broadcast.NewNetwork(broadcast.NetworkOptions{})
		transport := &tapped{Transport: network.Transport()}
		node := newBusNodeOver(t, transport, policy, func(string) (string, error) { return "value", nil })
		bus := newBus(t, network)
		for _, kind := range []string{"tags", "everything"} {
			node.reads(t, "k", "value")
			transport.receiver.Gap(broadcast.Gap{Reason: broadcast.Reconnect, Open: true})
			eventually(t, "the node knows", func() bool { return !node.client.Health().Ready })
			announced := func() uint64 { c := node.client.Stats().Local.Invalidations.Broadcast; return c.Absent + c.Evicted }
			before := announced()
			announce(t, bus, kind, 1)
			check(t, bus.Publish(t.Context(), broadcast.Message{Topic: nearcache.BusTopic, Type: "keys", Version: 1, Payload: []byte("\x0bthing:after")}))
			eventually(t, "the announcement after it", func() bool { return announced() > before })
			if health := node.client.Health(); health.Ready || health.Link.Epoch != 0 {
				t.Errorf("policy %v: %q made a link that is down live: %+v", policy, kind, health)
			}
			loads := node.loads.Load()
			for range 2 {
				node.reads(t, "k", "value")
			}
			if n := node.loads.Load() - loads; n != 2 {
				t.Errorf("policy %v: after %q two reads on a link that is down made %d loads", policy, kind, n)
			}
			transport.receiver.Gap(broadcast.Gap{Reason: broadcast.Reconnect})
			eventually(t, "the node is back", func() bool { return node.client.Health().Ready })
		}
	}
}

func TestFlushMakesAllNodesForget(t *testing.T) {
	t.Parallel()
	var stored atomic.Value
	stored.Store("old")
	source := func(string) (string, error) { return stored.Load().(string), nil }
	network := broadcast.NewNetwork(broadcast.NetworkOptions{})
	a, b := newBusNode(t, network, nearcache.BypassLocal, source), newBusNode(t, network, nearcache.BypassLocal, source)
	for _, node := range []*busNode{a, b} {
		node.reads(t, "one", "old")
		node.reads(t, "two", "old")
	}
	stored.Store("new")
	check(t, a.client.Flush(t.Context()))
	a.reads(t, "one", "new")
	eventually(t, "the other node forgets", func() bool {
		value, err := b.cache.Get(t.Context(), "two")
		return err == nil && value == "new"
	})
	if n := b.loads.Load(); n != 3 {
		t.Errorf("one flush made %d loads of what was read again, want 1", n-2)
	}

	network.Disconnect()
	eventually(t, "the node knows", func() bool { return !a.client.Health().Ready })
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := a.client.Flush(ctx); !errors.Is(err, broadcast.ErrUndelivered) {
		t.Errorf("a flush that nobody could hear of: %v, want ErrUndelivered", err)
	}
	network.Connect()
	check(t, a.client.Close(context.Background()))
	if err := a.client.Flush(t.Context()); !errors.Is(err, nearcache.ErrClosed) {
		t.Errorf("Flush after Close: %v, want ErrClosed", err)
	}
}

func TestFlushWithRedisIsOfThisNode(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{})
	a, b := open(t, optionsFor(server)), open(t, optionsFor(server))
	load := func(context.Context, string) (string, error) { return "v", nil }
	onA, onB := stringCache(t, a, load), stringCache(t, b, load)
	warm(t, onA, "k", "v")
	warm(t, onB, "k", "v")
	epochOfB := b.Health().Link.Epoch
	check(t, a.Flush(t.Context()))
	before := a.Stats().Caches["test"]
	want(t, onA, "k", "v")
	if after := a.Stats().Caches["test"]; after.RemoteHits != before.RemoteHits+1 || after.Loads != before.Loads {
		t.Errorf("what was flushed is read from Redis: before %+v, after %+v", before, after)
	}
	if epoch := b.Health().Link.Epoch; epoch != epochOfB {
		t.Errorf("the other node was flushed too: its epoch went from %d to %d", epochOfB, epoch)
	}
}

// The source is written, read with lives of its own, and outlived, by caches that have nothing but a bus.
func TestWithoutRedisTheSourceIsWrittenThrough(t *testing.T) {
	t.Parallel()
	network := broadcast.NewNetwork(broadcast.NetworkOptions{})
	db := newSource(map[string]string{"a": "1", "unkept": "1"})
	var broken atomic.Bool
	failure := errors.New("the database is on fire")
	node := func() (*nearcache.Client, *nearcache.Cache[string]) {
		bus, err := broadcast.New(broadcast.Options{Transport: network.Transport()})
		check(t, err)
		t.Cleanup(func() { check(t, bus.Close(context.Background())) })
		client, err := nearcache.Open(t.Context(), nearcache.Options{Bus: bus, SettleFills: true})
		check(t, err)
		t.Cleanup(func() { check(t, client.Close(context.Background())) })
		cache := newCache(t, client, nearcache.Config[string]{
			Name: "test", Prefix: prefix, Codec: nearcache.String(), FailSafe: nearcache.FailSafe{MaxAge: time.Hour},
			Entry: func(key, _ string) nearcache.EntryOptions { return nearcache.EntryOptions{NoStore: key == "unkept"} },
			Load: func(ctx context.Context, key string) (string, error) {
				if broken.Load() {
					return "", failure
				}
				return db.load(ctx, key)
			},
			Store: func(_ context.Context, key, value string) error {
				if broken.Load() {
					return failure
				}
				db.set(key, value)
				return nil
			},
			Remove: func(_ context.Context, key string) error {
				db.mu.Lock()
				defer db.mu.Unlock()
				delete(db.items, key)
				return nil
			},
		})
		return client, cache
	}
	client, one := node()
	_, other := node()
	ctx := bounded(t)
	want(t, one, "a", "1")
	want(t, other, "a", "1")

	check(t, one.Set(ctx, "a", "2"))
	want(t, one, "a", "2")
	eventually(t, "the other node reads what was written through", func() bool { return get(t, other, "a") == "2" })
	for range 2 {
		want(t, one, "unkept", "1")
	}
	if inLocal(one, "unkept") {
		t.Error("Entry's NoStore was kept")
	}

	// The announcement of a write that failed is one all the same: nobody knows what the source holds.
	broken.Store(true)
	if err := other.Set(ctx, "a", "3"); !errors.Is(err, failure) {
		t.Errorf("Set while the source fails: %v", err)
	}
	eventually(t, "the last good value is served", func() bool {
		item, err := one.GetItem(ctx, "a")
		return err == nil && item.Value == "2" && item.Stale && errors.Is(item.Reason, failure)
	})
	if _, err := one.Get(ctx, "a", nearcache.Fresh()); !errors.Is(err, failure) {
		t.Errorf("a fresh read while the source fails: %v", err)
	}
	broken.Store(false)
	want(t, one, "a", "2")
	if statsOf(client).FailSafe == 0 {
		t.Error("the last good value was not counted")
	}

	check(t, other.Delete(ctx, "a"))
	eventually(t, "the item is gone on every node", func() bool {
		_, err := one.Get(ctx, "a")
		return errors.Is(err, nearcache.ErrNotFound)
	})
}
