package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"

	"github.com/go-nearcache/nearcache/broadcast"
	"github.com/go-nearcache/nearcache/internal/redistest"
)

// buses compares the bus over Redis Pub/Sub with rueidis's own publish and receive, and packed with single messages.
func buses(ctx context.Context, server *redistest.Server, rounds int) (_ []row, err error) {
	var ends [2]*broadcast.Bus
	for i := range ends {
		transport, err := broadcast.NewRedisPubSub(broadcast.RedisOptions{Client: server.ClientOption()})
		if err != nil {
			return nil, err
		}
		if ends[i], err = broadcast.New(broadcast.Options{Transport: transport}); err != nil {
			return nil, err
		}
	}
	defer func() { err = errors.Join(err, ends[0].Close(ctx), ends[1].Close(ctx)) }()
	latency, err := busLatency(ctx, server, ends[0], ends[1], rounds)
	if err != nil {
		return nil, err
	}
	throughput, err := busThroughput(ctx, ends[0], ends[1])
	return append(latency, throughput...), err
}

// busLatency has the two take turns, message by message.
func busLatency(ctx context.Context, server *redistest.Server, publisher, subscriber *broadcast.Bus, rounds int) ([]row, error) {
	arrived := make(chan time.Time, 1)
	_, err := subscriber.Subscribe(ctx, "latency", broadcast.Handler{
		Message: func(context.Context, broadcast.Message) error { arrived <- time.Now(); return nil },
	})
	if err != nil {
		return nil, err
	}
	option := server.ClientOption()
	option.DisableCache = true
	var clients [2]rueidis.Client
	for i := range clients {
		if clients[i], err = rueidis.NewClient(option); err != nil {
			return nil, err
		}
		defer clients[i].Close()
	}
	live, done := make(chan struct{}), make(chan struct{})
	receiving, stop := context.WithCancel(rueidis.WithOnSubscriptionHook(ctx, func(s rueidis.PubSubSubscription) {
		if s.Kind == "subscribe" {
			close(live)
		}
	}))
	go func() {
		defer close(done)
		_ = clients[1].Receive(receiving, clients[1].B().Subscribe().Channel("bare").Build(), func(rueidis.PubSubMessage) {
			arrived <- time.Now()
		}) // it ends with stop
	}()
	defer func() { stop(); <-done }()
	<-live

	payload := make([]byte, 200)
	message := string(payload)
	var bus, bare []time.Duration
	for range 200 * rounds {
		start := time.Now()
		if err := publisher.Publish(ctx, broadcast.Message{Topic: "latency", Payload: payload}); err != nil {
			return nil, err
		}
		bus = append(bus, (<-arrived).Sub(start))
		start = time.Now()
		if err := clients[0].Do(ctx, clients[0].B().Publish().Channel("bare").Message(message).Build()).Error(); err != nil {
			return nil, err
		}
		bare = append(bare, (<-arrived).Sub(start))
	}
	slices.Sort(bus)
	slices.Sort(bare)
	ratio := float64(bus[len(bus)/2]) / float64(bare[len(bare)/2])
	return []row{{
		what: "publish to handler, over Redis Pub/Sub, median", bound: "at most 1.3 times bare rueidis", kept: ratio <= 1.3,
		figure: fmt.Sprintf("%v, %.2f times %v", bus[len(bus)/2], ratio, bare[len(bare)/2]),
	}}, nil
}

// busThroughput is what one goroutine gets through to a handler, one message a frame and packed.
func busThroughput(ctx context.Context, publisher, subscriber *broadcast.Bus) ([]row, error) {
	var delivered atomic.Int64
	news := make(chan struct{}, 1)
	_, err := subscriber.Subscribe(ctx, "throughput", broadcast.Handler{
		Message: func(context.Context, broadcast.Message) error {
			delivered.Add(1)
			select {
			case news <- struct{}{}:
			default:
			}
			return nil
		},
	}, broadcast.QueueLimit(1<<20, 1<<30))
	if err != nil {
		return nil, err
	}
	m := broadcast.Message{Topic: "throughput", Payload: make([]byte, 200)}
	measure := func(send func() error) (float64, error) {
		start, before := time.Now(), delivered.Load()
		sent := int64(0)
		for ; time.Since(start) < 2*time.Second; sent++ {
			if err := send(); err != nil {
				return 0, err
			}
			for sent-(delivered.Load()-before) > 50_000 { // what is measured is the whole way
				<-news
			}
		}
		for delivered.Load()-before < sent {
			<-news
		}
		return float64(sent) / time.Since(start).Seconds(), nil
	}
	serial, err := measure(func() error { return publisher.Publish(ctx, m) })
	if err != nil {
		return nil, err
	}
	packed, err := measure(func() error {
		for {
			err := publisher.Enqueue(ctx, m)
			if !errors.Is(err, broadcast.ErrOutboxFull) {
				return err
			}
			if err := publisher.Flush(ctx); err != nil {
				return err
			}
		}
	})
	if err != nil {
		return nil, err
	}
	return []row{
		{what: "messages a second, packed", figure: fmt.Sprintf("%.0f", packed), bound: "at least 200000", kept: packed >= 200_000},
		{
			what: "packed against one at a time", figure: fmt.Sprintf("%.1f times %.0f", packed/serial, serial),
			bound: "at least 5 times", kept: packed >= 5*serial,
		},
	}, nil
}
