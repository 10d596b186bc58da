package rabbitmq

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/go-nearcache/nearcache/broadcast"
)

var (
	errLost  = errors.New("rabbitmq: the connection was lost")
	errNoAck = errors.New("rabbitmq: the broker could not store the message")
)

// publisher sends frames over a connection of its own: the broker holds up a connection that publishes too fast, and must not
// hold up deliveries with it. On each connection one goroutine writes and another takes the broker's answers.
type publisher struct {
	connector connector
	target    target
	id        string // begins the IDs of this node's messages
	number    atomic.Uint64
}

// target is where a transport's frames go.
type target interface {
	// exchange is what a topic's frames are published to.
	exchange(topic string) string
	// declare makes sure that the exchange, and what must be behind it, exists. It is called before the first frame of
	// each topic and connection, and again after unrouted has returned an error.
	declare(conn *connection, topic string) error
	// unrouted says what it means that the broker has accepted a frame, by its number, and put it in no queue.
	unrouted(topic string, number uint64) error
}

// publication is a frame on its way.
type publication struct {
	ctx     context.Context // of whoever waits
	topic   string
	data    []byte
	control bool
	number  uint64
	nowhere bool // the broker has put it in no queue
	outcome chan error
}

// link is what a publisher has on one connection.
type link struct {
	publisher *publisher
	conn      *connection
	channel   *amqp.Channel
	requests  chan *publication
	blocked   atomic.Pointer[string] // why the broker takes no messages at the moment

	lost  chan struct{} // closed when the link is of no more use
	cause error         // why: set before that

	mu       sync.Mutex
	tag      uint64 // of the last publication; the broker counts in the same way
	pending  map[uint64]*publication
	declared map[string]bool
}

func newPublisher(c *client, t target, id string) *publisher {
	p := &publisher{target: t, id: id}
	p.connector = connector{client: c, purpose: "publishes", setup: p.setup}
	return p
}

// messageID is the ID of this node's message of that number.
func (p *publisher) messageID(number uint64) string {
	return p.id + "-" + strconv.FormatUint(number, 10)
}

// ownNumber is the reverse of messageID; false means that the message is another node's.
func (p *publisher) ownNumber(messageID string) (uint64, bool) {
	digits, own := strings.CutPrefix(messageID, p.id+"-")
	if !own {
		return 0, false
	}
	number, err := strconv.ParseUint(digits, 10, 64)
	return number, err == nil
}

// send hands a frame to the broker and waits until it has accepted it. It returns the number that the message got.
func (p *publisher) send(ctx context.Context, frame broadcast.Frame) (uint64, error) {
	conn, err := p.connector.get(ctx)
	if err != nil {
		return 0, err
	}
	l := conn.link
	if reason := l.blocked.Load(); reason != nil {
		return 0, fmt.Errorf("rabbitmq: the broker takes no messages at the moment: %s", *reason)
	}
	// The data is copied, since the client may still be writing it after ctx has ended.
	request := &publication{
		ctx: ctx, topic: frame.Topic, data: bytes.Clone(frame.Data), control: frame.Control, outcome: make(chan error, 1),
	}
	select {
	case l.requests <- request:
	case <-l.lost:
		return 0, l.cause
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
	select {
	case err := <-request.outcome:
		return request.number, err
	case <-l.lost:
		return 0, l.cause
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
}

// setup makes a new connection ready to publish.
func (p *publisher) setup(conn *connection) error {
	l := &link{
		publisher: p, conn: conn, requests: make(chan *publication), lost: make(chan struct{}),
		pending: make(map[uint64]*publication), declared: make(map[string]bool),
	}
	var err error
	if l.channel, err = conn.Channel(); err != nil {
		return err
	}
	if err := l.channel.Confirm(false); err != nil {
		return err
	}
	// Neither has a buffer: the client's reader hands over one answer after the other, so that a return is always seen before
	// the confirmation of the same message.
	returns := l.channel.NotifyReturn(make(chan amqp.Return))
	confirmations := l.channel.NotifyPublish(make(chan amqp.Confirmation))
	closes := l.channel.NotifyClose(make(chan *amqp.Error, 1))
	blockings := conn.NotifyBlocked(make(chan amqp.Blocking, 1))
	conn.link = l
	if !p.connector.client.goRun(func() { l.read(returns, confirmations, blockings, closes) }) ||
		!p.connector.client.goRun(l.write) {
		return broadcast.ErrClosed
	}
	return nil
}

// write publishes what it is asked to, in order.
func (l *link) write() {
	for {
		select {
		case request := <-l.requests:
			l.publish(request)
		case <-l.lost:
			return
		}
	}
}

func (l *link) publish(request *publication) {
	if request.ctx.Err() != nil {
		return // nobody waits any more, and what is tried again must not come twice for that
	}
	if err := l.prepare(request.topic); err != nil {
		request.outcome <- err
		return
	}
	request.number = l.publisher.number.Add(1)
	l.mu.Lock()
	l.tag++
	l.pending[l.tag] = request
	l.mu.Unlock()
	message := amqp.Publishing{
		MessageId: l.publisher.messageID(request.number), DeliveryMode: amqp.Persistent, Body: request.data,
	}
	if request.control {
		message.DeliveryMode = amqp.Transient
	}
	// Mandatory: a frame that reaches no queue is confirmed like any other, but returned first.
	const mandatory, immediate = true, false
	_, err := l.channel.PublishWithDeferredConfirm(l.publisher.target.exchange(request.topic), "", mandatory, immediate, message)
	if err != nil {
		// The connection is broken, or the channel closed by the broker: read will know why.
		l.conn.kill()
	}
}

// prepare declares what a topic needs, once.
func (l *link) prepare(topic string) error {
	l.mu.Lock()
	declared := l.declared[topic]
	l.mu.Unlock()
	if declared {
		return nil
	}
	if err := l.publisher.target.declare(l.conn, topic); err != nil {
		return fmt.Errorf("rabbitmq: declare what topic %q needs: %w", topic, rejection(err))
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.declared[topic] = true
	return nil
}

// read takes the broker's answers until the channel is closed.
func (l *link) read(
	returns <-chan amqp.Return, confirmations <-chan amqp.Confirmation, blockings <-chan amqp.Blocking, closes <-chan *amqp.Error,
) {
	for {
		select {
		case r, ok := <-returns:
			if !ok {
				returns = nil
				continue
			}
			l.returned(r)
		case c, ok := <-confirmations:
			if !ok {
				l.cause = errLost
				if reason := <-closes; reason != nil {
					l.cause = fmt.Errorf("%w: %w", errLost, reason)
				}
				close(l.lost)
				l.conn.kill()
				return
			}
			l.confirmed(c)
		case b, ok := <-blockings:
			if !ok {
				blockings = nil
				continue
			}
			l.blocked.Store(nil)
			if b.Active {
				l.blocked.Store(&b.Reason)
			}
		}
	}
}

// returned notes that a message is in no queue. Its confirmation follows.
func (l *link) returned(r amqp.Return) {
	number, own := l.publisher.ownNumber(r.MessageId)
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, request := range l.pending {
		if own && request.number == number {
			request.nowhere = true
		}
	}
}

func (l *link) confirmed(c amqp.Confirmation) {
	l.mu.Lock()
	request := l.pending[c.DeliveryTag]
	delete(l.pending, c.DeliveryTag)
	l.mu.Unlock()
	switch {
	case request == nil:
	case !c.Ack:
		request.outcome <- errNoAck
	case request.nowhere:
		err := l.publisher.target.unrouted(request.topic, request.number)
		if err != nil {
			l.mu.Lock()
			delete(l.declared, request.topic)
			l.mu.Unlock()
		}
		request.outcome <- err
	default:
		request.outcome <- nil
	}
}
