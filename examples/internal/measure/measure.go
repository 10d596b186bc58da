// Package measure sums up the times that an example measures.
package measure

import (
	"math"
	"slices"
	"time"
)

// Samples are measured times, in any order.
type Samples []time.Duration

// Median is Quantile(0.5).
func (s Samples) Median() time.Duration { return s.Quantile(0.5) }

// Quantile returns the smallest sample that at least the fraction q of all do not exceed: 0.5 is the median, 1 the largest. It is 0
// if there are none.
func (s Samples) Quantile(q float64) time.Duration {
	if len(s) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(s))
	rank := int(math.Ceil(q * float64(len(sorted))))
	return sorted[min(max(rank, 1), len(sorted))-1]
}

// Round keeps three digits, which is all that a measurement in an example deserves.
func Round(d time.Duration) time.Duration {
	unit := time.Duration(1)
	for d >= 1000*unit {
		unit *= 10
	}
	return d.Round(unit)
}
