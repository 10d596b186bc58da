package telemetry

import (
	"context"
	"errors"
	"strings"
	"testing"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"
)

func newTelemetry(t testing.TB, options Options) *Telemetry {
	t.Helper()
	telemetry, err := New(options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := telemetry.Close(); err != nil {
			t.Error(err)
		}
	})
	return telemetry
}

func TestNamesOfOpenClientsDiffer(t *testing.T) {
	first := newTelemetry(t, Options{Name: "orders"})
	second := newTelemetry(t, Options{Name: "orders"})
	third := newTelemetry(t, Options{Name: "orders"})
	unnamed := newTelemetry(t, Options{})
	got := []string{first.Name(), second.Name(), third.Name(), unnamed.Name()}
	if want := "orders orders-2 orders-3 default"; strings.Join(got, " ") != want {
		t.Fatalf("names = %q, want %q", got, want)
	}

	// A closed client's name is free again, so that one that is opened over and over keeps its series.
	if err := second.Close(); err != nil {
		t.Fatal(err)
	}
	if name := newTelemetry(t, Options{Name: "orders"}).Name(); name != "orders-2" {
		t.Fatalf("name after the second was closed = %q, want orders-2", name)
	}
	if err := second.Close(); err != nil {
		t.Fatal(err)
	}
	if name := newTelemetry(t, Options{Name: "orders"}).Name(); name != "orders-4" {
		t.Fatalf("closing twice gave a name free that is in use: got %q, want orders-4", name)
	}
}

func TestObserveAfterClose(t *testing.T) {
	telemetry := newTelemetry(t, Options{})
	if err := telemetry.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := telemetry.Observe(func(*Snapshot) {}); !errors.Is(err, ErrClosed) {
		t.Fatalf("Observe after Close = %v, want ErrClosed", err)
	}
}

// refusingMeterProvider refuses one instrument and every callback.
type refusingMeterProvider struct {
	noop.MeterProvider
	instrument string
}

type refusingMeter struct {
	noop.Meter
	instrument string
}

var errRefused = errors.New("refused")

func (p refusingMeterProvider) Meter(string, ...metric.MeterOption) metric.Meter {
	return refusingMeter{instrument: p.instrument}
}

func (m refusingMeter) Int64ObservableCounter(
	name string, options ...metric.Int64ObservableCounterOption,
) (metric.Int64ObservableCounter, error) {
	if name == m.instrument {
		return nil, errRefused
	}
	return m.Meter.Int64ObservableCounter(name, options...)
}

func (m refusingMeter) RegisterCallback(metric.Callback, ...metric.Observable) (metric.Registration, error) {
	return nil, errRefused
}

func TestRefusedInstrumentIsNamed(t *testing.T) {
	_, err := New(Options{Name: "refused", MeterProvider: refusingMeterProvider{instrument: "nearcache.requests"}})
	if !errors.Is(err, errRefused) || !strings.Contains(err.Error(), "nearcache.requests") {
		t.Fatalf("New = %v, want an error that wraps the provider's and names the instrument", err)
	}
	// A client that could not be made holds no name.
	if name := newTelemetry(t, Options{Name: "refused"}).Name(); name != "refused" {
		t.Fatalf("name = %q, want refused", name)
	}
}

func TestRefusedCallback(t *testing.T) {
	telemetry := newTelemetry(t, Options{MeterProvider: refusingMeterProvider{}})
	if _, err := telemetry.Observe(func(*Snapshot) {}); !errors.Is(err, errRefused) {
		t.Fatalf("Observe = %v, want the provider's error", err)
	}
}

func TestParseServer(t *testing.T) {
	for address, want := range map[string]Server{
		"127.0.0.1:6379":      {"127.0.0.1", 6379},
		"redis.example:16379": {"redis.example", 16379},
		"[::1]:6379":          {"::1", 6379},
		"/run/redis.sock":     {"/run/redis.sock", 0},
		"redis:http":          {"redis:http", 0},
		"redis:65536":         {"redis:65536", 0},
		"":                    {"", 0},
	} {
		if got := ParseServer(address); got != want {
			t.Errorf("ParseServer(%q) = %+v, want %+v", address, got, want)
		}
	}
}

// TestWithoutSDK drives everything through the global providers, of which none is set. What is left then is the API's own cost
// of a span, which is measured here too.
func TestWithoutSDK(t *testing.T) {
	telemetry := newTelemetry(t, Options{})
	ctx := context.Background()
	server := Server{"127.0.0.1", 6379}
	topic := Destination{"redis", "flags"}
	headers := map[string]string{"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
	failed := errors.New("failed")

	tracer := otel.Tracer("bare")
	span := testing.AllocsPerRun(100, func() {
		_, span := tracer.Start(ctx, "bare")
		span.End()
	})
	for name, operation := range map[string]struct {
		run   func()
		spans float64
	}{
		"get":    {func() { _, g := telemetry.StartGet(ctx, "users"); g.SetKey("1"); g.SetKeyCount(2); g.End(nil) }, 1},
		"load":   {func() { _, l := telemetry.StartLoad(ctx, "users"); l.End(nil) }, 1},
		"failed": {func() { _, l := telemetry.StartLoad(ctx, "users"); l.End(failed) }, 1},
		"redis":  {func() { _, r := telemetry.StartRedis(ctx, "GET", server, 2); r.End(nil) }, 1},
		"publish": {func() {
			_, p := telemetry.StartPublish(ctx, topic, 2)
			p.Inject(headers)
			p.SetMessage("1", 1)
			p.End(nil)
		}, 1},
		"process": {func() {
			_, p := telemetry.StartProcess(ctx, topic, headers)
			p.SetMessage("1", 1)
			p.End(nil)
		}, 1},
		"fence": {func() { telemetry.Fence(ctx, 1, nil) }, 0},
		"lag":   {func() { telemetry.InvalidationLag(ctx, server, 1) }, 0},
		"age":   {func() { telemetry.VerificationAge(ctx, "users", 1) }, 0},
		"follow": {func() {
			ctx, g := telemetry.StartGet(ctx, "users")
			_, f := telemetry.StartFollow(ctx, "users", ScopeProcess, g.SpanContext())
			f.End(nil)
			g.End(nil)
		}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			if got := testing.AllocsPerRun(100, operation.run); got > operation.spans*span {
				t.Errorf("%v allocations, want at most those of %v spans of %v each", got, operation.spans, span)
			}
		})
	}
}

func TestMemoIsBounded(t *testing.T) {
	var m memo[int, int]
	double := func(key int) int { return 2 * key }
	for key := range 3 * memoLimit {
		if got := m.get(key, double); got != 2*key {
			t.Fatalf("get(%d) = %d, want %d", key, got, 2*key)
		}
		if size := len(*m.entries.Load()); size > memoLimit {
			t.Fatalf("%d entries, want at most %d", size, memoLimit)
		}
	}
	last := 3*memoLimit - 1
	if got := m.get(last, func(int) int { t.Error("built again"); return 0 }); got != 2*last {
		t.Fatalf("get(%d) = %d, want %d", last, got, 2*last)
	}
}
