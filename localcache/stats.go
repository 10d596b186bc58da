package localcache

// Stats is a snapshot of a cache's statistics. Counts are since New; a snapshot taken while the cache is used may be off
// by the operations under way. When none is, and Wait has returned, then
//
//	Fills.Accepted == Items + Evictions.* + Invalidations.*.Evicted
type Stats struct {
	Items    int64 `json:"items"` // resident entries, and those on their way into the store
	Bytes    int64 `json:"bytes"` // what they are charged, and the fixed tables
	MaxBytes int64 `json:"max_bytes"`

	Fills         FillStats         `json:"fills"`
	Evictions     EvictionStats     `json:"evictions"`
	Invalidations InvalidationStats `json:"invalidations"`
}

// FillStats counts fills by what [View.Fill] returned.
type FillStats struct {
	Accepted    uint64 `json:"accepted"`
	Invalidated uint64 `json:"invalidated"`
	Epoch       uint64 `json:"epoch"`
	Capacity    uint64 `json:"capacity"`
	Closed      uint64 `json:"closed"`
}

// EvictionStats counts the entries that left for another reason than an invalidation.
type EvictionStats struct {
	Capacity uint64 `json:"capacity"` // to make room
	Expired  uint64 `json:"expired"`  // found expired by the sweep or by the next fill
	Rejected uint64 `json:"rejected"` // never became visible: less popular than what would have had to go
	Flushed  uint64 `json:"flushed"`  // left behind by an epoch, or invalidated before they became visible, or dropped by Close
	Replaced uint64 `json:"replaced"` // by the next fill of the key
}

// InvalidationStats counts invalidations by their cause.
type InvalidationStats struct {
	Tracking  InvalidationCounts `json:"tracking"`
	Broadcast InvalidationCounts `json:"broadcast"`
	Local     InvalidationCounts `json:"local"`
}

// InvalidationCounts counts invalidations by their effect.
type InvalidationCounts struct {
	Evicted uint64 `json:"evicted"`
	Absent  uint64 `json:"absent"`
}

// Stats returns the statistics of all views together.
func (c *Cache) Stats() Stats {
	counts := func(cause Cause) InvalidationCounts {
		return InvalidationCounts{Evicted: c.evicted[cause].Load(), Absent: c.absent[cause].Load()}
	}
	return Stats{
		Items:    c.items.Load(),
		Bytes:    c.bytes.Load() + c.fixedBytes(),
		MaxBytes: c.maxBytes,
		Fills: FillStats{
			Accepted:    c.fills[Filled].Load(),
			Invalidated: c.fills[FillInvalidated].Load(),
			Epoch:       c.fills[FillEpoch].Load(),
			Capacity:    c.fills[FillCapacity].Load(),
			Closed:      c.fills[FillClosed].Load(),
		},
		Evictions: EvictionStats{
			Capacity: c.departed[departedCapacity].Load(),
			Expired:  c.departed[departedExpired].Load(),
			Rejected: c.departed[departedRejected].Load(),
			Flushed:  c.departed[departedFlushed].Load(),
			Replaced: c.departed[departedReplaced].Load(),
		},
		Invalidations: InvalidationStats{
			Tracking:  counts(Tracking),
			Broadcast: counts(Broadcast),
			Local:     counts(Local),
		},
	}
}

// Lookups counts what the reads of one view found.
type Lookups struct {
	Hits   uint64
	Misses uint64
	Stale  uint64
}

// Lookups returns the view's counts. They cost reads nothing extra: see gate.
func (v *View[V]) Lookups() Lookups {
	var l Lookups
	for i := range v.gate.cells {
		cell := &v.gate.cells[i]
		l.Hits += cell.hits.Load() + cell.front.Load()
		l.Misses += cell.misses.Load()
		l.Stale += cell.stale.Load()
	}
	return l
}
