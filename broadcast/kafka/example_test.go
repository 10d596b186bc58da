package kafka_test

import (
	"context"
	"fmt"

	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/go-nearcache/nearcache/broadcast"
	"github.com/go-nearcache/nearcache/broadcast/kafka"
)

// newBus connects one node.
func newBus(brokers []string, node string) *broadcast.Bus {
	transport, err := kafka.New(kafka.Options{Brokers: brokers})
	if err != nil {
		panic(err)
	}
	bus, err := broadcast.New(broadcast.Options{Transport: transport, Origin: node})
	if err != nil {
		panic(err)
	}
	return bus
}

func ExampleNew() {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1)) // in place of a real one
	if err != nil {
		panic(err)
	}
	defer cluster.Close()
	brokers := cluster.ListenAddrs() // []string{"kafka-1:9092", "kafka-2:9092"}

	ctx := context.Background()
	london, tokyo := newBus(brokers, "london"), newBus(brokers, "tokyo")
	defer london.Close(ctx)
	defer tokyo.Close(ctx)

	done := make(chan struct{})
	_, err = tokyo.Subscribe(ctx, "prices", broadcast.Handler{
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
	if err := london.Publish(ctx, broadcast.Message{Topic: "prices", Payload: []byte("gold is up")}); err != nil {
		panic(err)
	}
	<-done
	// Output: london says: gold is up
}
