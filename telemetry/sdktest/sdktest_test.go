package sdktest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/go-nearcache/nearcache/telemetry"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/propagation"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	// The client of rueidis for a cluster looks at the topology up to a second after the end of a connection, its own end included, and
	// closes the connections to a node that has left after five.
	goleak.VerifyTestMain(m,
		goleak.IgnoreAnyFunction("github.com/redis/rueidis.(*call).DelayDo.func1"),
		goleak.IgnoreAnyFunction("github.com/redis/rueidis.(*clusterClient)._refresh.func2"))
}

const (
	scopeName = "github.com/go-nearcache/nearcache/telemetry"
	schemaURL = "https://opentelemetry.io/schemas/1.43.0"
)

// sdk is a Telemetry with a reader and a recorder behind it.
type sdk struct {
	*telemetry.Telemetry
	reader   *sdkmetric.ManualReader
	recorder *tracetest.SpanRecorder
	options  telemetry.Options
}

func newSDK(t testing.TB, options telemetry.Options) *sdk {
	t.Helper()
	s := &sdk{reader: sdkmetric.NewManualReader(), recorder: tracetest.NewSpanRecorder()}
	options.MeterProvider = sdkmetric.NewMeterProvider(sdkmetric.WithReader(s.reader))
	options.TracerProvider = sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(s.recorder))
	options.Propagator = propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{})
	s.options = options
	s.Telemetry = s.another(t, options.Name)
	return s
}

// another opens one more client on the same providers.
func (s *sdk) another(t testing.TB, name string) *telemetry.Telemetry {
	t.Helper()
	options := s.options
	options.Name = name
	client, err := telemetry.New(options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := client.Close(); err != nil {
			t.Error(err)
		}
	})
	return client
}

// series collects once and describes every series in a line: name, kind, unit, attributes and value, where the value of a
// histogram is its count.
func (s *sdk) series(t testing.TB) []string {
	t.Helper()
	var collected metricdata.ResourceMetrics
	if err := s.reader.Collect(context.Background(), &collected); err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, scope := range collected.ScopeMetrics {
		if scope.Scope.Name != scopeName || scope.Scope.Version != telemetry.Version || scope.Scope.SchemaURL != schemaURL {
			t.Errorf("scope = %+v, want %s %s with schema %s", scope.Scope, scopeName, telemetry.Version, schemaURL)
		}
		for _, m := range scope.Metrics {
			if m.Description == "" {
				t.Errorf("%s has no description", m.Name)
			}
			line := func(kind string, attributes attribute.Set, value any) {
				lines = append(lines, fmt.Sprintf("%s %s %s %s %v", m.Name, kind, m.Unit, describe(attributes.ToSlice()), value))
			}
			switch data := m.Data.(type) {
			case metricdata.Sum[int64]:
				kind := "counter"
				if !data.IsMonotonic {
					kind = "updowncounter"
				}
				for _, point := range data.DataPoints {
					line(kind, point.Attributes, point.Value)
				}
			case metricdata.Gauge[float64]:
				for _, point := range data.DataPoints {
					line("gauge", point.Attributes, point.Value)
				}
			case metricdata.Histogram[float64]:
				for _, point := range data.DataPoints {
					line("histogram", point.Attributes, point.Count)
				}
			default:
				t.Errorf("%s: unexpected %T", m.Name, m.Data)
			}
		}
	}
	slices.Sort(lines)
	return lines
}

// described is a span in the words of these tests.
type described struct {
	name, kind, attributes, status string
}

func describeSpan(span sdktrace.ReadOnlySpan) described {
	status := span.Status().Code.String()
	if span.Status().Description != "" {
		status += " " + span.Status().Description
	}
	return described{
		name:       span.Name(),
		kind:       span.SpanKind().String(),
		attributes: describe(span.Attributes()),
		status:     status,
	}
}

// only returns the one span that ended since the last call.
func (s *sdk) only(t testing.TB) sdktrace.ReadOnlySpan {
	t.Helper()
	spans := s.recorder.Ended()
	s.recorder.Reset()
	if len(spans) != 1 {
		t.Fatalf("%d spans ended, want 1", len(spans))
	}
	span := spans[0]
	if scope := span.InstrumentationScope(); scope.Name != scopeName || scope.Version != telemetry.Version ||
		scope.SchemaURL != schemaURL {
		t.Errorf("scope = %+v, want %s %s with schema %s", scope, scopeName, telemetry.Version, schemaURL)
	}
	if events := span.Events(); len(events) != 0 {
		t.Errorf("%s has events %v, want none", span.Name(), events)
	}
	return span
}

func describe(attributes []attribute.KeyValue) string {
	words := make([]string, len(attributes))
	for n, a := range attributes {
		words[n] = string(a.Key) + "=" + a.Value.String()
	}
	return set(words...)
}

// set writes attributes in one order, whatever theirs.
func set(words ...string) string {
	return "{" + strings.Join(slices.Sorted(slices.Values(words)), " ") + "}"
}

func compare(t testing.TB, got, want []string) {
	t.Helper()
	want = slices.Sorted(slices.Values(want))
	for _, line := range got {
		if !slices.Contains(want, line) {
			t.Errorf("unexpected: %s", line)
		}
	}
	for _, line := range want {
		if !slices.Contains(got, line) {
			t.Errorf("missing:    %s", line)
		}
	}
	if len(got) != len(want) && !t.Failed() {
		t.Errorf("%d series, want %d: some are there twice", len(got), len(want))
	}
}

func compareSpan(t testing.TB, span sdktrace.ReadOnlySpan, want described) {
	t.Helper()
	if got := describeSpan(span); got != want {
		t.Errorf("span = %+v\nwant   %+v", got, want)
	}
}
