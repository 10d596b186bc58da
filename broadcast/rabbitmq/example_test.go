package rabbitmq_test

import (
	"context"
	"fmt"

	"github.com/go-nearcache/nearcache/broadcast"
	"github.com/go-nearcache/nearcache/broadcast/rabbitmq"
)

// newBus connects one node.
func newBus(url, node string) *broadcast.Bus {
	transport, err := rabbitmq.NewFanout(rabbitmq.FanoutOptions{Options: rabbitmq.Options{URLs: []string{url}, Node: node}})
	if err != nil {
		panic(err)
	}
	bus, err := broadcast.New(broadcast.Options{Transport: transport, Origin: node})
	if err != nil {
		panic(err)
	}
	return bus
}

func ExampleNewFanout() {
	ctx := context.Background()
	url := broker().URL() // "amqp://user:password@rabbit:5672/"
	london, tokyo := newBus(url, "london"), newBus(url, "tokyo")
	defer london.Close(ctx)
	defer tokyo.Close(ctx)

	done := make(chan struct{})
	_, err := tokyo.Subscribe(ctx, "example-prices", broadcast.Handler{
		Message: func(_ context.Context, m broadcast.Message) error {
			defer close(done)
			fmt.Printf("%s says: %s\n", m.Origin, m.Payload)
			return nil
		},
		Gap: func(_ context.Context, gap broadcast.Gap) {
			if gap.MustFlush() {
				fmt.Println("messages may be missing: read everything anew")
			}
		},
	})
	if err != nil {
		panic(err)
	}
	if err := london.Publish(ctx, broadcast.Message{Topic: "example-prices", Payload: []byte("gold is up")}); err != nil {
		panic(err)
	}
	<-done
	// Output: london says: gold is up
}
