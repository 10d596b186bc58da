package kafka

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/go-nearcache/nearcache/broadcast"
)

// listener is one topic that is consumed, from the exact position it holds: no group and no broker keeps one. All that
// happens to it happens on the subscriber's goroutine.
type listener struct {
	subscriber *subscriber
	topic      string // Kafka's
	receiver   broadcast.Receiver

	next  atomic.Int64 // offset of the record that comes next
	moves atomic.Int64 // how often it was set to something else than what came next

	id        [16]byte  // of the topic that the position is in
	epoch     int32     // of the leader when the position was found, or -1
	assigned  bool      // the client consumes the topic from the position
	disturbed bool      // the client has reported an error, and may have stopped
	down      bool      // an open gap has been reported
	lost      time.Time // when that was due
	target    int64     // an end of the log after that: when it is reached all is delivered; -1 while none is known
	asked     time.Time // when that was asked for
	stalled   int64     // the position when there was more for the first time, so that progress can be seen
	since     time.Time // when that was; zero when there was not
}

// verdict is what an inspection says about a listener's position.
type verdict uint8

const (
	sound   verdict = iota
	trimmed         // records were dropped before they were read
	cut             // the log has lost its end, and with it what was read last
	remade          // it is another topic by the same name
	stuck           // there is more, and the client does not deliver it
)

// judge compares the position with what the cluster says; next is the position before it was asked.
func (l *listener) judge(v view, next int64, now time.Time) verdict {
	current := l.next.Load()
	switch {
	case v.id != l.id:
		return remade
	case v.start > current:
		return trimmed
	case v.end < next:
		return cut
	case v.end <= current:
		l.since = time.Time{}
	case l.since.IsZero() || l.stalled != current:
		l.since, l.stalled = now, current
	case now.Sub(l.since) >= stuckAfter:
		return stuck
	}
	return sound
}

// standing is where a listener stood when an inspection began.
type standing struct{ moves, next int64 }

func (l *listener) standing() standing {
	moves := l.moves.Load() // first: if the position is moved in between, the inspection is not heeded
	return standing{moves: moves, next: l.next.Load()}
}

// apply takes what an inspection has found.
func (l *listener) apply(a answer, before standing, began time.Time) {
	if before.moves != l.moves.Load() {
		return // it is about another position
	}
	if a.err != nil {
		l.cutOff(began) // nobody can consume it now
		return
	}
	switch l.judge(a.view, before.next, began) {
	case remade:
		l.id = a.id
		l.lose()
		l.moveTo(a.start) // all that is in it is unread
	case trimmed:
		l.lose()
		l.moveTo(a.start)
	case cut:
		l.lose()
		l.moveTo(a.end)
	case stuck:
		l.moveTo(l.next.Load())
	case sound:
		if l.disturbed {
			l.moveTo(l.next.Load())
		}
		if l.down && began.After(l.lost) {
			l.target, l.asked = a.end, began
		}
	}
}

// moveTo makes the client consume the topic anew, from the offset.
func (l *listener) moveTo(offset int64) {
	l.moves.Add(1)
	l.next.Store(offset)
	l.epoch, l.assigned, l.disturbed, l.since = -1, false, false, time.Time{}
}

// offset is the position, as the client takes it.
func (l *listener) offset() kgo.Offset {
	return kgo.NewOffset().At(l.next.Load()).WithEpoch(l.epoch)
}

// disturb takes an error that the client has met. What it means, the next inspection shows.
func (l *listener) disturb(err error) {
	l.disturbed = true
	if loss, ok := errors.AsType[*kgo.ErrDataLoss](err); ok {
		// Brokers agreed on a log without what was read last. The client goes on from where they differ.
		l.lose()
		l.moves.Add(1)
		l.next.Store(loss.ResetTo)
	}
}

// take hands over one record.
func (l *listener) take(r *kgo.Record) {
	next := l.next.Load()
	if r.Offset < next {
		return // it has been delivered: the client began again at an earlier place
	}
	if r.Offset > next {
		l.lose() // a hole: somebody's transaction was aborted, or the topic is compacted
	}
	l.next.Store(r.Offset + 1)
	if !r.Attrs.IsControl() {
		l.receiver.Frame(r.Value)
	}
}

// lose reports that something was lost before what comes next.
func (l *listener) lose() {
	l.down, l.target = false, -1
	l.receiver.Gap(broadcast.Gap{Reason: broadcast.Trimmed})
}

// cutOff reports that nothing is being delivered.
func (l *listener) cutOff(now time.Time) {
	l.lost, l.target = now, -1
	if !l.down {
		l.down = true
		l.receiver.Gap(broadcast.Gap{Reason: broadcast.Reconnect, Open: true})
	}
}

// resume reports that all has been delivered that was stored while nothing was, if that is so.
func (l *listener) resume() {
	if l.down && l.target >= 0 && l.next.Load() >= l.target && l.subscriber.health.allSince(l.asked) {
		l.down, l.target = false, -1
		l.receiver.Gap(broadcast.Gap{Reason: broadcast.Resumed})
	}
}

// Close implements [broadcast.Listener].
func (l *listener) Close(context.Context) error {
	l.subscriber.forget(l)
	return nil
}
