package nearcache_test

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"

	"github.com/go-nearcache/nearcache"
	"github.com/go-nearcache/nearcache/internal/redistest"
)

// observables is a MeterProvider that keeps the callbacks registered with it, and nothing else.
type observables struct {
	noop.MeterProvider

	mu        sync.Mutex
	callbacks map[*registration]metric.Callback
}

type observableMeter struct {
	noop.Meter
	observables *observables
}

type registration struct {
	noop.Registration
	observables *observables
}

func (m *observables) Meter(string, ...metric.MeterOption) metric.Meter {
	return observableMeter{observables: m}
}

func (m observableMeter) RegisterCallback(f metric.Callback, _ ...metric.Observable) (metric.Registration, error) {
	m.observables.mu.Lock()
	defer m.observables.mu.Unlock()
	r := &registration{observables: m.observables}
	if m.observables.callbacks == nil {
		m.observables.callbacks = make(map[*registration]metric.Callback)
	}
	m.observables.callbacks[r] = f
	return r, nil
}

func (r *registration) Unregister() error {
	r.observables.mu.Lock()
	defer r.observables.mu.Unlock()
	delete(r.observables.callbacks, r)
	return nil
}

// Named observables, so that an observation can be told by its instrument.
type (
	namedCounter struct {
		noop.Int64ObservableCounter
		name string
	}
	namedUpDownCounter struct {
		noop.Int64ObservableUpDownCounter
		name string
	}
	namedGauge struct {
		noop.Float64ObservableGauge
		name string
	}
)

func (observableMeter) Int64ObservableCounter(name string, _ ...metric.Int64ObservableCounterOption) (metric.Int64ObservableCounter, error) {
	return namedCounter{name: name}, nil
}

func (observableMeter) Int64ObservableUpDownCounter(name string, _ ...metric.Int64ObservableUpDownCounterOption) (metric.Int64ObservableUpDownCounter, error) {
	return namedUpDownCounter{name: name}, nil
}

func (observableMeter) Float64ObservableGauge(name string, _ ...metric.Float64ObservableGaugeOption) (metric.Float64ObservableGauge, error) {
	return namedGauge{name: name}, nil
}

// series are observations by instrument and the values of their attributes, as in "nearcache.requests default test local hit".
type series struct {
	noop.Observer
	values map[string]float64
}

func (s series) ObserveInt64(instrument metric.Int64Observable, value int64, options ...metric.ObserveOption) {
	switch i := instrument.(type) {
	case namedCounter:
		s.observe(i.name, float64(value), options)
	case namedUpDownCounter:
		s.observe(i.name, float64(value), options)
	}
}

func (s series) ObserveFloat64(instrument metric.Float64Observable, value float64, options ...metric.ObserveOption) {
	if i, ok := instrument.(namedGauge); ok {
		s.observe(i.name, value, options)
	}
}

func (s series) observe(name string, value float64, options []metric.ObserveOption) {
	attributes := metric.NewObserveConfig(options).Attributes()
	key := []string{name}
	for _, a := range attributes.ToSlice() {
		if a.Key != attribute.Key("server.port") {
			key = append(key, a.Value.String())
		}
	}
	s.values[strings.Join(key, " ")] += value
}

// collect calls what is registered, as a reader of a real provider would.
func (m *observables) collect(t *testing.T) map[string]float64 {
	t.Helper()
	m.mu.Lock()
	callbacks := slices.Collect(maps.Values(m.callbacks))
	m.mu.Unlock()
	s := series{values: make(map[string]float64)}
	for _, f := range callbacks {
		check(t, f(t.Context(), s))
	}
	return s.values
}

func TestTelemetryTellsWhatStatsTell(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{})
	provider := new(observables)
	options := optionsFor(server)
	options.Name = "telemetry of the root"
	options.MeterProvider = provider
	client := open(t, options)
	failure := errors.New("the database is on fire")
	cache := stringCache(t, client, func(_ context.Context, key string) (string, error) {
		switch key {
		case "absent":
			return "", nearcache.ErrNotFound
		case "failing":
			return "", failure
		}
		return "v", nil
	})
	warm(t, cache, "k", "v")
	want(t, cache, "k", "v")
	_, _ = cache.Get(t.Context(), "absent")
	_, _ = cache.Get(t.Context(), "failing")
	check(t, cache.Set(t.Context(), "k", "w"))
	server.Do(t, "FLUSHALL")
	fence(t, client)
	check(t, client.Flush(t.Context()))

	got, stats := provider.collect(t), client.Stats()
	of := stats.Caches["test"]
	for name, value := range map[string]uint64{
		"nearcache.requests test telemetry of the root hit local":               of.LocalHits,
		"nearcache.requests test telemetry of the root miss local":              of.LocalMisses,
		"nearcache.requests test telemetry of the root hit remote":              of.RemoteHits,
		"nearcache.requests test telemetry of the root miss remote":             of.RemoteMisses,
		"nearcache.requests test telemetry of the root hit source":              1,
		"nearcache.requests test telemetry of the root negative source":         1,
		"nearcache.memory.limit telemetry of the root":                          uint64(stats.Local.MaxBytes),
		"nearcache.flushes telemetry of the root flushall":                      1,
		"nearcache.flushes telemetry of the root manual":                        1,
		"nearcache.flushes telemetry of the root reconnect":                     0,
		"nearcache.invalidations evicted telemetry of the root local":           stats.Local.Invalidations.Local.Evicted,
		"nearcache.invalidations absent telemetry of the root tracking":         stats.Local.Invalidations.Tracking.Absent,
		"nearcache.tracking.reconnects telemetry of the root primary 127.0.0.1": 0,
	} {
		if got[name] != float64(value) {
			t.Errorf("%s is %v, want %v", name, got[name], value)
		}
	}
	if staleness := got["nearcache.tracking.staleness telemetry of the root primary 127.0.0.1"]; staleness <= 0 {
		t.Errorf("the link was heard of %v seconds ago", staleness)
	}

	server.Do(t, "CLIENT", "KILL", "ID", linkOf(t, server))
	eventually(t, "a new link", func() bool { return client.Health().Ready && client.Stats().Link.Reconnects > 0 })
	if n := provider.collect(t)["nearcache.flushes telemetry of the root reconnect"]; n != 1 {
		t.Errorf("a lost link is counted as %v flushes", n)
	}
	closeNode(t, client)
	if left := provider.collect(t); len(left) != 0 {
		t.Errorf("after Close: %v", left)
	}
}

func TestTelemetryTellsReplicas(t *testing.T) {
	t.Parallel()
	provider := new(observables)
	startReplicated(t, 1, func(_ *replicated, o *nearcache.Options) {
		o.Name = "telemetry of replicas"
		o.MeterProvider = provider
	})
	got := provider.collect(t)
	for _, role := range []string{"primary", "replica"} {
		name := "nearcache.tracking.mode tracking telemetry of replicas " + role + " 127.0.0.1"
		if got[name] != 1 {
			t.Errorf("%s is %v", name, got[name])
		}
		if staleness := got["nearcache.tracking.staleness telemetry of replicas "+role+" 127.0.0.1"]; staleness <= 0 {
			t.Errorf("the %s was heard of %v seconds ago", role, staleness)
		}
	}
}
