package localcache

import (
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dgraph-io/ristretto/v2"
)

// Options configures a [Cache].
type Options struct {
	// MaxBytes is the budget of the whole cache in bytes: values at the cost that their fills declare, what the package
	// measured an entry to need besides, and the fixed tables. Zero means 64 MiB; the least is 1 MiB, the most 1 TiB.
	//
	// The fixed tables are popularity counters (4 bytes each, one for every 256 to 512 bytes of budget), the generations of
	// the stripes (8 bytes, 1,024 to 65,536 of them) and the queue of the store (256 KiB): 3 % of 64 MiB.
	MaxBytes int64
}

const (
	defaultMaxBytes = 64 << 20
	leastMaxBytes   = 1 << 20
	mostMaxBytes    = 1 << 40
)

func (o Options) withDefaults() Options {
	if o.MaxBytes == 0 {
		o.MaxBytes = defaultMaxBytes
	}
	return o
}

func (o Options) validate() error {
	if o.MaxBytes < leastMaxBytes || o.MaxBytes > mostMaxBytes {
		return fmt.Errorf("localcache: Options.MaxBytes is %d; it must be 0 for the default of %d, or from %d to %d",
			o.MaxBytes, int64(defaultMaxBytes), int64(leastMaxBytes), int64(mostMaxBytes))
	}
	return nil
}

// lastEpoch is one for the process: an epoch identifies its shard and cache, too.
var lastEpoch atomic.Uint64

// store is ristretto with our 64-bit addresses for keys. It verifies nothing about them; entries carry the other half.
type store = ristretto.Cache[uint64, resident]

// Cache is one byte budget of entries of any types. Values are read and filled through a [View]; what may be served is
// ruled by [Shard]. All methods of all three may be called from any goroutine.
type Cache struct {
	// Read by every hit and written seldom.
	store    *store
	stripes  []atomic.Uint64            // generations
	shards   atomic.Pointer[shardTable] // nil: closed
	maxBytes int64
	budget   budget

	_ [64]byte

	// Written by every fill and departure.
	items     atomic.Int64 // resident or queued
	bytes     atomic.Int64 // their cost
	mostItems atomic.Int64 // the largest number of residents that tidy has seen
	departed  [departures]atomic.Uint64
	fills     [fillResults]atomic.Uint64
	evicted   [causes]atomic.Uint64
	absent    [causes]atomic.Uint64

	recent recentInvalidations

	mu    sync.Mutex // guards the replacement of shards, and views
	views []*gate
	gate  gate // of operations that concern no view

	tidyRequests chan struct{}
	trimRequests chan struct{}
	stop         chan struct{}
	stopped      chan struct{}
	closing      sync.Once
}

// New returns an empty cache, or an error that names the option that is wrong. The cache owns three goroutines until
// [Cache.Close].
func New(o Options) (*Cache, error) {
	// Addresses are hashes already.
	return newCache(o, func(address uint64) (uint64, uint64) { return address, 0 })
}

// newCache takes the function that the store calls with the address at the start of each of its operations. Tests pass
// one that stops there.
func newCache(o Options, address func(uint64) (uint64, uint64)) (*Cache, error) {
	o = o.withDefaults()
	if err := o.validate(); err != nil {
		return nil, err
	}
	c := &Cache{
		maxBytes:     o.MaxBytes,
		budget:       newBudget(o.MaxBytes),
		gate:         newGate(),
		tidyRequests: make(chan struct{}, 1),
		trimRequests: make(chan struct{}, 1),
		stop:         make(chan struct{}),
		stopped:      make(chan struct{}),
	}
	c.stripes = make([]atomic.Uint64, c.budget.stripes)
	c.shards.Store(&shardTable{})
	var err error
	c.store, err = ristretto.NewCache(&ristretto.Config[uint64, resident]{
		NumCounters:        c.budget.counters,
		MaxCost:            c.budget.capacity,
		BufferItems:        64,
		IgnoreInternalCost: true, // it counts a quarter of what an entry needs
		KeyToHash:          address,
		OnEvict: func(i *ristretto.Item[resident]) {
			why := departedCapacity
			if c.closed() {
				why = departedFlushed
			}
			c.depart(i.Value, why)
		},
		OnReject: func(i *ristretto.Item[resident]) { c.depart(i.Value, departedRejected) },
		OnExit:   c.exit,
		// It is called with the lock held under which the one takes the other's place.
		ShouldUpdate: func(_, old resident) bool {
			old.head().withdraw()
			return true
		},
	})
	if err != nil {
		return nil, fmt.Errorf("localcache: %w", err)
	}
	go c.tend()
	return c, nil
}

// exit is told of every departure, of many after the more specific callback and of some twice. What is not on record by
// then was replaced by a fill.
func (c *Cache) exit(r resident) {
	if r == nil || r.head().gone.Load() {
		return
	}
	why := departedReplaced
	if deadline := r.head().deadline; deadline != Never && deadline <= Now() {
		why = departedExpired
	}
	c.depart(r, why)
}

func (c *Cache) stripe(k Key) *atomic.Uint64 {
	return &c.stripes[k.hi&uint64(len(c.stripes)-1)]
}

func (c *Cache) closed() bool { return c.shards.Load() == nil }

// Wait blocks until every fill that returned before has been applied: it is visible or the policy has refused it. Tests
// and examples need it; a server does not.
func (c *Cache) Wait() {
	cell := c.gate.cell()
	cell.entered.Add(1)
	defer cell.others.Add(1)
	if !c.closed() {
		c.store.Wait()
	}
}

// Close drops everything and stops the cache's goroutines. It may be called at any time and more than once, and returns
// when the cache is closed. Operations that are under way end normally; afterwards Get misses, Fill is refused and
// Invalidate does nothing.
func (c *Cache) Close() {
	c.closing.Do(func() {
		c.mu.Lock()
		c.shards.Store(nil)
		gates := append(slices.Clone(c.views), &c.gate)
		c.mu.Unlock()

		close(c.stop)
		<-c.stopped
		for _, g := range gates {
			for i := range g.cells {
				g.cells[i].awaitEmpty()
			}
		}
		c.store.Close()
	})
}

// awaitEmpty polls, because a signal would have to come from the reads. They are inside for less than a microsecond
// unless the scheduler takes them off a processor there.
func (c *gateCell) awaitEmpty() {
	for spins := 0; !c.empty(); spins++ {
		if spins < 100 {
			runtime.Gosched()
		} else {
			time.Sleep(20 * time.Microsecond)
		}
	}
}
