// Command quickstart shows in a few seconds what a near cache promises, and measures it: three nodes share one Redis and one slow
// database; one writes and the others forget; the link of one is cut and heals; Redis is flushed; a plain client changes a value.
//
//	go run ./quickstart                            starts a redis-server of its own
//	REDIS_ADDR=localhost:6379 go run ./quickstart  uses one that runs, under a key prefix of its own, and does not flush it
//
// The three nodes are three clients in this one process; node.go is what each process of a service would have. The exit code is 0 only if
// everything promised was seen.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"time"

	"github.com/go-nearcache/nearcache/examples/internal/demoserver"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, os.Getenv("REDIS_ADDR"), &timeline{out: os.Stdout, colour: isTerminal(os.Stdout)})
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "quickstart:", err)
		os.Exit(1)
	}
}

// The demo as a whole, and the wait for any one thing in it, end in an error after these times.
const (
	longest  = time.Minute
	patience = 10 * time.Second
)

var errNotSeen = errors.New("not everything that was promised has been seen: see the table")

func run(ctx context.Context, redisAddress string, t *timeline) (err error) {
	ctx, cancel := context.WithTimeout(ctx, longest)
	defer cancel()
	server, err := demoserver.Open(ctx, redisAddress)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Close()) }()

	d, err := open(ctx, server, t)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.close(ctx)) }()

	t.heading("nearcache quickstart", fmt.Sprintf("three nodes · a database that takes %v · Redis at %v", databaseLatency, server))
	var table summary
	for _, s := range d.steps() {
		t.step(s.title)
		result := check{promise: s.promise, outcome: seen}
		switch evidence, err := s.run(ctx); {
		case errors.Is(err, errLeftOut):
			result.outcome, result.evidence = leftOut, err.Error()
		case err != nil:
			result.outcome, result.evidence = notSeen, err.Error()
		default:
			result.evidence = evidence
		}
		if result.outcome != seen {
			t.note(result.evidence)
		}
		table.checks = append(table.checks, result)
		if ctx.Err() != nil {
			return fmt.Errorf("interrupted: %w", context.Cause(ctx))
		}
	}
	table.measured = d.measured
	t.summary(table)
	if !table.allSeen() {
		return errNotSeen
	}
	return nil
}
