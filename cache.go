package nearcache

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-nearcache/nearcache/localcache"
	"github.com/go-nearcache/nearcache/tracking"
)

// A Cache is one kind of item under one prefix: typed, read-through, coherent. All of its methods may be called from any goroutine.
//
// A value that Get returns is shared with every other reader of this node: treat what it points to as read-only.
type Cache[V any] struct {
	client  *Client
	config  Config[V]
	view    *localcache.View[record[V]]
	flights flights[V]
	wakes   wakes
	counts  counts
	good    *lastGood[V] // nil unless Config.FailSafe asks for one
	ahead   refreshes
	nilable bool
	extras  atomic.Uint32 // what reads do otherwise for a time, in one word so that a hit looks once: the bits of Bypass, extraEvents and extraSample
	events  subscribers
	refused rejections
	heat    *heat   // nil unless Config.RefreshInvalidated asks for it
	shadow  *shadow // nil unless Config.Shadow asks for one

	// staleness is Options.MaxStaleness, and sampling Options.Verify, here for the path of a hit.
	staleness time.Duration
	sampling  sampling
}

// record is what L1 holds: a value, or that there is none.
type record[V any] struct {
	value     V
	absent    bool
	refreshAt localcache.Instant // with Config.RefreshAhead: a hit from then on starts a load; 0: none does
}

// New makes a cache on a client. It returns an error that names the field, the value and the rule if the config is not valid, and if another
// cache of the client has the name or the prefix.
func New[V any](client *Client, config Config[V]) (*Cache[V], error) {
	config = config.withDefaults()
	if err := config.validate(client.options); err != nil {
		return nil, err
	}
	if client.closed.Load() {
		return nil, ErrClosed
	}
	c := &Cache[V]{
		client:    client,
		config:    config,
		view:      localcache.NewView[record[V]](client.local, config.Name),
		nilable:   nilable[V](),
		heat:      newHeat(config.RefreshInvalidated),
		shadow:    newShadow(config.Shadow),
		staleness: client.options.MaxStaleness,
		sampling:  newSampling(client.options.Verify.SampleRate),
	}
	if client.options.withoutRedis() {
		c.staleness = math.MaxInt64 // nothing could confirm a bound
	}
	if config.FailSafe.MaxAge > 0 {
		c.good = newLastGood[V](client.local, config.Name)
	}
	if err := client.caches.add(c); err != nil {
		c.good.close()
		return nil, err
	}
	if c.shadow != nil || c.heat != nil {
		c.extras.Or(extraSample)
	}
	client.beginBypass(c)
	return c, nil
}

// Name returns Config.Name.
func (c *Cache[V]) Name() string { return c.config.Name }

// Get returns the item: from L1, else from Redis, else from the loader. It returns ErrNotFound if there is none, and otherwise the
// loader's error as it is, a WrongTypeError, or an error that wraps ErrUnavailable. Without options it returns no value that had been
// overwritten for longer than Options.MaxStaleness when the call began, however the network, the server or this process were held up.
//
// A hit in L1 does not look at ctx. Otherwise its end ends the wait, and not a load that others may be waiting for. A round trip that the
// call makes itself is left at ctx's deadline, but at a cancellation only when it ends: within Options.RemoteTimeout.
func (c *Cache[V]) Get(ctx context.Context, key string, options ...ReadOption) (V, error) {
	k := c.view.Key(key)
	q := c.query(options)
	found, result := c.view.Get(k, q.began, q.notBefore)
	if result == localcache.Hit && !found.absent {
		if c.sampling != 0 || found.refreshAt != 0 || q.wants(watched) {
			c.afterHit(ctx, key, k, q, found)
		}
		return c.own(found.value), nil
	}
	return c.miss(ctx, key, k, q, found, result)
}

// afterHit does what else there is to do for a reader that L1 has served.
func (c *Cache[V]) afterHit(ctx context.Context, key string, k localcache.Key, q query, found *record[V]) {
	if q.wants(watched) {
		c.tell(EventHit, key, "", nil)
	}
	if c.sampling.picks(k, q.began) {
		c.sample(key, k, found)
	}
	if c.heat != nil && c.heat.sampling.picks(k, q.began) {
		c.heat.warmed(key, k)
	}
	if c.shadow != nil && !q.wants(skipRemote|readOnly) && c.shadow.sampling.picks(k, q.began) {
		c.shade(ctx, key, k, found)
	}
	if found.refreshAt != 0 && q.began >= found.refreshAt && !q.wants(skipRemote|readOnly) {
		c.refresh(ctx, key, k)
	}
}

// query is what a reader asks for: every write acknowledged before notBefore.
type query struct {
	began     localcache.Instant
	notBefore localcache.Instant
	wishes    wishes
	served    *served
}

// wishes are what else a reader asks for.
type wishes uint8

const (
	bounded    wishes = 1 << iota // by the caller: no policy may give it anything older
	skipRemote                    // neither read Redis nor store anything
	readOnly                      // store nothing
	watched                       // not the reader's wish, but that of an option that samples hits, or of whoever listens to Events
)

func (q query) wants(w wishes) bool { return q.wishes&w != 0 }

// never is a notBefore that nothing satisfies, in L1 or on its way: for reads that skip L1. It is no field of its own because the compiler
// keeps structs of up to four in registers, and a hit would pay for a fifth (go run . -only hit in bench shows it).
const never localcache.Instant = math.MaxInt64

// served is what a reader wants to know about the answer besides the value.
type served struct {
	stale bool
	age   time.Duration
	err   error
}

func (c *Cache[V]) query(options []ReadOption) query {
	o := readOptions{staleness: c.staleness}
	if on := c.extras.Load(); on != 0 {
		o = o.bypassing(Bypass(on))
		if on&(extraEvents|extraSample) != 0 {
			o.wishes |= watched
		}
	}
	for _, option := range options {
		o = option.apply(o)
	}
	now := localcache.Now()
	q := query{began: now, notBefore: now.Add(-o.staleness), wishes: o.wishes}
	if o.skipLocal {
		q.notBefore = never
	}
	return q
}

// miss goes on where L1 did not answer.
func (c *Cache[V]) miss(ctx context.Context, key string, k localcache.Key, q query, found *record[V], result localcache.Result) (V, error) {
	if answer, done, err := c.lookAgain(ctx, key, k, q, found, result); done {
		return answer, err
	}
	ctx, span := c.client.telemetry.StartGet(ctx, c.config.Name)
	if c.client.options.TraceKeys {
		span.SetKey(c.config.Prefix + key)
	}
	if q.wants(skipRemote | readOnly) {
		answer, err := c.pass(ctx, key, k, q)
		span.End(failureOf(err))
		return answer, err
	}
	f, leader := c.flights.join(c.view, c.client.readerOf(c.config.Prefix, key, q.notBefore), k, q.notBefore, span.SpanContext())
	var answer V
	var err error
	if leader {
		f.good = c.good.token(k)
		c.read(ctx, f, key, k)
		answer, err = c.wait(ctx, k, q, f)
	} else {
		c.counts.coalesced.Add(1)
		answer, err = c.follow(ctx, k, q, f)
	}
	span.End(failureOf(err))
	return answer, err
}

// lookAgain answers from L1 after all: what is negative, what only lacked certainty, after a fence, and what the policy for a link
// that is down lets pass. Or it refuses; or, not done, it sends the reader on to Redis.
func (c *Cache[V]) lookAgain(ctx context.Context, key string, k localcache.Key, q query, found *record[V], result localcache.Result) (answer V, done bool, err error) {
	if c.client.closed.Load() {
		return answer, true, ErrClosed
	}
	if err := c.checkKey(key); err != nil {
		return answer, true, err
	}
	var unfenced error
	s := c.client.serverOf(c.config.Prefix, key)
	degraded := s.degraded()
	if degraded {
		found, result = c.lookDegraded(ctx, s, key, k, q, found, result)
	} else if result == localcache.Stale && q.notBefore != never {
		if unfenced = c.client.fenceShortly(ctx, c.config.Prefix, key); fenced(unfenced) {
			c.counts.lookedAgain.Add(1)
			found, result = c.view.Get(k, localcache.Now(), q.notBefore)
		}
	}
	// The fence may learn that the link is lost a moment before the shard does.
	if !degraded && (!s.shard.Live() || errors.Is(unfenced, tracking.ErrLinkDown)) {
		switch c.client.options.OnDisconnect {
		case BypassLocal:
			if result != localcache.Hit {
				c.counts.localBypassed.Add(1)
			}
		case FailReads:
			if q.wants(skipRemote) {
				break // who wants nothing of Redis does not miss it
			}
			return answer, true, ErrDisconnected
		case ServeStale:
			if result == localcache.Stale && !q.wants(bounded) {
				now := localcache.Now()
				c.counts.lookedAgain.Add(1)
				found, result = c.view.Get(k, now, now.Add(-c.client.options.StaleLimit))
				if result == localcache.Hit && !found.absent {
					c.counts.localStale.Add(1)
					if q.served != nil {
						*q.served = served{stale: true, age: now.Sub(s.shard.AsOf()), err: ErrDisconnected}
					}
				}
			}
		}
	}
	if result == localcache.Hit && c.sampling.picks(k, q.began) {
		c.sample(key, k, found)
	}
	switch {
	case result == localcache.Hit && !found.absent:
		c.tell(EventHit, key, "", nil)
		return c.own(found.value), true, nil
	case result == localcache.Hit:
		c.counts.localNegative.Add(1)
		c.tell(EventHit, key, "", ErrNotFound)
		return answer, true, ErrNotFound
	case ctx.Err() != nil:
		return answer, true, context.Cause(ctx)
	}
	c.tell(EventMiss, key, "", nil)
	return answer, false, nil
}

// write surrounds a write to Redis with what makes this node read it: L1 and all fetches under way forget the keys before the write is
// sent, and again after it is answered, because the server may answer before it pushes. Without Redis the write is its announcement.
func (c *Cache[V]) write(ctx context.Context, what string, keys []string, do func(full []string) error) error {
	full := make([]string, len(keys))
	for i, key := range keys {
		full[i] = c.config.Prefix + key
	}
	forget := func() {
		for _, key := range full {
			c.client.overwritten(key)
		}
	}
	forget()
	defer forget()
	if bus := c.client.bus; bus != nil {
		toSource := do
		do = func(full []string) error {
			if c.config.Store == nil && c.config.Remove == nil {
				return bus.announce(ctx, full)
			}
			return errors.Join(toSource(full), bus.announce(context.WithoutCancel(ctx), full))
		}
	}
	err := do(full)
	if n := c.client.nodes; n != nil {
		n.announce(ctx, full) // also what failed: it may have been carried out
	}
	if err != nil {
		return fmt.Errorf("nearcache: cache %q: %s: %w", c.config.Name, what, err)
	}
	return nil
}

// largest is what Redis takes as one key or value.
const largest = 512 << 20

func (c *Cache[V]) checkKey(key string) error {
	switch {
	case key == "":
		return fmt.Errorf("%w: it is empty: the key in Redis would be the bare prefix %q of the cache %q", ErrInvalidKey, c.config.Prefix, c.config.Name)
	case len(key) > largest-len(c.config.Prefix):
		return fmt.Errorf("%w: it has %d bytes, and Redis takes 512 MB with the prefix", ErrInvalidKey, len(key))
	}
	return nil
}

func (c *Cache[V]) writable(key string) error {
	if c.client.closed.Load() {
		return ErrClosed
	}
	return c.checkKey(key)
}

func (c *Cache[V]) encode(key string, value V) ([]byte, error) {
	data, err := c.config.Codec.encode(value)
	switch {
	case err != nil:
		return nil, fmt.Errorf("nearcache: cache %q: encode the value of %q: %w", c.config.Name, key, err)
	case c.config.MaxValueBytes > 0 && len(data) > c.config.MaxValueBytes:
		c.counts.oversized.Add(1)
		return nil, &oversizedError{key: key, bytes: len(data), limit: c.config.MaxValueBytes}
	case len(data) > largest:
		return nil, fmt.Errorf("%w: that of %q has %d bytes encoded, and Redis takes 512 MB", ErrInvalidValue, key, len(data))
	case isReserved(data):
		return nil, fmt.Errorf("%w: that of %q starts with the bytes %q, which mark leases", ErrInvalidValue, key, reservedPrefix)
	}
	return data, nil
}

// decode reports a value that does not decode; the reader goes on as if there were none.
func (c *Cache[V]) decode(ctx context.Context, full string, data []byte) (V, error) {
	value, err := c.config.Codec.decode(data)
	if err != nil {
		c.counts.undecodable.Add(1)
		err = fmt.Errorf("nearcache: cache %q: decode the value of %q: %w", c.config.Name, full, err)
		if c.counts.undecodableLog.allow() {
			c.client.logger.LogAttrs(ctx, slog.LevelError, "nearcache: a value in Redis does not decode and is loaded again",
				slog.String("cache", c.config.Name), slog.Int("bytes", len(data)))
		}
	}
	return value, err
}

// keep stores what was fetched in L1, if nothing has changed since the token was taken.
func (c *Cache[V]) keep(key string, k localcache.Key, token localcache.Token, r reply, value record[V]) {
	if !token.Of(r.shard) {
		c.refused.note(k, "the server that answered is not the one whose link tells of changes")
		return // the server that answered is not the one whose link would tell of a change
	}
	life := c.config.LocalTTL
	if value.absent {
		life = min(life, c.config.NegativeTTL)
	} else if entry, err := c.entry(key, value.value); err != nil || entry.NoStore {
		c.refused.note(k, "Config.Entry does not want it kept")
		return
	} else {
		if entry.LocalTTL > 0 {
			life = entry.LocalTTL
		}
		if entry.TTL > 0 {
			life = min(life, entry.TTL+c.config.StaleWhileRevalidate)
		}
		value.refreshAt = c.refreshAt(entry, r)
	}
	if r.life != noExpiry {
		life = min(life, r.life)
	}
	life, ok := c.client.boundLife(r.shard, life)
	switch {
	case !ok:
		c.refused.note(k, "its server owns nothing any more")
	case life <= 0:
		c.refused.note(k, "nothing is left of its life")
	case c.config.MaxValueBytes > 0 && len(r.data) > c.config.MaxValueBytes:
		c.refused.note(k, "it is longer than Config.MaxValueBytes")
	default:
		switch result := c.view.Fill(k, token, value, r.fetched.Add(life), int64(len(r.data))); result {
		case localcache.Filled:
		case localcache.FillInvalidated:
			c.refused.note(k, "it was invalidated after it was asked for")
		case localcache.FillEpoch:
			c.refused.note(k, "the link was lost, or L1 flushed, after it was asked for")
		default:
			c.refused.note(k, "L1 had no room, or no time, to take it: "+result.String())
		}
		if c.client.options.SettleFills {
			c.client.local.Wait()
		}
	}
}

// The methods of registered.

func (c *Cache[V]) invalidate(full string, cause localcache.Cause) {
	if key, ok := strings.CutPrefix(full, c.config.Prefix); ok {
		k := c.view.Key(key)
		if c.view.Invalidate(k, cause) {
			c.tell(EventEvict, key, cause.String(), nil)
		}
		c.wakes.wake(k)
		if c.heat != nil && cause != localcache.Local {
			c.reheat(k)
		}
	}
}

func (c *Cache[V]) wakeAll() { c.wakes.wakeAll() }

func (c *Cache[V]) describe() (name, prefix string) { return c.config.Name, c.config.Prefix }
