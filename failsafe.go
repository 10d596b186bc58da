package nearcache

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-nearcache/nearcache/localcache"
)

// FailSafe is availability at the price of staleness, by choice: a node remembers the last good value of each item that it has read, beyond
// its end, and returns it when Redis does not have the item and the loader fails or is slow, or when there is no loader and Redis fails. Such a
// value may have been overwritten for as long as MaxAge and its life allow: Options.MaxStaleness does not bind it. So it is never given to a read with
// Fresh or MaxStaleness, [Cache.GetItem] tells it from others, and CacheStats.FailSafe counts it. A value that this node has written or
// deleted since, or that the loader said does not exist, is not returned.
//
// Remembered values take their place in Options.MaxBytes beside those of L1, which then holds fewer.
type FailSafe struct {
	// MaxAge is how long after its end in L1 a value may still be returned. Default 0: FailSafe is off. Up to 10 years.
	MaxAge time.Duration

	// SoftTimeout is how long a read waits for a load before it returns the last good value; the load goes on, and its result serves later reads.
	// Default 0: a read waits until the load ends. Less than Config.LoadTimeout.
	SoftTimeout time.Duration

	// RetryAfter is how long after a failure this node does not call the loader again for the key: reads return the last good value, and those
	// that may not get the failure. What is in Redis is read all the same. Default 0: every read tries.
	RetryAfter time.Duration
}

func (s FailSafe) validate(cache string, client Options, loadTimeout time.Duration) error {
	switch {
	case s.MaxAge == 0 && s.SoftTimeout != 0:
		return configError(cache, "FailSafe.SoftTimeout", s.SoftTimeout, "needs FailSafe.MaxAge, which is 0: there would be nothing to return instead")
	case s.MaxAge == 0 && s.RetryAfter != 0:
		return configError(cache, "FailSafe.RetryAfter", s.RetryAfter, "needs FailSafe.MaxAge, which is 0: there would be nothing to return instead")
	case s.MaxAge == 0:
		return nil
	case client.OnDisconnect == FailReads:
		return configError(cache, "FailSafe.MaxAge", s.MaxAge, "contradicts Options.OnDisconnect, which is FailReads: one prefers an old value to an error, the other an error")
	case s.SoftTimeout >= loadTimeout:
		return configError(cache, "FailSafe.SoftTimeout", s.SoftTimeout, fmt.Sprintf("must be less than Config.LoadTimeout, which is %v", loadTimeout))
	}
	for _, d := range []struct {
		field string
		value time.Duration
		least time.Duration
	}{{"MaxAge", s.MaxAge, time.Millisecond}, {"SoftTimeout", s.SoftTimeout, 0}, {"RetryAfter", s.RetryAfter, 0}} {
		if err := checkRange(fmt.Sprintf("cache %q: Config.FailSafe.%s", cache, d.field), d.value, d.least, longest); err != nil {
			return err
		}
	}
	return nil
}

// An Item is a value with what a careful reader wants to know about it.
type Item[V any] struct {
	Value V

	// Stale says that the value is served past every bound, by Config.FailSafe or by Options.OnDisconnect: ServeStale.
	Stale bool

	// Revalidating says that the value is served past its TTL by Config.StaleWhileRevalidate, while it is loaded anew. It is as coherent as
	// any other. It is known of what L1 serves.
	Revalidating bool

	// Age of a stale value is how long ago it is known to have been good: read from Redis or the source, or, with ServeStale, vouched for by
	// the link.
	Age time.Duration

	// Reason is why a stale value was served: the failure of the load, that it took longer than SoftTimeout, or ErrDisconnected.
	Reason error
}

// GetItem is Get for a caller that wants to know whether the value is stale. It makes one allocation where Get makes none.
func (c *Cache[V]) GetItem(ctx context.Context, key string, options ...ReadOption) (Item[V], error) {
	k := c.view.Key(key)
	q := c.query(options)
	found, result := c.view.Get(k, q.began, q.notBefore)
	if result == localcache.Hit && !found.absent {
		if c.sampling != 0 || found.refreshAt != 0 || q.wants(watched) {
			c.afterHit(ctx, key, k, q, found)
		}
		due := c.config.StaleWhileRevalidate > 0 && found.refreshAt != 0 && q.began >= found.refreshAt
		return Item[V]{Value: c.own(found.value), Revalidating: due}, nil
	}
	var how served
	q.served = &how
	value, err := c.miss(ctx, key, k, q, found, result)
	return Item[V]{Value: value, Stale: how.stale, Age: how.age, Reason: how.err}, err
}

// own is the value that a reader gets of one that is shared.
func (c *Cache[V]) own(value V) V {
	if c.config.Clone == nil {
		return value
	}
	return c.config.Clone(value)
}

// lastGood remembers values past their end, in the budget of L1 but apart from it: in a shard of its own, which no lost link and no push
// touches. Its methods may be called on nil.
type lastGood[V any] struct {
	view  *localcache.View[good[V]] // under the twins of the cache's keys
	shard *localcache.Shard
}

type good[V any] struct {
	value   V
	fetched localcache.Instant
	failure *atomic.Pointer[loadFailure] // of the last load, if it failed
}

type loadFailure struct {
	err   error
	until localcache.Instant // no load before
}

func newLastGood[V any](local *localcache.Cache, name string) *lastGood[V] {
	g := &lastGood[V]{view: localcache.NewView[good[V]](local, name+" last good"), shard: local.NewShard()}
	g.shard.Renew(localcache.Now())
	return g
}

func (g *lastGood[V]) close() {
	if g != nil {
		g.shard.Close()
	}
}

// token is taken before anything is asked for: a write of this node in between makes it worthless.
func (g *lastGood[V]) token(k localcache.Key) localcache.Token {
	if g == nil {
		return localcache.Token{}
	}
	return g.view.Token(k.Twin(), g.shard)
}

func (g *lastGood[V]) get(k localcache.Key) *good[V] {
	if found, result := g.view.Get(k.Twin(), localcache.Now(), 0); result == localcache.Hit {
		return found
	}
	return nil
}

// lastKnown is the value that FailSafe remembers, or nil.
func (c *Cache[V]) lastKnown(k localcache.Key) *V {
	if c.good == nil {
		return nil
	}
	if kept := c.good.get(k); kept != nil {
		return &kept.value
	}
	return nil
}

func (g *lastGood[V]) forget(k localcache.Key) {
	if g != nil {
		g.view.Invalidate(k.Twin(), localcache.Local)
	}
}

func (c *Cache[V]) forgetGood(full string) {
	if key, ok := strings.CutPrefix(full, c.config.Prefix); ok && c.good != nil {
		c.good.forget(c.view.Key(key))
	}
}

// remember notes what a flight found, before its readers get it: a good value, that there is none, or that the source has failed.
func (c *Cache[V]) remember(key string, k localcache.Key, f *flight[V], r reply, value record[V], err error) {
	switch {
	case c.good == nil:
	case value.absent:
		c.good.forget(k)
	case err != nil:
		if kept := c.good.get(k); kept != nil && c.config.FailSafe.RetryAfter > 0 {
			kept.failure.Store(&loadFailure{err: err, until: localcache.Now().Add(c.config.FailSafe.RetryAfter)})
		}
	default:
		entry, err := c.entry(key, value.value)
		if err != nil || entry.NoStore {
			return
		}
		life := c.config.LocalTTL
		if entry.LocalTTL > 0 {
			life = entry.LocalTTL
		}
		if r.life != noExpiry {
			life = min(life, r.life)
		}
		kept := good[V]{value: value.value, fetched: r.fetched, failure: new(atomic.Pointer[loadFailure])}
		c.good.view.Fill(k.Twin(), f.good, kept, r.fetched.Add(life).Add(c.config.FailSafe.MaxAge), int64(len(r.data)))
		if c.client.options.SettleFills {
			c.client.local.Wait()
		}
	}
}

// resting returns the last failure of a load for as long as FailSafe wants no other.
func (c *Cache[V]) resting(k localcache.Key) error {
	if c.good == nil || c.config.FailSafe.RetryAfter == 0 {
		return nil
	}
	if kept := c.good.get(k); kept != nil {
		if failure := kept.failure.Load(); failure != nil && localcache.Now() < failure.until {
			return failure.err
		}
	}
	return nil
}

var errSlowLoad = errors.New("nearcache: the load took longer than FailSafe.SoftTimeout, and goes on")

// softTimeout returns what fires when the reader should be content with the last good value; nil if that is never.
func (c *Cache[V]) softTimeout(k localcache.Key, q query) (fires <-chan time.Time, stop func()) {
	if c.good == nil || c.config.FailSafe.SoftTimeout == 0 || q.wants(bounded) || c.good.get(k) == nil {
		return nil, func() {}
	}
	timer := time.NewTimer(c.config.FailSafe.SoftTimeout)
	return timer.C, func() { timer.Stop() }
}

// fallBack returns the last good value to a reader who may have it, if the reason is one that it helps against.
func (c *Cache[V]) fallBack(k localcache.Key, q query, reason error) (value V, ok bool) {
	if c.good == nil || q.wants(bounded) || errors.Is(reason, ErrNotFound) || errors.Is(reason, ErrClosed) {
		return value, false
	}
	if _, wrong := errors.AsType[*WrongTypeError](reason); wrong {
		return value, false
	}
	kept := c.good.get(k)
	if kept == nil {
		return value, false
	}
	c.counts.failSafe.Add(1)
	if q.served != nil {
		*q.served = served{stale: true, age: localcache.Now().Sub(kept.fetched), err: reason}
	}
	return c.own(kept.value), true
}
