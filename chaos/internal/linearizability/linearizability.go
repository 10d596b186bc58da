// Package linearizability searches an order for histories of one key: one in which every read returns what the write before it wrote, and
// which keeps to the order of what did not overlap. The search is porcupine's.
package linearizability

import (
	"fmt"
	"math"
	"strings"
	"sync/atomic"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/go-nearcache/nearcache/internal/oracle"
)

// A Checker searches orders in the background.
type Checker struct {
	histories chan oracle.History
	onFailure func(oracle.History, string)

	Checked  atomic.Uint64 // histories with an order
	Reads    atomic.Uint64 // in those
	GivenUp  atomic.Uint64 // histories that took too long to search
	Dropped  atomic.Uint64 // histories that came too fast
	Failures atomic.Uint64 // histories without an order
}

// New returns a checker; Run does its work. onFailure gets each history that has no order, and what it is, on the goroutine of Run.
func New(onFailure func(oracle.History, string)) *Checker {
	return &Checker{histories: make(chan oracle.History, 16), onFailure: onFailure}
}

// Offer takes a history, or drops it if too many wait. It does not block.
func (c *Checker) Offer(h oracle.History) {
	select {
	case c.histories <- h:
	default:
		c.Dropped.Add(1)
	}
}

// Close ends Run once it has checked what was offered. Nothing must be offered any more.
func (c *Checker) Close() { close(c.histories) }

const searchLimit = 2 * time.Second

// Run checks histories until Close.
func (c *Checker) Run() {
	for h := range c.histories {
		switch Check(h, searchLimit) {
		case porcupine.Ok:
			c.Checked.Add(1)
			c.Reads.Add(uint64(len(h.Reads)))
		case porcupine.Unknown:
			c.GivenUp.Add(1)
		case porcupine.Illegal:
			c.Failures.Add(1)
			c.onFailure(h, describe(h))
		}
	}
}

// An operation is a write of a version, or a read. Version 0 is nothing.
type operation struct {
	write   bool
	version uint64 // of a write
	within  bool   // a read of what a write of the history wrote
}

// anything is the state before the first operation: whatever the first read finds that does not come from the history itself.
const anything = math.MaxUint64

var register = porcupine.Model{
	Init: func() any { return uint64(anything) },
	Step: func(state, input, output any) (bool, any) {
		op := input.(operation)
		if op.write {
			return true, op.version
		}
		returned := output.(uint64)
		if state.(uint64) == anything {
			return !op.within, returned
		}
		return state.(uint64) == returned, returned
	},
}

// Check searches an order for a history.
func Check(h oracle.History, limit time.Duration) porcupine.CheckResult {
	written := map[uint64]bool{}
	for i := range h.Writes {
		written[h.Writes[i].Version] = !h.Writes[i].Absent
	}
	operations := make([]porcupine.Operation, 0, len(h.Reads)+len(h.Writes))
	for i := range h.Reads {
		r := &h.Reads[i]
		version := r.Version
		if r.Absent {
			version = 0
		}
		operations = append(operations, porcupine.Operation{Input: operation{within: written[version]}, Call: int64(r.Began), Output: version, Return: int64(r.Ended)})
	}
	for i := range h.Writes {
		w := &h.Writes[i]
		version := w.Version
		if w.Absent {
			version = 0
		}
		end := int64(w.Returned)
		if !w.Certain {
			end = math.MaxInt64 // at the end of the order it has no effect: as if it had not happened
		}
		operations = append(operations, porcupine.Operation{Input: operation{write: true, version: version}, Call: int64(w.Invoked), Return: end})
	}
	return porcupine.CheckOperationsTimeout(register, operations, limit)
}

func describe(h oracle.History) string {
	var b strings.Builder
	fmt.Fprintf(&b, "key %d: no order explains these fresh reads\n", h.Key)
	zero := h.Reads[0].Began
	for _, r := range h.Reads {
		fmt.Fprintf(&b, "  read  %+.6fs … %+.6fs  node %d: version %d, nothing %t\n", r.Began.Sub(zero).Seconds(), r.Ended.Sub(zero).Seconds(), r.Node, r.Version, r.Absent)
	}
	for _, w := range h.Writes {
		fmt.Fprintf(&b, "  write %+.6fs … %+.6fs  version %d, nothing %t, certain %t\n", w.Invoked.Sub(zero).Seconds(), w.Returned.Sub(zero).Seconds(), w.Version, w.Absent, w.Certain)
	}
	return b.String()
}
