// Command patterns puts ways of telling other nodes what changed side by side: Redis server-assisted tracking, Redis Pub/Sub, Redis Streams,
// Kafka, RabbitMQ and gossip run the same workload, healthy and under the same faults.
//
//	go run ./patterns                                    prints a table
//	go run ./patterns -systems pubsub,gossip -phase 1s
//	go run ./patterns -docs ../docs                      writes the table into patterns-of-communication.md, and patterns.svg and .html
//
// Brokers are started for it, on free loopback ports; Kafka is kfake, which speaks Kafka's protocol within this process.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"time"
)

// systems are what is compared.
var systems = []string{"tracking", "pubsub", "streams", "kafka", "rabbitmq", "gossip"}

func main() {
	names := flag.String("systems", strings.Join(systems, ","), "what to compare, separated by commas")
	phase := flag.Duration("phase", 3*time.Second, "how long each measurement lasts, at least 100ms")
	docs := flag.String("docs", "", "directory in which to write the results")
	flag.Parse()
	if *phase < 100*time.Millisecond || flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	var results []result
	for name := range strings.SplitSeq(*names, ",") {
		fmt.Fprintf(os.Stderr, "patterns: %s\n", name)
		r, err := measureSystem(ctx, name, *phase)
		if err != nil {
			fmt.Fprintf(os.Stderr, "patterns: %s: %v\n", name, err)
			stop()
			os.Exit(1)
		}
		results = append(results, r)
	}
	fmt.Print(table(results))
	if *docs != "" {
		if err := writeDocs(*docs, results); err != nil {
			fmt.Fprintln(os.Stderr, "patterns:", err)
			stop()
			os.Exit(1)
		}
	}
}
