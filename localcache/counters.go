package localcache

import (
	"math/bits"
	"runtime"
	"sync/atomic"
	"unsafe"
)

// A gate counts the operations that enter and leave the store, in cells. It exists because the store panics when it is used
// while it is being closed: Close refuses newcomers first and then waits until as many have left as had entered. The operations that
// leave are counted by what they found, so that the same two additions also are the statistics of a read: measured, that is
// cheaper than any lock and than a counter beside a reference count.
//
// Each operation stays with one cell from its beginning to its end.
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

// newGate makes several times as many cells as there are processors, so that two of them seldom meet in one.
func newGate() gate {
	return gate{cells: make([]gateCell, min(max(64, 8*runtime.GOMAXPROCS(0)), 1024))}
}

// cell picks one by the address of the caller's stack. Goroutines that run at the same time have different ones, so they seldom
// write to one cache line, even if all of them read one key.
func (g *gate) cell() *gateCell {
	var here byte
	stack := uint64(uintptr(unsafe.Pointer(&here))) / smallestStack
	i, _ := bits.Mul64(stack*goldenRatio, uint64(len(g.cells))) // the upper bits, which differ most
	return &g.cells[i]
}

const (
	smallestStack = 2 << 10
	goldenRatio   = 0x9E3779B97F4A7C15 // of 2⁶⁴: its multiples are spread evenly
)

// sampled is true of one in frontSample reads, whatever the number of keys that a reader goes through over and over. It goes by the time
// of the read, which is at hand, and not by a count, on which everything after it would have to wait.
func sampled(k Key, now Instant) bool {
	n := (uint64(now) ^ k.lo) * goldenRatio
	n ^= n >> 32 // else reads some hundreds apart have products that differ by almost a half, or nothing
	return n*goldenRatio < 1<<64/frontSample
}

// empty reports whether everything that had entered the cell has left it. The departures are read first: they can only
// be behind the arrivals, so when the two are equal nothing was inside at the moment the arrivals were read.
func (c *gateCell) empty() bool {
	left := c.hits.Load() + c.misses.Load() + c.stale.Load() + c.others.Load()
	return left == c.entered.Load()
}
