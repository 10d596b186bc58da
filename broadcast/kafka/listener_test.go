package kafka

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/go-nearcache/nearcache/broadcast"
)

// recorder notes what a listener delivers.
type recorder struct{ events []string }

func (r *recorder) Frame(data []byte) { r.events = append(r.events, string(data)) }

func (r *recorder) Gap(gap broadcast.Gap) {
	event := gap.Reason.String()
	if gap.Open {
		event += " open"
	}
	r.events = append(r.events, event)
}

func (r *recorder) expect(t *testing.T, want ...string) {
	t.Helper()
	if !slices.Equal(r.events, want) {
		t.Errorf("got %q, want %q", r.events, want)
	}
	r.events = nil
}

// testListener stands at offset 100 of topic 1.
func testListener() (*listener, *recorder) {
	r := &recorder{}
	s := &subscriber{health: newHealth(kmsg.Fetch.Int16(), func() {})}
	l := &listener{subscriber: s, receiver: r, id: [16]byte{1}, assigned: true, target: -1}
	l.next.Store(100)
	return l, r
}

func record(offset int64) *kgo.Record {
	return &kgo.Record{Offset: offset, Value: fmt.Append(nil, offset)}
}

func TestHoles(t *testing.T) {
	l, r := testListener()
	l.take(record(100))
	l.take(record(100)) // again
	l.take(record(99))
	r.expect(t, "100")
	l.take(record(103))
	r.expect(t, "trimmed", "103")
	if l.next.Load() != 104 {
		t.Errorf("the position is %d, want 104", l.next.Load())
	}
}

func TestInspection(t *testing.T) {
	same := [16]byte{1}
	for name, test := range map[string]struct {
		found  view
		events []string
		next   int64
		moved  bool
	}{
		"nothing new":                {view{id: same, start: 0, end: 100}, nil, 100, false},
		"more to come":               {view{id: same, start: 100, end: 200}, nil, 100, false},
		"dropped before it was read": {view{id: same, start: 101, end: 200}, []string{"trimmed"}, 101, true},
		"all dropped":                {view{id: same, start: 200, end: 200}, []string{"trimmed"}, 200, true},
		"the end is gone":            {view{id: same, start: 0, end: 99}, []string{"trimmed"}, 99, true},
		"another topic":              {view{id: [16]byte{2}, start: 0, end: 500}, []string{"trimmed"}, 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			l, r := testListener()
			l.apply(answer{view: test.found}, standing{next: 100}, time.Now())
			r.expect(t, test.events...)
			if l.next.Load() != test.next || l.assigned == test.moved {
				t.Errorf("the position is %d and assigned %t, want %d and %t", l.next.Load(), l.assigned, test.next, !test.moved)
			}
		})
	}
}

// TestInspectionOvertaken: what is read while the cluster is asked does not make the log look short.
func TestInspectionOvertaken(t *testing.T) {
	l, r := testListener()
	l.next.Store(150)
	l.apply(answer{view: view{id: l.id, end: 120}}, standing{next: 100}, time.Now())
	r.expect(t)
}

// TestInspectionOutdated: what is found about the position before a move says nothing about the one after it.
func TestInspectionOutdated(t *testing.T) {
	l, r := testListener()
	first, second := l.standing(), l.standing()
	remade := view{id: [16]byte{2}, end: 30}
	l.apply(answer{view: remade}, first, time.Now())
	l.apply(answer{view: remade}, second, time.Now())
	r.expect(t, "trimmed")
	if l.next.Load() != 0 {
		t.Errorf("the position is %d, want the beginning of the new topic", l.next.Load())
	}
}

func TestResume(t *testing.T) {
	l, r := testListener()
	health := l.subscriber.health
	start := time.Now()
	at := func(second int) time.Time { return start.Add(time.Duration(second) * time.Second) }
	health.lost = at(1)
	l.cutOff(at(1))
	l.cutOff(at(1))
	r.expect(t, "reconnect open")

	l.apply(answer{view: view{id: l.id, end: 102}}, standing{next: 100}, at(0)) // asked before the loss: it tells nothing
	health.good = at(2)
	l.take(record(100))
	l.take(record(101))
	l.resume()
	r.expect(t, "100", "101")

	l.apply(answer{view: view{id: l.id, end: 103}}, standing{next: 102}, at(3))
	l.resume()
	r.expect(t) // not yet: there is one more
	health.lost = at(4)
	l.take(record(102))
	l.resume()
	r.expect(t, "102") // not yet: it was lost again
	health.good = at(5)
	l.resume()
	r.expect(t) // not yet: there may be more than there was
	l.apply(answer{view: view{id: l.id, end: 103}}, standing{next: 103}, at(6))
	l.resume()
	l.resume()
	r.expect(t, "resumed")
}

// TestStuck: a client that does not deliver what is there is made to consume anew; one that is merely behind is not.
func TestStuck(t *testing.T) {
	l, r := testListener()
	now := time.Now()
	look := func(after time.Duration) {
		l.apply(answer{view: view{id: l.id, end: 200}}, l.standing(), now.Add(after))
	}
	look(0)
	look(stuckAfter - time.Second)
	l.take(record(100))
	look(stuckAfter + time.Second)
	if !l.assigned {
		t.Error("a topic that makes progress is consumed anew")
	}
	look(2*stuckAfter + time.Second)
	if l.assigned {
		t.Error("a topic that makes no progress is not consumed anew")
	}
	r.expect(t, "100")
}

func TestErrors(t *testing.T) {
	l, r := testListener()
	l.disturb(errors.New("something"))
	l.apply(answer{view: view{id: l.id, end: 100}}, l.standing(), time.Now())
	r.expect(t)
	if l.assigned || l.disturbed {
		t.Error("after an error of the client a sound topic is not consumed anew")
	}
	l.disturb(&kgo.ErrDataLoss{ConsumedTo: 100, ResetTo: 90})
	r.expect(t, "trimmed")
	l.take(record(90))
	r.expect(t, "90")
	l.apply(answer{err: errSilent}, l.standing(), time.Now())
	r.expect(t, "reconnect open")
}
