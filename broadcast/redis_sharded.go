package broadcast

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/redis/rueidis"
)

// redisSharded carries frames over sharded Pub/Sub, one channel a topic. Each topic has a Receive of its own, since a
// channel lives on the shard that owns its slot; the subscriptions to one shard share a connection.
type redisSharded struct {
	redis

	ctx     context.Context
	stop    context.CancelFunc
	running sync.WaitGroup

	mu     sync.Mutex
	closed bool
}

// NewRedisSharded makes the transport over sharded Pub/Sub (Redis 7, Valkey): as [NewRedisPubSub], but each topic lives on one
// shard of a cluster, so that the load spreads over the shards and nothing is passed on between servers. When a topic's
// slot moves to another shard its subscriptions are down for a moment, as after a lost connection, and reported likewise.
//
// For up to a second after Close a goroutine of rueidis's cluster client may sleep on before it ends.
//
// A user with ACLs needs +spublish, +ssubscribe, +sunsubscribe, +ping, +cluster|slots, +cluster|shards and &nearcache:bus:*
// (the prefix).
func NewRedisSharded(options RedisOptions) (Transport, error) {
	r, err := newRedis(options)
	if err != nil {
		return nil, err
	}
	t := &redisSharded{redis: r}
	t.ctx, t.stop = context.WithCancel(context.Background())
	return t, nil
}

// Capabilities implements [Transport].
func (t *redisSharded) Capabilities() Capabilities {
	return Capabilities{System: "redis", Ordered: true, Signals: true, Echo: true}
}

// Send implements [Transport].
func (t *redisSharded) Send(ctx context.Context, frame Frame) error {
	// The data is copied, since rueidis may still hold the command after ctx has ended.
	command := t.publisher.B().Spublish().Channel(t.prefix + frame.Topic).Message(string(frame.Data)).Build()
	return redisError(t.publisher.Do(ctx, command).Error())
}

// shardedListener is one channel.
type shardedListener struct {
	transport *redisSharded
	channel   string
	ctx       context.Context
	stop      context.CancelFunc
	done      chan struct{} // closed when its goroutine has ended

	mu       sync.Mutex // held while the receiver is called
	receiver Receiver
	live     chan struct{} // closed at the first confirmation
	once     sync.Once
	down     bool
	up       bool
	trouble  error
	refused  chan error
	closed   bool
}

// Listen implements [Transport].
func (t *redisSharded) Listen(ctx context.Context, topic string, receiver Receiver) (Listener, error) {
	l := &shardedListener{
		transport: t, channel: t.prefix + topic, receiver: receiver,
		live: make(chan struct{}), refused: make(chan error, 1), done: make(chan struct{}),
	}
	l.ctx, l.stop = context.WithCancel(t.ctx)
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		l.stop()
		return nil, ErrClosed
	}
	t.running.Go(l.run)
	t.mu.Unlock()
	select {
	case <-l.live:
		return l, nil
	case err := <-l.refused:
		return nil, errors.Join(err, l.Close(ctx))
	case <-ctx.Done():
		l.mu.Lock()
		trouble := l.trouble
		l.mu.Unlock()
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveTimeout)
		defer cancel()
		_ = l.Close(closing)
		if trouble != nil {
			return nil, fmt.Errorf("%w: %w", context.Cause(ctx), trouble)
		}
		return nil, context.Cause(ctx)
	case <-t.ctx.Done():
		return nil, ErrClosed
	}
}

// run keeps the channel subscribed. Receive returns when the connection is lost, and nil when the slot has moved away.
func (l *shardedListener) run() {
	defer close(l.done)
	client := l.transport.subscriber
	var pause backoff
	for l.ctx.Err() == nil {
		hooked := rueidis.WithOnSubscriptionHook(l.ctx, func(s rueidis.PubSubSubscription) {
			if s.Kind == "ssubscribe" {
				pause.reset() // Receive is running, so nothing else uses it
				l.confirm()
			}
		})
		err := redisError(client.Receive(hooked, client.B().Ssubscribe().Channel(l.channel).Build(), l.message))
		if l.ctx.Err() != nil || l.tellLoss(err) {
			return
		}
		if errors.Is(err, ErrRejected) {
			select {
			case l.refused <- err:
			default:
			}
		}
		if !pause.wait(l.ctx) {
			return
		}
	}
}

func (l *shardedListener) message(m rueidis.PubSubMessage) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closed {
		l.receiver.Frame(frameBytes(m.Message))
	}
}

// confirm is called on the connection's reading goroutine, before the first message of the subscription.
func (l *shardedListener) confirm() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return
	}
	if l.up { // subscribed again without Receive having returned: something may be missing in between
		l.receiver.Gap(Gap{Reason: Reconnect, Open: true})
		l.down = true
	}
	l.up = true
	if l.down {
		l.down = false
		l.receiver.Gap(Gap{Reason: Reconnect})
	}
	l.once.Do(func() { close(l.live) })
}

// tellLoss reports that the subscription has ended; true means that this is as it should be.
func (l *shardedListener) tellLoss(err error) (closed bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.trouble = err
	if l.up && !l.closed {
		l.up, l.down = false, true
		l.receiver.Gap(Gap{Reason: Reconnect, Open: true})
	}
	return l.closed
}

// Close implements [Listener].
func (l *shardedListener) Close(ctx context.Context) error {
	l.mu.Lock()
	first := !l.closed
	l.closed = true
	up := l.up
	l.mu.Unlock()
	if first && up {
		// Ending Receive leaves the subscription on the shared connection, so it is ended here. If that fails the connection
		// is broken, and with it the subscription.
		client := l.transport.subscriber
		_ = client.Do(ctx, client.B().Sunsubscribe().Channel(l.channel).Build()).Error()
	}
	l.stop()
	select {
	case <-l.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("broadcast: subscription to %q is still closing: %w", l.channel, context.Cause(ctx))
	}
}

// Close implements [Transport].
func (t *redisSharded) Close(ctx context.Context) error {
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	t.stop()
	err := t.close(ctx)
	if err == nil {
		t.running.Wait()
	}
	return err
}
