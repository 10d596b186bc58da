package broadcasttest

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-nearcache/nearcache/broadcast"
)

// Recorder is a handler that keeps what it is given, in order.
type Recorder struct {
	mu      sync.Mutex
	events  []event
	changed chan struct{} // closed and replaced at every event
	hook    func(broadcast.Message)
}

// event is a message, or a gap if its reason is set.
type event struct {
	message broadcast.Message
	gap     broadcast.Gap
}

// NewRecorder makes a recorder. hook, which may be nil, is called with each message before it is recorded.
func NewRecorder(hook func(broadcast.Message)) *Recorder {
	return &Recorder{changed: make(chan struct{}), hook: hook}
}

// Handler records what a subscription delivers.
func (r *Recorder) Handler() broadcast.Handler {
	return broadcast.Handler{
		Message: func(_ context.Context, m broadcast.Message) error {
			if r.hook != nil {
				r.hook(m)
			}
			r.add(event{message: m})
			return nil
		},
		Gap: func(_ context.Context, gap broadcast.Gap) { r.add(event{gap: gap}) },
	}
}

func (r *Recorder) add(e event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, e)
	close(r.changed)
	r.changed = make(chan struct{})
}

// snapshot returns the events so far and a channel that is closed when there are more.
func (r *Recorder) snapshot() ([]event, <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clip(r.events), r.changed
}

// Messages are the messages so far.
func (r *Recorder) Messages() []broadcast.Message {
	events, _ := r.snapshot()
	var messages []broadcast.Message
	for _, e := range events {
		if e.gap.Reason == 0 {
			messages = append(messages, e.message)
		}
	}
	return messages
}

// Gaps are the gaps so far.
func (r *Recorder) Gaps() []broadcast.Gap {
	events, _ := r.snapshot()
	var gaps []broadcast.Gap
	for _, e := range events {
		if e.gap.Reason != 0 {
			gaps = append(gaps, e.gap)
		}
	}
	return gaps
}

// Await waits until condition holds, looking again at every event, and fails the test when it does not in time.
func (r *Recorder) Await(t testing.TB, within time.Duration, what string, condition func() bool) {
	t.Helper()
	deadline := time.NewTimer(within)
	defer deadline.Stop()
	look := time.NewTicker(20 * time.Millisecond) // the condition may depend on more than the events
	defer look.Stop()
	for {
		_, changed := r.snapshot()
		if condition() {
			return
		}
		select {
		case <-changed:
		case <-look.C:
		case <-deadline.C:
			t.Fatalf("not within %v: %s\nrecorded: %s", within, what, r.summary())
		}
	}
}

// AwaitPayload waits for a message with the payload.
func (r *Recorder) AwaitPayload(t testing.TB, within time.Duration, payload string) {
	t.Helper()
	r.Await(t, within, fmt.Sprintf("a message %q", payload), func() bool { return r.has(payload) })
}

func (r *Recorder) has(payload string) bool {
	return slices.ContainsFunc(r.Messages(), func(m broadcast.Message) bool { return string(m.Payload) == payload })
}

// summary says what was recorded, in a line.
func (r *Recorder) summary() string {
	return fmt.Sprintf("%d messages, gaps: %s", len(r.Messages()), gapCounts(r.Gaps()))
}

// gapCounts says how many gaps there are of each reason.
func gapCounts(gaps []broadcast.Gap) string {
	counts := make(map[string]int)
	for _, gap := range gaps {
		name := gap.Reason.String()
		if gap.Open {
			name += "(open)"
		}
		counts[name]++
	}
	if len(counts) == 0 {
		return "none"
	}
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		parts = append(parts, fmt.Sprintf("%s:%d", name, counts[name]))
	}
	return strings.Join(parts, ",")
}

// checkOrder fails the test if an origin's messages came twice or out of order.
func (r *Recorder) checkOrder(t testing.TB) {
	t.Helper()
	type source struct {
		origin string
		epoch  uint64
	}
	last := make(map[source]uint64)
	for _, m := range r.Messages() {
		from := source{m.Origin, m.Epoch}
		switch {
		case m.Seq == last[from]:
			t.Errorf("message %s was delivered twice", m.ID())
		case m.Seq < last[from]:
			t.Errorf("message %s was delivered after number %d", m.ID(), last[from])
		}
		last[from] = max(last[from], m.Seq)
	}
}
