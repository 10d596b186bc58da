package localcache

import (
	"iter"
	"sync"
	"time"
)

// State is why an entry is servable or not.
type State uint8

const (
	// Servable: to every reader whose notBefore is not later than the shard's as-of instant.
	Servable State = iota
	// Expired: its deadline has passed.
	Expired
	// EpochOver: its shard has begun another epoch, or is suspended.
	EpochOver
	// Invalidated: its key, or one of the same stripe, was invalidated before the entry had become visible.
	Invalidated
)

// String returns "servable", "expired", "epoch over" or "invalidated".
func (s State) String() string {
	switch s {
	case Servable:
		return "servable"
	case Expired:
		return "expired"
	case EpochOver:
		return "epoch over"
	default:
		return "invalidated"
	}
}

// Info describes a resident entry.
type Info struct {
	Key      Key
	State    State
	Age      time.Duration // since it was filled
	Deadline Instant       // Never: none
	Epoch    uint64
	AsOf     Instant // of its shard; meaningless when State is EpochOver
	Sealed   bool    // whether a read has found it since it was filled
	Cost     int64   // bytes charged to the budget
}

// Peek describes the entry of k, if there is one, servable or not. It is not counted as a read in any statistics; the
// policy sees one more access to a resident key.
func (v *View[V]) Peek(k Key) (Info, bool) {
	_, info, ok := v.PeekValue(k)
	return info, ok
}

// PeekValue is [View.Peek] with the value, whose address tells whether it is the one that an earlier Get returned.
func (v *View[V]) PeekValue(k Key) (*V, Info, bool) {
	cell := v.gate.cell()
	cell.entered.Add(1)
	defer cell.others.Add(1)
	if v.cache.closed() {
		return nil, Info{}, false
	}
	r, _ := v.cache.look(k)
	e, ok := r.(*entry[V])
	if !ok {
		return nil, Info{}, false
	}
	info, ok := v.cache.describe(&e.header, Now())
	return &e.value, info, ok
}

// describe reports false if the cache has been closed.
func (c *Cache) describe(h *header, now Instant) (Info, bool) {
	table := c.shards.Load()
	if table == nil {
		return Info{}, false
	}
	shard := (*table)[h.shard]
	info := Info{
		Key:      Key{hi: h.hi, lo: h.lo},
		Age:      now.Sub(h.filled),
		Deadline: h.deadline,
		Epoch:    h.epoch,
		AsOf:     shard.asOf,
		Sealed:   h.sealed.Load(),
		Cost:     h.cost,
	}
	switch {
	case h.epoch != shard.epoch:
		info.State = EpochOver
	case now >= h.deadline:
		info.State = Expired
	case h.passed(c.stripe(info.Key).Load()):
		info.State = Invalidated
	}
	return info, true
}

// All yields the resident entries of the view, servable or not, in no order. It collects them first, so that the loop may
// use the cache in any way; an entry may have left by the time it is yielded. It is meant for tests and for diagnosis.
func (v *View[V]) All() iter.Seq2[Info, *V] {
	return func(yield func(Info, *V) bool) {
		now := Now()
		for _, e := range v.collect() {
			if info, ok := v.cache.describe(&e.header, now); !ok || !yield(info, &e.value) {
				return
			}
		}
	}
}

func (v *View[V]) collect() []*entry[V] {
	cell := v.gate.cell()
	cell.entered.Add(1)
	defer cell.others.Add(1)
	if v.cache.closed() {
		return nil
	}
	var entries []*entry[V]
	v.cache.store.IterValues(func(r resident) (stop bool) {
		if e, ok := r.(*entry[V]); ok && e.view == v.id {
			entries = append(entries, e)
		}
		return false
	})
	return entries
}

// Invalidation is one that evicted something.
type Invalidation struct {
	Cause Cause
	At    Instant
}

// LastInvalidation returns the last invalidation that evicted an entry of k, if it is still remembered. The cache
// remembers one for each of 1,024 groups of keys.
func (v *View[V]) LastInvalidation(k Key) (Invalidation, bool) { return v.cache.recent.last(k) }

const (
	recentGroups = 1024
	recentBytes  = recentGroups * 40
)

type recentInvalidations [recentGroups]struct {
	mu   sync.Mutex
	key  Key
	what Invalidation
}

func (r *recentInvalidations) note(k Key, cause Cause) {
	now := Now()
	group := &r[k.hi%recentGroups]
	group.mu.Lock()
	defer group.mu.Unlock()
	group.key, group.what = k, Invalidation{Cause: cause, At: now}
}

func (r *recentInvalidations) last(k Key) (Invalidation, bool) {
	group := &r[k.hi%recentGroups]
	group.mu.Lock()
	defer group.mu.Unlock()
	if group.key != k {
		return Invalidation{}, false
	}
	return group.what, true
}
