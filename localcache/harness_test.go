package localcache

import (
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// open returns a cache that is closed when the test ends, with one live shard.
func open(t testing.TB, o Options) (*Cache, *Shard) {
	t.Helper()
	c, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	s := c.NewShard()
	s.Renew(Now())
	return c, s
}

// bubble runs a test on a fake clock. Where dead entries are looked at, that keeps the cache from sweeping them on a slow
// machine.
func bubble(t *testing.T, f func(*testing.T)) { synctest.Test(t, f) }

func mustFill[V any](t testing.TB, v *View[V], k Key, token Token, value V, deadline Instant, cost int64) {
	t.Helper()
	if r := v.Fill(k, token, value, deadline, cost); r != Filled {
		t.Fatalf("Fill: %v", r)
	}
}

// checkBooks compares the statistics with each other and with what is in the store. Nothing else may use the cache. What
// the cache does in the background, which takes entries off the books before it deletes them, gets time to finish.
func checkBooks(t testing.TB, c *Cache) {
	t.Helper()
	var wrong string
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if wrong = auditBooks(c); wrong == "" {
			return
		}
	}
	t.Error(wrong)
}

func auditBooks(c *Cache) string {
	c.Wait()
	var items, bytes int64
	c.store.IterValues(func(r resident) bool {
		items++
		bytes += r.head().cost
		return false
	})
	stats := c.Stats()
	if stats.Items != items || stats.Bytes != bytes+c.fixedBytes() {
		return fmt.Sprintf("%d items and %d bytes on the books, %d and %d in the store",
			stats.Items, stats.Bytes, items, bytes+c.fixedBytes())
	}
	e, i := stats.Evictions, stats.Invalidations
	departed := e.Capacity + e.Expired + e.Rejected + e.Flushed + e.Replaced +
		i.Tracking.Evicted + i.Broadcast.Evicted + i.Local.Evicted
	if stats.Fills.Accepted != uint64(stats.Items)+departed {
		return fmt.Sprintf("%d fills, but %d items and %d departures: %+v", stats.Fills.Accepted, stats.Items, departed, stats)
	}
	if used := c.store.MaxCost() - c.store.RemainingCost(); used < 0 {
		return fmt.Sprintf("the policy believes that entries cost %d", used)
	}
	return ""
}

// stalled is a value that stops the store's worker: it is too large to be admitted, and telling us so the worker asks for
// its header.
type stalled struct {
	header
	once    sync.Once
	reached chan struct{}
	resume  chan struct{}
}

func (*stalled) release() {}

func (s *stalled) head() *header {
	s.once.Do(func() { close(s.reached) })
	<-s.resume
	return &s.header
}

// stallWorker stops the worker, so that fills and deletions queue up until release is called.
func stallWorker(c *Cache) (release func()) {
	s := &stalled{reached: make(chan struct{}), resume: make(chan struct{})}
	s.gone.Store(true) // never on the books
	c.store.Set(randomKey().lo, s, 2*c.budget.capacity)
	<-s.reached
	return sync.OnceFunc(func() { close(s.resume) })
}

// breakpoints stops operations of the store at their start, where it asks for the address of a key.
type breakpoints struct {
	mu  sync.Mutex
	set map[uint64]*breakpoint
}

type breakpoint struct {
	skip    int
	reached chan struct{}
	resume  chan struct{}
}

func (b *breakpoints) address(a uint64) (uint64, uint64) {
	b.mu.Lock()
	p := b.set[a]
	switch {
	case p == nil:
	case p.skip > 0:
		p.skip--
		p = nil
	default:
		delete(b.set, a)
	}
	b.mu.Unlock()
	if p != nil {
		close(p.reached)
		<-p.resume
	}
	return a, 0
}

// run starts f, which works on k, and returns when f is about to begin its operation on the store that follows the first
// skip ones. The function returned lets f go on and waits for it.
func (b *breakpoints) run(k Key, skip int, f func()) (finish func()) {
	p := &breakpoint{skip: skip, reached: make(chan struct{}), resume: make(chan struct{})}
	b.mu.Lock()
	b.set[k.lo] = p
	b.mu.Unlock()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	<-p.reached
	return func() {
		close(p.resume)
		<-done
	}
}

func openWithBreakpoints(t testing.TB) (*Cache, *Shard, *breakpoints) {
	t.Helper()
	b := &breakpoints{set: map[uint64]*breakpoint{}}
	c, err := newCache(Options{}, b.address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	s := c.NewShard()
	s.Renew(Now())
	return c, s, b
}
