package oracle

import (
	"math"
	"time"
)

// An Instant is nanoseconds on the monotonic clock of this process.
type Instant int64

const never = Instant(math.MaxInt64)

var clockBase = time.Now()

// Now reads the clock.
func Now() Instant { return Instant(time.Since(clockBase)) }

// At converts a reading of the clock that time.Now gave.
func At(t time.Time) Instant { return Instant(t.Sub(clockBase)) }

// Add returns the instant d later.
func (i Instant) Add(d time.Duration) Instant { return i + Instant(d) }

// Sub returns the time from j to i.
func (i Instant) Sub(j Instant) time.Duration { return time.Duration(i - j) }
