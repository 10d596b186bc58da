package localcache

import "math/bits"

// A budget divides MaxBytes into the fixed tables and the capacity for entries.
type budget struct {
	counters int64 // of popularity, in the store's policy
	stripes  int64
	capacity int64 // bytes for entries: what the policy keeps the sum of costs at
	limit    int64 // fills that would exceed it, counting queued entries, are refused
}

const (
	// counterBytes is what the policy allocates for one counter: four rows of half a byte, and two bytes of its Bloom
	// filter, when the number of counters is a power of two.
	counterBytes = 4

	stripeBytes = 8

	// queueBytes is the store's channel of 32,768 pointers.
	queueBytes = 256 << 10

	// slotBytes is what one entry needs in the tables of the store and of its policy, as measured by TestBudget: they take
	// 65 and 17 bytes a slot, and keep between two fifths and seven eighths of the slots in use.
	slotBytes = 200
)

func newBudget(maxBytes int64) budget {
	b := budget{
		// One to three counters for each entry of 100 to 1,000 bytes. Ristretto recommends ten; but its policy ages after
		// as many reads as it has counters, and the more it has, the longer it defends what used to be popular. Compared
		// with twice as many, this costs a stationary Zipf workload two points of hit ratio at the most, and gives seven
		// to ten points to a hot set that moves.
		counters: powerOfTwoUpTo(maxBytes / 256),
		stripes:  min(max(powerOfTwoUpTo(maxBytes/1024), 1024), 65536),
	}
	b.capacity = maxBytes - b.counters*counterBytes - b.stripes*stripeBytes - queueBytes - recentBytes
	b.limit = b.capacity + b.capacity/8
	return b
}

// fixed is the part of maxBytes that no entry can use.
func (c *Cache) fixedBytes() int64 { return c.maxBytes - c.budget.capacity }

func powerOfTwoUpTo(n int64) int64 { return 1 << (bits.Len64(uint64(n)) - 1) }

// allocated returns what the allocator sets aside for an object of n bytes. It asks by growing a slice, which rounds the
// capacity up to the allocator's size class.
func allocated(n int) int64 {
	return int64(cap(append([]byte(nil), make([]byte, n)...)))
}

// entryBytes is the sum of costs at which entries fill the capacity together with what the tables keep for entries that are
// no longer there: the store's tables grow and never shrink. So a cache that held many small values and now holds few large
// ones pays for both. If entries go on costing what they cost on average now, the sum is the solution of
//
//	sum + (mostItems - sum/average) * slotBytes = capacity
func (b budget) entryBytes(items, bytes, mostItems int64) int64 {
	if items <= 0 {
		return b.capacity
	}
	average := float64(bytes) / float64(items)
	sum := float64(b.capacity-mostItems*slotBytes) / (1 - slotBytes/average)
	return min(max(int64(sum), b.capacity/8), b.capacity)
}

// admit books an entry of the given cost, or refuses if that would exceed the limit. The policy alone would not keep the
// budget: it does not see queued values, of which there can be 32,768; it makes no room when a value grows; and it loses
// track of a cost when a fill of a key replaces another while the queue is full.
func (c *Cache) admit(cost int64) bool {
	if cost > c.budget.capacity {
		return false
	}
	items, bytes := c.items.Add(1), c.bytes.Add(cost)
	if bytes > c.budget.limit {
		c.items.Add(-1)
		c.bytes.Add(-cost)
		c.requestTrim()
		return false
	}
	c.store.UpdateMaxCost(c.budget.entryBytes(items, bytes, c.mostItems.Load()))
	return true
}
