// Command broadcast shows caches that are kept coherent by messages, without any data in Redis: nodes cache rows of a database; the one that
// updates a row tells the others, over whichever transport you choose.
//
//	go run ./broadcast                                          Redis Pub/Sub, on a redis-server that it starts
//	go run ./broadcast -transport gossip                        or memory, pubsub, sharded, streams, kafka, rabbitmq
//	go run ./broadcast -transport all                           one after the other
//	go run ./broadcast -transport kafka -brokers localhost:9092 on a Kafka that runs; without, on kfake, in this process
//	go run ./broadcast -transport rabbitmq -amqp amqp://guest:guest@localhost:5672/
//
// REDIS_ADDR names a Redis that runs. The nodes live in this one process; node.go is what each process of a service would have. The exit
// code is 0 only if every node read what had been written.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"

	"github.com/go-nearcache/nearcache/examples/internal/transports"
)

func main() {
	names := flag.String("transport", "pubsub", "transports, separated by commas, or all: "+strings.Join(transports.Names, ", "))
	kafka := flag.String("brokers", "", "addresses of a Kafka that runs, separated by commas")
	rabbit := flag.String("amqp", "", "URL of a RabbitMQ that runs")
	nodes := flag.Int("nodes", 3, "how many nodes there are, at least 2")
	updates := flag.Int("updates", 100, "how many rows are updated, at least 1")
	flag.Parse()
	if *nodes < 2 || *updates < 1 || flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	chosen := strings.Split(*names, ",")
	if *names == "all" {
		chosen = slices.Clone(transports.Names)
	}
	brokers := transports.Brokers{Redis: os.Getenv("REDIS_ADDR"), RabbitMQ: *rabbit}
	if *kafka != "" {
		brokers.Kafka = strings.Split(*kafka, ",")
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	for _, name := range chosen {
		if err := run(ctx, os.Stdout, name, brokers, *nodes, *updates); err != nil {
			fmt.Fprintf(os.Stderr, "broadcast: %s: %v\n", name, err)
			stop()
			os.Exit(1)
		}
	}
}
