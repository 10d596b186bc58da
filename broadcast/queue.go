package broadcast

import "sync"

// queue holds what waits for a subscription's handler. Pushing never blocks: what does not fit is dropped, and a gap
// takes its place.
type queue struct {
	mu      sync.Mutex
	filled  sync.Cond
	ring    []item
	head    int
	count   int
	waiting bool
	closed  bool

	messages, bytes       int
	maxMessages, maxBytes int
	overflowing           bool

	down bool // the transport has said last that the link is down
	owed bool // something was lost meanwhile besides, so that the gap that closes must call for a flush
}

// item is a message, or a gap if its reason is set.
type item struct {
	message Message
	gap     Gap
}

// maxGaps is how many gaps may wait before neighbours are merged into one.
const maxGaps = 64

func newQueue(maxMessages, maxBytes int) *queue {
	q := &queue{maxMessages: maxMessages, maxBytes: maxBytes}
	q.filled.L = &q.mu
	return q
}

// fate is what became of a message that was pushed.
type fate uint8

const (
	kept       fate = iota
	overflowed      // dropped, with an Overflow gap in its place
	dropped         // dropped, covered by that gap
)

// pushMessage adds a message, if there is room.
func (q *queue) pushMessage(m Message) fate {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return kept
	}
	// Once something is lost the reader has to flush anyway, so one gap is stretched until half the queue is free instead
	// of alternating single messages with gaps.
	if q.overflowing {
		if q.messages > q.maxMessages/2 || q.bytes > q.maxBytes/2 {
			return dropped
		}
		q.overflowing = false
	}
	if q.messages >= q.maxMessages || q.messages > 0 && q.bytes+len(m.Payload) > q.maxBytes {
		q.overflowing = true
		q.pushLocked(q.inState(Gap{Reason: Overflow, Topic: m.Topic}))
		return overflowed
	}
	q.messages++
	q.bytes += len(m.Payload)
	q.append(item{message: m})
	return kept
}

// pushState adds what the transport says of the link.
func (q *queue) pushState(gap Gap) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.down = gap.Open
	if !gap.Open {
		if q.owed && gap.Reason == Resumed {
			gap.Reason = Reconnect // the transport missed nothing, but something was lost all the same
		}
		q.owed = false
	}
	q.pushLocked(gap)
}

// pushGap adds a gap that others than the transport have found. While the link is down it cannot say that it is live, so
// the flush that it calls for is left to the gap that closes.
func (q *queue) pushGap(gap Gap) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.pushLocked(q.inState(gap))
}

func (q *queue) inState(gap Gap) Gap {
	if q.down {
		gap.Open, q.owed = true, true
	}
	return gap
}

// pushLocked appends a gap. Too many of them are merged, never dropped.
func (q *queue) pushLocked(gap Gap) {
	if q.closed {
		return
	}
	q.append(item{gap: gap})
	for q.count-q.messages > maxGaps {
		last, before := q.at(q.count-1), q.at(q.count-2)
		if before.gap.Reason == 0 || !before.gap.Open && last.gap.Open {
			return // a call to flush does not wait for a link that is down
		}
		before.gap = mergeGaps(before.gap, last.gap)
		*last = item{}
		q.count--
	}
}

// mergeGaps returns one gap that says at least what the two say, the state being that of the later one.
func mergeGaps(earlier, later Gap) Gap {
	switch {
	case earlier.Open && !later.Open, earlier.Reason == Resumed:
		return later
	case later.Reason == Resumed:
		return earlier
	}
	merged := Gap{Reason: earlier.Reason, Open: later.Open, Topic: later.Topic}
	if earlier.Origin == later.Origin {
		merged.Origin = later.Origin
		merged.From = min(earlier.From, later.From)
		if earlier.To > 0 && later.To > 0 {
			merged.To = max(earlier.To, later.To)
		}
	}
	return merged
}

func (q *queue) at(i int) *item { return &q.ring[(q.head+i)%len(q.ring)] }

func (q *queue) append(i item) {
	if q.count == len(q.ring) {
		larger := make([]item, max(16, 2*len(q.ring)))
		n := copy(larger, q.ring[q.head:])
		copy(larger[n:], q.ring[:q.head])
		q.ring, q.head = larger, 0
	}
	*q.at(q.count) = i
	q.count++
	if q.waiting {
		q.waiting = false
		q.filled.Signal()
	}
}

// pop takes the next item, waiting for one. false means that the queue is closed.
func (q *queue) pop() (item, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.count == 0 && !q.closed {
		q.waiting = true
		q.filled.Wait()
	}
	if q.closed {
		return item{}, false
	}
	next := q.ring[q.head]
	q.ring[q.head] = item{} // lets go of the payload
	q.head = (q.head + 1) % len(q.ring)
	q.count--
	if next.gap.Reason == 0 {
		q.messages--
		q.bytes -= len(next.message.Payload)
	}
	return next, true
}

// close drops what is waiting and ends pop.
func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.ring, q.count = nil, 0
	q.filled.Broadcast()
}
