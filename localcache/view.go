package localcache

import (
	"hash/maphash"
	"math"
	"sync/atomic"
	"unsafe"
)

// A View is one typed cache on the store and the budget that it shares with the other views of its [Cache]. It lives as
// long as the Cache.
type View[V any] struct {
	cache    *Cache
	gate     gate
	front    front[V]
	hi, lo   maphash.Seed
	overhead int64 // what an entry costs besides its payload
	id       uint32
	name     string
}

// lastView numbers the views of the process, so that iteration can tell apart the entries of views of one type.
var lastView atomic.Uint32

// NewView returns an empty view on c. The name is for people; two views may share one and still share no entry, because
// each hashes keys with its own random seeds.
func NewView[V any](c *Cache, name string) *View[V] {
	v := &View[V]{
		cache:    c,
		gate:     newGate(),
		front:    newFront[V](c.maxBytes),
		hi:       maphash.MakeSeed(),
		lo:       maphash.MakeSeed(),
		overhead: allocated(int(unsafe.Sizeof(entry[V]{}))) + slotBytes,
		id:       lastView.Add(1),
		name:     name,
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.views = append(c.views, &v.gate)
	return v
}

// Name returns the name given to [NewView].
func (v *View[V]) Name() string { return v.name }

// Key hashes a user's key for this view.
func (v *View[V]) Key(s string) Key {
	return Key{hi: maphash.String(v.hi, s), lo: maphash.String(v.lo, s)}
}

// Result is what [View.Get] found.
type Result uint8

const (
	// Miss: nothing that may be served.
	Miss Result = iota
	// Hit: a value that may be served.
	Hit
	// Stale: a value that would be a hit if its shard's as-of instant were not earlier than notBefore. It becomes one
	// when the shard is confirmed.
	Stale
)

// String returns "miss", "hit" or "stale".
func (r Result) String() string {
	switch r {
	case Hit:
		return "hit"
	case Stale:
		return "stale"
	default:
		return "miss"
	}
}

// Get looks k up. The value is served, as a Hit, if
//
//   - its shard is in the epoch in which it was fetched,
//   - now is before its deadline,
//   - no invalidation of k began after its token was taken and returned before Get was called, and
//   - its shard's as-of instant, at some moment during the call, was not earlier than notBefore; if this alone fails,
//     the result is Stale.
//
// A reader who accepts staleness d passes now and now.Add(-d), with now read from the clock before the call. The pointer
// is to the value inside the entry. It stays valid as long as it is held, but what it points to is shared with every
// other reader and must not be changed.
//
// Get does not allocate and does not block.
func (v *View[V]) Get(k Key, now, notBefore Instant) (*V, Result) {
	c := v.cache
	table := c.shards.Load() // before everything; see shardTable
	if table == nil {
		return nil, Miss
	}
	generation := c.stripe(k).Load() // before the entry; see front
	e := v.front.place(k).Load()
	if e == nil || e.lo != k.lo {
		e = v.front.beside(k).Load()
	}
	if e == nil || e.lo != k.lo || e.hi != k.hi || e.confirmed.Load() != generation || now >= e.deadline || int(e.shard) >= len(*table) {
		return v.getStored(k, now, notBefore)
	}
	if shard := &(*table)[e.shard]; e.epoch != shard.epoch || shard.asOf < notBefore {
		return v.getStored(k, now, notBefore)
	}
	v.gate.cell().front.Add(1)
	if sampled(k, now) {
		v.touch(k)
	}
	return &e.value, Hit
}

// getStored is Get without the front.
func (v *View[V]) getStored(k Key, now, notBefore Instant) (*V, Result) {
	c := v.cache
	cell := v.gate.cell()
	cell.entered.Add(1)
	table := c.shards.Load() // before the look-up; see shardTable
	if table == nil {
		cell.misses.Add(1)
		return nil, Miss
	}
	generation := c.stripe(k).Load() // before the look-up; see front
	r, _ := c.store.Get(k.lo)
	e, ok := r.(*entry[V])
	if !ok || e.hi != k.hi || now >= e.deadline || int(e.shard) >= len(*table) {
		cell.misses.Add(1)
		return nil, Miss
	}
	shard := &(*table)[e.shard]
	if e.epoch != shard.epoch {
		cell.misses.Add(1)
		return nil, Miss
	}
	if !e.sealed.Load() {
		// It has been in the store, into which it does not come a second time. If its generation still stands, any
		// invalidation from now on will find it there or find it gone.
		if e.generation != c.stripe(k).Load() {
			cell.misses.Add(1)
			return nil, Miss
		}
		e.sealed.Store(true)
	}
	if shard.asOf < notBefore {
		cell.stale.Add(1)
		return &e.value, Stale
	}
	cell.hits.Add(1)
	v.front.offer(e, generation, now)
	return &e.value, Hit
}

// touch has the store count an access to a key that the front answers for. While the store has room for as much again as it holds it
// has nothing to choose, and an access costs more than everything else in a hit.
func (v *View[V]) touch(k Key) {
	if v.cache.bytes.Load() < v.cache.budget.capacity/2 {
		return
	}
	cell := v.gate.cell()
	cell.entered.Add(1)
	defer cell.others.Add(1)
	if !v.cache.closed() {
		v.cache.store.Get(k.lo)
	}
}

// FillResult says what became of a value.
type FillResult uint8

const (
	// Filled: the value was handed to the store. It becomes visible soon, unless the policy, which does not report it
	// here, finds the key less popular than what would have to go for it, or an invalidation comes first.
	Filled FillResult = iota
	// FillInvalidated: the key was invalidated after the token was taken.
	FillInvalidated
	// FillEpoch: the shard was not live when the token was taken, or its epoch has ended since.
	FillEpoch
	// FillCapacity: the value is larger than the whole budget, or the store is receiving more than it can apply.
	FillCapacity
	// FillClosed: the cache is closed.
	FillClosed

	fillResults
)

// String returns "filled", "invalidated", "epoch", "capacity" or "closed".
func (r FillResult) String() string {
	switch r {
	case Filled:
		return "filled"
	case FillInvalidated:
		return "invalidated"
	case FillEpoch:
		return "epoch"
	case FillCapacity:
		return "capacity"
	default:
		return "closed"
	}
}

// Fill stores a value that was fetched after the token was taken, until deadline ([Never] for no bound), which the caller
// computes from the lifetime that came with the value. Cost is what the value occupies behind pointers, in bytes: what a
// string or slice refers to. The entry itself, with V inside, is added by the package. A negative cost counts as zero.
//
// A token for another key, if it can be told, counts as invalidated. Of two fills that race for one key either may win;
// both are good. Fill does not block.
func (v *View[V]) Fill(k Key, t Token, value V, deadline Instant, cost int64) FillResult {
	cell := v.gate.cell()
	cell.entered.Add(1)
	defer cell.others.Add(1)
	result := v.fill(k, t, value, deadline, cost)
	v.cache.fills[result].Add(1)
	return result
}

func (v *View[V]) fill(k Key, t Token, value V, deadline Instant, cost int64) FillResult {
	c := v.cache
	switch {
	case c.closed():
		return FillClosed
	case !t.Live() || t.shard.cache != c || t.shard.state().fill != t.epoch:
		return FillEpoch
	case t.stripe != c.stripe(k) || t.stripe.Load() != t.generation:
		return FillInvalidated
	}
	// The checks above only save work: the entry carries the token's generation and epoch, and reads check those.
	cost = v.cost(cost)
	if !c.admit(cost) {
		return FillCapacity
	}
	e := &entry[V]{
		header: header{
			hi: k.hi, lo: k.lo,
			generation: t.generation,
			epoch:      t.epoch,
			deadline:   deadline,
			filled:     Now(),
			cost:       cost,
			shard:      t.shard.index,
			view:       v.id,
		},
		front: &v.front,
		value: value,
	}
	if !c.store.Set(k.lo, e, cost) {
		c.depart(e, departedRefused)
		return FillCapacity
	}
	return Filled
}

// cost is what the budget is charged for a payload. The allocator rounds a payload up by a sixteenth on average.
func (v *View[V]) cost(payload int64) int64 {
	payload = max(payload, 0)
	if payload > math.MaxInt64/2 {
		return math.MaxInt64
	}
	return v.overhead + payload + payload/16
}

// Cause is who asked for an invalidation.
type Cause uint8

const (
	// Tracking: the server announced a change.
	Tracking Cause = iota
	// Broadcast: another node announced one.
	Broadcast
	// Local: this process wrote.
	Local

	causes
)

// String returns "tracking", "broadcast" or "local".
func (c Cause) String() string {
	switch c {
	case Tracking:
		return "tracking"
	case Broadcast:
		return "broadcast"
	default:
		return "local"
	}
}

// Invalidate makes everything unservable that was or will be filled for k with a token taken before this call: no Get
// that begins after Invalidate has returned serves it. It reports whether there was an entry of k to evict.
//
// An absent key costs a few dozen nanoseconds. A present one takes a place in the store's queue and waits for one to
// become free when there is none, for about as long as the store needs to apply one deletion.
func (v *View[V]) Invalidate(k Key, cause Cause) (evicted bool) {
	c := v.cache
	cell := v.gate.cell()
	cell.entered.Add(1)
	defer cell.others.Add(1)
	if c.closed() {
		return false
	}
	// This order is what the whole package rests on. An entry that is not in the store by the time of the look-up
	// carries an older generation into it and is never served. One that is there, sealed or about to be, is removed, and
	// the store does not take the same pointer in again. The second move is for the front.
	c.stripe(k).Add(1)
	evicted = v.remove(k)
	c.stripe(k).Add(1)
	if evicted {
		c.evicted[cause].Add(1)
		c.recent.note(k, cause)
	} else {
		c.absent[cause].Add(1)
	}
	return evicted
}

func (v *View[V]) remove(k Key) bool {
	c := v.cache
	r, ok := c.look(k)
	if !ok {
		return false
	}
	evicted := c.depart(r, departedInvalidated)
	c.store.Del(k.lo) // even if another invalidation was faster, who may not have come to this point yet
	return evicted
}

// look finds the entry of k whatever its state. The store's own way to look without counting an access tells only whether
// something is at the address, which for most invalidations nothing is. Only for what is resident an access is counted.
func (c *Cache) look(k Key) (resident, bool) {
	if _, ok := c.store.GetTTL(k.lo); !ok {
		return nil, false
	}
	r, ok := c.store.Get(k.lo)
	if !ok || r.head().hi != k.hi {
		return nil, false
	}
	return r, true
}
