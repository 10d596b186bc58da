// Command chaos runs nodes of the library against a real Redis, does to both whatever production does, and has an oracle judge every
// read.
//
//	go run ./chaos -duration 10m -seed 1
//
// It prints what it did and found, and exits with 1 if a promise was broken: then the history around it and the seed that makes the
// same faults again. It exits with 2 if it could not do its work, which includes nodes that do not recover and calls that do not return.
//
// # What runs
//
// One Redis with an append-only file, synchronised at every write, so that what it has acknowledged survives a kill. Five nodes with
// bounds from 200 ms to a second: one has an L1 that is too small, one serves what is stale while its link is down, one compares
// what it serves with Redis by itself, one is a process of its own in a network namespace of its own. Keys whose truth is
// Redis, keys that expire within seconds, and keys of a source that is behind a loader. Writers on the nodes and beside them, who use
// SET, DEL, UNLINK, scripts and pipelines. Readers with each consistency there is. And one reader who asks Redis itself, to see what
// is filled in there and how long leases stand.
//
// # What is done to it
//
// Faults come in lanes, each of which does one after the other: two lanes for the network (latency, late pushes, little bandwidth, slices,
// resets, black holes, refused and cut connections; on the link, on the data, or both), one for the server (everything else that
// faults.go lists), one for processes. After each half minute all is healed, writers pause, all connections are cut so that nothing is
// under way any more, and what every node serves is compared with what Redis holds.
//
// The schedule is a function of the seed alone: print it with -schedule. Which step of the library a fault meets is not.
//
// # Several servers
//
//	go run ./chaos -topology cluster
//
// and sentinel run three nodes on a Redis Cluster or behind Sentinel, and do to them what topology.go lists, one after the other.
//
// # The oracle's own test
//
//	go run ./chaos -mutant all
//
// runs small caches that each lack one part of the protocol, and prints what was caught, by which rule, after how long. It exits with 1
// if one was not caught by the right rule, or if the oracle accused the sound one.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// What the program exits with, besides 0.
const (
	exitBroken  = 1 // a promise was broken, or a mutant not caught
	exitTrouble = 2 // the run was not what it should have been
)

func main() {
	if os.Getenv(childVariable) != "" {
		exitOn(beChild())
		return
	}
	duration := flag.Duration("duration", time.Minute, "how long faults are done")
	seed := flag.Uint64("seed", 0, "decides the faults and when they happen; 0 takes a random one, which is printed")
	topology := flag.String("topology", "single", `what stands behind the nodes: "single" is one server; "cluster" and "sentinel" are several, whose keys change hands`)
	broken := flag.String("mutant", "", `run broken caches in place of the library: "all", or the name of one`)
	plan := flag.Bool("schedule", false, "print the faults of the seed and exit")
	flag.Parse()
	if flag.NArg() > 0 {
		exitOn(fmt.Errorf("chaos: %q is no flag", flag.Arg(0)))
	}
	if *duration <= 0 {
		exitOn(fmt.Errorf("chaos: -duration is %v: it must be positive", *duration))
	}
	if *seed == 0 {
		*seed = newSeed()
	}
	if *broken != "" {
		caught, err := runMutants(*broken, *seed)
		exitOn(err)
		if !caught {
			os.Exit(exitBroken)
		}
		return
	}
	rounds := schedule(*seed, *duration, len(nodeConfigs))
	if *plan {
		fmt.Print(describe(rounds))
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	var kept bool
	var err error
	if *topology == "single" {
		kept, err = run(ctx, *seed, rounds)
	} else {
		kept, err = runTopology(ctx, *topology, *seed, *duration)
	}
	exitOn(err)
	if !kept {
		os.Exit(exitBroken)
	}
}

func exitOn(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(exitTrouble)
	}
}
