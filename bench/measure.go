package main

import (
	"fmt"
	"runtime"
	"slices"
	"sync"
	"time"
)

// A contender does the same work as others in its own way: n operations for one of several goroutines.
type contender struct {
	name string
	run  func(worker, n int)
}

const roundTime = 60 * time.Millisecond

// race lets the contenders take turns and returns the median time of one operation of each, as seen by one goroutine divided by
// the number of goroutines: the inverse of throughput.
func race(contenders []contender, goroutines, rounds int) map[string]time.Duration {
	times := make(map[string][]float64)
	counts := make(map[string]int)
	for _, c := range contenders {
		counts[c.name] = calibrate(c, goroutines)
	}
	for range rounds {
		for _, c := range contenders {
			runtime.GC()
			n := counts[c.name]
			times[c.name] = append(times[c.name], float64(together(c, goroutines, n))/float64(n*goroutines))
		}
	}
	medians := make(map[string]time.Duration, len(times))
	for name, all := range times {
		slices.Sort(all)
		// In thousandths of a nanosecond a hit of some tens keeps its digits.
		medians[name] = time.Duration(all[len(all)/2] * 1000)
	}
	return medians
}

func calibrate(c contender, goroutines int) int {
	n := 64
	for {
		took := together(c, goroutines, n)
		if took > roundTime/4 {
			return max(1, int(float64(n)*float64(roundTime)/float64(took)))
		}
		n *= 4
	}
}

func together(c contender, goroutines, n int) time.Duration {
	began := time.Now()
	if goroutines == 1 {
		c.run(0, n)
		return time.Since(began)
	}
	var all sync.WaitGroup
	for worker := range goroutines {
		all.Go(func() { c.run(worker, n) })
	}
	all.Wait()
	return time.Since(began)
}

// allocations returns how many objects one operation allocates.
func allocations(c contender) float64 {
	const n = 20000
	c.run(0, n)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	c.run(0, n)
	runtime.ReadMemStats(&after)
	return float64(after.Mallocs-before.Mallocs) / n
}

// samples are the times of single operations of contenders that take turns, operation by operation.
func samples(n int, operations ...func(i int)) [][]time.Duration {
	all := make([][]time.Duration, len(operations))
	for i := range n {
		for o, operation := range operations {
			began := time.Now()
			operation(i)
			all[o] = append(all[o], time.Since(began))
		}
	}
	return all
}

func percentile(all []time.Duration, p float64) time.Duration {
	sorted := slices.Sorted(slices.Values(all))
	return sorted[min(len(sorted)-1, int(p*float64(len(sorted))))]
}

func median(all []float64) float64 {
	sorted := slices.Sorted(slices.Values(all))
	return sorted[len(sorted)/2]
}

func ratio(a, b time.Duration) float64 { return float64(a) / float64(b) }

// atMost and atLeast make rows of a figure with a bound.
func atMost(what string, figure, bound float64, note string) row {
	return row{what, fmt.Sprintf("%.2f×%s", figure, note), fmt.Sprintf("≤ %.2f×", bound), figure <= bound}
}

func atLeast(what string, figure, bound float64, note string) row {
	return row{what, fmt.Sprintf("%.2f×%s", figure, note), fmt.Sprintf("≥ %.2f×", bound), figure >= bound}
}

// thousandths prints what race returns.
func thousandths(d time.Duration) string { return fmt.Sprintf("%.1f ns", float64(d)/1000) }
