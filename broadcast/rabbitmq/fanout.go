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

// fanout carries frames over one fanout exchange a topic and one durable queue a node, bound to the exchanges of the topics
// that the node listens on. The queue outlives a lost connection, and is deleted when the transport is closed.
type fanout struct {
	*client
	options   FanoutOptions
	publisher *publisher
	changed   chan struct{} // tells the session that there is something to bind, unbind or check

	mu        sync.RWMutex               // held for reading while a receiver is called: closing a listener waits for that
	listeners map[string]*fanoutListener // by exchange
	trouble   error                      // why there is no session
	started   bool

	// Of the goroutine of run only.
	queue   string
	created bool            // it has been declared before
	bound   map[string]bool // exchanges that it is known to be bound to
}

// fanoutListener is one topic.
type fanoutListener struct {
	transport *fanout
	exchange  string
	receiver  broadcast.Receiver
	live      chan struct{} // closed when the topic is bound for the first time
	failed    chan error    // takes why it never will be

	// Of the goroutine of run only.
	confirmed bool // live has been closed
	down      bool // an open gap has been reported

	mu     sync.Mutex
	sent   uint64    // the number of this node's last message on the topic that the broker has confirmed
	echoed uint64    // the last number that need not come back any more: it did, or was sent before the topic was bound
	check  bool      // sent is to be compared with echoed
	due    time.Time // when the next check may be
	lost   bool      // a check has failed
}

// NewFanout makes the transport over fanout exchanges and one queue a node: at least once from the moment of Subscribe,
// in order, stored. A node whose connection is lost, or whose broker restarts, goes on where it stopped, and is told
// [broadcast.Resumed] when it has caught up, or [broadcast.Trimmed] if the broker has deleted its queue. Nothing is
// kept over a restart of the node.
//
// It connects when it is first used, so New succeeds while the broker is away.
//
// A user of the broker needs configure, write and read permission on "nearcache\.bus\..*" (the prefix).
func NewFanout(options FanoutOptions) (broadcast.Transport, error) {
	options, err := options.validate()
	if err != nil {
		return nil, err
	}
	t := &fanout{
		client: newClient(options.Options), options: options, changed: make(chan struct{}, 1),
		listeners: make(map[string]*fanoutListener), bound: make(map[string]bool),
	}
	t.queue = t.newQueueName()
	t.publisher = newPublisher(t.client, t, rand.Text())
	return t, nil
}

func (t *fanout) newQueueName() string {
	return t.options.Prefix + nodeName + encode(t.options.Node, maxNode) + "." + rand.Text()
}

// Capabilities implements [broadcast.Transport].
func (t *fanout) Capabilities() broadcast.Capabilities {
	// No signals: a queue may overflow, or fall under a policy of the broker, or under the loss of a cluster's node, without
	// a word. Sequence numbers find that.
	return broadcast.Capabilities{System: "rabbitmq", Ordered: true, Replay: true, Echo: true, MaxFrame: maxFrame}
}

func (t *fanout) exchange(topic string) string {
	return t.options.Prefix + topicName + encode(topic, maxEncoded)
}

func (t *fanout) declare(conn *connection, topic string) error {
	return conn.do(func(channel *amqp.Channel) error {
		return channel.ExchangeDeclare(t.exchange(topic), amqp.ExchangeFanout, true, false, false, false, nil)
	})
}

// unrouted frames are nobody's loss, unless this node itself listens: then its queue should have had it.
func (t *fanout) unrouted(topic string, number uint64) error {
	if l := t.listener(t.exchange(topic)); l != nil {
		l.verify(number)
	}
	return nil
}

func (t *fanout) listener(exchange string) *fanoutListener {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.listeners[exchange]
}

// Send implements [broadcast.Transport].
func (t *fanout) Send(ctx context.Context, frame broadcast.Frame) error {
	number, err := t.publisher.send(ctx, frame)
	if err != nil {
		return err
	}
	if l := t.listener(t.exchange(frame.Topic)); l != nil {
		l.sentOwn(number)
	}
	return nil
}

// Listen implements [broadcast.Transport]. The topic is live when the queue is bound to its exchange.
func (t *fanout) Listen(ctx context.Context, topic string, receiver broadcast.Receiver) (broadcast.Listener, error) {
	l := &fanoutListener{
		transport: t, exchange: t.exchange(topic), receiver: receiver, live: make(chan struct{}), failed: make(chan error, 1),
	}
	if err := t.add(l); err != nil {
		return nil, err
	}
	select {
	case <-l.live:
		return l, nil
	case err := <-l.failed:
		t.forget(l)
		return nil, err
	case <-ctx.Done():
		t.forget(l)
		t.mu.RLock()
		defer t.mu.RUnlock()
		if t.trouble != nil {
			return nil, fmt.Errorf("%w: %w", context.Cause(ctx), t.trouble)
		}
		return nil, context.Cause(ctx)
	case <-t.ctx.Done():
		return nil, broadcast.ErrClosed
	}
}

func (t *fanout) add(l *fanoutListener) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.started {
		if !t.goRun(t.run) {
			return broadcast.ErrClosed
		}
		t.started = true
	}
	t.listeners[l.exchange] = l
	t.wake()
	return nil
}

// forget removes a listener; its receiver is not called any more.
func (t *fanout) forget(l *fanoutListener) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.listeners[l.exchange] == l {
		delete(t.listeners, l.exchange)
		t.wake()
	}
}

func (t *fanout) wake() {
	select {
	case t.changed <- struct{}{}:
	default:
	}
}

// Close implements [broadcast.Listener]. What is in the queue for the topic is dropped as it comes.
func (l *fanoutListener) Close(context.Context) error {
	l.transport.forget(l)
	return nil
}

// Close implements [broadcast.Transport].
func (t *fanout) Close(ctx context.Context) error {
	t.mu.Lock()
	clear(t.listeners)
	t.mu.Unlock()
	return t.close(ctx)
}

// run keeps a session up until the transport is closed.
func (t *fanout) run() {
	var pause backoff
	for t.ctx.Err() == nil {
		err := t.serve(pause.reset)
		t.mu.Lock()
		t.trouble = err
		t.mu.Unlock()
		t.tellLoss(err)
		if !pause.wait(t.ctx) {
			return
		}
	}
}

// tellLoss tells the listeners that there is no session, and those that wait for one whether there is hope.
func (t *fanout) tellLoss(err error) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	for _, l := range t.listeners {
		switch {
		case !l.confirmed && errors.Is(err, broadcast.ErrRejected):
			l.fail(err)
		case l.confirmed && !l.down:
			l.down = true
			l.receiver.Gap(broadcast.Gap{Reason: broadcast.Reconnect, Open: true})
		}
	}
}

// fail ends the wait of Listen.
func (l *fanoutListener) fail(err error) {
	select {
	case l.failed <- err:
	default:
	}
}

// The broker tells nobody that a binding is gone: somebody has deleted the exchange, say. But this node's own messages
// come back to it as everybody's do, and each topic has some, be it heartbeats. So now and then one is waited for.

// sentOwn notes that a message of this node was confirmed. It is in the queue then, if the queue is bound.
func (l *fanoutListener) sentOwn(number uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sent = max(l.sent, number)
	if now := time.Now(); now.After(l.due) {
		l.due = now.Add(checkPeriod)
		l.check = true
		l.transport.wake()
	}
}

// cameBack notes that a message of this node has come back.
func (l *fanoutListener) cameBack(number uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.echoed = max(l.echoed, number)
}

// overdue returns the number of a message that has been confirmed and has not come back, if it is time to check that.
func (l *fanoutListener) overdue() (number uint64, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	ok = l.check && l.echoed < l.sent
	l.check = false
	return l.sent, ok
}

// verify is called when the number should have come back, if the topic is bound at all.
func (l *fanoutListener) verify(number uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.echoed < number {
		l.lost = true
		l.transport.wake()
	}
}

// takeLost reports, once, whether the topic must be bound anew.
func (l *fanoutListener) takeLost() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	lost := l.lost
	l.lost = false
	return lost
}
