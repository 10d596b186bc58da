package sdktest

import (
	"context"
	"os"
	"os/exec"
	"testing"

	"github.com/go-nearcache/nearcache/telemetry"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/propagation"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
)

// TestProvidersSetAfterOpen checks a program that sets OpenTelemetry's global providers only after it opened its client. They
// can be set once in a process, so it runs in one of its own.
func TestProvidersSetAfterOpen(t *testing.T) {
	const child = "NEARCACHE_GLOBAL_PROVIDERS"
	if os.Getenv(child) == "" {
		command := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.count=1")
		command.Env = append(os.Environ(), child+"=1")
		if output, err := command.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, output)
		}
		return
	}

	ctx := t.Context()
	open := func(name string) *telemetry.Telemetry {
		client, err := telemetry.New(telemetry.Options{Name: name})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := client.Observe(func(s *telemetry.Snapshot) {
			s.Caches = append(s.Caches, telemetry.CacheSnapshot{Name: "users", Local: telemetry.Results{Hit: 7}})
		}); err != nil {
			t.Fatal(err)
		}
		return client
	}
	use := func(client *telemetry.Telemetry) map[string]string {
		headers := make(map[string]string)
		_, publish := client.StartPublish(ctx, topic, 1)
		publish.Inject(headers)
		publish.End(nil)
		return headers
	}

	client, closedBefore := open("early"), open("closed")
	if headers := use(client); len(headers) != 0 {
		t.Errorf("headers without a propagator = %v, want none", headers)
	}
	if err := closedBefore.Close(); err != nil {
		t.Fatal(err)
	}

	reader, recorder := sdkmetric.NewManualReader(), tracetest.NewSpanRecorder()
	otel.SetMeterProvider(sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader)))
	otel.SetTracerProvider(sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(recorder)))
	otel.SetTextMapPropagator(propagation.TraceContext{})

	if headers := use(client); headers["traceparent"] == "" {
		t.Errorf("headers = %v, want a traceparent", headers)
	}
	if spans := recorder.Ended(); len(spans) != 1 || spans[0].Name() != "publish flags" {
		t.Errorf("spans = %v, want the publish after the provider was set", spans)
	}

	hits := func() (clients map[string]int64) {
		clients = make(map[string]int64)
		var collected metricdata.ResourceMetrics
		if err := reader.Collect(context.Background(), &collected); err != nil {
			t.Fatal(err)
		}
		for _, scope := range collected.ScopeMetrics {
			for _, m := range scope.Metrics {
				if m.Name != "nearcache.requests" {
					continue
				}
				for _, point := range m.Data.(metricdata.Sum[int64]).DataPoints {
					tier, _ := point.Attributes.Value("nearcache.tier")
					result, _ := point.Attributes.Value("nearcache.result")
					client, _ := point.Attributes.Value("nearcache.name")
					if tier.AsString() == "local" && result.AsString() == "hit" {
						clients[client.AsString()] = point.Value
					}
				}
			}
		}
		return clients
	}
	if got := hits(); len(got) != 1 || got["early"] != 7 {
		t.Errorf("hits = %v, want 7 of the client that is open", got)
	}
	if err := client.Close(); err != nil {
		t.Fatal(err)
	}
	if got := hits(); len(got) != 0 {
		t.Errorf("hits after Close = %v, want none", got)
	}
}
