package telemetry

import (
	"context"
	"slices"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
)

// series is what all operations of one kind share: the options of their spans and measurements, built once, because building
// them costs several allocations and more time than recording does.
type series struct {
	spanName   string
	spanStart  []trace.SpanStartOption
	attributes []attribute.KeyValue // of the measurements
	success    outcome
	failures   memo[failure, outcome]
}

// outcome holds the options of a measurement; the two slices are the same option, typed for histograms and for counters.
type outcome struct {
	record []metric.RecordOption
	add    []metric.AddOption
}

// newSeries takes the attributes that measurements carry, and the span options of the operation, if it has spans.
func newSeries(spanName string, attributes []attribute.KeyValue, spanStart []trace.SpanStartOption) *series {
	return &series{
		spanName:   spanName,
		spanStart:  spanStart,
		attributes: attributes,
		success:    newOutcome(attributes),
	}
}

func newOutcome(attributes []attribute.KeyValue) outcome {
	option := metric.WithAttributeSet(attribute.NewSet(attributes...))
	return outcome{record: []metric.RecordOption{option}, add: []metric.AddOption{option}}
}

func (s *series) outcome(f failure) outcome {
	if f == (failure{}) {
		return s.success
	}
	return s.failures.get(f, func(f failure) outcome {
		return newOutcome(append(slices.Clone(s.attributes), f.attributes()...))
	})
}

// operation is one span and one duration in the making.
type operation struct {
	ctx       context.Context // with the span: what is measured with it can be traced back to it by an exemplar
	span      trace.Span
	series    *series
	histogram metric.Float64Histogram // nil: the operation has no duration of its own
	start     time.Time               // zero: nobody reads the histogram
}

func (t *Telemetry) begin(
	ctx context.Context, s *series, histogram metric.Float64Histogram, options []trace.SpanStartOption,
) operation {
	o := operation{series: s, histogram: histogram, ctx: ctx, span: noop.Span{}}
	if provider := otel.GetTracerProvider(); !t.silence.holds(provider) {
		o.ctx, o.span = t.tracer.Start(ctx, s.spanName, options...)
		t.silence.learn(provider, o.span)
	}
	if histogram != nil && histogram.Enabled(o.ctx) {
		o.start = time.Now()
	}
	return o
}

// end records the outcome. The error is classified only if somebody gets to see it.
func (o *operation) end(err error, classify func(error) failure) {
	timed, recording := !o.start.IsZero(), o.span.IsRecording()
	if timed || recording {
		f := classify(err)
		if timed {
			o.histogram.Record(o.ctx, time.Since(o.start).Seconds(), o.series.outcome(f).record...)
		}
		if recording && f != (failure{}) {
			o.span.SetStatus(codes.Error, f.kind)
			o.span.SetAttributes(f.attributes()...)
		}
	}
	o.span.End()
}

// count adds messages to a counter under the operation's series.
func (o *operation) count(counter metric.Int64Counter, messages int64, err error) {
	if counter.Enabled(o.ctx) {
		counter.Add(o.ctx, messages, o.series.outcome(classify(err)).add...)
	}
}

// failure is the class of an error: all that is recorded of it, since its text may hold keys.
type failure struct {
	kind   string // error.type
	status string // db.response.status_code, if a server sent the error
}

func (f failure) attributes() []attribute.KeyValue {
	attributes := []attribute.KeyValue{semconv.ErrorTypeKey.String(f.kind)}
	if f.status != "" {
		attributes = append(attributes, semconv.DBResponseStatusCode(f.status))
	}
	return attributes
}
