package oracle

import (
	"fmt"
	"maps"
	"math/bits"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// A Staleness is a distribution of how long values had been overwritten when the reads that returned them began.
type Staleness struct {
	current atomic.Uint64 // not overwritten
	buckets [64]atomic.Uint64
	max     atomic.Int64
}

func (s *Staleness) add(d time.Duration) {
	if d <= 0 {
		s.current.Add(1)
		return
	}
	s.buckets[bits.Len64(uint64(d))-1].Add(1)
	for {
		old := s.max.Load()
		if int64(d) <= old || s.max.CompareAndSwap(old, int64(d)) {
			return
		}
	}
}

func (s *Staleness) merge(other *Staleness) {
	s.current.Add(other.current.Load())
	for i := range s.buckets {
		s.buckets[i].Add(other.buckets[i].Load())
	}
	s.max.Store(max(s.max.Load(), other.max.Load()))
}

// Reads returns how many reads the distribution has.
func (s *Staleness) Reads() uint64 {
	n := s.current.Load()
	for i := range s.buckets {
		n += s.buckets[i].Load()
	}
	return n
}

// Current returns how many reads returned what had not been overwritten when they began.
func (s *Staleness) Current() uint64 { return s.current.Load() }

// Max returns the greatest staleness.
func (s *Staleness) Max() time.Duration { return time.Duration(s.max.Load()) }

// Quantile returns a staleness that a share of q of all reads did not exceed; it is exact to a factor of two.
func (s *Staleness) Quantile(q float64) time.Duration {
	rank := uint64(q * float64(s.Reads()))
	n := s.current.Load()
	if n >= rank {
		return 0
	}
	for i := range s.buckets {
		if n += s.buckets[i].Load(); n >= rank {
			return min(time.Duration(1)<<(i+1), s.Max())
		}
	}
	return s.Max()
}

// A Group is all readers with one demand and one bound.
type Group struct {
	Demand    Demand
	Bound     time.Duration
	Staleness Staleness
	Missing   uint64 // reads that returned that there is nothing
	Local     uint64 // reads known to come from L1
	Remote    uint64 // reads known not to
}

// Groups returns what readers were given, by what they had asked for.
func (o *Oracle) Groups() []*Group {
	type kind struct {
		demand Demand
		bound  time.Duration
	}
	groups := map[kind]*Group{}
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, r := range o.readers {
		g := groups[kind{r.demand, r.bound}]
		if g == nil {
			g = &Group{Demand: r.demand, Bound: r.bound}
			groups[kind{r.demand, r.bound}] = g
		}
		g.Staleness.merge(&r.staleness)
		g.Missing += r.missing.Load()
		g.Local += r.tiers[Local].Load()
		g.Remote += r.tiers[Remote].Load()
	}
	return slices.SortedFunc(maps.Values(groups), func(a, b *Group) int {
		if a.Demand != b.Demand {
			return int(a.Demand) - int(b.Demand)
		}
		return int(a.Bound.Microseconds() - b.Bound.Microseconds())
	})
}

// String returns the group in one line.
func (g *Group) String() string {
	var b strings.Builder
	s := &g.Staleness
	fmt.Fprintf(&b, "%-8s bound %-7v %12d reads, %d missing", g.Demand, g.Bound, s.Reads()+g.Missing, g.Missing)
	if n := s.Reads(); n > 0 {
		fmt.Fprintf(&b, ", %.4f%% current; staleness p99.9 %v, p99.99 %v, max %v", 100*float64(s.Current())/float64(n),
			round(s.Quantile(.999)), round(s.Quantile(.9999)), round(s.Max()))
	}
	return b.String()
}

func round(d time.Duration) time.Duration {
	switch {
	case d > time.Second:
		return d.Round(time.Millisecond)
	case d > time.Millisecond:
		return d.Round(10 * time.Microsecond)
	}
	return d.Round(100 * time.Nanosecond)
}
