package broadcast_test

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/go-nearcache/nearcache/broadcast"
	"github.com/go-nearcache/nearcache/internal/redistest"
)

// newBus makes a bus that is closed when the test ends.
func newBus(t testing.TB, options broadcast.Options) *broadcast.Bus {
	t.Helper()
	bus, err := broadcast.New(options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := bus.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	return bus
}

func redisBus(t testing.TB, server *redistest.Server) *broadcast.Bus {
	t.Helper()
	transport, err := broadcast.NewRedisPubSub(broadcast.RedisOptions{Client: server.ClientOption()})
	if err != nil {
		t.Fatal(err)
	}
	return newBus(t, broadcast.Options{Transport: transport})
}

// BenchmarkLatency compares the time from publishing to the handler, over Redis Pub/Sub, with what rueidis takes by itself.
// The two take turns, message by message, so that both see the same machine.
func BenchmarkLatency(b *testing.B) {
	server := redistest.Start(b, redistest.Config{})
	publisher, subscriber := redisBus(b, server), redisBus(b, server)
	payload := make([]byte, 200)
	arrived := make(chan time.Time, 1)
	_, err := subscriber.Subscribe(b.Context(), "latency", broadcast.Handler{
		Message: func(context.Context, broadcast.Message) error { arrived <- time.Now(); return nil },
	})
	if err != nil {
		b.Fatal(err)
	}

	option := server.ClientOption()
	option.DisableCache = true
	sending, receiving := newClient(b, option), newClient(b, option)
	live := make(chan struct{})
	ctx, cancel := context.WithCancel(rueidis.WithOnSubscriptionHook(b.Context(), func(rueidis.PubSubSubscription) { close(live) }))
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = receiving.Receive(ctx, receiving.B().Subscribe().Channel("bare").Build(), func(rueidis.PubSubMessage) {
			arrived <- time.Now()
		})
	}()
	<-live

	message := string(payload)
	var bus, bare []time.Duration
	b.ReportAllocs()
	for b.Loop() {
		start := time.Now()
		if err := publisher.Publish(b.Context(), broadcast.Message{Topic: "latency", Payload: payload}); err != nil {
			b.Fatal(err)
		}
		bus = append(bus, (<-arrived).Sub(start))

		start = time.Now()
		if err := sending.Do(b.Context(), sending.B().Publish().Channel("bare").Message(message).Build()).Error(); err != nil {
			b.Fatal(err)
		}
		bare = append(bare, (<-arrived).Sub(start))
	}
	cancel()
	<-done
	slices.Sort(bus)
	slices.Sort(bare)
	b.ReportMetric(float64(bus[len(bus)/2]), "bus-p50-ns")
	b.ReportMetric(float64(bare[len(bare)/2]), "bare-p50-ns")
	b.ReportMetric(float64(bus[len(bus)/2])/float64(bare[len(bare)/2]), "ratio-p50")
	b.ReportMetric(float64(bus[len(bus)*99/100])/float64(bare[len(bare)*99/100]), "ratio-p99")
}

func newClient(b *testing.B, option rueidis.ClientOption) rueidis.Client {
	b.Helper()
	client, err := rueidis.NewClient(option)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(client.Close)
	return client
}

// BenchmarkThroughput compares what one goroutine gets through to a handler, over Redis Pub/Sub, one message a frame (Publish)
// and packed (Enqueue).
func BenchmarkThroughput(b *testing.B) {
	payload := make([]byte, 200)
	for _, way := range []struct {
		name string
		send func(context.Context, *broadcast.Bus, broadcast.Message) error
	}{
		{"serial", func(ctx context.Context, bus *broadcast.Bus, m broadcast.Message) error { return bus.Publish(ctx, m) }},
		{"packed", func(ctx context.Context, bus *broadcast.Bus, m broadcast.Message) error {
			for bus.Enqueue(ctx, m) != nil { // full
				if err := bus.Flush(ctx); err != nil {
					return err
				}
			}
			return nil
		}},
	} {
		b.Run(way.name, func(b *testing.B) {
			server := redistest.Start(b, redistest.Config{})
			publisher, subscriber := redisBus(b, server), redisBus(b, server)
			var delivered atomic.Int64
			news := make(chan struct{}, 1)
			_, err := subscriber.Subscribe(b.Context(), "throughput", broadcast.Handler{
				Message: func(context.Context, broadcast.Message) error {
					delivered.Add(1)
					select {
					case news <- struct{}{}:
					default:
					}
					return nil
				},
				Gap: func(_ context.Context, gap broadcast.Gap) { b.Error(gap) },
			}, broadcast.QueueLimit(1<<20, 1<<30))
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			sent := int64(0)
			for b.Loop() {
				if err := way.send(b.Context(), publisher, broadcast.Message{Topic: "throughput", Payload: payload}); err != nil {
					b.Fatal(err)
				}
				if sent++; sent-delivered.Load() > 50_000 { // what is measured is the whole way
					<-news
				}
			}
			for delivered.Load() < sent {
				<-news
			}
			b.ReportMetric(float64(sent)/b.Elapsed().Seconds(), "messages/s")
			b.ReportMetric(float64(sent)/float64(publisher.Stats().FramesSent), "messages/frame")
		})
	}
}

// BenchmarkMemory is what the bus itself costs, without a broker.
func BenchmarkMemory(b *testing.B) {
	for _, receivers := range []int{1, 10} {
		b.Run(fmt.Sprint(receivers, " receivers"), func(b *testing.B) {
			network := broadcast.NewNetwork(broadcast.NetworkOptions{})
			publisher := newBus(b, broadcast.Options{Transport: network.Transport()})
			for range receivers {
				bus := newBus(b, broadcast.Options{Transport: network.Transport()})
				_, err := bus.Subscribe(b.Context(), "memory", broadcast.Handler{
					Message: func(context.Context, broadcast.Message) error { return nil },
				}, broadcast.QueueLimit(1<<20, 1<<30))
				if err != nil {
					b.Fatal(err)
				}
			}
			m := broadcast.Message{Topic: "memory", Payload: make([]byte, 200)}
			b.ReportAllocs()
			for b.Loop() {
				if err := publisher.Publish(b.Context(), m); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
