// Command config-reload shows nodes that follow a configuration: whoever changes it stores it and tells the others, over whichever transport you
// choose. A node that was cut off finds out that it may have missed something, and reads it again; one that starts later reads it once it listens.
//
//	go run ./config-reload                      Redis Pub/Sub, on a redis-server that it starts
//	go run ./config-reload -transport streams   or sharded, kafka, rabbitmq, gossip
//
// REDIS_ADDR names a Redis that runs. node.go is what each process of a service would have. The exit code is 0 only if every node ends with the
// configuration that is stored.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"

	"github.com/go-nearcache/nearcache/examples/internal/transports"
)

func main() {
	transport := flag.String("transport", "pubsub", "one of "+strings.Join(transports.Names, ", "))
	flag.Parse()
	if flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, os.Stdout, *transport, transports.Brokers{Redis: os.Getenv("REDIS_ADDR")})
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "config-reload:", err)
		os.Exit(1)
	}
}
