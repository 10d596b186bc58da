package sdktest

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-nearcache/nearcache/telemetry"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/trace"
)

var (
	databaseBounds  = []float64{.001, .005, .01, .05, .1, .5, 1, 5, 10}
	messagingBounds = []float64{.005, .01, .025, .05, .075, .1, .25, .5, .75, 1, 2.5, 5, 7.5, 10}
	loadBounds      = []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}
	ageBounds       = []float64{.01, .1, 1, 5, 10, 30, 60, 300, 900, 3600, 14400, 86400}
	linkBounds      = []float64{.00005, .0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5}
)

// TestHistograms runs every operation for a known time. Each histogram must hold just that time, in seconds, in the buckets
// that are promised, with an exemplar that leads to the trace in which it was measured.
func TestHistograms(t *testing.T) {
	const took = 30 * time.Millisecond
	for name, c := range map[string]struct {
		bounds []float64
		run    func(ctx context.Context, s *sdk) context.Context // returns the context it measured in
	}{
		"nearcache.load.duration": {loadBounds, func(ctx context.Context, s *sdk) context.Context {
			ctx, load := s.StartLoad(ctx, "users")
			time.Sleep(took)
			load.End(nil)
			return ctx
		}},
		"nearcache.tracking.fence.duration": {linkBounds, func(ctx context.Context, s *sdk) context.Context {
			s.Fence(ctx, took, nil)
			return ctx
		}},
		"nearcache.invalidation.lag": {linkBounds, func(ctx context.Context, s *sdk) context.Context {
			s.InvalidationLag(ctx, server, took)
			return ctx
		}},
		"nearcache.verification.age": {ageBounds, func(ctx context.Context, s *sdk) context.Context {
			s.VerificationAge(ctx, "users", took)
			return ctx
		}},
		"db.client.operation.duration": {databaseBounds, func(ctx context.Context, s *sdk) context.Context {
			ctx, command := s.StartRedis(ctx, "GET", server, 1)
			time.Sleep(took)
			command.End(nil)
			return ctx
		}},
		"messaging.client.operation.duration": {messagingBounds, func(ctx context.Context, s *sdk) context.Context {
			ctx, publish := s.StartPublish(ctx, topic, 1)
			time.Sleep(took)
			publish.End(nil)
			return ctx
		}},
		"messaging.process.duration": {messagingBounds, func(ctx context.Context, s *sdk) context.Context {
			ctx, process := s.StartProcess(ctx, topic, nil)
			time.Sleep(took)
			process.End(nil)
			return ctx
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSDK(t, telemetry.Options{})
				ctx, _ := s.request(t)
				measured := trace.SpanContextFromContext(c.run(ctx, s))

				point := s.histogram(t, name)
				if point.Count != 1 || point.Sum != took.Seconds() {
					t.Errorf("%d measurements of %v s together, want 1 of %v", point.Count, point.Sum, took.Seconds())
				}
				if !slices.Equal(point.Bounds, c.bounds) {
					t.Errorf("bounds = %v, want %v", point.Bounds, c.bounds)
				}
				traceID, spanID := measured.TraceID(), measured.SpanID()
				if len(point.Exemplars) != 1 || !slices.Equal(point.Exemplars[0].TraceID, traceID[:]) ||
					!slices.Equal(point.Exemplars[0].SpanID, spanID[:]) {
					t.Errorf("exemplars = %+v, want one of span %v", point.Exemplars, measured.SpanID())
				}
			})
		})
	}
}

// histogram collects and returns the one point of the histogram of that name.
func (s *sdk) histogram(t *testing.T, name string) metricdata.HistogramDataPoint[float64] {
	t.Helper()
	var collected metricdata.ResourceMetrics
	if err := s.reader.Collect(context.Background(), &collected); err != nil {
		t.Fatal(err)
	}
	for _, scope := range collected.ScopeMetrics {
		for _, m := range scope.Metrics {
			if m.Name == name {
				points := m.Data.(metricdata.Histogram[float64]).DataPoints
				if len(points) != 1 {
					t.Fatalf("%d series of %s, want 1", len(points), name)
				}
				return points[0]
			}
		}
	}
	t.Fatalf("%s was not recorded", name)
	panic("unreachable")
}
