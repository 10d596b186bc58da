package localcache

import (
	"math"
	"time"
)

// Instant is a point on this process's monotonic clock, in nanoseconds from an arbitrary base fixed when the process
// started. It means nothing to another process. Instants are compared with the ordinary operators.
type Instant int64

// Never is later than every reading of the clock: the deadline of an entry that does not expire.
const Never Instant = math.MaxInt64

// base is a variable of the package and not the zero of the system's clock because time.Since takes its fast path, one
// reading of the monotonic clock and none of the wall clock, only for a time that itself carries a monotonic reading.
var base = time.Now()

// Now reads the monotonic clock once.
func Now() Instant { return Instant(time.Since(base)) }

// At converts a time that carries a monotonic reading, as those from [time.Now] do. A time without one (parsed, decoded,
// rounded) is converted through the wall clock and is as wrong as the wall clock has been adjusted since the process
// started.
func At(t time.Time) Instant { return Instant(t.Sub(base)) }

// Add returns the instant d later. It stops at [Never] instead of overflowing.
func (i Instant) Add(d time.Duration) Instant {
	sum := i + Instant(d)
	switch {
	case d > 0 && sum < i:
		return Never
	case d < 0 && sum > i:
		return math.MinInt64
	}
	return sum
}

// Time returns the instant as a time with a monotonic reading, to compare with others.
func (i Instant) Time() time.Time { return base.Add(time.Duration(i)) }

// Sub returns the time from j to i.
func (i Instant) Sub(j Instant) time.Duration { return time.Duration(i - j) }
