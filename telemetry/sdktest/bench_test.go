package sdktest

import (
	"context"
	"testing"

	"github.com/go-nearcache/nearcache/telemetry"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

// newMeasured is a Telemetry whose durations go to the SDK and whose spans are made but not sampled, as most are in production.
func newMeasured(b *testing.B) *telemetry.Telemetry {
	s := newSDK(b, telemetry.Options{})
	s.options.TracerProvider = sdktrace.NewTracerProvider(sdktrace.WithSampler(sdktrace.NeverSample()))
	return s.another(b, "measured")
}

func BenchmarkLoad(b *testing.B) {
	client := newMeasured(b)
	ctx := context.Background()
	b.ReportAllocs()
	for b.Loop() {
		_, load := client.StartLoad(ctx, "users")
		load.End(nil)
	}
}

func BenchmarkRedis(b *testing.B) {
	client := newMeasured(b)
	ctx := context.Background()
	b.ReportAllocs()
	for b.Loop() {
		_, command := client.StartRedis(ctx, "GET", server, 1)
		command.End(nil)
	}
}

func BenchmarkRedisParallel(b *testing.B) {
	client := newMeasured(b)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		ctx := context.Background()
		for pb.Next() {
			_, command := client.StartRedis(ctx, "GET", server, 1)
			command.End(nil)
		}
	})
}

func BenchmarkRedisError(b *testing.B) {
	client := newMeasured(b)
	ctx := context.Background()
	err := error(&reply{message: "WRONGTYPE Operation against a key holding the wrong kind of value"})
	b.ReportAllocs()
	for b.Loop() {
		_, command := client.StartRedis(ctx, "GET", server, 1)
		command.End(err)
	}
}

func BenchmarkFence(b *testing.B) {
	client := newMeasured(b)
	ctx := context.Background()
	b.ReportAllocs()
	for b.Loop() {
		client.Fence(ctx, 1, nil)
	}
}

func BenchmarkCollect(b *testing.B) {
	s := newSDK(b, telemetry.Options{})
	observe(b, s.Telemetry, full)
	var collected metricdata.ResourceMetrics
	b.ReportAllocs()
	for b.Loop() {
		if err := s.reader.Collect(context.Background(), &collected); err != nil {
			b.Fatal(err)
		}
	}
}
