package broadcast

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/baggage"
	"go.opentelemetry.io/otel/trace"

	"github.com/go-nearcache/nearcache/telemetry"
)

// Bus sends messages to every node and receives theirs. Make one with [New]; its methods may be called from any
// goroutine, handlers included.
type Bus struct {
	options      Options
	capabilities Capabilities
	epoch        uint64
	counters     counters
	outbox       outbox
	telemetry    *telemetry.Telemetry
	ownTelemetry bool

	// sending ends when the bus gives up what is in the outbox; running are the goroutines that work on it.
	sending     context.Context
	stopSending context.CancelFunc
	running     sync.WaitGroup
	// beating ends when heartbeats stop; heartbeats are their goroutines.
	beating     context.Context
	stopBeating context.CancelFunc
	heartbeats  sync.WaitGroup

	lanes     sync.Map // topic → *lane; read on every publish
	receivers sync.Map // topic → *receiver
	requests  requests

	mu            sync.Mutex
	closing       bool
	subscriptions map[*Subscription]struct{}

	closed   chan struct{} // closed when Close has finished
	closeErr error
}

var lastEpoch atomic.Uint64

// newEpoch returns a number that no earlier bus of the process, and practically none of another process, has had.
func newEpoch() uint64 {
	for {
		last := lastEpoch.Load()
		epoch := max(uint64(time.Now().UnixNano()), last+1)
		if lastEpoch.CompareAndSwap(last, epoch) {
			return epoch
		}
	}
}

// New makes a bus on a transport. It does no I/O; the first Subscribe and Publish of a topic do. Close it.
func New(options Options) (*Bus, error) {
	options, err := options.validate()
	if err != nil {
		return nil, err
	}
	b := &Bus{
		options:       options,
		capabilities:  options.Transport.Capabilities(),
		epoch:         newEpoch(),
		outbox:        outbox{maxMessages: int64(options.OutboxMessages), maxBytes: int64(options.OutboxBytes)},
		telemetry:     options.Telemetry,
		subscriptions: make(map[*Subscription]struct{}),
		closed:        make(chan struct{}),
	}
	if b.telemetry == nil {
		if b.telemetry, err = telemetry.New(telemetry.Options{}); err != nil {
			return nil, fmt.Errorf("broadcast: %w", err)
		}
		b.ownTelemetry = true
	}
	b.sending, b.stopSending = context.WithCancel(context.Background())
	b.beating, b.stopBeating = context.WithCancel(context.Background())
	return b, nil
}

// Origin is this node's name on the bus.
func (b *Bus) Origin() string { return b.options.Origin }

// Epoch is this bus's incarnation: with Origin and a sequence number it makes up the ID of its messages.
func (b *Bus) Epoch() uint64 { return b.epoch }

// Capabilities are those of the transport.
func (b *Bus) Capabilities() Capabilities { return b.capabilities }

// Publish sends a message to every node that listens on its topic and returns when the broker has accepted it. While the
// broker is away the message waits in the outbox, being tried again, until ctx ends or Options.OutboxTimeout is over.
//
// Messages of one goroutine arrive in the order published; so do those of several, in the order in which the bus took
// them. What several goroutines publish on a topic at the same time shares frames. The payload and the headers are not kept.
//
// Errors: [ErrUndelivered], with what the context or the transport says, when it is not known to have been accepted;
// [ErrOutboxFull], [ErrTooLarge], [ErrInvalidMessage], [ErrClosed] when it was not sent at all.
func (b *Bus) Publish(ctx context.Context, m Message) error {
	ctx, publish, err := b.prepare(ctx, &m)
	if err == nil {
		err = b.publish(ctx, &m)
	}
	publish.End(err)
	return err
}

func (b *Bus) publish(ctx context.Context, m *Message) error {
	l, err := b.lane(m.Topic)
	if err != nil {
		return err
	}
	if err := l.publish(ctx, m); err != nil {
		return err
	}
	b.counters.published.Add(1)
	return nil
}

// Enqueue leaves a message in the outbox and returns without waiting for the broker: it never blocks. It is the way to
// send many messages from one goroutine, since they are packed into few frames. A message that cannot be sent within
// Options.OutboxTimeout is dropped, logged, counted in [Stats], told by [Bus.Flush], and seen as a gap by subscribers.
//
// Errors: [ErrOutboxFull], [ErrTooLarge], [ErrInvalidMessage], [ErrClosed]; the message was not taken then.
func (b *Bus) Enqueue(ctx context.Context, m Message) error {
	_, publish, err := b.prepare(ctx, &m)
	if err == nil {
		var l *lane
		if l, err = b.lane(m.Topic); err == nil {
			err = l.enqueue(&m)
		}
	}
	if err == nil {
		b.counters.enqueued.Add(1)
	}
	publish.End(err)
	return err
}

// prepare completes and checks a message and starts its span.
func (b *Bus) prepare(ctx context.Context, m *Message) (context.Context, telemetry.Publish, error) {
	ctx, publish := b.telemetry.StartPublish(ctx, b.destination(m.Topic), 1)
	m.Time = time.Now()
	if trace.SpanContextFromContext(ctx).IsValid() || baggage.FromContext(ctx).Len() > 0 {
		headers := make(map[string]string, len(m.Headers)+3)
		maps.Copy(headers, m.Headers)
		publish.Inject(headers)
		m.Headers = headers
	}
	return ctx, publish, validateMessage(m)
}

// Flush waits until every message that was enqueued before the call has left the outbox. It returns an error if some of
// them, since the last Flush, could not be delivered, or if ctx ends first.
func (b *Bus) Flush(ctx context.Context) error {
	var marks []<-chan error
	for _, l := range b.lanes.Range {
		if mark := l.(*lane).flush(); mark != nil {
			marks = append(marks, mark)
		}
	}
	var failures []error
	for _, mark := range marks {
		select {
		case err := <-mark:
			failures = append(failures, err)
		case <-ctx.Done():
			return fmt.Errorf("broadcast: messages are still waiting for the broker: %w", context.Cause(ctx))
		}
	}
	return errors.Join(failures...)
}

// Subscribe delivers a topic's messages to handler and returns when the subscription is live: a message that is published
// after that is delivered or reported as a gap. While the broker is away it waits for it until ctx ends. Several
// subscriptions on a topic share one listener of the transport; each has its own queue and goroutine.
func (b *Bus) Subscribe(
	ctx context.Context, topic string, handler Handler, options ...SubscribeOption,
) (*Subscription, error) {
	if topic == "" || len(topic) > maxName {
		return nil, invalid("Topic is %d bytes long: 1 to %d are allowed", len(topic), maxName)
	}
	if handler.Message == nil {
		return nil, fmt.Errorf("broadcast: Handler.Message is nil: a subscription needs a function that takes messages")
	}
	if b.isClosing() {
		return nil, ErrClosed
	}
	l, err := b.lane(topic)
	if err != nil {
		return nil, err
	}
	r := b.receiver(topic)
	s := newSubscription(b, l, r, handler, options)
	if err := r.join(ctx, s); err != nil {
		s.cancel()
		return nil, fmt.Errorf("broadcast: subscribe to %q: %w", topic, err)
	}
	l.setListening(1)
	b.mu.Lock()
	closing := b.closing
	if !closing {
		b.subscriptions[s] = struct{}{}
	}
	b.mu.Unlock()
	go s.run()
	if closing {
		return nil, errors.Join(ErrClosed, s.Close(ctx))
	}
	return s, nil
}

func (b *Bus) isClosing() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.closing
}

// forget takes a subscription that has ended off the books.
func (b *Bus) forget(s *Subscription) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.subscriptions, s)
}

// Close sends what is in the outbox, says goodbye to the other nodes, ends every subscription and closes the transport.
// It returns when no handler and no goroutine of the bus is running. If ctx ends first, what is left in the outbox fails
// with [ErrUndelivered], and an error says what did not end in time. Later calls wait for the first one. It must not be
// called from a handler.
func (b *Bus) Close(ctx context.Context) error {
	b.mu.Lock()
	first := !b.closing
	b.closing = true
	subscriptions := slices.Collect(maps.Keys(b.subscriptions))
	b.mu.Unlock()
	if !first {
		select {
		case <-b.closed:
			return b.closeErr
		case <-ctx.Done():
			return fmt.Errorf("broadcast: still closing: %w", context.Cause(ctx))
		}
	}
	defer close(b.closed)
	lanes := b.closeLanes()
	failures := []error{b.Flush(ctx)}
	b.stopBeating()
	b.sayGoodbye(ctx, lanes)
	b.stopSending()
	for _, s := range subscriptions {
		failures = append(failures, s.Close(ctx))
	}
	failures = append(failures, b.options.Transport.Close(ctx), b.awaitRest(ctx, lanes))
	if b.ownTelemetry {
		failures = append(failures, b.telemetry.Close())
	}
	b.closeErr = errors.Join(failures...)
	return b.closeErr
}

// awaitRest waits until nothing is being sent any more. The transport being closed, that is soon.
func (b *Bus) awaitRest(ctx context.Context, lanes []*lane) error {
	rest := make(chan struct{})
	go func() {
		defer close(rest)
		b.heartbeats.Wait()
		for _, l := range lanes {
			<-l.quiet
		}
		b.running.Wait() // only a lane that is not quiet starts more
	}()
	select {
	case <-rest:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("broadcast: a frame is still being sent: %w", context.Cause(ctx))
	}
}

func (b *Bus) closeLanes() []*lane {
	// With closing set no new lane can be made.
	var lanes []*lane
	for _, l := range b.lanes.Range {
		l.(*lane).close()
		lanes = append(lanes, l.(*lane))
	}
	return lanes
}

// goodbyeTimeout bounds the farewell: it saves the others a gap, no more.
const goodbyeTimeout = time.Second

func (b *Bus) sayGoodbye(ctx context.Context, lanes []*lane) {
	ctx, cancel := context.WithTimeout(ctx, goodbyeTimeout)
	defer cancel()
	var group sync.WaitGroup
	for _, l := range lanes {
		group.Go(func() { l.sendHeartbeat(ctx, true) })
	}
	group.Wait()
}

// lane finds or makes the outgoing side of a topic.
func (b *Bus) lane(topic string) (*lane, error) {
	if l, ok := b.lanes.Load(topic); ok {
		return l.(*lane), nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closing {
		return nil, ErrClosed
	}
	if l, ok := b.lanes.Load(topic); ok {
		return l.(*lane), nil
	}
	l := newLane(b, topic)
	b.lanes.Store(topic, l)
	b.heartbeats.Go(func() { l.beat(b.beating) })
	return l, nil
}

func (b *Bus) receiver(topic string) *receiver {
	if r, ok := b.receivers.Load(topic); ok {
		return r.(*receiver)
	}
	r, _ := b.receivers.LoadOrStore(topic, newReceiver(b, topic))
	return r.(*receiver)
}

// loopBack delivers a frame to this bus's own subscriptions, on a transport that does not.
func (b *Bus) loopBack(frame Frame) {
	if b.capabilities.Echo {
		return
	}
	if r, ok := b.receivers.Load(frame.Topic); ok {
		r.(*receiver).Frame(bytes.Clone(frame.Data))
	}
}

func (b *Bus) isOwn(origin []byte, epoch uint64) bool {
	return epoch == b.epoch && string(origin) == b.options.Origin
}

func (b *Bus) destination(topic string) telemetry.Destination {
	return telemetry.Destination{System: b.capabilities.System, Topic: topic}
}
