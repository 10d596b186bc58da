package rabbitmq

import (
	"context"
	"crypto/rand"
	"fmt"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/go-nearcache/nearcache/broadcast"
)

// streams carries frames over one stream a topic, which every node reads from the position it holds. An exchange stands
// before the stream, so that permissions and tools see one kind of name.
type streams struct {
	*client
	options   StreamsOptions
	publisher *publisher
	consumer  connector
}

// NewStreams makes the transport over streams, RabbitMQ's replicated logs: at least once from the moment of Subscribe,
// in order, stored once for all nodes. A node whose connection is lost goes on from the position it holds, and is told
// [broadcast.Resumed] when it has caught up, or [broadcast.Trimmed] if the stream no longer had what it had not read.
// It is the choice for clusters, where the loss of a broker loses nothing. Nothing is kept over a restart of the node.
//
// It connects when it is first used, so New succeeds while the broker is away. Its nodes do not hear those of [NewFanout].
//
// A user of the broker needs configure, write and read permission on "nearcache\.bus\..*" (the prefix).
func NewStreams(options StreamsOptions) (broadcast.Transport, error) {
	options, err := options.validate()
	if err != nil {
		return nil, err
	}
	t := &streams{client: newClient(options.Options), options: options}
	t.publisher = newPublisher(t.client, t, rand.Text())
	t.consumer = connector{client: t.client, purpose: "consumes"}
	return t, nil
}

// Capabilities implements [broadcast.Transport].
func (t *streams) Capabilities() broadcast.Capabilities {
	return broadcast.Capabilities{
		System: "rabbitmq", Ordered: true, Replay: true, Signals: true, Echo: true, MaxFrame: maxFrame,
	}
}

// exchange is the name of a topic's stream too.
func (t *streams) exchange(topic string) string {
	return t.options.Prefix + streamName + encode(topic, maxEncoded)
}

// declare makes the exchange, the stream and the binding between them, where they are missing.
func (t *streams) declare(conn *connection, topic string) error {
	name := t.exchange(topic)
	err := conn.do(func(channel *amqp.Channel) error {
		return channel.ExchangeDeclare(name, amqp.ExchangeFanout, true, false, false, false, nil)
	})
	if err != nil {
		return err
	}
	err = conn.do(func(channel *amqp.Channel) error {
		_, err := channel.QueueDeclare(name, true, false, false, false, t.options.streamArguments())
		return err
	})
	if err != nil && !hasCode(err, amqp.PreconditionFailed) { // that means that it is there, with other limits
		return err
	}
	return conn.do(func(channel *amqp.Channel) error { return channel.QueueBind(name, "", name, false, nil) })
}

// unrouted frames are not stored: the stream or its binding is gone. Send fails, and makes them anew when it is called again.
func (t *streams) unrouted(string, uint64) error { return errNoStream }

// Send implements [broadcast.Transport].
func (t *streams) Send(ctx context.Context, frame broadcast.Frame) error {
	_, err := t.publisher.send(ctx, frame)
	return err
}

// Listen implements [broadcast.Transport]. The topic is live when a mark has come back that was put into the stream:
// its position is where a lost connection goes on.
func (t *streams) Listen(ctx context.Context, topic string, receiver broadcast.Receiver) (broadcast.Listener, error) {
	l := &streamListener{
		transport: t, topic: topic, receiver: receiver, live: make(chan struct{}), failed: make(chan error, 1),
	}
	l.ctx, l.stop = context.WithCancel(t.ctx)
	if !t.goRun(l.run) {
		l.stop()
		return nil, broadcast.ErrClosed
	}
	var err error
	select {
	case <-l.live:
		return l, nil
	case err = <-l.failed:
	case <-ctx.Done():
		err = context.Cause(ctx)
		if trouble := l.lastTrouble(); trouble != nil {
			err = fmt.Errorf("%w: %w", err, trouble)
		}
	case <-t.ctx.Done():
		err = broadcast.ErrClosed
	}
	_ = l.Close(ctx)
	return nil, err
}

// Close implements [broadcast.Transport].
func (t *streams) Close(ctx context.Context) error { return t.close(ctx) }
