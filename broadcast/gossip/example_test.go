package gossip_test

import (
	"context"
	"fmt"

	"github.com/go-nearcache/nearcache/broadcast"
	"github.com/go-nearcache/nearcache/broadcast/gossip"
)

// newNode starts one node.
func newNode(name string, seeds ...string) (*broadcast.Bus, *gossip.Transport) {
	transport, err := gossip.New(gossip.Options{Bind: "127.0.0.1:0", Name: name, Seeds: seeds})
	if err != nil {
		panic(err)
	}
	bus, err := broadcast.New(broadcast.Options{Transport: transport, Origin: name})
	if err != nil {
		panic(err)
	}
	return bus, transport
}

func ExampleNew() {
	ctx := context.Background()
	london, transport := newNode("london")
	defer london.Close(ctx)
	tokyo, _ := newNode("tokyo", transport.Addr())
	defer tokyo.Close(ctx)

	done := make(chan struct{})
	_, err := tokyo.Subscribe(ctx, "prices", broadcast.Handler{
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
