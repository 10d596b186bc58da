package broadcast

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// testReceiver makes a receiver with one subscription whose handler does not run: the test reads the queue.
func testReceiver(t testing.TB, options NetworkOptions) (*receiver, *Subscription) {
	t.Helper()
	bus, err := New(Options{Transport: NewNetwork(options).Transport(), Origin: "self"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = bus.Close(t.Context()) })
	r := newReceiver(bus, "topic")
	s := newSubscription(bus, nil, r, Handler{}, nil)
	t.Cleanup(s.cancel)
	r.subscriptions = []*Subscription{s}
	return r, s
}

func numbered(first uint64, count int) []byte {
	return dataFrame("node", 1, "topic", first, make([]Message, count)...)
}

// queued empties the queue and describes what was in it.
func queued(s *Subscription) []string {
	var items []string
	for i, ok := tryPop(s.queue); ok; i, ok = tryPop(s.queue) {
		if i.gap.Reason != 0 {
			items = append(items, fmt.Sprintf("%v %d-%d", i.gap.Reason, i.gap.From, i.gap.To))
		} else {
			items = append(items, fmt.Sprint(i.message.Seq))
		}
	}
	return items
}

func expectQueued(t *testing.T, s *Subscription, want ...string) {
	t.Helper()
	if got := queued(s); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestOrderedHoles(t *testing.T) {
	r, s := testReceiver(t, NetworkOptions{})
	r.Frame(numbered(1, 2))
	expectQueued(t, s, "1", "2")
	r.Frame(numbered(2, 2)) // half of it repeated
	expectQueued(t, s, "3")
	r.Frame(numbered(6, 1))
	expectQueued(t, s, "seq_hole 4-5", "6")
	r.Frame(numbered(4, 1)) // too late: it has been reported
	expectQueued(t, s)
	r.Frame(heartbeatFrame("node", 1, "topic", 0, 6, time.Second))
	expectQueued(t, s)
	r.Frame(heartbeatFrame("node", 1, "topic", 0, 9, time.Second))
	expectQueued(t, s, "seq_hole 7-9")
	r.Frame(numbered(10, 1))
	expectQueued(t, s, "10")
	if got := r.bus.Stats().Duplicates; got != 2 {
		t.Errorf("%d duplicates were counted, want 2", got)
	}
}

func TestFirstContact(t *testing.T) {
	for name, c := range map[string]struct {
		frame []byte
		want  []string
	}{
		"with the first message":         {numbered(1, 1), []string{"1"}},
		"with a later message":           {numbered(5, 1), []string{"new_origin 1-4", "5"}},
		"with an old origin's heartbeat": {heartbeatFrame("node", 1, "topic", 0, 5, time.Second), []string{"new_origin 1-5"}},
		"with a new origin's heartbeat":  {heartbeatFrame("node", 1, "topic", 0, 0, time.Second), nil},
	} {
		t.Run(name, func(t *testing.T) {
			r, s := testReceiver(t, NetworkOptions{})
			r.Frame(c.frame)
			expectQueued(t, s, c.want...)
		})
	}
	t.Run("a loss after it is a hole", func(t *testing.T) {
		r, s := testReceiver(t, NetworkOptions{})
		r.Frame(heartbeatFrame("node", 1, "topic", 0, 0, time.Second))
		r.Frame(numbered(2, 1))
		expectQueued(t, s, "seq_hole 1-1", "2")
	})
}

func TestNewEpoch(t *testing.T) {
	another := func(first uint64) []byte { return dataFrame("node", 2, "topic", first, Message{}) }
	t.Run("after a crash", func(t *testing.T) {
		r, s := testReceiver(t, NetworkOptions{})
		r.Frame(numbered(1, 1))
		r.Frame(another(4))
		expectQueued(t, s, "1", "epoch_changed 0-0", "4")
		r.Frame(numbered(1, 1)) // a late repetition of the old incarnation
		r.Frame(another(5))
		expectQueued(t, s, "5")
	})
	t.Run("after a goodbye", func(t *testing.T) {
		r, s := testReceiver(t, NetworkOptions{})
		r.Frame(numbered(1, 1))
		r.Frame(heartbeatFrame("node", 1, "topic", flagLeaving, 1, time.Second))
		r.Frame(another(1))
		expectQueued(t, s, "1", "1")
	})
	t.Run("after a goodbye that told of a loss", func(t *testing.T) {
		r, s := testReceiver(t, NetworkOptions{})
		r.Frame(numbered(1, 1))
		r.Frame(heartbeatFrame("node", 1, "topic", flagLeaving, 3, time.Second))
		r.Frame(another(1))
		expectQueued(t, s, "1", "seq_hole 2-3", "1")
	})
}

func TestReorderWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, s := testReceiver(t, NetworkOptions{Unordered: true})
		go r.keep(t.Context())
		r.Frame(numbered(1, 1))
		r.Frame(numbered(4, 1))
		r.Frame(numbered(2, 1))
		r.Frame(numbered(4, 1))
		expectQueued(t, s, "1", "2")
		time.Sleep(defaultReorderWindow / 2)
		r.Frame(numbered(6, 1))
		r.Frame(numbered(3, 1)) // just in time
		expectQueued(t, s, "3", "4")
		time.Sleep(defaultReorderWindow/2 + time.Millisecond)
		synctest.Wait()
		expectQueued(t, s) // the window of the second hole began with number 6
		time.Sleep(defaultReorderWindow / 2)
		synctest.Wait()
		expectQueued(t, s, "seq_hole 5-5", "6")
		r.Frame(numbered(5, 1))
		expectQueued(t, s)

		r.Frame(heartbeatFrame("node", 1, "topic", 0, 8, time.Second))
		expectQueued(t, s)
		r.Frame(numbered(7, 1)) // the heartbeat had overtaken it
		time.Sleep(defaultReorderWindow + time.Millisecond)
		synctest.Wait()
		expectQueued(t, s, "7", "seq_hole 8-8")
	})
}

func TestReorderIsBounded(t *testing.T) {
	r, s := testReceiver(t, NetworkOptions{Unordered: true})
	r.Frame(numbered(1, 1))
	for n := uint64(3); n < 3+maxHeld; n++ {
		r.Frame(numbered(n, 1))
	}
	got := queued(s)
	if len(got) != maxHeld+2 || got[1] != "seq_hole 2-2" {
		t.Errorf("%d items %v…, want the hole given up after %d messages", len(got), got[:min(3, len(got))], maxHeld)
	}
}

func TestSilentOrigin(t *testing.T) {
	for name, c := range map[string]struct {
		unordered bool
		frames    [][]byte
		want      []string
	}{
		"that had published, without signals": {true, [][]byte{numbered(1, 1)}, []string{"1", "origin_lost 2-0"}},
		"that had published, with signals":    {false, [][]byte{numbered(1, 1)}, []string{"1"}},
		"that had only listened":              {true, [][]byte{heartbeatFrame("node", 1, "topic", flagListening, 0, time.Second)}, nil},
		"that had said goodbye": {
			true, [][]byte{numbered(1, 1), heartbeatFrame("node", 1, "topic", flagLeaving, 1, time.Second)}, []string{"1"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r, s := testReceiver(t, NetworkOptions{Unordered: c.unordered})
				go r.keep(t.Context())
				for _, frame := range c.frames {
					r.Frame(frame)
				}
				time.Sleep(5 * idleHeartbeats * defaultHeartbeat)
				synctest.Wait()
				expectQueued(t, s, c.want...)
				if len(r.peers) != 0 {
					t.Errorf("%d silent origins are remembered", len(r.peers))
				}
			})
		})
	}
}

func TestNobodyIsForgottenWhileTheLinkIsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, s := testReceiver(t, NetworkOptions{Unordered: true})
		go r.keep(t.Context())
		const forever = 5 * idleHeartbeats * defaultHeartbeat
		r.Frame(numbered(1, 2))
		r.Gap(Gap{Reason: Reconnect, Open: true})
		time.Sleep(forever)
		r.Frame(numbered(2, 2)) // replayed: half of it a repetition
		r.Gap(Gap{Reason: Resumed})
		time.Sleep(defaultHeartbeat)
		synctest.Wait()
		expectQueued(t, s, "1", "2", "reconnect 0-0", "3", "resumed 0-0")
		time.Sleep(forever)
		synctest.Wait()
		expectQueued(t, s, "origin_lost 4-0")
	})
}

func TestOwnFramesAreFiltered(t *testing.T) {
	r, s := testReceiver(t, NetworkOptions{})
	own := dataFrame("self", r.bus.epoch, "topic", 5, Message{})
	r.Frame(own)
	expectQueued(t, s)
	r.Frame(dataFrame("self", r.bus.epoch+1, "topic", 1, Message{})) // another process under the same name
	expectQueued(t, s, "1")
	s.receiveOwn, r.receiveOwn = true, 1
	r.Frame(own)
	expectQueued(t, s, "epoch_changed 0-0", "5")
}

// TestEveryNumberIsDeliveredOrReported sends frames through a random network, on both kinds of transport: each number must come
// exactly once, as a message or within a gap, in order.
func TestEveryNumberIsDeliveredOrReported(t *testing.T) {
	for _, unordered := range []bool{false, true} {
		for seed := range uint64(20) {
			t.Run(fmt.Sprintf("unordered=%v/seed=%d", unordered, seed), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { randomNetwork(t, unordered, seed) })
			})
		}
	}
}

func randomNetwork(t *testing.T, unordered bool, seed uint64) {
	r, s := testReceiver(t, NetworkOptions{Unordered: unordered})
	go r.keep(t.Context())
	next, lost := uint64(1), uint64(0)
	take := func() {
		for i, ok := tryPop(s.queue); ok; i, ok = tryPop(s.queue) {
			if i.gap.Reason == 0 {
				if i.message.Seq != next {
					t.Fatalf("message %d came, %d was next", i.message.Seq, next)
				}
				next++
				continue
			}
			if i.gap.From != next || i.gap.To < next {
				t.Fatalf("gap %v came, %d was next", i.gap, next)
			}
			lost += i.gap.To - i.gap.From + 1
			next = i.gap.To + 1
		}
	}
	random := rand.New(rand.NewPCG(seed, 1))
	first := uint64(1)
	var late [][]byte
	for range 1000 {
		count := 1 + random.IntN(5)
		frame := numbered(first, count)
		first += uint64(count)
		copies := 1
		switch {
		case random.Float64() < 0.2:
			copies = 0
		case random.Float64() < 0.2:
			copies = 2
		}
		for range copies {
			if unordered && random.Float64() < 0.3 {
				late = append(late, frame)
			} else {
				r.Frame(slices.Clone(frame))
			}
		}
		if len(late) > 0 && random.Float64() < 0.3 {
			at := random.IntN(len(late))
			r.Frame(slices.Clone(late[at]))
			late = slices.Delete(late, at, at+1)
		}
		time.Sleep(time.Duration(random.IntN(3)) * time.Millisecond)
		synctest.Wait()
		take()
	}
	last := first - 1
	r.Frame(heartbeatFrame("node", 1, "topic", 0, last, time.Second))
	time.Sleep(2 * defaultReorderWindow)
	synctest.Wait()
	take()
	if next != last+1 {
		t.Fatalf("numbers %d to %d were neither delivered nor reported", next, last)
	}
	if lost == 0 || lost > last/2 {
		t.Errorf("%d of %d were lost: the network was not as intended", lost, last)
	}
}

// TestDetectionDoesNotAllocate: what every message passes through costs no allocation, whatever the verdict.
func TestDetectionDoesNotAllocate(t *testing.T) {
	r, s := testReceiver(t, NetworkOptions{})
	for i := range 100 { // grows what grows
		r.Frame(numbered(uint64(2*i+2), 1))
	}
	queued(s)
	for name, run := range map[string]func(){
		"sequence": func() {
			var q sequence
			q.next = 1
			for n := range uint64(1000) {
				if q.place(n+1) != due || q.place(n+1) != duplicate || q.place(n+3) != ahead {
					t.Fatal("wrong verdict")
				}
			}
		},
		"duplicate":          func(frame []byte) func() { return func() { r.Frame(frame) } }(numbered(1, 100)),
		"own":                func(frame []byte) func() { return func() { r.Frame(frame) } }(dataFrame("self", r.bus.epoch, "topic", 1, Message{})),
		"repeated heartbeat": func(frame []byte) func() { return func() { r.Frame(frame) } }(heartbeatFrame("node", 1, "topic", 0, 5, time.Second)),
		"messages and holes": func() func() {
			frames := make([][]byte, 300)
			for i := range frames {
				frames[i] = numbered(uint64(1000+2*i), 1)
			}
			at := 0
			return func() {
				r.Frame(frames[at])
				at++
				for s.queue.count > 0 {
					s.queue.pop()
				}
			}
		}(),
	} {
		if allocations := testing.AllocsPerRun(200, run); allocations != 0 {
			t.Errorf("%s: %v allocations, want 0", name, allocations)
		}
	}
}

func BenchmarkReceiver(b *testing.B) {
	r, s := testReceiver(b, NetworkOptions{})
	s.queue.maxMessages = 1 << 20
	frames := make([][]byte, 1000)
	for i := range frames {
		frames[i] = dataFrame("node", 1, "topic", uint64(100*i+1), make([]Message, 100)...)
	}
	at := 0
	b.ReportAllocs()
	for b.Loop() {
		if at == len(frames) {
			at = 0
			clear(r.peers)
		}
		r.Frame(frames[at])
		at++
		for s.queue.count > 0 {
			s.queue.pop()
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/100, "ns/message")
}
