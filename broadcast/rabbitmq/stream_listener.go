package rabbitmq

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/go-nearcache/nearcache/broadcast"
)

// streamOffset is the name of a consumer's argument, where to begin, and of a delivery's header, its place in the stream.
const streamOffset = "x-stream-offset"

// ownEntries is how many offsets may be missing between two deliveries although nothing is lost: each segment of a
// stream begins with an entry of the broker's own.
const ownEntries = 1

var (
	errNoStream = errors.New("rabbitmq: the stream is missing")
	errPosition = errors.New("rabbitmq: the stream does not have what was read last: it was made anew, or lost its end")
	errNoOffset = errors.New("rabbitmq: a delivery without an offset: there is a queue by the name of the stream")
)

// streamListener is one topic, and the goroutine that reads it.
type streamListener struct {
	transport *streams
	topic     string
	ctx       context.Context
	stop      context.CancelFunc
	live      chan struct{} // closed when the position is known for the first time
	failed    chan error    // takes why it never will be

	mu       sync.Mutex // held while the receiver is called
	receiver broadcast.Receiver
	closed   bool
	trouble  error // why nothing is being read

	// Of the goroutine of run only.
	confirmed bool   // live has been closed
	down      bool   // an open gap has been reported
	lossy     bool   // something may be lost between what was read last and what comes next
	placed    bool   // position and identity are known
	position  int64  // of the message read last
	identity  string // its ID, by which a stream that was made anew is told apart
}

// run reads the stream until the listener is closed.
func (l *streamListener) run() {
	var pause backoff
	for {
		err := l.read(pause.reset)
		if l.ctx.Err() != nil {
			return
		}
		l.mu.Lock()
		l.trouble = err
		l.mu.Unlock()
		if errors.Is(err, broadcast.ErrRejected) && !l.confirmed {
			l.failed <- err
			return
		}
		if l.confirmed && !l.down {
			l.down = true
			l.gap(broadcast.Gap{Reason: broadcast.Reconnect, Open: true})
		}
		if !pause.wait(l.ctx) {
			return
		}
	}
}

// read consumes the stream until that fails. It calls up when something has been delivered.
func (l *streamListener) read(up func()) error {
	conn, err := l.transport.consumer.get(l.ctx)
	if err != nil {
		return err
	}
	if err := l.transport.declare(conn, l.topic); err != nil {
		return fmt.Errorf("rabbitmq: declare the stream of topic %q: %w", l.topic, rejection(err))
	}
	channel, err := conn.Channel()
	if err != nil {
		return err
	}
	defer channel.Close()
	deliveries, err := l.consume(channel)
	if err != nil {
		if hasCode(err, amqp.AccessRefused) { // other refusals pass: a stream that is just being made has no replica to read
			err = rejection(err)
		}
		return fmt.Errorf("rabbitmq: consume the stream of topic %q: %w", l.topic, err)
	}
	mark := rand.Text()
	message := amqp.Publishing{Type: markType, MessageId: mark, DeliveryMode: amqp.Persistent}
	if _, err := channel.PublishWithDeferredConfirm(l.transport.exchange(l.topic), "", false, false, message); err != nil {
		return err
	}
	return l.deliver(channel, deliveries, mark, up)
}

// consume begins at what was read last, to see that it is still there, or else at the end.
func (l *streamListener) consume(channel *amqp.Channel) (<-chan amqp.Delivery, error) {
	if err := channel.Qos(prefetch, 0, false); err != nil {
		return nil, err
	}
	arguments := amqp.Table{streamOffset: "next"}
	if l.placed {
		arguments[streamOffset] = l.position
	}
	const autoAck, exclusive, noLocal, noWait = false, false, false, false
	deliveries, err := channel.Consume(l.transport.exchange(l.topic), "", autoAck, exclusive, noLocal, noWait, arguments)
	if err != nil {
		return nil, err
	}
	// The broker answers before it has found the place in the stream. The answer to another request comes after that.
	return deliveries, channel.Qos(prefetch, 0, false)
}

// deliver hands over what comes. mark is the ID of a message that was put into the stream after consuming had begun.
func (l *streamListener) deliver(channel *amqp.Channel, deliveries <-chan amqp.Delivery, mark string, up func()) error {
	closes := channel.NotifyClose(make(chan *amqp.Error, 1))
	acks := newAcknowledger(channel)
	defer acks.timer.Stop()
	stuck := time.NewTimer(markTimeout)
	defer stuck.Stop()
	anything := false
	for {
		select {
		case d, ok := <-deliveries:
			if !ok {
				return l.ended(channel, closes)
			}
			if mark != "" {
				stuck.Reset(markTimeout)
			}
			if err := l.take(d, !anything); err != nil {
				return err
			}
			anything = true
			if d.Type == markType && d.MessageId == mark {
				mark = ""
				stuck.Stop()
				l.caughtUp()
				up()
			}
			acks.add(d)
		case <-acks.timer.C:
			acks.flush()
		case <-stuck.C:
			if l.placed && !anything {
				l.displace()
				return errPosition
			}
			return errNoMark
		case <-l.ctx.Done():
			return broadcast.ErrClosed
		}
	}
}

// ended says why the deliveries have ended.
func (l *streamListener) ended(channel *amqp.Channel, closes <-chan *amqp.Error) error {
	if channel.IsClosed() {
		return lossOf(closes)
	}
	l.displace() // it was the broker's will: the stream is gone
	return errCancelled
}

// displace gives up the position: reading goes on at the end, and what lies between is lost.
func (l *streamListener) displace() {
	l.placed, l.lossy = false, true
}

// take hands over one delivery. The first one after a new start should be what was read last.
func (l *streamListener) take(d amqp.Delivery, first bool) error {
	offset, ok := d.Headers[streamOffset].(int64)
	if !ok {
		return fmt.Errorf("%w: %w", broadcast.ErrRejected, errNoOffset)
	}
	if l.placed {
		switch {
		case first && offset == l.position && d.MessageId == l.identity:
			return nil
		case first, offset > l.position+1+ownEntries:
			l.lossy = true
		}
	}
	l.placed, l.position, l.identity = true, offset, d.MessageId
	if l.lossy {
		l.lossy = false
		if l.confirmed {
			l.down = false
			l.gap(broadcast.Gap{Reason: broadcast.Trimmed})
		}
	}
	if d.Type != markType {
		l.mu.Lock()
		defer l.mu.Unlock()
		if !l.closed {
			l.receiver.Frame(d.Body)
		}
	}
	return nil
}

// caughtUp notes that everything has been delivered that was stored when reading began.
func (l *streamListener) caughtUp() {
	if !l.confirmed {
		l.confirmed = true
		close(l.live)
	}
	if l.down {
		l.down = false
		l.gap(broadcast.Gap{Reason: broadcast.Resumed})
	}
}

func (l *streamListener) gap(gap broadcast.Gap) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closed {
		l.receiver.Gap(gap)
	}
}

func (l *streamListener) lastTrouble() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.trouble
}

// Close implements [broadcast.Listener].
func (l *streamListener) Close(context.Context) error {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.stop()
	return nil
}
