package nearcache

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"strings"
	"time"

	"github.com/go-nearcache/nearcache/localcache"
	"github.com/go-nearcache/nearcache/telemetry"
)

// read leads a flight: it asks Redis on the caller's goroutine, which is where almost every miss ends, and goes on to load on another
// if it must: the caller's context ends the caller's waiting, and not what others wait for.
func (c *Cache[V]) read(ctx context.Context, f *flight[V], key string, k localcache.Key) {
	full := c.config.Prefix + key
	answer := c.client.remote.fetchFor(ctx, f.from, full)
	if !c.settle(ctx, f, k, full, answer) {
		c.goOn(ctx, f, key, k, answer)
	}
}

func (c *Cache[V]) goOn(ctx context.Context, f *flight[V], key string, k localcache.Key, answer reply) {
	abandoned := ctx.Err() != nil
	if !c.detach(ctx, func(ctx context.Context) { c.resume(ctx, f, key, k, answer, abandoned) }) {
		c.flights.end(k, f, record[V]{}, ErrClosed)
	}
}

// detach runs do on a goroutine of its own, with a context that ends with the client instead of with the caller; false if the client is
// closed.
func (c *Cache[V]) detach(ctx context.Context, do func(context.Context)) bool {
	if !c.client.loads.begin() {
		return false
	}
	go func() {
		defer c.client.loads.end()
		ctx, release := c.client.loads.attach(ctx)
		defer release()
		do(ctx)
	}()
	return true
}

// resume ends a flight whose leader has gone: what it had from Redis does not count if it was cut off.
func (c *Cache[V]) resume(ctx context.Context, f *flight[V], key string, k localcache.Key, answer reply, abandoned bool) {
	if abandoned {
		full := c.config.Prefix + key
		answer = c.client.remote.fetch(ctx, full)
		if c.settle(ctx, f, k, full, answer) {
			return
		}
	}
	c.load(ctx, f, key, k, answer)
}

// settle ends the flight if the answer of Redis is one.
func (c *Cache[V]) settle(ctx context.Context, f *flight[V], k localcache.Key, full string, answer reply) bool {
	value, settled, err := c.outcome(ctx, full, answer)
	if settled {
		if err == nil || value.absent {
			key := strings.TrimPrefix(full, c.config.Prefix)
			c.keep(key, k, f.token, answer, value)
			c.remember(key, k, f, answer, value, err)
		}
		c.flights.end(k, f, value, err)
		c.revalidate(ctx, strings.TrimPrefix(full, c.config.Prefix), k, answer, value)
	}
	return settled
}

// outcome is what the answer of Redis says to the reader; not settled if there is a loader to ask instead. A value that does not decode
// counts as a missing one, to be replaced.
func (c *Cache[V]) outcome(ctx context.Context, full string, answer reply) (value record[V], settled bool, err error) {
	switch answer.state {
	case held:
		value.value, err = c.decode(ctx, full, answer.data)
		if err != nil {
			return record[V]{}, !c.loads(), err
		}
		c.counts.remoteHit.Add(1)
		return value, true, nil
	case negative:
		c.counts.remoteNegative.Add(1)
		return record[V]{absent: true}, true, ErrNotFound
	case refused:
		return value, true, answer.err
	case missing:
		c.counts.remoteMiss.Add(1)
		if !c.loads() {
			return value, true, ErrNotFound
		}
	case unavailable:
		if !c.loads() && ctx.Err() == nil {
			return value, true, c.unavailableError(answer.err)
		}
	}
	return value, false, nil
}

func (c *Cache[V]) unavailableError(err error) error {
	if c.client.closed.Load() {
		return ErrClosed
	}
	return fmt.Errorf("%w: cache %q: %w", ErrUnavailable, c.config.Name, err)
}

// load ends a flight that Redis alone did not settle. It runs until there is a value, an error, or the client is closed.
func (c *Cache[V]) load(ctx context.Context, f *flight[V], key string, k localcache.Key, answer reply) {
	full := c.config.Prefix + key
	for {
		if err := c.resting(k); err != nil {
			c.flights.end(k, f, record[V]{}, err)
			return
		}
		if err := context.Cause(ctx); err != nil {
			c.flights.end(k, f, record[V]{}, err)
			return
		}
		if answer.state == leased {
			answer = c.awaitLease(ctx, f, k, full)
		} else {
			if other := c.flights.claim(k, f.span); other == nil {
				ended := c.loadClaimed(ctx, f, key, k, answer)
				c.flights.unclaim(k)
				if ended {
					return
				}
			} else { // Redis may hold its result
				c.joined(f)
				waiting, span := c.client.telemetry.StartFollow(ctx, c.config.Name, telemetry.ScopeProcess, other.span)
				select {
				case <-other.ended:
				case <-waiting.Done():
				}
				span.End(context.Cause(waiting))
			}
			answer = c.client.remote.fetch(ctx, full)
		}
		if c.settle(ctx, f, k, full, answer) {
			return
		}
	}
}

// loadClaimed ends the flight with what the loader says, under a lease if Redis is there; false if the key has come to hold something else.
func (c *Cache[V]) loadClaimed(ctx context.Context, f *flight[V], key string, k localcache.Key, answer reply) (ended bool) {
	if answer.state == nowhere {
		c.loadLocal(ctx, f, key, k)
		return true
	}
	if answer.state != unavailable {
		lease := newLease(c.client.telemetry.TraceParent(ctx))
		acquired, err := c.acquire(ctx, c.config.Prefix+key, lease, answer)
		switch {
		case acquired:
			c.loadLeased(ctx, f, key, k, lease)
			return true
		case err == nil, ctx.Err() != nil:
			return false
		}
	}
	// The source still serves; what it says is stored nowhere, since nothing would tell when it changes. For the same reason readers
	// who come from now on get a flight of their own: who changes the source deletes a key that is not there, and no push follows.
	c.view.Invalidate(k, localcache.Local)
	began := localcache.Now()
	value, err := c.callLoader(ctx, key, c.lastKnown(k))
	c.remember(key, k, f, reply{life: noExpiry, fetched: began}, value, err)
	c.flights.end(k, f, value, err)
	return true
}

func (c *Cache[V]) acquire(ctx context.Context, full, lease string, answer reply) (bool, error) {
	life := c.leaseLife()
	if answer.state == held {
		return c.client.remote.replace(ctx, full, string(answer.data), []byte(lease), life)
	}
	return c.client.remote.acquire(ctx, full, lease, life)
}

// leaseLife outlasts the loader's time and the storing of its result.
func (c *Cache[V]) leaseLife() time.Duration {
	return c.config.LoadTimeout + c.client.options.RemoteTimeout
}

// loadLeased loads under a lease that it holds, stores the result if the lease still stands, and ends the lease in any case.
func (c *Cache[V]) loadLeased(ctx context.Context, f *flight[V], key string, k localcache.Key, lease string) {
	began := localcache.Now()
	value, err := c.callLoader(ctx, key, c.lastKnown(k))
	full := c.config.Prefix + key
	data, ttl, err := c.storable(key, value, err)
	// Nothing may leave the lease behind, since others would wait for its end: not the end of the client, nor a value that the
	// server refuses.
	lasting := context.WithoutCancel(ctx)
	stored, storeErr := c.client.remote.replace(lasting, full, lease, data, ttl)
	if storeErr != nil {
		_, _ = c.client.remote.replace(lasting, full, lease, nil, 0)
	}
	c.client.invalidate(full, localcache.Local)
	if storeErr != nil || !stored {
		c.refused.note(k, notReplaced(storeErr))
		c.counts.unstored.Add(1)
	}
	c.remember(key, k, f, reply{data: data, life: noExpiry, fetched: began}, value, err)
	c.flights.end(k, f, value, err)
}

// notReplaced is why the result of a load did not take the place of its lease.
func notReplaced(err error) string {
	if err != nil {
		return "Redis did not store what was loaded: " + err.Error()
	}
	return "the key was written while it was loaded"
}

// storable is what takes the place of a lease: the encoded value, the mark of an absent item, or nothing if ttl is 0.
func (c *Cache[V]) storable(key string, value record[V], loaded error) (data []byte, ttl time.Duration, err error) {
	switch {
	case loaded == nil:
		data, ttl, err = c.encodeFor(key, value.value, 0)
		if _, tooLarge := errors.AsType[*oversizedError](err); tooLarge {
			return nil, 0, nil // for those who wait for it, and kept nowhere
		}
		return data, ttl, err
	case value.absent && c.config.NegativeTTL > 0:
		return []byte(absentMarker), c.jittered(c.config.NegativeTTL), loaded
	}
	return nil, 0, loaded
}

// loadLocal loads for a client without Redis: the result goes to L1 alone, if the key has not been announced since the flight began.
func (c *Cache[V]) loadLocal(ctx context.Context, f *flight[V], key string, k localcache.Key) {
	began := localcache.Now()
	value, err := c.callLoader(ctx, key, c.lastKnown(k))
	c.endLocal(f, key, k, began, value, err)
}

func (c *Cache[V]) endLocal(f *flight[V], key string, k localcache.Key, began localcache.Instant, value record[V], err error) {
	answer := reply{life: noExpiry, fetched: began, shard: c.client.shardOf(c.config.Prefix, key)}
	if err == nil {
		// Encoded only to know its size; and what Redis would refuse is refused here, so that a test without Redis shows it.
		answer.data, err = c.encode(key, value.value)
		if _, tooLarge := errors.AsType[*oversizedError](err); tooLarge {
			c.flights.end(k, f, value, nil)
			return
		}
	}
	if err == nil || value.absent {
		c.keep(key, k, f.token, answer, value)
	}
	c.remember(key, k, f, answer, value, err)
	c.flights.end(k, f, value, err)
}

// awaitLease waits until the lease that another load holds has ended: by the push of its key, by its time, or, in this process, by
// the end of that load; and returns what Redis holds then. It looks once between asking to be woken and waiting, so no push is
// missed.
func (c *Cache[V]) awaitLease(ctx context.Context, f *flight[V], k localcache.Key, full string) reply {
	pushed, release := c.wakes.await(k)
	defer release()
	other := c.flights.loading(k)
	answer := c.client.remote.fetch(ctx, full)
	if answer.state != leased {
		return answer
	}
	scope, leader, ended := telemetry.ScopeFleet, telemetry.Leader(leaseTrace(answer.data)), (<-chan struct{})(nil)
	if other == nil {
		c.counts.leaseWaits.Add(1)
	} else {
		c.joined(f)
		scope, leader, ended = telemetry.ScopeProcess, other.span, other.ended
	}
	ctx, span := c.client.telemetry.StartFollow(ctx, c.config.Name, scope, leader)
	defer func() { span.End(context.Cause(ctx)) }()
	limit := c.leaseLife()
	if answer.life != noExpiry {
		limit = min(limit, answer.life+time.Millisecond)
	}
	if s := c.client.serverOf("", full); s.degraded() || !s.shard.Live() {
		limit = min(limit, unpushedPoll)
	}
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-pushed:
	case <-ended:
	case <-timer.C:
		if answer.life == noExpiry {
			// Not a marker of ours, which all have an end: somebody else wrote it, and nobody will take it away.
			_, _ = c.client.remote.replace(ctx, full, string(answer.data), nil, 0)
		}
	case <-ctx.Done():
	}
	return c.client.remote.fetch(ctx, full)
}

// joined counts a flight that waits for a load of this process, once.
func (c *Cache[V]) joined(f *flight[V]) {
	if !f.joined {
		f.joined = true
		c.counts.coalesced.Add(1)
	}
}

// unpushedPoll is how often a waiter looks at a lease while no push can tell it of its end.
const unpushedPoll = 50 * time.Millisecond

// loads reports whether there is a source behind Redis.
func (c *Cache[V]) loads() bool { return c.config.loads() }

// Previous returns, inside of Config.Load, the value that the item had before, if this node knows one: what a refresh replaces (RefreshAhead,
// StaleWhileRevalidate), or what Config.FailSafe remembers, as long as it does. A loader that asks its source whether that still holds, by
// an ETag or a version, returns it again if so. It is not ok if there is none, or of another type.
func Previous[V any](ctx context.Context) (previous V, ok bool) {
	value, ok := ctx.Value(previousOf{}).(func() V)
	if ok {
		previous = value()
	}
	return previous, ok
}

type previousOf struct{}

// withPrevious returns the context of a loader. One that reads another cache must not have the loader there find the value of here.
func (c *Cache[V]) withPrevious(ctx context.Context, previous *V) context.Context {
	switch {
	case previous != nil:
		return context.WithValue(ctx, previousOf{}, func() V { return c.own(*previous) })
	case ctx.Value(previousOf{}) != nil:
		return context.WithValue(ctx, previousOf{}, nil)
	}
	return ctx
}

// callLoader runs the user's loader, with its time limit, and survives whatever it does.
func (c *Cache[V]) callLoader(ctx context.Context, key string, previous *V) (value record[V], err error) {
	if c.config.Load == nil {
		result := c.callLoadMany(ctx, []string{key})[0]
		return result.value, result.err
	}
	ctx, cancel := context.WithTimeout(ctx, c.config.LoadTimeout)
	defer cancel()
	ctx, span := c.client.telemetry.StartLoad(c.withPrevious(ctx, previous), c.config.Name)
	err = survive(func() (err error) {
		value.value, err = c.config.Load(ctx, key)
		return err
	})
	value, err = c.judge(key, value.value, err)
	span.End(failureOf(err))
	return value, err
}

// judge turns what a loader returned for a key into what its readers get, and counts it.
func (c *Cache[V]) judge(key string, value V, err error) (_ record[V], failed error) {
	c.counts.loads.Add(1)
	defer func() { c.tell(EventLoad, key, "", failed) }()
	if errors.Is(err, ErrNotFound) {
		c.counts.loadNegatives.Add(1)
		return record[V]{absent: true}, err
	}
	if err == nil && c.nilable && isNil(value) {
		err = fmt.Errorf("%w: the loader of the cache %q returned a nil %T and no error for %q: return ErrNotFound if there is none", ErrInvalidValue, c.config.Name, value, key)
	}
	if err != nil {
		c.counts.loadErrors.Add(1)
	}
	return record[V]{value: value}, err
}

// survive calls a function of the user's, and turns a panic into an error. It runs on a goroutine of its own because runtime.Goexit, which every
// failing test calls, ends the one it is called on.
func survive(do func() error) (err error) {
	returned := make(chan struct{})
	go func() {
		finished := false
		defer close(returned)
		defer func() {
			if r := recover(); r != nil {
				err = &PanicError{Value: r, Stack: debug.Stack()}
			} else if !finished {
				err = &PanicError{Stack: debug.Stack()}
			}
		}()
		err = do()
		finished = true
	}()
	<-returned
	return err
}
