package broadcast

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/redis/rueidis"
)

// redisPubSub carries frames over Redis Pub/Sub, one channel a topic. All subscriptions live on one connection that this
// transport holds by itself, because rueidis's Receive resubscribes after a lost connection without telling.
type redisPubSub struct {
	redis

	ctx     context.Context
	stop    context.CancelFunc
	running sync.WaitGroup

	mu        sync.RWMutex // held for reading while a receiver is called: closing a listener waits for that
	listeners map[string]*pubSubListener
	link      rueidis.DedicatedClient // nil while the connection is down
	trouble   error                   // why it is down
	started   bool
	closed    bool
}

// NewRedisPubSub makes the transport over Redis Pub/Sub, the default one: at most once, in order, no replay; what is
// published while a node's connection is down is lost to it and reported. A frame takes one round trip to publish, and about
// as long again to arrive.
//
// On a cluster, PUBLISH is passed on between the servers, where it can be lost without notice; sequence numbers and heartbeats
// find that. [NewRedisSharded] avoids it.
//
// It connects at once and fails if it cannot. A user with ACLs needs +publish, +subscribe, +unsubscribe, +ping and
// &nearcache:bus:* (the prefix).
func NewRedisPubSub(options RedisOptions) (Transport, error) {
	r, err := newRedis(options)
	if err != nil {
		return nil, err
	}
	t := &redisPubSub{redis: r, listeners: make(map[string]*pubSubListener)}
	t.ctx, t.stop = context.WithCancel(context.Background())
	return t, nil
}

// Capabilities implements [Transport].
func (t *redisPubSub) Capabilities() Capabilities {
	return Capabilities{System: "redis", Ordered: true, Signals: t.subscriber.Mode() != rueidis.ClientModeCluster, Echo: true}
}

// Send implements [Transport].
func (t *redisPubSub) Send(ctx context.Context, frame Frame) error {
	// The data is copied, since rueidis may still hold the command after ctx has ended.
	command := t.publisher.B().Publish().Channel(t.prefix + frame.Topic).Message(string(frame.Data)).Build()
	return redisError(t.publisher.Do(ctx, command).Error())
}

// pubSubListener is one channel.
type pubSubListener struct {
	transport *redisPubSub
	channel   string
	receiver  Receiver
	live      chan struct{} // closed at the first confirmation
	refused   chan error    // takes a refusal that comes before it
	confirmed bool          // live has been closed; only the reading goroutine and serve, which take turns, use it
	down      bool          // an open gap has been reported; likewise
}

// Listen implements [Transport].
func (t *redisPubSub) Listen(ctx context.Context, topic string, receiver Receiver) (Listener, error) {
	l := &pubSubListener{transport: t, channel: t.prefix + topic, receiver: receiver}
	l.live, l.refused = make(chan struct{}), make(chan error, 1)
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		return nil, ErrClosed
	}
	t.listeners[l.channel] = l
	if !t.started {
		t.started = true
		t.running.Go(t.run)
	}
	t.mu.Unlock()
	if err := t.subscribe(ctx, l); err != nil {
		t.forget(l)
		return nil, err
	}
	select {
	case <-l.live:
		return l, nil
	case err := <-l.refused:
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
		return nil, ErrClosed
	}
}

// subscribe asks for a channel on the link, if there is one. A link that is lost meanwhile needs no care: the next one
// subscribes to every listener. It fails only if the server refuses for good.
func (t *redisPubSub) subscribe(ctx context.Context, l *pubSubListener) error {
	var pause backoff
	for {
		t.mu.RLock()
		link := t.link
		t.mu.RUnlock()
		if link == nil {
			return nil
		}
		err := link.Do(ctx, link.B().Subscribe().Channel(l.channel).Build()).Error()
		if _, answered := rueidis.IsRedisErr(err); !answered {
			return nil
		}
		if err := redisError(err); errors.Is(err, ErrRejected) || !pause.wait(ctx) {
			return err
		}
	}
}

// forget removes a listener; its receiver is not called any more. It returns the link to unsubscribe on, if there is one.
func (t *redisPubSub) forget(l *pubSubListener) rueidis.DedicatedClient {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.listeners[l.channel] != l {
		return nil
	}
	delete(t.listeners, l.channel)
	return t.link
}

// Close implements [Listener].
func (l *pubSubListener) Close(ctx context.Context) error {
	if link := l.transport.forget(l); link != nil {
		// If this fails the connection is broken, and with it the subscription.
		_ = link.Do(ctx, link.B().Unsubscribe().Channel(l.channel).Build()).Error()
	}
	return nil
}

// run keeps the subscribing connection up.
func (t *redisPubSub) run() {
	var pause backoff
	for t.ctx.Err() == nil {
		err := t.serve(pause.reset)
		t.mu.Lock()
		t.trouble = err
		t.mu.Unlock()
		if !pause.wait(t.ctx) {
			return
		}
	}
}

// serve holds one connection until it is lost. It calls up when everything is subscribed.
func (t *redisPubSub) serve(up func()) error {
	link, release := t.subscriber.Dedicate()
	defer release()
	lost := link.SetPubSubHooks(rueidis.PubSubHooks{OnMessage: t.message, OnSubscription: t.confirm})
	t.mu.Lock()
	t.link = link
	channels := make([]string, 0, len(t.listeners))
	for channel := range t.listeners {
		channels = append(channels, channel)
	}
	t.mu.Unlock()

	var err error
	if len(channels) > 0 {
		ctx, cancel := context.WithTimeout(t.ctx, sendTimeout)
		err = redisError(link.Do(ctx, link.B().Subscribe().Channel(channels...).Build()).Error())
		cancel()
	}
	if errors.Is(err, ErrRejected) {
		t.refuse(err)
	}
	if err == nil {
		up()
		select {
		case err = <-lost:
		case <-t.ctx.Done():
		}
	}
	t.mu.Lock()
	t.link = nil
	t.mu.Unlock()
	link.Close()
	for range lost { // once it is closed the hooks are not called any more
	}
	t.tellLoss()
	return err
}

// refuse tells those who wait for their channel that the server does not allow it.
func (t *redisPubSub) refuse(err error) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	for _, l := range t.listeners {
		select {
		case l.refused <- err:
		default:
		}
	}
}

// message is called on the connection's reading goroutine.
func (t *redisPubSub) message(m rueidis.PubSubMessage) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if l := t.listeners[m.Channel]; l != nil {
		l.receiver.Frame(frameBytes(m.Message))
	}
}

// confirm is called on the connection's reading goroutine, in order with messages.
func (t *redisPubSub) confirm(s rueidis.PubSubSubscription) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	l := t.listeners[s.Channel]
	if l == nil || s.Kind != "subscribe" {
		return
	}
	if !l.confirmed {
		l.confirmed = true
		close(l.live)
	}
	if l.down {
		l.down = false
		l.receiver.Gap(Gap{Reason: Reconnect})
	}
}

func (t *redisPubSub) tellLoss() {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if t.closed {
		return
	}
	for _, l := range t.listeners {
		if l.confirmed && !l.down {
			l.down = true
			l.receiver.Gap(Gap{Reason: Reconnect, Open: true})
		}
	}
}

// Close implements [Transport].
func (t *redisPubSub) Close(ctx context.Context) error {
	t.mu.Lock()
	t.closed = true
	clear(t.listeners)
	t.mu.Unlock()
	t.stop()
	err := t.close(ctx)
	if err == nil {
		t.running.Wait()
	}
	return err
}
