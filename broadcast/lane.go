package broadcast

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// lane is the outgoing side of one topic. One frame is on its way at a time: that keeps the order on every transport,
// and packs by itself: what is published while a frame is on its way travels together in the next one. A lone message
// waits for nothing and is sent by its publisher's own goroutine.
type lane struct {
	bus           *Bus
	topic         string
	dataLead      []byte
	heartbeatLead []byte
	restart       chan struct{} // tells the heartbeat that there is news

	mu       sync.Mutex
	busy     bool          // a frame is on its way, or a runner works through the queue
	closed   bool          // nothing is taken any more
	quiet    chan struct{} // closed when the lane is closed and idle
	queue    []*outgoing   // what waits, oldest first
	sequence uint64        // the number given last
	beats    int           // heartbeats sent since the last message
	failure  error         // of a message that nobody waits for, until Flush tells it
	listens  int           // subscriptions on the topic: told in heartbeats
}

// packBytes is the size beyond which a frame gains nothing and delays what is behind it.
const packBytes = 64 << 10

func newLane(bus *Bus, topic string) *lane {
	return &lane{
		bus: bus, topic: topic, restart: make(chan struct{}, 1), quiet: make(chan struct{}),
		dataLead:      frameLead(kindData, bus.options.Origin, bus.epoch, topic),
		heartbeatLead: frameLead(kindHeartbeat, bus.options.Origin, bus.epoch, topic),
	}
}

// frames are built in buffers that are used again.
var buffers = sync.Pool{New: func() any { return new([]byte) }}

// maxPooledBuffer keeps a few huge frames from pinning memory.
const maxPooledBuffer = 2 * packBytes

func returnBuffer(b *[]byte, used []byte) {
	if cap(used) <= maxPooledBuffer {
		*b = used[:0]
		buffers.Put(b)
	}
}

// publish sends a message and waits until the broker has accepted it.
func (l *lane) publish(ctx context.Context, m *Message) error {
	if ctx.Err() != nil {
		return l.undelivered(context.Cause(ctx)) // before it takes a number, which subscribers would miss
	}
	buffer := buffers.Get().(*[]byte)
	record := appendRecord((*buffer)[:0], m)
	if err := l.admit(record); err != nil {
		returnBuffer(buffer, record)
		return err
	}
	l.mu.Lock()
	switch {
	case l.closed:
		l.mu.Unlock()
		l.bus.outbox.release(1, len(record))
		returnBuffer(buffer, record)
		return ErrClosed
	case !l.busy:
		l.busy = true
		l.sequence++
		first := l.sequence
		l.mu.Unlock()
		err := l.sendAlone(ctx, first, record)
		returnBuffer(buffer, record)
		return err
	default:
		o := l.outgoing(record)
		o.done = make(chan error, 1)
		l.queue = append(l.queue, o)
		l.mu.Unlock()
		return l.await(ctx, o)
	}
}

// enqueue leaves a message in the outbox and returns at once.
func (l *lane) enqueue(m *Message) error {
	record := appendRecord(make([]byte, 0, recordSizeHint(m)), m)
	if err := l.admit(record); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		l.bus.outbox.release(1, len(record))
		return ErrClosed
	}
	l.queue = append(l.queue, l.outgoing(record))
	l.startLocked()
	return nil
}

func (l *lane) outgoing(record []byte) *outgoing {
	return &outgoing{record: record, size: len(record), deadline: time.Now().Add(l.bus.options.OutboxTimeout)}
}

func recordSizeHint(m *Message) int {
	size := 16 + len(m.Type) + len(m.Payload)
	for name, value := range m.Headers {
		size += 6 + len(name) + len(value)
	}
	return size
}

// admit checks that a record fits a frame, and takes room for it in the outbox.
func (l *lane) admit(record []byte) error {
	limit := l.bus.options.MaxFrameBytes - frameOverhead(l.dataLead) - recordOverhead
	if len(record) > limit {
		return fmt.Errorf("%w: %d bytes with headers, at most %d fit a frame on %q", ErrTooLarge, len(record), limit, l.topic)
	}
	if !l.bus.outbox.reserve(len(record)) {
		return ErrOutboxFull
	}
	return nil
}

// startLocked sets a runner to work unless the lane is at work already; its owner then looks at the queue.
func (l *lane) startLocked() {
	if !l.busy && len(l.queue) > 0 {
		l.busy = true
		l.bus.running.Go(l.run)
	}
}

// yield gives the lane up after a frame, to a runner if messages have come meanwhile.
func (l *lane) yield() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.busy = false
	l.startLocked()
	l.quietLocked()
}

// close takes no more messages; what waits is still sent.
func (l *lane) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	l.quietLocked()
}

// quietLocked tells when a closed lane has come to rest: nothing of it runs any more.
func (l *lane) quietLocked() {
	if l.closed && !l.busy {
		select {
		case <-l.quiet:
		default:
			close(l.quiet)
		}
	}
}

// sendAlone sends one message on the publisher's goroutine: no hand-over, no waiting. The lane is busy and is given up.
func (l *lane) sendAlone(ctx context.Context, first uint64, record []byte) error {
	buffer := buffers.Get().(*[]byte)
	frame := appendDataStart(append((*buffer)[:0], l.dataLead...), first, 1)
	frame = seal(appendSizedRecord(frame, record))
	sending, cancel := context.WithTimeout(ctx, sendTimeout)
	err := l.send(sending, Frame{Topic: l.topic, Data: frame})
	cancel()
	if err != nil && ctx.Err() == nil && retryable(err) {
		// The broker is away. The frame goes on being tried by a runner; this publisher waits like the others.
		o := l.outgoing(record)
		o.record, o.done = nil, make(chan error, 1) // the record's buffer is the caller's
		l.bus.running.Go(func() {
			l.deliver(Frame{Topic: l.topic, Data: frame}, []*outgoing{o}, err)
			returnBuffer(buffer, frame)
			l.run()
		})
		return l.await(ctx, o)
	}
	l.bus.outbox.release(1, len(record))
	l.news()
	l.yield()
	returnBuffer(buffer, frame)
	if err != nil {
		return l.undelivered(err)
	}
	return nil
}

// await waits for the outcome of a message in the outbox.
func (l *lane) await(ctx context.Context, o *outgoing) error {
	select {
	case err := <-o.done:
		return err
	case <-ctx.Done():
	}
	l.mu.Lock()
	o.gone = true
	l.mu.Unlock()
	select {
	case err := <-o.done:
		return err
	default:
		return l.undelivered(context.Cause(ctx))
	}
}

// run works through the queue until it is empty. The lane is busy meanwhile.
func (l *lane) run() {
	var batch []*outgoing
	buffer := buffers.Get().(*[]byte)
	frame := *buffer
	for {
		var first uint64
		if batch, first = l.take(batch[:0]); batch == nil {
			returnBuffer(buffer, frame)
			return
		}
		frame = appendDataStart(append(frame[:0], l.dataLead...), first, len(batch))
		for _, o := range batch {
			frame = appendSizedRecord(frame, o.record)
		}
		frame = seal(frame)
		l.deliver(Frame{Topic: l.topic, Data: frame}, batch, nil)
	}
}

// take cuts the next frame's messages off the queue and numbers them. With nothing left it frees the lane and returns
// nil.
func (l *lane) take(batch []*outgoing) (_ []*outgoing, first uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	limit := min(packBytes, l.bus.options.MaxFrameBytes-frameOverhead(l.dataLead))
	size, taken := 0, 0
	for _, o := range l.queue {
		if o.record == nil { // everything before the mark must have been sent when it is told
			if len(batch) > 0 {
				break
			}
			o.done <- l.failure
			l.failure = nil
			taken++
			continue
		}
		if o.gone {
			l.bus.outbox.release(1, o.size)
			taken++
			continue
		}
		size += len(o.record) + recordOverhead
		if len(batch) > 0 && (size > limit || len(batch) == maxFrameRecords) {
			break
		}
		batch = append(batch, o)
		taken++
	}
	clear(l.queue[:taken])
	if l.queue = l.queue[taken:]; len(l.queue) == 0 {
		l.queue = nil
	}
	if len(batch) == 0 {
		l.busy = false
		l.quietLocked()
		return nil, 0
	}
	first = l.sequence + 1
	l.sequence += uint64(len(batch))
	return batch, first
}

// flush leaves a mark at the end of the queue; the channel takes the outcome of what nobody waited for. nil means that
// there is nothing to wait for.
func (l *lane) flush() <-chan error {
	l.mu.Lock()
	defer l.mu.Unlock()
	mark := &outgoing{done: make(chan error, 1)}
	switch {
	case l.busy: // whoever works on the lane gets to it
		l.queue = append(l.queue, mark)
	case l.failure != nil:
		mark.done <- l.failure
		l.failure = nil
	default:
		return nil
	}
	return mark.done
}
