package nearcache

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-nearcache/nearcache/localcache"
)

// heat refreshes in the background what is read often and has been invalidated: see Config.RefreshInvalidated. What is read often is known
// from a sample of the hits, so that a hit pays for no count of its own.
type heat struct {
	budget   int
	sampling sampling

	mu      sync.Mutex
	hot     map[localcache.Key]*hotKey
	breaker breaker

	refreshed, refused atomic.Uint64
}

type hotKey struct {
	key     string
	until   localcache.Instant // cold from then on, unless it is picked again
	pending bool               // a refresh is about to start
}

const (
	hotSample  = 1.0 / 64 // of the hits
	hotFor     = 10 * time.Second
	mostHot    = 1024
	hotSpread  = 50 * time.Millisecond // at most so long after the invalidation, so that the nodes do not all ask at once
	stormAfter = time.Second           // the time in which the budget is counted
)

func newHeat(budget int) *heat {
	if budget == 0 {
		return nil
	}
	return &heat{budget: budget, sampling: newSampling(hotSample), hot: make(map[localcache.Key]*hotKey)}
}

// warmed notes that a key was picked from the hits.
func (h *heat) warmed(key string, k localcache.Key) {
	now := localcache.Now()
	h.mu.Lock()
	defer h.mu.Unlock()
	if known := h.hot[k]; known != nil {
		known.until = now.Add(hotFor)
		return
	}
	if len(h.hot) >= mostHot {
		for other, known := range h.hot {
			if now >= known.until && !known.pending {
				delete(h.hot, other)
			}
		}
		if len(h.hot) >= mostHot {
			return
		}
	}
	h.hot[k] = &hotKey{key: key, until: now.Add(hotFor)}
}

// invalidated reports whether a key that was invalidated is to be refreshed. A refresh that has not begun will do for this invalidation, too.
func (h *heat) invalidated(k localcache.Key) (*hotKey, bool) {
	now := localcache.Now()
	h.mu.Lock()
	defer h.mu.Unlock()
	known := h.hot[k]
	if known == nil || now >= known.until {
		return nil, false
	}
	allowed := h.breaker.allow(now, h.budget)
	if known.pending {
		return nil, false
	}
	if !allowed {
		h.refused.Add(1)
		return nil, false
	}
	known.pending = true
	return known, true
}

func (h *heat) begun(known *hotKey) {
	h.mu.Lock()
	defer h.mu.Unlock()
	known.pending = false
}

// A breaker opens when more comes in a second than the budget, and closes after a second in which no more than the budget came. What it
// refuses counts: a storm is over when it is, and not when half of it has been let through.
type breaker struct {
	began localcache.Instant
	seen  int
	open  bool
}

func (b *breaker) allow(now localcache.Instant, budget int) bool {
	if passed := now.Sub(b.began); passed >= stormAfter {
		b.open = b.seen > budget && passed < 2*stormAfter
		b.began, b.seen = now, 0
	}
	b.seen++
	if b.seen > budget {
		b.open = true
	}
	return !b.open
}

// reheat starts a read for nobody. It is called on the goroutine that reads the link.
func (c *Cache[V]) reheat(k localcache.Key) {
	known, ok := c.heat.invalidated(k)
	if !ok {
		return
	}
	if !c.detach(context.Background(), func(ctx context.Context) {
		select {
		case <-time.After(rand.N(hotSpread)):
		case <-ctx.Done():
		}
		c.heat.begun(known) // before it reads: what is invalidated from now on needs another
		if ctx.Err() != nil || c.Bypass() != 0 {
			return
		}
		c.heat.refreshed.Add(1)
		_, _ = c.Get(ctx, known.key) // an error is that of the next reader, too
	}) {
		c.heat.begun(known)
	}
}
