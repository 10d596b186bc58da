package oracle

import (
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Outside is the node of a writer or reader that is none of the nodes: any program that talks to Redis.
const Outside = -1

// Options configure an Oracle.
type Options struct {
	Keys  int // keys are 0 … Keys-1
	Nodes int // nodes are 0 … Nodes-1

	// Sourced reports whether a key has a source beside Redis. Default: none has.
	Sourced func(key int) bool

	// Retain is how long an overwritten write is kept, so that a read that returns it can be judged exactly. It must exceed all bounds.
	// Default 10 s.
	Retain time.Duration

	// OnViolation is called for each violation, on the goroutine of the read that is one. It may block; it must not call the oracle.
	// Default: they are only counted.
	OnViolation func(Violation)

	// Sample hands out the history of a key's fresh reads and of the writes around them, for a search of an order. Default: none.
	Sample Sampling
}

// An Oracle judges the reads of a set of keys. Its methods may be called from any goroutine.
type Oracle struct {
	options    Options
	keys       []key
	undecided  atomic.Uint64
	violations [ruleCount]atomic.Uint64
	leases     leases

	mu      sync.Mutex
	readers []*Reader
}

// New returns an oracle that knows of no write: all keys are absent.
func New(options Options) *Oracle {
	if options.Sourced == nil {
		options.Sourced = func(int) bool { return false }
	}
	if options.Retain == 0 {
		options.Retain = 10 * time.Second
	}
	o := &Oracle{options: options, keys: make([]key, options.Keys)}
	for i := range o.keys {
		k := &o.keys[i]
		k.sourced = options.Sourced(i)
		k.forgotten = math.MinInt64
		k.writes = []write{{
			absent: true, certain: true, node: Outside,
			invoked: math.MinInt64, returned: math.MinInt64, applied: math.MinInt64, overwritten: never,
		}}
		k.seen = make([]sighting, options.Nodes)
		for node := range k.seen {
			k.seen[node].ended = never
		}
	}
	return o
}

// A key is the history of one key, as far as it still matters.
type key struct {
	mu        sync.Mutex
	sourced   bool
	writes    []write // in order of version
	last      uint64  // the newest version
	unknown   int     // writes that ended in the unknown and are not settled
	forgotten Instant // the writes that are no longer kept had been overwritten by then
	seen      []sighting
	recent    [recentReads]Read
	reads     uint64
	sample    sample
}

// recentReads is how many reads of a key a violation is shown with.
const recentReads = 8

// A write is one change of a key: to a value, or to none.
type write struct {
	version uint64
	absent  bool
	loss    bool // nobody's write: Redis forgot
	node    int

	invoked  Instant
	returned Instant       // the call came back; never until then
	applied  Instant       // if it ever takes effect, it has by then; never as long as that is open
	certain  bool          // it did take effect
	life     time.Duration // in Redis; 0 if it has no end

	overwritten Instant // by then another write that began after applied had taken effect; never if none had
}

// mayHaveExpired reports whether Redis may have dropped the value before t. The earliest beginning of its life is the write's own.
func (w *write) mayHaveExpired(t Instant) bool { return w.life > 0 && w.invoked.Add(w.life) <= t }

// hasExpired reports whether Redis has dropped the value before t.
func (w *write) hasExpired(t Instant) bool {
	return w.life > 0 && w.applied != never && w.applied.Add(w.life+expirySlack) < t
}

// expirySlack covers what sets two clocks apart that count the same life: Redis counts milliseconds of the wall clock, which may be
// slewed, and takes the time once a command.
const expirySlack = 100 * time.Millisecond

// A sighting is the newest write that a node's readers have returned, and when that read ended.
type sighting struct {
	invoked Instant
	ended   Instant
}

// find returns the write of a version, or nil if it is not kept.
func (k *key) find(version uint64) *write {
	// Almost every read returns one of the newest.
	for i := len(k.writes) - 1; i >= max(0, len(k.writes)-4); i-- {
		if k.writes[i].version == version {
			return &k.writes[i]
		}
	}
	i, found := slices.BinarySearchFunc(k.writes, version, func(w write, v uint64) int {
		switch {
		case w.version < v:
			return -1
		case w.version > v:
			return 1
		}
		return 0
	})
	if !found {
		return nil
	}
	return &k.writes[i]
}

// reconsider applies the one notion of the oracle after w has changed: who overwrites whom, and since when.
//
// Forgotten writes need no look: what one of them overwrote, its own overwriter overwrites too.
func (k *key) reconsider(w *write) {
	for i := range k.writes {
		other := &k.writes[i]
		if w.certain && other.applied < w.invoked {
			other.overwritten = min(other.overwritten, w.applied)
		}
		if other.certain && w.applied < other.invoked {
			w.overwritten = min(w.overwritten, other.applied)
		}
	}
}

// forget drops what was overwritten before t.
func (k *key) forget(t Instant) {
	k.writes = slices.DeleteFunc(k.writes, func(w write) bool {
		if w.overwritten >= t || w.returned == never {
			return false
		}
		k.forgotten = max(k.forgotten, w.overwritten)
		return true
	})
}

// Counts is what an oracle has done so far.
type Counts struct {
	Reads      uint64 // judged or undecided
	Undecided  uint64
	Violations map[Rule]uint64 // the rules that were broken
}

// Counts returns what the oracle has counted.
func (o *Oracle) Counts() Counts {
	c := Counts{Undecided: o.undecided.Load(), Violations: map[Rule]uint64{}}
	for _, rule := range Rules() {
		if n := o.violations[rule].Load(); n > 0 {
			c.Violations[rule] = n
		}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, r := range o.readers {
		c.Reads += r.staleness.Reads() + r.missing.Load()
	}
	return c
}
