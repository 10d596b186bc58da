package kafka

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/go-nearcache/nearcache/broadcast"
)

// sender publishes. The client repeats by itself what has not been acknowledged, and it cannot be told to stop without
// losing its order. So at most one record a topic is on its way, and a frame that is sent again meanwhile takes the
// outcome of that one.
type sender struct {
	transport *transport
	client    *kgo.Client
	health    *health

	mu     sync.Mutex
	topics map[string]*outgoing
}

// outgoing is a topic of Kafka that is published to.
type outgoing struct {
	turn    chan struct{} // held while a frame is being sent
	made    bool          // the topic exists
	attempt *attempt      // on its way, since before the frame at hand if that is another one
}

// attempt is a record that the client has taken.
type attempt struct {
	data []byte
	done chan struct{} // closed when the outcome is known
	err  error
}

func (s *sender) outgoing(topic string) *outgoing {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.topics[topic]
	if o == nil {
		o = &outgoing{turn: make(chan struct{}, 1)}
		s.topics[topic] = o
	}
	return o
}

func (s *sender) send(ctx context.Context, topic string, data []byte) error {
	o := s.outgoing(topic)
	select {
	case o.turn <- struct{}{}:
		defer func() { <-o.turn }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if !o.made {
		if err := s.transport.ensure(ctx, s.client, s.health, topic); err != nil {
			return err
		}
		o.made = true
	}
	if earlier := o.attempt; earlier != nil {
		known, err := s.await(ctx, topic, o)
		if !known {
			return err
		}
		if err == nil && bytes.Equal(earlier.data, data) {
			return nil
		}
	}
	// The data is copied, since the client keeps it after ctx has ended.
	o.attempt = s.produce(topic, bytes.Clone(data))
	_, err := s.await(ctx, topic, o)
	return err
}

func (s *sender) produce(topic string, data []byte) *attempt {
	a := &attempt{data: data, done: make(chan struct{})}
	record := &kgo.Record{Topic: topic, Partition: partition, Value: data}
	s.client.Produce(s.transport.ctx, record, func(_ *kgo.Record, err error) {
		a.err = err
		close(a.done)
	})
	return a
}

// await waits for the outcome of the attempt that is on its way, but not while the broker is away.
func (s *sender) await(ctx context.Context, topic string, o *outgoing) (known bool, err error) {
	broken, _ := s.health.state()
	select {
	case <-o.attempt.done:
	default:
		select {
		case <-o.attempt.done:
		case <-broken:
			_, cause := s.health.state()
			return false, fmt.Errorf("kafka: the broker does not answer: %w", cause)
		case <-s.transport.ctx.Done():
			return false, broadcast.ErrClosed
		case <-ctx.Done():
			return false, context.Cause(ctx)
		}
	}
	err = o.attempt.err
	o.attempt = nil
	switch {
	case errors.Is(err, kerr.UnknownTopicOrPartition), errors.Is(err, kerr.UnknownTopicID):
		// It was deleted. The client would go on asking for the one it knew, even if there is another by the name.
		s.client.PurgeTopicsFromProducing(topic)
		o.made = false
	case errors.Is(err, kgo.ErrClientClosed):
		err = broadcast.ErrClosed
	}
	return true, rejection(err)
}
