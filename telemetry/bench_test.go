package telemetry

import (
	"context"
	"testing"
)

// The benchmarks here have no SDK behind them, as a program that does not use OpenTelemetry has none. Those with one are in the
// module sdktest.

func BenchmarkLoad(b *testing.B) {
	client := newTelemetry(b, Options{})
	ctx := context.Background()
	b.ReportAllocs()
	for b.Loop() {
		_, load := client.StartLoad(ctx, "users")
		load.End(nil)
	}
}

func BenchmarkRedis(b *testing.B) {
	client := newTelemetry(b, Options{})
	ctx, server := context.Background(), Server{"127.0.0.1", 6379}
	b.ReportAllocs()
	for b.Loop() {
		_, command := client.StartRedis(ctx, "GET", server, 1)
		command.End(nil)
	}
}

func BenchmarkProcess(b *testing.B) {
	client := newTelemetry(b, Options{})
	ctx, topic := context.Background(), Destination{"redis", "flags"}
	headers := map[string]string{"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
	b.ReportAllocs()
	for b.Loop() {
		_, process := client.StartProcess(ctx, topic, headers)
		process.End(nil)
	}
}

func BenchmarkFence(b *testing.B) {
	client := newTelemetry(b, Options{})
	ctx := context.Background()
	b.ReportAllocs()
	for b.Loop() {
		client.Fence(ctx, 1, nil)
	}
}
