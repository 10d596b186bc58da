package telemetry

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
)

// Destination is where messages go: messaging.system and messaging.destination.name. Both become names of series, so a topic
// must not be made from data.
type Destination struct {
	System string // "redis", "kafka", "rabbitmq", …
	Topic  string
}

// Publish is a send under way; [Publish.End] it.
type Publish struct {
	operation
	t        *Telemetry
	messages int64
}

// StartPublish begins the span "publish {topic}" of a send of count messages, usually one.
func (t *Telemetry) StartPublish(ctx context.Context, to Destination, count int) (context.Context, Publish) {
	s := t.publishes.get(to, t.publishSeries)
	p := Publish{operation: t.begin(ctx, s, t.instruments.publishDuration, s.spanStart), t: t, messages: int64(count)}
	if count > 1 && p.span.IsRecording() {
		p.span.SetAttributes(semconv.MessagingBatchMessageCount(count))
	}
	return p.ctx, p
}

// Inject writes the span's context and the baggage into a message's headers, which must not be nil.
func (p Publish) Inject(headers map[string]string) {
	p.t.propagator.Inject(p.ctx, propagation.MapCarrier(headers))
}

// SetMessage notes the message's ID and the size of its payload, in bytes, on the span.
func (p Publish) SetMessage(id string, size int) { setMessage(p.span, id, size) }

// End records the outcome and counts the messages, as sent or, with an error, as failed.
func (p Publish) End(err error) {
	p.count(p.t.instruments.sentMessages, p.messages, err)
	p.end(err, classify)
}

// Process is a message being handled; [Process.End] it.
type Process struct {
	operation
	t *Telemetry
}

// StartProcess begins the span "process {topic}" of the handling of a message that came with headers, which may be nil. The
// returned context carries the publisher's baggage.
func (t *Telemetry) StartProcess(
	ctx context.Context, from Destination, headers map[string]string,
) (context.Context, Process) {
	s := t.processes.get(from, t.processSeries)
	options := s.spanStart
	if len(headers) > 0 {
		ctx = t.propagator.Extract(ctx, propagation.MapCarrier(headers))
		if publisher := trace.SpanContextFromContext(ctx); publisher.IsRemote() && !t.processAsChild {
			options = withLinks(options, []trace.SpanContext{publisher})
		}
	}
	p := Process{operation: t.begin(ctx, s, t.instruments.processDuration, options), t: t}
	return p.ctx, p
}

// SetMessage notes the message's ID and the size of its payload, in bytes, on the span.
func (p Process) SetMessage(id string, size int) { setMessage(p.span, id, size) }

// End records the outcome and counts the message as consumed.
func (p Process) End(err error) {
	p.count(p.t.instruments.consumedMessages, 1, err)
	p.end(err, classify)
}

func setMessage(span trace.Span, id string, size int) {
	if span.IsRecording() {
		span.SetAttributes(semconv.MessagingMessageID(id), semconv.MessagingMessageBodySize(size))
	}
}

func (t *Telemetry) publishSeries(to Destination) *series {
	attributes := t.messageAttributes(to, "publish")
	return newSeries("publish "+to.Topic, attributes, []trace.SpanStartOption{
		trace.WithSpanKind(trace.SpanKindProducer),
		trace.WithAttributes(attributes...),
		trace.WithAttributes(semconv.MessagingOperationTypeSend),
	})
}

func (t *Telemetry) processSeries(from Destination) *series {
	attributes := t.messageAttributes(from, "process")
	options := []trace.SpanStartOption{
		trace.WithSpanKind(trace.SpanKindConsumer),
		trace.WithAttributes(attributes...),
		trace.WithAttributes(semconv.MessagingOperationTypeProcess),
	}
	if !t.processAsChild {
		options = append(options, trace.WithNewRoot())
	}
	return newSeries("process "+from.Topic, attributes, options)
}

func (t *Telemetry) messageAttributes(d Destination, operation string) []attribute.KeyValue {
	return []attribute.KeyValue{
		t.nameAttr,
		semconv.MessagingSystemKey.String(d.System),
		semconv.MessagingOperationName(operation),
		semconv.MessagingDestinationName(d.Topic),
	}
}
