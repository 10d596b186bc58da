package nearcache

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/rueidis"

	"github.com/go-nearcache/nearcache/localcache"
)

// batchKeys is how many keys LoadMany is asked for at once: databases bound the length of a list of keys.
const batchKeys = 500

// loadedItem is what LoadMany said of one key.
type loadedItem[V any] struct {
	value record[V]
	err   error
}

// resumeBatch ends flights whose leader has gone, as resume does, with as few calls of LoadMany as possible. A key that another load works
// on is waited for alone, so that a batch waits for nobody while it holds leases, and two batches never for each other.
func (c *Cache[V]) resumeBatch(ctx context.Context, open []answered[V], abandoned bool) {
	if abandoned {
		open = c.fetchAgain(ctx, open)
	}
	var running sync.WaitGroup
	// Not the same slots for both: those alone may wait for a batch of another call, which must not wait for them.
	slots, batches := make(chan struct{}, loadsAtOnce), make(chan struct{}, loadsAtOnce)
	alone := func(m answered[V]) {
		running.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			c.load(ctx, m.f, m.key, m.hash, m.answer)
		})
	}
	var batch []answered[V]
	// What does not decode (held) is replaced under a lease of another kind.
	for _, m := range open {
		if err := c.resting(m.hash); err != nil {
			c.flights.end(m.hash, m.f, record[V]{}, err)
		} else if m.answer.state == leased || m.answer.state == held || c.flights.claim(m.hash, m.f.span) != nil {
			alone(m)
		} else {
			batch = append(batch, m)
		}
	}
	for claimed := range slices.Chunk(batch, batchKeys) {
		running.Go(func() {
			batches <- struct{}{}
			defer func() { <-batches }()
			c.loadBatch(ctx, claimed, alone)
		})
	}
	running.Wait()
}

// fetchAgain asks Redis once more, on behalf of a leader whose own question was cut off, and returns what is still open.
func (c *Cache[V]) fetchAgain(ctx context.Context, of []answered[V]) (open []answered[V]) {
	full := make([]string, len(of))
	for i, m := range of {
		full[i] = c.config.Prefix + m.key
	}
	answers := c.client.remote.fetchMany(ctx, full, c.client.remote.owners(full))
	var settled []answered[V]
	for i, m := range of {
		m.answer = answers[i]
		if value, ok, err := c.outcome(ctx, full[i], m.answer); ok {
			c.flights.publish(m.hash, m.f, value, err)
			settled = append(settled, m)
		} else {
			open = append(open, m)
		}
	}
	c.keepMany(ctx, settled)
	return open
}

// loadBatch ends the flights of keys that the caller has claimed, and hands to alone those for which another node was faster. The claims
// end with it.
func (c *Cache[V]) loadBatch(ctx context.Context, claimed []answered[V], alone func(answered[V])) {
	var leases []string
	mine := claimed
	if claimed[0].answer.state != nowhere {
		mine, leases = c.acquireBatch(ctx, claimed, alone)
	}
	defer func() {
		for _, m := range mine {
			c.flights.unclaim(m.hash)
		}
	}()
	if len(mine) == 0 {
		return
	}
	began := localcache.Now()
	keys := make([]string, len(mine))
	for i, m := range mine {
		keys[i] = m.key
		if leases != nil && leases[i] == "" {
			c.view.Invalidate(m.hash, localcache.Local) // see loadClaimed
		}
	}
	items := c.callLoadMany(ctx, keys)
	if leases == nil {
		for i, m := range mine {
			c.endLocal(m.f, m.key, m.hash, began, items[i].value, items[i].err)
		}
		return
	}
	c.storeBatch(ctx, mine, leases, items)
	for i, m := range mine {
		c.remember(m.key, m.hash, m.f, reply{life: noExpiry, fetched: began}, items[i].value, items[i].err)
		c.flights.end(m.hash, m.f, items[i].value, items[i].err)
	}
}

// acquireBatch takes the leases of claimed keys in one round trip a shard. Keys without a lease, because Redis does not answer or refuses
// it, have an empty one; those that another node has taken are given up.
func (c *Cache[V]) acquireBatch(ctx context.Context, claimed []answered[V], alone func(answered[V])) (mine []answered[V], leases []string) {
	wanted := make([]lease, 0, len(claimed))
	traceParent := c.client.telemetry.TraceParent(ctx)
	for _, m := range claimed {
		if m.answer.state != unavailable {
			wanted = append(wanted, lease{key: c.config.Prefix + m.key, marker: newLease(traceParent)})
		}
	}
	c.client.remote.acquireMany(ctx, wanted, c.leaseLife())
	for _, m := range claimed {
		marker := ""
		if m.answer.state != unavailable {
			var l lease
			l, wanted = wanted[0], wanted[1:]
			if l.err == nil && !l.acquired {
				c.flights.unclaim(m.hash)
				m.answer = reply{state: leased} // or a value: looked at before it is waited for
				alone(m)
				continue
			}
			if l.acquired {
				marker = l.marker
			}
		}
		mine = append(mine, m)
		leases = append(leases, marker)
	}
	return mine, leases
}

// storeBatch puts what was loaded in the place of the leases that still stand, and ends them all.
func (c *Cache[V]) storeBatch(ctx context.Context, mine []answered[V], leases []string, items []loadedItem[V]) {
	var replacements []replacement
	for i, m := range mine {
		if leases[i] == "" {
			continue
		}
		r := replacement{key: c.config.Prefix + m.key, expected: leases[i]}
		r.data, r.ttl, items[i].err = c.storable(m.key, items[i].value, items[i].err)
		replacements = append(replacements, r)
	}
	// As for a single load, nothing may leave a lease behind.
	lasting := context.WithoutCancel(ctx)
	c.client.remote.replaceMany(lasting, replacements)
	var left []replacement
	for _, r := range replacements {
		if !r.replaced {
			c.refused.note(c.view.Key(strings.TrimPrefix(r.key, c.config.Prefix)), notReplaced(r.err))
		}
		if r.err != nil {
			left = append(left, replacement{key: r.key, expected: r.expected})
		}
		if !r.replaced {
			c.counts.unstored.Add(1)
		}
	}
	c.client.remote.replaceMany(lasting, left)
	for _, r := range replacements {
		c.client.invalidate(r.key, localcache.Local)
	}
}

// callLoadMany runs the user's loader of several keys, as callLoader does that of one.
func (c *Cache[V]) callLoadMany(ctx context.Context, keys []string) []loadedItem[V] {
	ctx, cancel := context.WithTimeout(ctx, c.config.LoadTimeout)
	defer cancel()
	ctx, span := c.client.telemetry.StartLoad(c.withPrevious(ctx, nil), c.config.Name)
	var values map[string]V
	err := survive(func() (err error) {
		values, err = c.config.LoadMany(ctx, slices.Clone(keys))
		return err
	})
	failures := make(map[string]error)
	others := splitKeyErrors(err, failures)
	items := make([]loadedItem[V], len(keys))
	found := 0
	var failed error
	for i, key := range keys {
		value, ok := values[key]
		if ok {
			found++
		}
		err, hasFailed := failures[key]
		switch {
		case hasFailed && err != nil:
		case hasFailed:
			err = fmt.Errorf("nearcache: the loader of the cache %q returned a KeyError without a cause for %q", c.config.Name, key)
		case ok:
		case others != nil:
			err = others
		default:
			err = ErrNotFound
		}
		items[i].value, items[i].err = c.judge(key, value, err)
		if failed == nil {
			failed = failureOf(items[i].err)
		}
	}
	c.counts.loadsUnasked.Add(uint64(len(values) - found))
	span.End(failed)
	return items
}

// splitKeyErrors sorts what LoadMany or GetMany returned: failures of single keys, and what else went wrong, for all the others.
func splitKeyErrors(err error, byKey map[string]error) (others error) {
	switch e := err.(type) { //nolint:errorlint // a wrapped one would lose what it is wrapped in
	case nil:
	case *KeyError:
		byKey[e.Key] = e.Err
	case interface{ Unwrap() []error }:
		for _, joined := range e.Unwrap() {
			if rest := splitKeyErrors(joined, byKey); others == nil {
				others = rest
			} else if rest != nil {
				others = errors.Join(others, rest)
			}
		}
	default:
		return err
	}
	return others
}

// lease is a marker that acquireMany is to set.
type lease struct {
	key, marker string
	acquired    bool
	err         error
}

// acquireMany is acquire for several keys, all different, in one round trip a shard.
func (r *remote) acquireMany(ctx context.Context, leases []lease, life time.Duration) {
	byKey := make(map[string]*lease, len(leases))
	for i := range leases {
		byKey[leases[i].key] = &leases[i]
	}
	eachKey(ctx, r, "PIPELINE SET", byKey, func(redis rueidis.Client, l *lease) rueidis.Completed {
		return redis.B().Set().Key(l.key).Value(l.marker).Nx().Px(life).Build()
	}, func(l *lease, result rueidis.RedisResult, err error) {
		if err == nil {
			err = result.Error()
		}
		l.acquired = err == nil
		if !rueidis.IsRedisNil(err) {
			l.err = err
		}
	})
}

// replacement is data to be stored in place of what the key is known to hold; see replace.
type replacement struct {
	key, expected string
	data          []byte
	ttl           time.Duration
	replaced      bool
	err           error
}

// replaceMany is replace for several keys, all different, in one round trip a shard. It sends the script in full, whatever the server knows.
func (r *remote) replaceMany(ctx context.Context, replacements []replacement) {
	byKey := make(map[string]*replacement, len(replacements))
	for i := range replacements {
		byKey[replacements[i].key] = &replacements[i]
	}
	eachKey(ctx, r, "PIPELINE EVAL", byKey, func(redis rueidis.Client, p *replacement) rueidis.Completed {
		return redis.B().Eval().Script(replaceSource).Numkeys(1).Key(p.key).
			Arg(p.expected, rueidis.BinaryString(p.data), strconv.FormatInt(replaceMilliseconds(p.ttl), 10)).Build()
	}, func(p *replacement, result rueidis.RedisResult, err error) {
		var n int64
		if err == nil {
			n, err = result.AsInt64()
		}
		p.replaced, p.err = n == 1, err
	})
}

// eachKey sends one command for each key, in one round trip a shard, and hands over what became of it.
func eachKey[T any](ctx context.Context, r *remote, operation string, byKey map[string]*T,
	command func(rueidis.Client, *T) rueidis.Completed, done func(*T, rueidis.RedisResult, error)) {
	if len(byKey) == 0 {
		return
	}
	keys := slices.Collect(maps.Keys(byKey))
	_ = split(r.owners(keys), func(s *server, mine []int) error {
		part := make([]string, len(mine))
		for n, i := range mine {
			part[n] = keys[i]
		}
		results, _, err := r.each(ctx, s, operation, part, func(redis rueidis.Client, key string) rueidis.Completed {
			return command(redis, byKey[key])
		})
		for n, key := range part {
			var result rueidis.RedisResult
			if err == nil {
				result = results[n]
			}
			done(byKey[key], result, err)
		}
		return err
	})
}
