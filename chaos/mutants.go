package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/go-nearcache/nearcache/chaos/internal/mutant"
	"github.com/go-nearcache/nearcache/internal/oracle"
)

const (
	// mutantLimit ends a trial in which nothing was caught.
	mutantLimit = time.Minute

	// soundTime is how long the cache that lacks nothing runs.
	soundTime = 20 * time.Second
)

// runMutants tries mutants and prints what the oracle said. It reports whether it was right about all.
func runMutants(name string, seed uint64) (right bool, err error) {
	var names []string
	tried := 0
	right = true
	fmt.Printf("seed %d\n", seed)
	for _, m := range mutant.All() {
		names = append(names, fmt.Sprintf("%q", m.Name))
		if name != "all" && name != m.Name {
			continue
		}
		tried++
		limit := mutantLimit
		if m.Breaks == oracle.Kept {
			limit = soundTime
		}
		result := mutant.Try(context.Background(), m, seed, limit)
		fmt.Println(result)
		if m.Breaks != oracle.Kept && name != "all" {
			fmt.Print(result.First)
		}
		right = right && result.Right()
	}
	if tried == 0 {
		return false, fmt.Errorf("chaos: -mutant is %q: it must be all, or one of %s", name, strings.Join(names, ", "))
	}
	return right, nil
}
