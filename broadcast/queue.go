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
		q.append(item{gap: Gap{Reason: Overflow, Topic: m.Topic}})
		return overflowed
	}
	q.messages++
	q.bytes += len(m.Payload)
	q.append(item{message: m})
	return kept
}

// pushGap adds a gap. Too many of them are merged, never dropped.
func (q *queue) pushGap(gap Gap) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return
	}
	if q.count-q.messages >= maxGaps {
		if last := &q.ring[(q.head+q.count-1)%len(q.ring)]; last.gap.Reason != 0 {
			last.gap = mergeGaps(last.gap, gap)
			return
		}
	}
	q.append(item{gap: gap})
}

// mergeGaps returns one gap that says at least what the two say, the state being that of the later one.
func mergeGaps(earlier, later Gap) Gap {
	merged := Gap{Reason: earlier.Reason, Open: later.Open, Topic: later.Topic}
	if earlier.Reason == Resumed || later.Open {
		merged.Reason = later.Reason
	}
	if earlier.Origin == later.Origin {
		merged.Origin = later.Origin
	}
	return merged
}

func (q *queue) append(i item) {
	if q.count == len(q.ring) {
		larger := make([]item, max(16, 2*len(q.ring)))
		n := copy(larger, q.ring[q.head:])
		copy(larger[n:], q.ring[:q.head])
		q.ring, q.head = larger, 0
	}
	q.ring[(q.head+q.count)%len(q.ring)] = i
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
