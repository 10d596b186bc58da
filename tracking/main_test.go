package tracking

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"go.uber.org/goleak"

	"github.com/go-nearcache/nearcache/internal/redistest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait for something that must happen. It only has to be long enough for a loaded machine.
const patience = 30 * time.Second

// A call is one call of a handler's method.
type call struct {
	method string // "live", "invalidate", "flush", "lost", "confirm"
	key    string
	asOf   time.Time
	at     time.Time
	err    error
}

func (c call) String() string {
	switch c.method {
	case "invalidate":
		return fmt.Sprintf("invalidate(%q)", c.key)
	case "lost":
		return fmt.Sprintf("lost(%v)", c.err)
	}
	return c.method
}

// A recorder is a handler that keeps what it is told, and checks the contract: calls never overlap, Live and Lost alternate,
// everything else comes in between, as-of times increase and are past.
type recorder struct {
	t testing.TB

	// hook, if set, runs within each call, before it is recorded. Set it before the tracker is opened.
	hook func(call)

	mu      sync.Mutex
	calls   []call
	changed chan struct{} // closed at the next call; nil if nobody waits
	busy    bool
	live    bool
	asOf    time.Time
}

func newRecorder(t testing.TB) *recorder {
	return &recorder{t: t}
}

func (r *recorder) Live(asOf time.Time)    { r.record(call{method: "live", asOf: asOf}) }
func (r *recorder) Invalidate(key string)  { r.record(call{method: "invalidate", key: key}) }
func (r *recorder) Flush()                 { r.record(call{method: "flush"}) }
func (r *recorder) Lost(err error)         { r.record(call{method: "lost", err: err}) }
func (r *recorder) Confirm(asOf time.Time) { r.record(call{method: "confirm", asOf: asOf}) }

func (r *recorder) record(c call) {
	c.at = time.Now()
	r.mu.Lock()
	if r.busy {
		r.t.Errorf("%v while another call runs", c)
	}
	r.busy = true
	r.mu.Unlock()

	if r.hook != nil {
		r.hook(c)
	}

	r.mu.Lock()
	defer r.mu.Unlock()
	r.busy = false
	if r.live == (c.method == "live") {
		r.t.Errorf("%v while live is %t", c, r.live)
	}
	switch c.method {
	case "live":
		r.live = true
	case "lost":
		r.live = false
		if c.err == nil {
			r.t.Error("lost without a reason")
		}
	}
	if !c.asOf.IsZero() {
		if c.asOf.Before(r.asOf) || c.asOf.After(c.at) {
			r.t.Errorf("%v: as-of %v after %v, called at %v", c, c.asOf, r.asOf, c.at)
		}
		r.asOf = c.asOf
	}
	r.calls = append(r.calls, c)
	if r.changed != nil {
		close(r.changed)
		r.changed = nil
	}
}

// all returns the calls so far.
func (r *recorder) all() []call {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]call(nil), r.calls...)
}

// count returns how often a method was called.
func (r *recorder) count(method string) (n int) {
	for _, c := range r.all() {
		if c.method == method {
			n++
		}
	}
	return n
}

// keys returns the keys that were invalidated from the call with index from on, in order.
func (r *recorder) keys(from int) (keys []string) {
	for _, c := range r.all()[from:] {
		if c.method == "invalidate" {
			keys = append(keys, c.key)
		}
	}
	return keys
}

// await waits until a call satisfies the condition, and returns its index and the call. Calls before from do not count.
func (r *recorder) await(what string, from int, condition func(call) bool) (int, call) {
	r.t.Helper()
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	for seen := from; ; {
		r.mu.Lock()
		if r.changed == nil {
			r.changed = make(chan struct{})
		}
		calls, changed := r.calls, r.changed
		r.mu.Unlock()
		for ; seen < len(calls); seen++ {
			if condition(calls[seen]) {
				return seen, calls[seen]
			}
		}
		select {
		case <-changed:
		case <-timeout.C:
			r.t.Fatalf("%s: not within %v; calls: %v", what, patience, r.all())
		}
	}
}

// awaitMethod waits for a call of a method, not before index from.
func (r *recorder) awaitMethod(method string, from int) (int, call) {
	r.t.Helper()
	return r.await(method, from, func(c call) bool { return c.method == method })
}

// awaitKey waits for a key to be invalidated, not before index from.
func (r *recorder) awaitKey(key string, from int) int {
	r.t.Helper()
	i, _ := r.await("invalidate "+key, from, func(c call) bool { return c.method == "invalidate" && c.key == key })
	return i
}

// A tally counts keys: a recorder for pushes that are too large to keep. It is read after a fence, which orders what came
// before it.
type tally struct {
	keys    map[string]int // how often each was invalidated
	flushes int
}

func newTally() *tally { return &tally{keys: map[string]int{}} }

func (t *tally) Live(time.Time)        {}
func (t *tally) Invalidate(key string) { t.keys[key]++ }
func (t *tally) Flush()                { t.flushes++ }
func (t *tally) Lost(error)            {}
func (t *tally) Confirm(time.Time)     {}

// options returns options for a server that leave the test in charge: a fast heartbeat, and a deadline that a loaded machine
// does not miss.
func options(s *redistest.Server, h Handler, prefixes ...string) Options {
	if len(prefixes) == 0 {
		prefixes = []string{"k:"}
	}
	return Options{
		Redis:      s.ClientOption(),
		Prefixes:   prefixes,
		Handler:    h,
		Heartbeat:  20 * time.Millisecond,
		Deadline:   2 * patience,
		MinBackoff: time.Millisecond,
		MaxBackoff: 20 * time.Millisecond,
	}
}

// open opens a tracker that is closed when the test ends.
func open(t testing.TB, o Options) *Tracker {
	t.Helper()
	tracker, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeTracker(t, tracker) })
	return tracker
}

func closeTracker(t testing.TB, tracker *Tracker) {
	t.Helper()
	// The test's own context has ended when cleanups run.
	timeout := time.AfterFunc(patience, func() { panic("a tracker does not close") })
	defer timeout.Stop()
	if err := tracker.Close(context.WithoutCancel(t.Context())); err != nil {
		t.Errorf("close: %v", err)
	}
}

func fence(t testing.TB, tracker *Tracker) {
	t.Helper()
	if err := tracker.Fence(t.Context()); err != nil {
		t.Fatalf("fence: %v", err)
	}
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// newClient returns a client that is closed when the test ends.
func newClient(t testing.TB, option rueidis.ClientOption) rueidis.Client {
	t.Helper()
	client, err := rueidis.NewClient(option)
	check(t, err)
	t.Cleanup(client.Close)
	return client
}

func isInteger(message rueidis.RedisMessage, want int64) bool {
	got, err := message.AsInt64()
	return err == nil && got == want
}

// eventually polls a condition that no event announces.
func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	for !condition() {
		select {
		case <-tick.C:
		case <-timeout.C:
			t.Fatalf("%s: not within %v", what, patience)
		}
	}
}
