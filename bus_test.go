package nearcache_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"

	"github.com/go-nearcache/nearcache"
	"github.com/go-nearcache/nearcache/broadcast"
)

// busNode is a client without Redis on a network of this process, with a cache of what a source holds.
type busNode struct {
	client *nearcache.Client
	cache  *nearcache.Cache[string]
	loads  atomic.Int64
}

func newBusNode(t *testing.T, network *broadcast.Network, policy nearcache.DisconnectPolicy, source func(key string) (string, error)) *busNode {
	t.Helper()
	bus, err := broadcast.New(broadcast.Options{Transport: network.Transport()})
	check(t, err)
	t.Cleanup(func() { check(t, bus.Close(context.Background())) })
	n := new(busNode)
	n.client, err = nearcache.Open(t.Context(), nearcache.Options{Bus: bus, SettleFills: true, OnDisconnect: policy})
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
