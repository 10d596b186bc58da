package broadcast

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"time"
)

// outbox counts what waits to be accepted by the broker, over all lanes.
type outbox struct {
	messages, bytes       atomic.Int64
	maxMessages, maxBytes int64
}

// reserve takes room for one message of the size; false means that there is none.
func (o *outbox) reserve(size int) bool {
	if o.messages.Add(1) > o.maxMessages || o.bytes.Add(int64(size)) > o.maxBytes && o.messages.Load() > 1 {
		o.release(1, size)
		return false
	}
	return true
}

func (o *outbox) release(messages, size int) {
	o.messages.Add(-int64(messages))
	o.bytes.Add(-int64(size))
}

// outgoing is one message in the outbox, or, with no record, a mark that Flush waits for.
type outgoing struct {
	record   []byte
	size     int
	deadline time.Time
	done     chan error // takes the outcome; nil when nobody waits
	gone     bool       // its publisher has given up before it was put in a frame
	finished bool       // the outcome has been told
}

const (
	sendTimeout   = 5 * time.Second
	minRetryDelay = 10 * time.Millisecond
	maxRetryDelay = 500 * time.Millisecond
)

// deliver sends a frame until it is accepted, its messages' time is up, or the bus is closed, and tells the outcome. The
// same bytes are sent each time, so that a repetition is recognised. err is the outcome of an attempt made before.
func (l *lane) deliver(frame Frame, batch []*outgoing, err error) {
	delay := minRetryDelay
	for {
		if err == nil {
			ctx, cancel := context.WithTimeout(l.bus.sending, sendTimeout)
			err = l.send(ctx, frame)
			cancel()
		}
		if err == nil {
			break
		}
		if l.bus.sending.Err() != nil {
			err = ErrClosed
			break
		}
		if !retryable(err) || !l.expire(batch, err) {
			break
		}
		l.bus.counters.retries.Add(1)
		timer := time.NewTimer(delay/2 + rand.N(delay/2))
		select {
		case <-timer.C:
		case <-l.bus.sending.Done():
			timer.Stop()
		}
		delay = min(2*delay, maxRetryDelay)
		err = nil
	}
	outcome := err
	if err != nil {
		outcome = l.undelivered(err)
	}
	size, dropped := 0, 0
	l.mu.Lock()
	for _, o := range batch {
		size += o.size
		dropped += l.finishLocked(o, outcome)
	}
	l.mu.Unlock()
	l.bus.outbox.release(len(batch), size)
	l.logDropped(dropped, outcome)
	l.news()
}

// expire tells those whose time is up, in the batch and behind it, and reports whether anybody in the batch has time left.
func (l *lane) expire(batch []*outgoing, cause error) bool {
	now := time.Now()
	outcome := l.undelivered(cause)
	hope, dropped := false, 0
	defer func() { l.logDropped(dropped, outcome) }()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, o := range batch {
		if now.Before(o.deadline) {
			hope = true
		} else if o.done != nil {
			l.finishLocked(o, outcome)
		}
	}
	for len(l.queue) > 0 {
		o := l.queue[0]
		if o.record == nil || now.Before(o.deadline) {
			break
		}
		l.queue[0] = nil
		l.queue = l.queue[1:]
		l.bus.outbox.release(1, o.size)
		if o.done == nil {
			// Its publisher was told that it would be sent. Using a number up makes subscribers see that it was not.
			l.sequence++
		}
		dropped += l.finishLocked(o, outcome)
	}
	return hope
}

// finishLocked tells the outcome of a message, once. It returns 1 if that is a failure and nobody waits to hear it.
func (l *lane) finishLocked(o *outgoing, outcome error) (dropped int) {
	switch {
	case o.finished:
	case o.done != nil:
		o.done <- outcome
	case outcome != nil:
		l.failure = outcome
		dropped = 1
	}
	o.finished = true
	return dropped
}

func (l *lane) logDropped(messages int, cause error) {
	if messages == 0 {
		return
	}
	l.bus.counters.undelivered.Add(uint64(messages))
	l.bus.options.Logger.LogAttrs(context.Background(), slog.LevelError, "broadcast: enqueued messages were not delivered",
		slog.String("topic", l.topic), slog.Int("messages", messages), slog.Any("error", cause))
}

func (l *lane) undelivered(cause error) error {
	if errors.Is(cause, ErrClosed) {
		return fmt.Errorf("%w: %w", ErrUndelivered, ErrClosed)
	}
	return fmt.Errorf("%w on %q: %w", ErrUndelivered, l.topic, cause)
}

func retryable(err error) bool {
	return !errors.Is(err, ErrRejected) && !errors.Is(err, ErrTooLarge) && !errors.Is(err, ErrClosed)
}

// send hands a frame to the transport, and to this bus's own subscriptions if the transport does not.
func (l *lane) send(ctx context.Context, frame Frame) error {
	err := l.bus.options.Transport.Send(ctx, frame)
	if err != nil {
		l.bus.counters.sendErrors.Add(1)
		return err
	}
	l.bus.counters.framesSent.Add(1)
	l.bus.loopBack(frame)
	return nil
}
