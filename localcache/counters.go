package localcache

import (
	"math/bits"
	"runtime"
	"sync/atomic"
)

// Striped is a counter that many goroutines add to without contending for one cache line: the key that is being worked
// on picks one of its cells. The zero value is not usable; see [NewStriped].
type Striped struct {
	cells []stripedCell
}

type stripedCell struct {
	n atomic.Uint64
	_ [56]byte
}

// NewStriped returns a counter at zero. Its size, a few KiB, depends on GOMAXPROCS at the time of the call.
func NewStriped() *Striped { return &Striped{cells: make([]stripedCell, cellCount())} }

// Add adds n.
func (s *Striped) Add(k Key, n uint64) { s.cells[k.cell(len(s.cells))].n.Add(n) }

// Sum returns the count. An Add that runs at the same time is in it or not.
func (s *Striped) Sum() uint64 {
	var sum uint64
	for i := range s.cells {
		sum += s.cells[i].n.Load()
	}
	return sum
}

// cellCount is a power of two, so that a mask picks a cell, and several times the number of processors, so that two of
// them seldom meet in one.
func cellCount() int {
	n := min(max(64, 8*runtime.GOMAXPROCS(0)), 1024)
	return 1 << bits.Len(uint(n-1))
}

// cell picks one of n cells, n a power of two. The low bits of hi pick the stripe and must not pick the cell as well:
// keys of one cell would then share few stripes.
func (k Key) cell(n int) int { return int(k.hi>>48) & (n - 1) }

// A gate counts the operations that enter and leave the store, in cells picked by key. It exists because the store
// panics when it is used while it is being closed: Close refuses newcomers first and then waits until as many have left
// as had entered. The operations that leave are counted by what they found, so that the same two additions also are the
// statistics of a read: measured, that is cheaper than any lock and than a counter beside a reference count.
type gate struct {
	cells []gateCell
}

// A gateCell fills one cache line.
type gateCell struct {
	entered atomic.Uint64
	hits    atomic.Uint64
	misses  atomic.Uint64
	stale   atomic.Uint64
	others  atomic.Uint64
	front   atomic.Uint64 // hits that did not enter the store
	_       [16]byte
}

func newGate() gate { return gate{cells: make([]gateCell, cellCount())} }

func (g *gate) cell(k Key) *gateCell { return &g.cells[k.cell(len(g.cells))] }

// empty reports whether everything that had entered the cell has left it. The departures are read first: they can only
// be behind the arrivals, so when the two are equal nothing was inside at the moment the arrivals were read.
func (c *gateCell) empty() bool {
	left := c.hits.Load() + c.misses.Load() + c.stale.Load() + c.others.Load()
	return left == c.entered.Load()
}
