package telemetry

import (
	"errors"
	"fmt"
	"strconv"
	"sync"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
)

const (
	// ScopeName is the instrumentation scope of every metric and span of the library.
	ScopeName = "github.com/go-nearcache/nearcache/telemetry"

	// Version is the version of the library, reported as the version of the instrumentation scope.
	Version = "0.1.0"

	// DefaultName is the nearcache.name of a client that was given none.
	DefaultName = "default"
)

// Options says where a client's telemetry goes. The zero value sends it to OpenTelemetry's global providers.
type Options struct {
	// Name becomes nearcache.name on every series and span of the client. Default: [DefaultName]. If another open Telemetry
	// of the process has the name, "-2", "-3" and so on is appended; [Telemetry.Name] tells the result.
	Name string

	// TracerProvider makes the spans. Default: otel.GetTracerProvider().
	TracerProvider trace.TracerProvider

	// MeterProvider makes the instruments. Default: otel.GetMeterProvider().
	MeterProvider metric.MeterProvider

	// Propagator writes the trace context and the baggage into published messages and reads them from received ones.
	// Default: otel.GetTextMapPropagator(), which carries nothing until the program sets one.
	Propagator propagation.TextMapPropagator

	// ProcessAsChild makes the span that handles a message a child of the span that published it. Default: false, a trace of
	// its own with a link, because one publish reaches every node and as children they would all grow the publisher's trace.
	ProcessAsChild bool
}

// Telemetry records for one client. Make it with [New] and [Telemetry.Close] it; a nil Telemetry is not valid.
type Telemetry struct {
	name           string
	nameAttr       attribute.KeyValue
	tracer         trace.Tracer
	silence        silence
	meter          metric.Meter
	propagator     propagation.TextMapPropagator
	processAsChild bool
	instruments    instruments

	gets      memo[string, *series]
	loads     memo[string, *series]
	follows   memo[followKey, *series]
	commands  memo[commandKey, *series]
	publishes memo[Destination, *series]
	processes memo[Destination, *series]
	lags      memo[Server, *series]
	ages      memo[string, *series]
	fences    *series

	mu        sync.Mutex
	closed    bool
	observers map[*observer]struct{}
}

// New makes the instruments of one client. It fails only if the MeterProvider refuses one; the error names each that it refused.
func New(options Options) (*Telemetry, error) {
	if options.Name == "" {
		options.Name = DefaultName
	}
	if options.TracerProvider == nil {
		options.TracerProvider = otel.GetTracerProvider()
	}
	if options.MeterProvider == nil {
		options.MeterProvider = otel.GetMeterProvider()
	}
	if options.Propagator == nil {
		options.Propagator = otel.GetTextMapPropagator()
	}

	t := &Telemetry{
		tracer: options.TracerProvider.Tracer(ScopeName,
			trace.WithInstrumentationVersion(Version), trace.WithSchemaURL(semconv.SchemaURL)),
		meter: options.MeterProvider.Meter(ScopeName,
			metric.WithInstrumentationVersion(Version), metric.WithSchemaURL(semconv.SchemaURL)),
		propagator:     options.Propagator,
		processAsChild: options.ProcessAsChild,
		observers:      make(map[*observer]struct{}),
	}
	if err := t.instruments.create(t.meter); err != nil {
		return nil, fmt.Errorf("telemetry: the MeterProvider refused instruments: %w", err)
	}
	t.name = openNames.claim(options.Name)
	t.nameAttr = nameKey.String(t.name)
	t.fences = newSeries("", []attribute.KeyValue{t.nameAttr}, nil)
	return t, nil
}

// Name is the client's nearcache.name, unique among the open Telemetries of the process.
func (t *Telemetry) Name() string { return t.name }

// Close unregisters what [Telemetry.Observe] registered, waits for a callback that is running, and gives the client's name free.
// Spans and measurements that come later are still recorded. Close may be called again; it must not be called by a callback.
func (t *Telemetry) Close() error {
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		return nil
	}
	t.closed = true
	observers := t.observers
	t.observers = nil
	t.mu.Unlock()

	var errs []error
	for o := range observers {
		errs = append(errs, o.stop())
	}
	openNames.release(t.name)
	return errors.Join(errs...)
}

// openNames are the names of the process's open Telemetries. Two callbacks that observed the same attributes would be added up
// by the SDK, so uniqueness cannot be left to the caller.
var openNames names

type names struct {
	mu    sync.Mutex
	taken map[string]struct{}
}

func (n *names) claim(wanted string) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.taken == nil {
		n.taken = make(map[string]struct{})
	}
	name := wanted
	for i := 2; ; i++ {
		if _, taken := n.taken[name]; !taken {
			n.taken[name] = struct{}{}
			return name
		}
		name = wanted + "-" + strconv.Itoa(i)
	}
}

func (n *names) release(name string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.taken, name)
}
