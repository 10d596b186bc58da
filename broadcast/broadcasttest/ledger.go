package broadcasttest

import (
	"context"
	"encoding/binary"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/go-nearcache/nearcache/broadcast"
)

// ledger keeps account of a scenario: what publishers were told was accepted, against what subscribers were given and told.
type ledger struct {
	mu        sync.Mutex
	published map[string][]uint64 // by origin: the numbers accepted, ascending
}

func newLedger() *ledger { return &ledger{published: make(map[string][]uint64)} }

// numbered makes the payload of an origin's message number n. Numbers are of the test, not the bus's sequence.
func numbered(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

func numberOf(m broadcast.Message) uint64 { return binary.BigEndian.Uint64(m.Payload) }

// publish sends an origin's message number n and books it if it was accepted.
func (l *ledger) publish(ctx context.Context, bus *broadcast.Bus, topic string, n uint64) error {
	err := bus.Publish(ctx, broadcast.Message{Topic: topic, Payload: numbered(n)})
	if err == nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.published[bus.Origin()] = append(l.published[bus.Origin()], n)
	}
	return err
}

// account is the outcome for all subscribers together.
type account struct {
	published, delivered, reported int
	unreported                     []string
}

// String is the accounting line.
func (a account) String() string {
	return fmt.Sprintf("published=%d delivered=%d reported=%d unreported=%d",
		a.published, a.delivered, a.reported, len(a.unreported))
}

// audit compares the ledger with what the subscribers recorded. A message is reported when every sequence number that is
// missing around it is covered by a gap that stands between its delivered neighbours: a gap elsewhere does not count.
func (l *ledger) audit(recorders ...*Recorder) account {
	l.mu.Lock()
	defer l.mu.Unlock()
	var a account
	for subscriber, r := range recorders {
		events, _ := r.snapshot()
		for origin, numbers := range l.published {
			l.auditOrigin(&a, subscriber, events, origin, numbers)
		}
	}
	return a
}

func (l *ledger) auditOrigin(a *account, subscriber int, events []event, origin string, numbers []uint64) {
	a.published += len(numbers)
	at := 0              // the next event to look at
	var before uint64    // sequence number of the message delivered last
	var missing []uint64 // accepted numbers that came before the event at hand and were not delivered
	var gaps []broadcast.Gap
	next := 0
	settle := func(after uint64) {
		if len(missing) == 0 {
			return
		}
		// The numbers that are missing: all between two deliveries; at the ends, as many as there are messages.
		from, to := before+1, after-1
		switch count := uint64(len(missing)); {
		case after == 0:
			to = before + count
		case before == 0:
			from = max(1, after-min(after, count))
		}
		for n := from; n <= to; n++ {
			if !covered(gaps, origin, n) {
				a.unreported = append(a.unreported, fmt.Sprintf("subscriber %d: %d of %s, numbers %d to %d, sequence %d to %d, gaps there: %v",
					subscriber, len(missing), origin, missing[0], missing[len(missing)-1], from, to, gaps))
				missing = missing[:0]
				return
			}
		}
		a.reported += len(missing)
		missing = missing[:0]
	}
	for ; at < len(events); at++ {
		e := events[at]
		if e.gap.Reason != 0 {
			gaps = append(gaps, e.gap)
			continue
		}
		if e.message.Origin != origin {
			continue
		}
		n := numberOf(e.message)
		for next < len(numbers) && numbers[next] < n {
			missing = append(missing, numbers[next])
			next++
		}
		settle(e.message.Seq)
		if next < len(numbers) && numbers[next] == n {
			a.delivered++
			next++
		}
		before, gaps = e.message.Seq, gaps[:0]
	}
	missing = append(missing, numbers[next:]...)
	settle(0)
}

func covered(gaps []broadcast.Gap, origin string, n uint64) bool {
	for _, gap := range gaps {
		if gap.Covers(origin, n) {
			return true
		}
	}
	return false
}

// awaitBalance waits until every accepted message has been delivered or reported, writes the accounting line, and fails the
// test if that takes too long.
func (l *ledger) awaitBalance(t testing.TB, within time.Duration, system, fault string, recorders ...*Recorder) account {
	t.Helper()
	deadline := time.NewTimer(within)
	defer deadline.Stop()
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	for {
		a := l.audit(recorders...)
		late := false
		if len(a.unreported) > 0 {
			select {
			case <-look.C:
				continue
			case <-deadline.C:
				late = true
			}
		}
		var gaps []broadcast.Gap
		for _, r := range recorders {
			gaps = append(gaps, r.Gaps()...)
			r.checkOrder(t)
		}
		t.Logf("accounting: transport=%s fault=%s %v gaps=%s", system, fault, a, gapCounts(gaps))
		if late {
			for _, line := range a.unreported[:min(10, len(a.unreported))] {
				t.Error(line)
			}
			t.Fatalf("%d losses were not reported within %v", len(a.unreported), within)
		}
		return a
	}
}
