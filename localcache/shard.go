package localcache

import (
	"fmt"
	"math"
	"slices"
)

// epochNone is the epoch of a shard that has none. No entry carries it.
const epochNone = 0

// A Shard is the coherence state of one server as the link to it sees it: an epoch and an as-of instant. Entries filled
// under the shard's epoch are served while it lasts, to readers whom the as-of instant satisfies. Its methods may be
// called from any goroutine, and each takes effect before it returns: a read that begins afterwards obeys it.
//
// A new shard is suspended.
type Shard struct {
	cache *Cache
	index uint32
}

// shardState is one row of the table of all shards.
type shardState struct {
	owner *Shard  // a row is used again after its shard was closed
	epoch uint64  // what entries must carry to be served
	fill  uint64  // what fills must carry: epoch, or none while frozen
	last  uint64  // the last epoch that began: it tells one time without an epoch from the next
	asOf  Instant // every write acknowledged before it has been applied
}

// shardTable is immutable once published. A read takes the table before it looks the key up and judges what it found by
// that table: an as-of instant read after the look-up could be one that was confirmed in between, together with the
// invalidation of the very entry in the reader's hand.
type shardTable []shardState

// NewShard returns a suspended shard. On a closed cache it is suspended for ever.
func (c *Cache) NewShard() *Shard {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := &Shard{cache: c}
	old := c.shards.Load()
	if old == nil {
		return s
	}
	table := slices.Clone(*old)
	i := slices.IndexFunc(table, func(row shardState) bool { return row.owner == nil })
	if i < 0 {
		i = len(table)
		table = append(table, shardState{})
	}
	s.index = uint32(i)
	table[i] = shardState{owner: s}
	c.shards.Store(&table)
	return s
}

// Renew begins a new epoch, whose number no shard of any cache in this process has had before, and larger than all of
// them. Everything filled before is unservable when Renew returns and is swept out of the store in the background; a
// token taken before is worthless. The as-of instant becomes asOf if that is later. Renew is for a link that goes live
// and for a push that says "everything". On a closed cache or shard it returns 0.
func (s *Shard) Renew(asOf Instant) uint64 {
	var epoch uint64
	s.update(func(row *shardState) {
		epoch = lastEpoch.Add(1)
		row.epoch, row.fill, row.last = epoch, epoch, epoch
		row.asOf = max(row.asOf, asOf)
	})
	return epoch
}

// RenewUnconfirmed is Renew where nothing tells what changes: the as-of instant becomes earlier than any that a reader asks for, so that only
// readers who ask for none ([math.MinInt64]) are served, until Renew or Confirm says better.
func (s *Shard) RenewUnconfirmed() uint64 {
	var epoch uint64
	s.update(func(row *shardState) {
		epoch = lastEpoch.Add(1)
		row.epoch, row.fill, row.last = epoch, epoch, epoch
		row.asOf = math.MinInt64
	})
	return epoch
}

// Flush begins a new epoch as Renew does, but only in a shard that is live: a suspended one stays suspended, and a frozen one, whose entries
// may not be served any more either, becomes so.
func (s *Shard) Flush() {
	s.update(func(row *shardState) {
		switch {
		case row.fill != epochNone:
			epoch := lastEpoch.Add(1)
			row.epoch, row.fill, row.last = epoch, epoch, epoch
		case row.epoch != epochNone:
			row.epoch = epochNone
		}
	})
}

// Flush has every shard of the cache do what [Shard.Flush] does.
func (c *Cache) Flush() {
	if table := c.shards.Load(); table != nil {
		for _, row := range *table {
			if row.owner != nil {
				row.owner.Flush()
			}
		}
	}
}

// Suspend ends the epoch without a new one: nothing of this shard is served or filled until Renew.
func (s *Shard) Suspend() {
	s.update(func(row *shardState) { row.epoch, row.fill = epochNone, epochNone })
}

// Freeze refuses fills from now on. What is there stays servable to readers who are content with the as-of instant, which
// no longer moves. Renew or Suspend ends it. Freezing a suspended shard changes nothing.
func (s *Shard) Freeze() {
	s.update(func(row *shardState) { row.fill = epochNone })
}

// Confirm moves the as-of instant forward to asOf: every write that the server acknowledged before it has been applied to
// this cache, that is, the [View.Invalidate] of each has returned. An earlier instant than the present one changes
// nothing, and neither does confirming a shard that is not live.
func (s *Shard) Confirm(asOf Instant) {
	s.update(func(row *shardState) {
		if row.fill != epochNone {
			row.asOf = max(row.asOf, asOf)
		}
	})
}

// Close suspends the shard for good and gives its place in the cache's table back. Idempotent.
func (s *Shard) Close() {
	s.update(func(row *shardState) { *row = shardState{} })
}

// Epoch returns the epoch whose entries are served, or 0 for none.
func (s *Shard) Epoch() uint64 { return s.state().epoch }

// AsOf returns the as-of instant. It is meaningless while there is no epoch.
func (s *Shard) AsOf() Instant { return s.state().asOf }

// Live reports whether fills are allowed: renewed, and since then neither suspended nor frozen.
func (s *Shard) Live() bool { return s.state().fill != epochNone }

func (s *Shard) state() shardState {
	if table := s.cache.shards.Load(); table != nil && int(s.index) < len(*table) {
		if row := (*table)[s.index]; row.owner == s {
			return row
		}
	}
	return shardState{}
}

// update publishes a copy of the table in which change has been applied to the shard's row, and has the entries of an epoch
// that this ended swept. Tables are small and updates are heartbeats, a few a second for each server.
func (s *Shard) update(change func(*shardState)) {
	c := s.cache
	c.mu.Lock()
	defer c.mu.Unlock()
	old := c.shards.Load()
	if old == nil || int(s.index) >= len(*old) || (*old)[s.index].owner != s {
		return
	}
	table := slices.Clone(*old)
	before, after := (*old)[s.index], &table[s.index]
	change(after)
	if *after == before {
		return
	}
	c.shards.Store(&table)
	if before.epoch != epochNone && before.epoch != after.epoch {
		c.requestTidy()
	}
}

func (s *Shard) mustBelongTo(c *Cache) {
	if s.cache != c {
		panic(fmt.Sprintf("localcache: shard %d belongs to another Cache; use one made by this cache's NewShard", s.index))
	}
}
