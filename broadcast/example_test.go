package broadcast_test

import (
	"context"
	"fmt"
	"log"
	"slices"
	"sync/atomic"
	"time"

	"github.com/go-nearcache/nearcache/broadcast"
	"github.com/go-nearcache/nearcache/internal/redistest"
)

// must ends an example that cannot go on.
func must[T any](value T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return value
}

// Two nodes, a typed topic.
func ExampleTopic() {
	ctx := context.Background()
	type Price struct {
		Product string
		Cents   int
	}
	network := broadcast.NewNetwork(broadcast.NetworkOptions{}) // a broker in production: see NewRedisPubSub
	shop := must(broadcast.New(broadcast.Options{Transport: network.Transport()}))
	office := must(broadcast.New(broadcast.Options{Transport: network.Transport()}))
	defer shop.Close(ctx)
	defer office.Close(ctx)

	seen := make(chan Price)
	prices := must(broadcast.NewTopic(shop, broadcast.TopicOptions[Price]{Name: "prices"}))
	must(prices.Subscribe(ctx, broadcast.TopicHandler[Price]{
		Value: func(_ context.Context, price Price, _ broadcast.Message) error {
			seen <- price
			return nil
		},
		Gap: func(_ context.Context, gap broadcast.Gap) {
			if gap.MustFlush() {
				fmt.Println("some prices were missed: read them all again")
			}
		},
	}))

	news := must(broadcast.NewTopic(office, broadcast.TopicOptions[Price]{Name: "prices"}))
	if err := news.Publish(ctx, Price{Product: "tea", Cents: 450}); err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%+v\n", <-seen)
	// Output: {Product:tea Cents:450}
}

// A configuration that every node reloads when one says so, and also when it may have missed that.
func ExampleBus_Subscribe_configReload() {
	ctx := context.Background()
	network := broadcast.NewNetwork(broadcast.NetworkOptions{})
	node := must(broadcast.New(broadcast.Options{Transport: network.Transport()}))
	admin := must(broadcast.New(broadcast.Options{Transport: network.Transport()}))
	defer node.Close(ctx)
	defer admin.Close(ctx)

	var stored atomic.Int64 // what the database holds
	stored.Store(1)
	reloaded := make(chan int64)
	reload := func() { reloaded <- stored.Load() }
	must(node.Subscribe(ctx, "config", broadcast.Handler{
		Message: func(context.Context, broadcast.Message) error { reload(); return nil },
		Gap: func(_ context.Context, gap broadcast.Gap) {
			if gap.MustFlush() {
				reload()
			}
		},
	}))

	stored.Store(2)
	if err := admin.Publish(ctx, broadcast.Message{Topic: "config"}); err != nil {
		log.Fatal(err)
	}
	fmt.Println("reloaded version", <-reloaded)

	network.Disconnect() // the broker goes away, and with it the news of version 3
	stored.Store(3)
	network.Connect()
	fmt.Println("reloaded version", <-reloaded)
	// Output:
	// reloaded version 2
	// reloaded version 3
}

// One node asks all others, and takes what has come when the time is up.
func ExampleBus_Request() {
	ctx := context.Background()
	network := broadcast.NewNetwork(broadcast.NetworkOptions{})
	asking := must(broadcast.New(broadcast.Options{Transport: network.Transport(), Origin: "node-0"}))
	defer asking.Close(ctx)
	// Listening itself, it knows who is there and need not wait for more.
	must(asking.Subscribe(ctx, "entries", broadcast.Handler{
		Message: func(context.Context, broadcast.Message) error { return nil },
	}))
	for i := 1; i <= 3; i++ {
		bus := must(broadcast.New(broadcast.Options{Transport: network.Transport(), Origin: fmt.Sprint("node-", i)}))
		defer bus.Close(ctx)
		must(bus.Subscribe(ctx, "entries", broadcast.Handler{
			Message: func(ctx context.Context, request broadcast.Message) error {
				return bus.Reply(ctx, request, broadcast.Message{Payload: fmt.Append(nil, i*100)})
			},
		}))
	}

	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for len(asking.Presence("entries")) < 4 { // heartbeats tell who is there; a service would just ask
		select {
		case <-ctx.Done():
			log.Fatal(ctx.Err())
		case <-time.After(time.Millisecond):
		}
	}
	replies := must(asking.Request(ctx, broadcast.Message{Topic: "entries", Payload: []byte("how many?")}))
	var lines []string
	for _, m := range replies.Messages {
		lines = append(lines, fmt.Sprintf("%s has %s entries", m.Origin, m.Payload))
	}
	slices.Sort(lines)
	for _, line := range lines {
		fmt.Println(line)
	}
	fmt.Println("missing:", len(replies.Missing))
	// Output:
	// node-1 has 100 entries
	// node-2 has 200 entries
	// node-3 has 300 entries
	// missing: 0
}

// Over a real Redis.
func ExampleNewRedisPubSub() {
	ctx := context.Background()
	server := must(redistest.Run(ctx, redistest.Config{}))
	defer server.Close()

	options := broadcast.RedisOptions{Client: server.ClientOption()} // rueidis.ClientOption{InitAddress: []string{"127.0.0.1:6379"}}
	here := must(broadcast.New(broadcast.Options{Transport: must(broadcast.NewRedisPubSub(options))}))
	there := must(broadcast.New(broadcast.Options{Transport: must(broadcast.NewRedisPubSub(options))}))
	defer here.Close(ctx)
	defer there.Close(ctx)

	arrived := make(chan string)
	must(there.Subscribe(ctx, "invalidate", broadcast.Handler{
		Message: func(_ context.Context, m broadcast.Message) error {
			arrived <- string(m.Payload)
			return nil
		},
	}))
	if err := here.Publish(ctx, broadcast.Message{Topic: "invalidate", Payload: []byte("user:42")}); err != nil {
		log.Fatal(err)
	}
	fmt.Println("evict", <-arrived)
	// Output: evict user:42
}
