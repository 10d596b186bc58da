package gossip_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/go-nearcache/nearcache/broadcast"
	"github.com/go-nearcache/nearcache/broadcast/broadcasttest"
	"github.com/go-nearcache/nearcache/broadcast/gossip"
)

const patience = time.Minute

func newBus(t testing.TB, transport broadcast.Transport) *broadcast.Bus {
	t.Helper()
	bus, err := broadcast.New(broadcast.Options{Transport: transport, Heartbeat: 200 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := bus.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	return bus
}

func listen(t testing.TB, bus *broadcast.Bus) (*broadcasttest.Recorder, *broadcast.Subscription) {
	t.Helper()
	r := broadcasttest.NewRecorder(nil)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	s, err := bus.Subscribe(ctx, "topic", r.Handler())
	if err != nil {
		t.Fatal(err)
	}
	return r, s
}

func publish(t testing.TB, bus *broadcast.Bus, payload string) {
	t.Helper()
	if err := bus.Publish(t.Context(), broadcast.Message{Topic: "topic", Payload: []byte(payload)}); err != nil {
		t.Fatal(err)
	}
}

// TestIsolation: a node that has lost all others knows, and says so.
func TestIsolation(t *testing.T) {
	t.Parallel()
	h := newHarness(nil)
	a, b := h.Transport(t), h.Transport(t)
	busA, busB := newBus(t, a), newBus(t, b)
	r, subscription := listen(t, busB)
	publish(t, busA, "before")
	r.AwaitPayload(t, patience, "before")

	heal := h.divide(true, b)
	defer heal()
	r.Await(t, patience, "an open gap", func() bool { return !subscription.Live() })
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := busB.Publish(ctx, broadcast.Message{Topic: "topic"}); !errors.Is(err, broadcast.ErrUndelivered) {
		t.Errorf("an isolated node published, with the error %v; want ErrUndelivered", err)
	}
	late, lateSubscription := listen(t, busB)
	late.Await(t, patience, "an open gap for who comes late", func() bool { return !lateSubscription.Live() })

	heal()
	r.Await(t, patience, "the gap to be closed", func() bool {
		return subscription.Live() && slices.ContainsFunc(r.Gaps(), broadcast.Gap.MustFlush)
	})
	publish(t, busA, "after")
	r.AwaitPayload(t, patience, "after")
	publish(t, busB, "from the one that was isolated")
}

// TestLossBeyondRetention: what nobody retains any more is reported.
func TestLossBeyondRetention(t *testing.T) {
	c := config("gossip", func() *harness {
		return newHarness(func(o *gossip.Options) { o.RetainBytes = 1 << 20 })
	})
	outcome := broadcasttest.RunFault(t, c, "retention", func(f broadcasttest.Fault) {
		heal := f.Harness.(*harness).divide(false, f.Subscribers[0])
		defer heal()
		flood := newBus(t, f.Harness.Transport(f))
		for range 8 {
			if err := flood.Publish(t.Context(), broadcast.Message{Topic: "flood", Payload: make([]byte, 1<<19)}); err != nil {
				t.Error(err)
			}
		}
		// What was retained of others is gone, and of their own after as many messages as fit.
		watch := broadcasttest.NewRecorder(nil)
		if _, err := flood.Subscribe(t.Context(), f.Topic, watch.Handler()); err != nil {
			t.Error(err)
		}
		watch.Await(t, patience, "messages to fill what is retained", func() bool { return len(watch.Messages()) > 20_000 })
	})
	if outcome.Reported == 0 {
		t.Error("more was missed than is retained, and nothing was reported lost")
	}
}

// TestKeyring: who has no key is kept out, and keys are rotated while messages flow.
func TestKeyring(t *testing.T) {
	t.Parallel()
	first, second := []byte("0123456789abcdef"), []byte("fedcba9876543210")
	var rings []*memberlist.Keyring
	h := newHarness(func(o *gossip.Options) {
		ring, err := memberlist.NewKeyring(nil, first)
		if err != nil {
			t.Fatal(err)
		}
		rings = append(rings, ring)
		o.Keyring = ring
	})
	a, b := h.Transport(t), h.Transport(t)
	busA, busB := newBus(t, a), newBus(t, b)
	r, _ := listen(t, busB)
	publish(t, busA, "with the first key")
	r.AwaitPayload(t, patience, "with the first key")

	for _, step := range []func(*memberlist.Keyring) error{
		func(ring *memberlist.Keyring) error { return ring.AddKey(second) },
		func(ring *memberlist.Keyring) error { return ring.UseKey(second) },
		func(ring *memberlist.Keyring) error { return ring.RemoveKey(first) },
	} {
		for i, ring := range rings {
			if err := step(ring); err != nil {
				t.Fatal(err)
			}
			payload := fmt.Sprint("while keys are rotated ", i)
			publish(t, busA, payload)
			r.AwaitPayload(t, patience, payload)
		}
	}

	stranger, err := gossip.New(gossip.Options{Bind: "127.0.0.1:0", Seeds: []string{a.(*member).Addr()}})
	if err != nil {
		t.Fatal(err)
	}
	busC := newBus(t, stranger)
	listen(t, busC) // begins by itself
	publish(t, busC, "from a stranger")
	publish(t, busA, "from a member")
	r.AwaitPayload(t, patience, "from a member")
	if len(stranger.Members()) != 1 || len(a.(*member).Members()) != 2 {
		t.Errorf("a stranger knows %v, a member %v", stranger.Members(), a.(*member).Members())
	}
}

// TestSeedsThatComeLater: a node begins by itself, and finds the others when they are there.
func TestSeedsThatComeLater(t *testing.T) {
	t.Parallel()
	reserved, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	seed := reserved.Addr().String()
	if err := reserved.Close(); err != nil {
		t.Fatal(err)
	}
	early, err := gossip.New(gossip.Options{Bind: "127.0.0.1:0", Name: "early", Seeds: []string{seed}})
	if err != nil {
		t.Fatal(err)
	}
	bus := newBus(t, early)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := early.Send(ctx, broadcast.Frame{Topic: "topic"}); err == nil || !strings.Contains(err.Error(), "no seed") {
		t.Errorf("before it has joined, sending gave %v", err)
	}
	if _, err := bus.Subscribe(ctx, "topic", broadcasttest.NewRecorder(nil).Handler()); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("before it has joined, subscribing gave %v", err)
	}
	r, _ := listen(t, bus)
	late, err := gossip.New(gossip.Options{Bind: seed, Name: "late", Seeds: []string{seed}}) // a list may name the node itself
	if err != nil {
		t.Fatal(err)
	}
	other := newBus(t, late)
	listen(t, other)
	publish(t, other, "hello")
	r.AwaitPayload(t, patience, "hello")
	if members := early.Members(); len(members) != 2 || !strings.HasPrefix(members[1], "late-") {
		t.Errorf("members are %v", members)
	}
}

func TestOptionsThatAreRefused(t *testing.T) {
	t.Parallel()
	for _, refused := range []struct {
		options gossip.Options
		says    string
	}{
		{gossip.Options{Bind: "localhost:7946"}, `Options.Bind is "localhost:7946"`},
		{gossip.Options{Bind: "127.0.0.1"}, "an IP address and a port"},
		{gossip.Options{Bind: "127.0.0.1:70000"}, "0 to 65535"},
		{gossip.Options{Advertise: "here"}, "Options.Advertise"},
		{gossip.Options{Seeds: []string{"a:1", "b"}}, "Options.Seeds[1]"},
		{gossip.Options{Name: strings.Repeat("n", 65)}, "Options.Name is 65 bytes"},
		{gossip.Options{Label: strings.Repeat("l", 256)}, "Options.Label is 256 bytes"},
		{gossip.Options{RetainBytes: 1000}, "Options.RetainBytes is 1000: at least 1048576"},
	} {
		if _, err := gossip.New(refused.options); err == nil || !strings.Contains(err.Error(), refused.says) {
			t.Errorf("%+v gave %v, want an error that says %q", refused.options, err, refused.says)
		}
	}
}
