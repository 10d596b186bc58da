package nearcachetest_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/go-nearcache/nearcache"
	"github.com/go-nearcache/nearcache/internal/redistest"
	"github.com/go-nearcache/nearcache/nearcachetest"
)

// node is a node behind faults, with "old" in its L1 under "a".
type node struct {
	faults *nearcachetest.Faults
	server *redistest.Server
	client *nearcache.Client
	cache  *nearcache.Cache[string]
}

func newNode(t *testing.T) *node {
	t.Helper()
	n := &node{server: redistest.Start(t, redistest.Config{}), faults: nearcachetest.NewFaults(t)}
	n.client, n.cache = openNode(t, optionsThrough(n.server, n.faults))
	n.server.Do(t, "SET", "k:a", "old")
	n.fence(t)
	warm(t, n.cache, "a", "old")
	return n
}

func (n *node) fence(t testing.TB) {
	t.Helper()
	check(t, n.client.Fence(t.Context()))
}

func (n *node) reads(t *testing.T, key, want string, options ...nearcache.ReadOption) {
	t.Helper()
	if value, err := n.cache.Get(t.Context(), key, options...); err != nil || value != want {
		t.Errorf("Get %q: %q, %v; want %q", key, value, err, want)
	}
}

func keysOf(pushes []nearcachetest.Push) (keys []string) {
	for _, p := range pushes {
		keys = append(keys, strings.Join(p.Keys, " "))
	}
	return keys
}

// What passes through without a fault is what was sent, large and binary values included.
func TestNoFault(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	value := strings.Repeat("\x00\r\n$3\r\n>2\r\n\xff", 1<<17)
	check(t, n.cache.Set(t.Context(), "large", value))
	n.reads(t, "large", value)
	if keys := keysOf(n.faults.AwaitHeld(0)); len(keys) != 0 {
		t.Errorf("held: %q", keys)
	}
}

func TestDropPushes(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.faults.DropPushes(1, "k:a")
	n.server.Do(t, "SET", "k:b", "another key")
	n.server.Do(t, "SET", "k:a", "lost")
	if keys := keysOf(n.faults.AwaitDropped(1)); !slices.Equal(keys, []string{"k:a"}) {
		t.Errorf("dropped: %q", keys)
	}
	n.fence(t) // which such a link passes
	n.reads(t, "a", "old", nearcache.Fresh())
	n.server.Do(t, "SET", "k:a", "told")
	n.fence(t)
	n.reads(t, "a", "told")
}

func TestHeldPushesMayBeReordered(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.server.Do(t, "MSET", "k:b", "old", "k:c", "old")
	n.fence(t)
	warm(t, n.cache, "b", "old")
	warm(t, n.cache, "c", "old")
	n.faults.HoldPushes("k:a", "k:b", "k:c")
	for _, key := range []string{"k:a", "k:b", "k:c"} {
		n.server.Do(t, "SET", key, "new")
	}
	if keys := keysOf(n.faults.AwaitHeld(3)); !slices.Equal(keys, []string{"k:a", "k:b", "k:c"}) {
		t.Fatalf("held: %q", keys)
	}
	for _, key := range []string{"a", "b", "c"} {
		n.reads(t, key, "old")
	}

	n.faults.ReleasePush(2)
	nearcachetest.EventuallyCoherent(t, patience, "c", "new", n.cache)
	n.reads(t, "a", "old")
	n.faults.DropPush(0)
	if keys := keysOf(n.faults.AwaitDropped(1)); !slices.Equal(keys, []string{"k:a"}) {
		t.Errorf("dropped: %q", keys)
	}
	n.faults.ReleasePushes()
	nearcachetest.EventuallyCoherent(t, patience, "b", "new", n.cache)
	n.reads(t, "a", "old")
	mentions(t, record(t, func(t testing.TB) {
		nearcachetest.NewFaults(t).ReleasePush(0)
	}), "no push 0")
}

func TestDelayPushes(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	const delay = 300 * time.Millisecond
	began := time.Now()
	n.faults.DelayPushes(delay, "k:a")
	n.server.Do(t, "SET", "k:a", "new")
	n.fence(t)
	nearcachetest.EventuallyCoherent(t, patience, "a", "new", n.cache)
	if took := time.Since(began); took < delay {
		t.Errorf("the push took %v, and should have taken %v", took, delay)
	}
}

func TestFlushIsAPushOfEverything(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.faults.HoldPushes()
	n.server.Do(t, "FLUSHALL")
	eventually(t, "the null push is held", func() bool {
		held := n.faults.AwaitHeld(1)
		return held[len(held)-1].Everything
	})
	n.reads(t, "a", "old")
	n.faults.Heal()
	eventually(t, "it is obeyed", func() bool {
		_, err := n.cache.Get(t.Context(), "a")
		return errors.Is(err, nearcache.ErrNotFound)
	})
}

func TestCut(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	if cut := n.faults.Cut(nearcachetest.Links); cut != 1 {
		t.Errorf("%d links were cut, want 1", cut)
	}
	eventually(t, "a new link is live", func() bool {
		stats := n.client.Stats().Link
		return stats.Live && stats.Reconnects == 1
	})
	warm(t, n.cache, "a", "old")
	n.faults.Cut(nearcachetest.Links | nearcachetest.Data)
	eventually(t, "a new link is live", func() bool {
		stats := n.client.Stats().Link
		return stats.Live && stats.Reconnects == 2
	})
	n.reads(t, "a", "old")
}

// A push that is held goes down with its link, and with it everything that the link covered.
func TestCutTakesHeldPushesAlong(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.faults.HoldPushes("k:a")
	n.server.Do(t, "SET", "k:a", "new")
	n.faults.AwaitHeld(1)
	n.reads(t, "a", "old")
	n.faults.Cut(nearcachetest.Links)
	eventually(t, "a new link is live", func() bool { return n.client.Stats().Link.Reconnects == 1 })
	n.reads(t, "a", "new")
	if held := n.faults.AwaitHeld(0); len(held) != 0 {
		t.Errorf("held: %v", held)
	}
}

func TestRefuseLinks(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.faults.RefuseLinks()
	n.faults.Cut(nearcachetest.Links)
	awaitReady(t, n.client, false)
	n.server.Do(t, "SET", "k:a", "new")
	n.reads(t, "a", "new") // data passes
	n.faults.AcceptConnections()
	awaitReady(t, n.client, true)
}

func TestRefuseConnections(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.faults.RefuseConnections()
	n.reads(t, "a", "old") // what is connected stays so
	n.faults.Cut(nearcachetest.Links | nearcachetest.Data)
	awaitReady(t, n.client, false)
	if _, err := n.cache.Get(t.Context(), "a"); !errors.Is(err, nearcache.ErrUnavailable) {
		t.Errorf("Get: %v", err)
	}
	eventually(t, "the refusal is told", func() bool { return strings.Contains(n.client.Health().Reason, "connection refused") })
	n.faults.Heal()
	awaitReady(t, n.client, true)
}

// A link that is stalled in either direction looks alive to TCP, and is found dead by its silence. The bound holds meanwhile.
func TestStall(t *testing.T) {
	t.Parallel()
	for name, direction := range map[string]nearcachetest.Direction{
		"to the server": nearcachetest.ToServer,
		"to the client": nearcachetest.ToClient,
		"both ways":     nearcachetest.ToServer | nearcachetest.ToClient,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t)
			n.faults.Stall(nearcachetest.Links, direction)
			staleness := nearcachetest.AssertNotStalerThan(t, time.Second, "a", n.cache)
			check(t, staleness.Write("new", func() error {
				return n.server.Command(t.Context(), "SET", "k:a", "new").Error()
			}))
			awaitReady(t, n.client, false)
			n.faults.Resume(nearcachetest.Links, direction)
			awaitReady(t, n.client, true)
			t.Log(staleness.Stop())
			n.reads(t, "a", "new")
		})
	}
}

// A stall of data leaves the link alone: L1 serves, and what is not in it waits.
func TestStallData(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.faults.Stall(nearcachetest.Data, nearcachetest.ToClient)
	n.reads(t, "a", "old")
	misses := n.client.Stats().Caches["strings"].LocalMisses
	answer := make(chan error, 1)
	go func() {
		_, err := n.cache.Get(t.Context(), "b")
		answer <- err
	}()
	eventually(t, "the read waits", func() bool { return n.client.Stats().Caches["strings"].LocalMisses > misses })
	n.reads(t, "a", "old")
	n.faults.Heal()
	if err := <-answer; !errors.Is(err, nearcache.ErrNotFound) && !errors.Is(err, nearcache.ErrUnavailable) {
		t.Errorf("Get: %v", err)
	}
}

func TestDialOverUnixSocketAndAddresses(t *testing.T) {
	t.Parallel()
	server, faults := redistest.Start(t, redistest.Config{}), nearcachetest.NewFaults(t)
	for _, address := range []string{server.Addr(), server.Socket()} {
		option := rueidis.ClientOption{InitAddress: []string{address}, DialCtxFn: faults.Dial, DisableCache: true, ForceSingleClient: true}
		reached := ""
		option.AuthCredentialsFn = func(about rueidis.AuthCredentialsContext) (rueidis.AuthCredentials, error) {
			reached = about.Address.String()
			return rueidis.AuthCredentials{}, nil
		}
		client, err := rueidis.NewClient(option)
		check(t, err)
		defer client.Close()
		check(t, client.Do(t.Context(), client.B().Ping().Build()).Error())
		if reached != address {
			t.Errorf("connected to %q, and the connection says %q", address, reached)
		}
	}
	_, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{"127.0.0.1:1"}, DialCtxFn: faults.Dial})
	if err == nil {
		t.Error("a server that is not there was reached")
	}
}

func TestDialAfterTheTest(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{})
	var faults *nearcachetest.Faults
	record(t, func(t testing.TB) { faults = nearcachetest.NewFaults(t) })
	option := rueidis.ClientOption{InitAddress: []string{server.Addr()}, DialCtxFn: faults.Dial}
	if _, err := rueidis.NewClient(option); err == nil {
		t.Error("a connection outlives its test")
	}
}
