package broadcast

import (
	"context"
	"encoding/json"
	"fmt"
)

// Codec turns values into payloads and back. Its methods may be called from several goroutines at once.
type Codec[T any] interface {
	Encode(value T) ([]byte, error)
	Decode(payload []byte) (T, error)
}

// JSON encodes values with encoding/json.
type JSON[T any] struct{}

// Encode implements [Codec].
func (JSON[T]) Encode(value T) ([]byte, error) { return json.Marshal(value) }

// Decode implements [Codec].
func (JSON[T]) Decode(payload []byte) (value T, err error) {
	err = json.Unmarshal(payload, &value)
	return value, err
}

// TopicOptions configure a [Topic].
type TopicOptions[T any] struct {
	// Name is the topic. Required, 1 to 255 bytes.
	Name string
	// Type and Version are set on every message published. Default: empty and 0.
	Type    string
	Version uint16
	// Codec encodes the payloads; all nodes must use the same. Default: [JSON].
	Codec Codec[T]
}

// Topic is a topic of a bus whose messages are values of one type.
type Topic[T any] struct {
	bus     *Bus
	options TopicOptions[T]
}

// NewTopic makes a topic. It does no I/O, and there is nothing to close.
func NewTopic[T any](bus *Bus, options TopicOptions[T]) (*Topic[T], error) {
	if bus == nil {
		return nil, fmt.Errorf("broadcast: NewTopic needs a bus, and got nil")
	}
	if options.Name == "" || len(options.Name) > maxName {
		return nil, fmt.Errorf("broadcast: TopicOptions.Name is %d bytes long: 1 to %d are allowed", len(options.Name), maxName)
	}
	if options.Codec == nil {
		options.Codec = JSON[T]{}
	}
	return &Topic[T]{bus: bus, options: options}, nil
}

// Name is the topic's name.
func (t *Topic[T]) Name() string { return t.options.Name }

// Publish sends a value to every node and returns when the broker has accepted it: see [Bus.Publish].
func (t *Topic[T]) Publish(ctx context.Context, value T) error {
	m, err := t.message(value)
	if err != nil {
		return err
	}
	return t.bus.Publish(ctx, m)
}

// Enqueue leaves a value in the outbox and returns at once: see [Bus.Enqueue].
func (t *Topic[T]) Enqueue(ctx context.Context, value T) error {
	m, err := t.message(value)
	if err != nil {
		return err
	}
	return t.bus.Enqueue(ctx, m)
}

// Reply answers a request with a value: see [Bus.Reply].
func (t *Topic[T]) Reply(ctx context.Context, request Message, value T) error {
	m, err := t.message(value)
	if err != nil {
		return err
	}
	return t.bus.Reply(ctx, request, m)
}

func (t *Topic[T]) message(value T) (Message, error) {
	payload, err := t.options.Codec.Encode(value)
	if err != nil {
		return Message{}, fmt.Errorf("broadcast: encode for %q: %w", t.options.Name, err)
	}
	return Message{Topic: t.options.Name, Type: t.options.Type, Version: t.options.Version, Payload: payload}, nil
}

// TopicHandler takes the values of a [Topic]; what is said of [Handler] holds for it.
type TopicHandler[T any] struct {
	// Value takes a value, and the message that carried it. Required.
	Value func(ctx context.Context, value T, message Message) error
	// Gap learns that values may have been missed. A payload that cannot be decoded is also such a gap, of the reason
	// [Unreadable].
	Gap func(ctx context.Context, gap Gap)
}

// Subscribe delivers the topic's values to handler and returns when the subscription is live: see [Bus.Subscribe].
func (t *Topic[T]) Subscribe(
	ctx context.Context, handler TopicHandler[T], options ...SubscribeOption,
) (*Subscription, error) {
	if handler.Value == nil {
		return nil, fmt.Errorf("broadcast: TopicHandler.Value is nil: a subscription needs a function that takes values")
	}
	return t.bus.Subscribe(ctx, t.options.Name, Handler{
		Gap: handler.Gap,
		Message: func(ctx context.Context, m Message) error {
			value, err := t.options.Codec.Decode(m.Payload)
			if err != nil {
				if handler.Gap != nil {
					handler.Gap(ctx, Gap{Reason: Unreadable, Topic: m.Topic, Origin: m.Origin, From: m.Seq, To: m.Seq})
				}
				return fmt.Errorf("broadcast: decode %s of %q: %w", m.ID(), m.Topic, err)
			}
			return handler.Value(ctx, value, m)
		},
	}, options...)
}
