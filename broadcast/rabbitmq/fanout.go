package rabbitmq

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/go-nearcache/nearcache/broadcast"
)

const (
	prefetch    = 128                   // deliveries on their way to this node, unacknowledged
	ackCount    = prefetch / 4          // acknowledged together …
	ackDelay    = 20 * time.Millisecond // … or after this time
	checkPeriod = 5 * time.Second       // between checks of a topic's binding
	rebindDelay = time.Second           // before a binding that failed is tried again

	markType = "nearcache-mark" // the type of messages that a node sends itself
)

// fanout carries frames over one fanout exchange a topic and one durable queue a node, bound to the exchanges of the topics
// that the node listens on. The queue outlives a lost connection, and is deleted when the transport is closed.
type fanout struct {
	*client
	options   FanoutOptions
	publisher *publisher
	changed   chan struct{} // tells the session that listeners have changed, or a binding is in doubt

	mu        sync.RWMutex // held for reading while a receiver is called: closing a listener waits for that
	listeners map[string]*fanoutListener
	trouble   error // why there is no session
	started   bool

	// What follows is used by the goroutine of run only.
	queue   string
	adrift  bool            // the queue is not to be trusted: something in it may have been lost
	bound   map[string]bool // topics that the queue is bound to
	marks   uint64
	pending map[string]func() // what to do when a mark comes back
}

// fanoutListener is one topic.
type fanoutListener struct {
	transport *fanout
	topic     string
	receiver  broadcast.Receiver
	live      chan struct{} // closed when the topic is bound for the first time
	failed    chan error    // takes why it cannot be, if that is for good

	// Of the goroutine of run only.
	confirmed bool // live has been closed
	down      bool // an open gap has been reported

	mu      sync.Mutex
	sent    uint64    // this node's own message on the topic that was confirmed last
	checked uint64    // the one that the last check was about
	due     time.Time // of the next check
	doubt   bool      // a check has failed: the topic must be bound anew
	echoed  uint64    // this node's own message on the topic that came back last
}

// NewFanout makes the transport over fanout exchanges and one queue a node: at least once from the moment of Subscribe, in order,
// stored. A node whose connection is lost, or whose broker restarts, goes on where it stopped, and is told [broadcast.Resumed] when it has
// caught up, or [broadcast.Trimmed] if the broker has deleted its queue. Nothing is kept over a restart of the node.
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
		listeners: make(map[string]*fanoutListener), bound: make(map[string]bool), pending: make(map[string]func()),
	}
	id := strings.ToLower(rand.Text())
	t.queue = options.Prefix + nodeName + encode(options.Node, maxNode) + "." + id
	t.publisher = newPublisher(t.client, t, id)
	return t, nil
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

func (t *fanout) declare(channel *amqp.Channel, topic string) error {
	return channel.ExchangeDeclare(t.exchange(topic), amqp.ExchangeFanout, true, false, false, false, nil)
}

// unrouted frames are nobody's loss, unless this node itself listens: then its queue should have had it.
func (t *fanout) unrouted(topic string) error {
	t.mu.RLock()
	l := t.listeners[topic]
	t.mu.RUnlock()
	if l != nil {
		l.doubtBinding()
	}
	return nil
}

// Send implements [broadcast.Transport].
func (t *fanout) Send(ctx context.Context, frame broadcast.Frame) error {
	number, err := t.publisher.send(ctx, frame)
	if err != nil {
		return err
	}
	t.mu.RLock()
	l := t.listeners[frame.Topic]
	t.mu.RUnlock()
	if l != nil {
		l.sentOwn(number)
	}
	return nil
}

// Listen implements [broadcast.Transport]. The topic is live when the queue is bound to its exchange.
func (t *fanout) Listen(ctx context.Context, topic string, receiver broadcast.Receiver) (broadcast.Listener, error) {
	l := &fanoutListener{
		transport: t, topic: topic, receiver: receiver, live: make(chan struct{}), failed: make(chan error, 1),
	}
	t.mu.Lock()
	if !t.started {
		if !t.goRun(t.run) {
			t.mu.Unlock()
			return nil, broadcast.ErrClosed
		}
		t.started = true
	}
	t.listeners[topic] = l
	t.mu.Unlock()
	t.wake()
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

// forget removes a listener; its receiver is not called any more.
func (t *fanout) forget(l *fanoutListener) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.listeners[l.topic] == l {
		delete(t.listeners, l.topic)
	}
}

func (t *fanout) wake() {
	select {
	case t.changed <- struct{}{}:
	default:
	}
}

// Close implements [broadcast.Listener]. What is still in the queue for the topic is dropped as it comes.
func (l *fanoutListener) Close(context.Context) error {
	l.transport.forget(l)
	l.transport.wake()
	return nil
}

// Close implements [broadcast.Transport].
func (t *fanout) Close(ctx context.Context) error {
	t.mu.Lock()
	clear(t.listeners)
	t.mu.Unlock()
	return t.close(ctx)
}

// sentOwn notes that a message of this node was confirmed: its queue has it, if it is bound. Now and then that is checked.
func (l *fanoutListener) sentOwn(number uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sent = max(l.sent, number)
	if now := time.Now(); now.After(l.due) {
		l.due = now.Add(checkPeriod)
		l.transport.wake()
	}
}

func (l *fanoutListener) doubtBinding() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.doubt = true
	l.transport.wake()
}
