package gossip_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/go-nearcache/nearcache/broadcast"
)

// BenchmarkLatency measures the time from publishing to the handler, on every node, and to the last node's handler.
func BenchmarkLatency(b *testing.B) {
	for _, nodes := range []int{10, 50} {
		for _, loss := range []float64{0, 0.2} {
			b.Run(fmt.Sprintf("nodes=%d/loss=%v", nodes, loss), func(b *testing.B) { benchmarkLatency(b, nodes, loss) })
		}
	}
}

func benchmarkLatency(b *testing.B, nodes int, loss float64) {
	h := newHarness(nil)
	var publisher *broadcast.Bus
	var mu sync.Mutex
	var latencies, last []time.Duration
	var start time.Time
	var arrived sync.WaitGroup
	for i := range nodes {
		bus := newBus(b, h.Transport(b))
		if i == 0 {
			publisher = bus
			continue
		}
		_, err := bus.Subscribe(b.Context(), "topic", broadcast.Handler{
			Message: func(context.Context, broadcast.Message) error {
				mu.Lock()
				latencies = append(latencies, time.Since(start))
				mu.Unlock()
				arrived.Done()
				return nil
			},
			Gap: func(_ context.Context, gap broadcast.Gap) {
				if gap.MustFlush() && gap.Reason != broadcast.NewOrigin {
					b.Error(gap)
				}
			},
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	awaitMembers(b, h.open[0], nodes)
	h.Disturb(b, loss)
	payload := make([]byte, 200)
	for b.Loop() {
		arrived.Add(nodes - 1)
		mu.Lock()
		start = time.Now()
		mu.Unlock()
		if err := publisher.Publish(b.Context(), broadcast.Message{Topic: "topic", Payload: payload}); err != nil {
			b.Fatal(err)
		}
		arrived.Wait()
		last = append(last, time.Since(start))
	}
	h.Disturb(b, 0)
	slices.Sort(latencies)
	slices.Sort(last)
	b.ReportMetric(float64(latencies[len(latencies)/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(latencies[len(latencies)*99/100].Microseconds())/1000, "p99-ms")
	b.ReportMetric(float64(last[len(last)/2].Microseconds())/1000, "p50-last-node-ms")
}
