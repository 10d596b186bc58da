package kafka

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/go-nearcache/nearcache/broadcast"
)

const (
	minDelay = 20 * time.Millisecond // before something that failed is tried again …
	maxDelay = time.Second           // … and after many failures

	// A connection that has silently died is noticed when a request gets no answer within these two together.
	fetchWait     = 500 * time.Millisecond // how long the broker holds a request for records if there are none
	answerTimeout = 4 * time.Second

	produceTimeout = 5 * time.Second // for the broker to replicate a record
)

// transport carries frames over one topic of Kafka for each of the bus.
type transport struct {
	options    Options
	sender     *sender
	subscriber *subscriber

	ctx  context.Context
	stop context.CancelFunc

	mu      sync.Mutex
	closed  bool
	running sync.WaitGroup // added to only while not closed
}

// New makes the transport over Kafka: at least once from the moment of Subscribe, in order, stored. A node whose
// connection is lost goes on from the position it holds, and is told [broadcast.Resumed] when it has caught up, or
// [broadcast.Trimmed] if the topic no longer had what it had not read. Nothing is kept over a restart of the node.
//
// It connects when it is first used, so New succeeds while the cluster is away.
//
// A user with ACLs needs Describe, Read and Write on topics that begin with the prefix, Create unless Options.Existing
// is set, Describe on the cluster, and with Options.Group also Read on the group.
func New(options Options) (broadcast.Transport, error) {
	options, err := options.validate()
	if err != nil {
		return nil, err
	}
	t := &transport{options: options}
	t.ctx, t.stop = context.WithCancel(context.Background())
	if err := t.connect(); err != nil {
		t.stop()
		return nil, err
	}
	return t, nil
}

// connect makes the clients. They do nothing before they are used.
func (t *transport) connect() error {
	defaults := []kgo.Opt{
		kgo.RequestTimeoutOverhead(answerTimeout),
		kgo.DialTimeout(answerTimeout),
		kgo.RetryBackoffFn(delay),
		kgo.MetadataMinAge(250 * time.Millisecond), // how soon a new leader is found
		kgo.DisableClientMetrics(),
	}
	own := []kgo.Opt{kgo.SeedBrokers(t.options.Brokers...), kgo.WithContext(t.ctx)}

	t.sender = &sender{transport: t, topics: make(map[string]*outgoing)}
	t.sender.health = newHealth(kmsg.Produce.Int16(), func() {})
	var err error
	t.sender.client, err = kgo.NewClient(join(defaults, []kgo.Opt{kgo.ProduceRequestTimeout(produceTimeout)}, t.options.Client, own, []kgo.Opt{
		kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerLinger(0), // the bus has packed what can travel together
		kgo.WithHooks(t.sender.health),
	})...)
	if err != nil {
		return fmt.Errorf("kafka: Options.Client: %w", err)
	}
	t.subscriber = newSubscriber(t)
	consuming := []kgo.Opt{
		kgo.FetchMaxWait(fetchWait),
		kgo.ConsumeResetOffset(kgo.NoResetOffset()), // a position that is gone is to be told, not mended
		kgo.KeepControlRecords(),                    // without them there would be holes where nothing is lost
		kgo.WithHooks(t.subscriber.health),
	}
	if t.options.Group != "" {
		consuming = append(consuming,
			kgo.ConsumerGroup(t.options.Group), kgo.AdjustFetchOffsetsFn(t.subscriber.adjustOffsets))
	}
	if t.subscriber.client, err = kgo.NewClient(join(defaults, t.options.Client, own, consuming)...); err != nil {
		t.sender.client.Close()
		return fmt.Errorf("kafka: Options.Client: %w", err)
	}
	return nil
}

func join(lists ...[]kgo.Opt) []kgo.Opt {
	var all []kgo.Opt
	for _, list := range lists {
		all = append(all, list...)
	}
	return all
}

// delay is the pause after a number of failures.
func delay(failures int) time.Duration {
	pause := min(minDelay<<min(max(failures-1, 0), 10), maxDelay)
	return pause/2 + rand.N(pause/2)
}

// Capabilities implements [broadcast.Transport].
func (t *transport) Capabilities() broadcast.Capabilities {
	return broadcast.Capabilities{System: "kafka", Ordered: true, Replay: true, Signals: true, Echo: true, MaxFrame: maxFrame}
}

// Send implements [broadcast.Transport].
func (t *transport) Send(ctx context.Context, frame broadcast.Frame) error {
	if t.ctx.Err() != nil {
		return broadcast.ErrClosed
	}
	return t.sender.send(ctx, t.options.TopicName(frame.Topic), frame.Data)
}

// Listen implements [broadcast.Transport]. The topic is live as soon as the end of its log is known: what is added
// after it will be read. A client that is told to begin at the end finds out where that is later, and misses what comes
// meanwhile.
func (t *transport) Listen(ctx context.Context, topic string, receiver broadcast.Receiver) (broadcast.Listener, error) {
	l := &listener{subscriber: t.subscriber, topic: t.options.TopicName(topic), receiver: receiver, target: -1}
	for failures := 1; ; failures++ {
		err := t.locate(ctx, l)
		switch {
		case err == nil:
			return l, t.subscriber.add(l)
		case t.ctx.Err() != nil:
			return nil, broadcast.ErrClosed
		case errors.Is(err, broadcast.ErrRejected):
			return nil, err
		}
		pause := time.NewTimer(delay(failures))
		select {
		case <-pause.C:
		case <-t.ctx.Done():
		case <-ctx.Done():
			pause.Stop()
			return nil, fmt.Errorf("%w: %w", context.Cause(ctx), err)
		}
	}
}

// locate finds the end of a topic's log.
func (t *transport) locate(ctx context.Context, l *listener) error {
	if err := t.ensure(ctx, t.subscriber.client, t.subscriber.health, l.topic); err != nil {
		return err
	}
	found := inspect(ctx, t.subscriber.client, []string{l.topic})[l.topic]
	if found.err != nil {
		return rejection(found.err)
	}
	l.id, l.epoch = found.id, found.epoch
	l.next.Store(found.end)
	return nil
}

// goRun starts a goroutine that Close waits for; false means that the transport is closed.
func (t *transport) goRun(f func()) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return false
	}
	t.running.Go(f)
	return true
}

// Close implements [broadcast.Transport].
func (t *transport) Close(ctx context.Context) error {
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	t.subscriber.end()
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		t.subscriber.client.CloseAllowingRebalance() // before the context ends, so that it can leave its group
		t.sender.client.Close()
		t.stop()
		t.running.Wait()
	}()
	select {
	case <-closed:
		return nil
	case <-ctx.Done():
		t.stop()
		return fmt.Errorf("kafka: clients are still closing: %w", context.Cause(ctx))
	}
}
