package localcache

import (
	"math"
	"sync/atomic"
)

// resident is what the store holds: always an *entry[V] for some V. One store serves views of different types, and an
// interface whose dynamic value is the typed entry costs a read one comparison of type words; a second pointer, from a
// common header to the value, would cost it a cache miss.
type resident interface {
	head() *header
	release() // from its view's front
}

// entry is one allocation: the header and the value inline.
type entry[V any] struct {
	header
	front *front[V]
	value V
}

func (e *entry[V]) release() { e.front.release(e) }

// header is immutable but for its flags and confirmed. What a hit in the front looks at comes first, in one cache line of the processor.
type header struct {
	hi, lo   uint64  // the key; hi is verified by every read, lo addresses the store
	epoch    uint64  // of the shard, from the token; never none
	deadline Instant // not served at or after it

	// confirmed is a generation of the key's stripe, read before a look-up that found the entry good, or withdrawn: see front.
	confirmed atomic.Uint64

	shard uint32
	view  uint32

	generation uint64 // of the key's stripe, from the token
	filled     Instant
	cost       int64 // what the budget is charged

	// sealed is set by the first read that saw the entry in the store and its generation unchanged. From then on the
	// generation of the stripe, which other keys' invalidations move as well, no longer matters to the entry.
	sealed atomic.Bool

	// gone is set once, by whoever is first to know that the entry leaves or has left the store: the store reports some
	// departures twice.
	gone atomic.Bool
}

func (h *header) head() *header { return h }

// withdrawn is no generation: an entry that has it is not served from the front any more. It keeps it.
const withdrawn = math.MaxUint64

func (h *header) withdraw() { h.confirmed.Store(withdrawn) }

// confirm reports whether it has confirmed the entry, which it does not once that is withdrawn.
func (h *header) confirm(generation uint64) bool {
	last := h.confirmed.Load()
	return last != withdrawn && h.confirmed.CompareAndSwap(last, generation)
}

// passed reports whether an invalidation has made the entry unservable before anyone could seal it.
func (h *header) passed(generation uint64) bool {
	return !h.sealed.Load() && h.generation != generation
}

// departure is why an entry left.
type departure uint8

const (
	departedCapacity    departure = iota // evicted by the policy or by trim
	departedExpired                      // its deadline had passed
	departedRejected                     // not admitted by the policy
	departedInvalidated                  // by Invalidate
	departedFlushed                      // of an epoch that has ended, or made unservable before it became visible
	departedReplaced                     // a later fill took its place
	departedRefused                      // the store's queue was full: the fill is reported as refused
	departures
)

// depart takes the entry off the books and reports whether this call was the one that did.
func (c *Cache) depart(r resident, why departure) bool {
	if r == nil {
		return false
	}
	h := r.head()
	if !h.gone.CompareAndSwap(false, true) {
		return false
	}
	h.withdraw()
	r.release()
	c.items.Add(-1)
	c.bytes.Add(-h.cost)
	c.departed[why].Add(1)
	return true
}
