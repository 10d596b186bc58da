package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-nearcache/nearcache/internal/oracle"
)

const (
	progressEvery = 10 * time.Second

	// shownViolations are told with their history; of more only the number.
	shownViolations = 5
)

// run does the rounds and prints what came of it. It reports whether every promise was kept.
func run(ctx context.Context, seed uint64, rounds []round) (kept bool, err error) {
	var mu sync.Mutex
	var f *fleet
	shown := 0
	onViolation := func(v oracle.Violation) {
		mu.Lock()
		defer mu.Unlock()
		if shown++; shown <= shownViolations {
			fmt.Printf("%v%s  seed %d\n", v, f.journal.around(v.Read.Began), seed)
		}
	}
	fmt.Printf("seed %d\n", seed)
	starting, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	mu.Lock()
	f, err = startFleet(starting, seed, onViolation)
	mu.Unlock()
	if err != nil {
		return false, err
	}
	began := time.Now()
	finished := make(chan struct{})
	var progress sync.WaitGroup
	progress.Go(func() {
		tick := time.NewTicker(progressEvery)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				fmt.Println(f.progress(time.Since(began)))
			case <-finished:
				return
			}
		}
	})
	err = f.run(ctx, rounds)
	took := time.Since(began)
	close(finished)
	progress.Wait()
	err = errors.Join(err, f.close())
	fmt.Print(f.summary(took, seed))
	return f.violations() == 0, err
}

// violations counts what the oracle found, and what the library found itself.
func (f *fleet) violations() (n uint64) {
	_, n = f.verified()
	for _, count := range f.oracle.Counts().Violations {
		n += count
	}
	return n
}

func (f *fleet) verified() (coherent, wrong uint64) {
	for _, n := range f.nodes {
		c, w := n.verified()
		coherent, wrong = coherent+c, wrong+w
	}
	return coherent, wrong
}

func (f *fleet) injected() (n uint64) {
	for _, count := range f.faults {
		n += count.Load()
	}
	return n
}

// localShare returns the share of L1 in the reads whose origin is known.
func localShare(groups []*oracle.Group) float64 {
	var local, remote uint64
	for _, g := range groups {
		if g.Demand != oracle.Direct {
			local += g.Local
			remote += g.Remote
		}
	}
	return 100 * float64(local) / float64(max(1, local+remote))
}

func (f *fleet) progress(elapsed time.Duration) string {
	counts := f.oracle.Counts()
	return fmt.Sprintf("%v: %d reads checked (%.0f/s), %.1f%% from L1, %d writes, %d faults, %d violations",
		elapsed.Round(time.Second), counts.Reads, float64(counts.Reads)/elapsed.Seconds(), localShare(f.oracle.Groups()),
		f.writers.acknowledged.Load(), f.injected(), f.violations())
}

func (f *fleet) summary(took time.Duration, seed uint64) string {
	counts, groups := f.oracle.Counts(), f.oracle.Groups()
	var failed, failSafe uint64
	var slowest time.Duration
	for _, n := range f.nodes {
		failed += n.failedReads.Load()
		failSafe += n.failSafe.Load()
		slowest = max(slowest, time.Duration(n.slowest.Load()))
	}
	var b strings.Builder
	line := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "%-22s "+format+"\n", append([]any{name}, args...)...)
	}
	fmt.Fprintln(&b)
	line("reads checked", "%d in %v, %.0f/s", counts.Reads, took.Round(time.Second), float64(counts.Reads)/took.Seconds())
	line("undecided", "%d", counts.Undecided)
	line("served from L1", "%.2f%%", localShare(groups))
	line("reads that failed", "%d; longest read %v", failed, slowest.Round(time.Millisecond))
	line("past every bound", "%d by FailSafe, to readers that were told", failSafe)
	w := f.writers
	line("writes", "%d acknowledged, %d refused, %d unknown, %d held back", w.acknowledged.Load(), w.refused.Load(), w.unknown.Load(), w.denied.Load())
	line("orders found", "for %d histories of %d fresh reads; %d given up, %d have none", f.orders.Checked.Load(), f.orders.Reads.Load(), f.orders.GivenUp.Load(), f.orders.Failures.Load())
	coherent, wrong := f.verified()
	line("verified by a node", "%d coherent, %d wrong", coherent, wrong)
	fmt.Fprintln(&b)
	line("faults", "%d", f.injected())
	for _, kind := range slices.Sorted(maps.Keys(f.faults)) {
		fmt.Fprintf(&b, "  %-28s %d\n", kind, f.faults[kind].Load())
	}
	fmt.Fprintln(&b, "\nstaleness")
	for _, g := range groups {
		fmt.Fprintf(&b, "  %v\n", g)
	}
	fmt.Fprintln(&b)
	line("violations", "%d", f.violations())
	for _, rule := range oracle.Rules() {
		fmt.Fprintf(&b, "  %-20v %d\n", rule, counts.Violations[rule])
	}
	if f.violations() > 0 {
		fmt.Fprintf(&b, "  seed %d\n", seed)
	}
	return b.String()
}
