// Command chaos runs nodes of the library against a real Redis, does to both whatever production does, and has an oracle judge every
// read.
//
//	go run ./chaos -duration 10m -seed 1
//
// It prints what it did and found, and exits with 1 if a promise was broken: then the history around it and the seed that makes the
// same faults again.
//
//	go run ./chaos -mutant all
//
// tests the oracle instead: it runs small caches that each lack one part of the protocol, and prints what was caught, by which rule,
// after how long. It exits with 1 if one was not caught by the right rule, or if the oracle accused the sound one.
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

func main() {
	if os.Getenv(childVariable) != "" {
		exitOn(beChild())
		return
	}
	duration := flag.Duration("duration", time.Minute, "how long faults are done")
	seed := flag.Uint64("seed", 0, "decides the faults and when they happen; 0 takes a random one, which is printed")
	topology := flag.String("topology", "single", `what stands behind the nodes: "single" is one server`)
	broken := flag.String("mutant", "", `run broken caches in place of the library: "all", or the name of one`)
	plan := flag.Bool("schedule", false, "print the faults of the seed and exit")
	flag.Parse()
	if flag.NArg() > 0 {
		exitOn(fmt.Errorf("chaos: %q is no flag", flag.Arg(0)))
	}
	if *topology != "single" {
		exitOn(fmt.Errorf("chaos: -topology is %q: it must be single", *topology))
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
			os.Exit(1)
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
	kept, err := run(ctx, *seed, rounds)
	exitOn(err)
	if !kept {
		os.Exit(1)
	}
}

func exitOn(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
}
