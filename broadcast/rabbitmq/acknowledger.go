package rabbitmq

import (
	"errors"
	"fmt"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

const (
	prefetch = 128                   // deliveries on their way to this node, unacknowledged
	ackCount = prefetch / 4          // are acknowledged together …
	ackDelay = 20 * time.Millisecond // … or after this time

	markTimeout = 10 * time.Second // without any delivery, for a mark to come back

	// markType is the type of the messages by which a node learns that everything before them has been delivered.
	markType = "nearcache-mark"
)

var (
	errCancelled = errors.New("rabbitmq: the broker ended the delivery: the queue was deleted, or its node is away")
	errNoMark    = errors.New("rabbitmq: the queue does not deliver what is sent to it")
)

// acknowledger tells the broker what has been delivered, several at once. What is not acknowledged when the connection
// is lost comes again; nothing else depends on it.
type acknowledger struct {
	channel *amqp.Channel
	timer   *time.Timer // when to flush
	count   int         // of deliveries since the last flush
	tag     uint64      // of the latest
}

func newAcknowledger(channel *amqp.Channel) *acknowledger {
	a := &acknowledger{channel: channel, timer: time.NewTimer(ackDelay)}
	a.timer.Stop()
	return a
}

func (a *acknowledger) add(d amqp.Delivery) {
	a.tag = d.DeliveryTag
	switch a.count++; a.count {
	case 1:
		a.timer.Reset(ackDelay)
	case ackCount:
		a.flush()
	}
}

func (a *acknowledger) flush() {
	if a.count > 0 {
		a.count = 0
		_ = a.channel.Ack(a.tag, true) // an error means that the connection is lost, which the end of the deliveries tells
	}
}

// lossOf says why a channel was closed.
func lossOf(closes <-chan *amqp.Error) error {
	select {
	case reason := <-closes:
		if reason != nil {
			return fmt.Errorf("%w: %w", errLost, reason)
		}
	default:
	}
	return errLost
}
