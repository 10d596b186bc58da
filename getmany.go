package nearcache

import (
	"context"
	"errors"
	"sync"

	"go.opentelemetry.io/otel/trace"

	"github.com/go-nearcache/nearcache/localcache"
	"github.com/go-nearcache/nearcache/telemetry"
)

// loadsAtOnce is how many loaders one GetMany keeps running.
const loadsAtOnce = 16

// missed is a key that GetMany did not find in L1.
type missed[V any] struct {
	key  string
	hash localcache.Key
	f    *flight[V]
}

// GetMany returns the items that exist, by key: those in L1 at once, the others from Redis in one round trip, and what Redis does not
// hold from the loader, several at a time. A key without an item is not in the map. If some keys fail, the map holds the others, and the
// error joins a KeyError for each. Options and bounds are those of Get.
func (c *Cache[V]) GetMany(ctx context.Context, keys []string, options ...ReadOption) (map[string]V, error) {
	q := c.query(options)
	items := make(map[string]V, len(keys))
	var failures []error
	var mine, others []missed[V]
	var span telemetry.Get
	missing := 0
	for _, key := range keys {
		k := c.view.Key(key)
		found, result := c.view.Get(k, q.began, q.notBefore)
		if result == localcache.Hit && !found.absent {
			if c.sampling != 0 || found.refreshAt != 0 || q.wants(watched) {
				c.afterHit(ctx, key, k, q, found)
			}
			items[key] = c.own(found.value)
			continue
		}
		answer, done, err := c.lookAgain(ctx, key, k, q, found, result)
		switch {
		case !done:
			if missing++; missing == 1 {
				ctx, span = c.client.telemetry.StartGet(ctx, c.config.Name)
			}
			if q.wants(skipRemote | readOnly) {
				mine = append(mine, missed[V]{key: key, hash: k})
				continue
			}
			f, leader := c.flights.join(c.view, c.client.readerOf(c.config.Prefix, key, q.notBefore), k, q.notBefore, span.SpanContext())
			if leader {
				f.good = c.good.token(k)
				mine = append(mine, missed[V]{key, k, f})
			} else {
				// A key that is given twice comes here the second time, and waits for the first.
				c.counts.coalesced.Add(1)
				others = append(others, missed[V]{key, k, f})
			}
		case err == nil:
			items[key] = answer
		case !errors.Is(err, ErrNotFound):
			failures = append(failures, &KeyError{Key: key, Err: err})
		}
	}
	if missing == 0 {
		return items, errors.Join(failures...)
	}
	span.SetKeyCount(missing)
	var failed error // the first of what was missing
	note := func(key string, value V, err error) {
		switch {
		case err == nil:
			items[key] = value
		case !errors.Is(err, ErrNotFound):
			if failed == nil {
				failed = err
			}
			failures = append(failures, &KeyError{Key: key, Err: err})
		}
	}
	wait := func(ctx context.Context, missed []missed[V]) {
		for _, m := range missed {
			value, err := c.wait(ctx, m.hash, q, m.f)
			note(m.key, value, err)
		}
	}
	if q.wants(skipRemote | readOnly) {
		passed := make([]string, len(mine))
		for i, m := range mine {
			passed[i] = m.key
		}
		for i, item := range c.passMany(ctx, passed, q) {
			value, err := c.ofItem(mine[i].hash, q, item)
			note(mine[i].key, value, err)
		}
		span.End(failed)
		return items, errors.Join(failures...)
	}
	// The caller's own flights are on their way before it waits for anybody else's, so two callers never wait for each other.
	if len(mine) > 0 {
		c.readMany(ctx, mine)
		wait(ctx, mine)
	}
	if len(others) > 0 {
		ctx, follow := c.client.telemetry.StartFollow(ctx, c.config.Name, telemetry.ScopeProcess, leaders(others, span.SpanContext())...)
		wait(ctx, others)
		follow.End(failed)
	}
	span.End(failed)
	return items, errors.Join(failures...)
}

// mostLinks is how many links OpenTelemetry's SDK keeps of a span, unless it is told otherwise.
const mostLinks = 128

// leaders are the spans of the reads that lead the flights, each once, and without the reader's own: a key given twice waits for itself.
func leaders[V any](of []missed[V], own trace.SpanContext) []trace.SpanContext {
	var spans []trace.SpanContext
	seen := map[trace.SpanID]bool{own.SpanID(): true}
	for _, m := range of {
		if leader := m.f.span; leader.IsSampled() && !seen[leader.SpanID()] && len(spans) < mostLinks {
			seen[leader.SpanID()] = true
			spans = append(spans, leader)
		}
	}
	return spans
}

// readMany leads several flights: one round trip for all, and loads, a few at a time, for those that it does not settle.
func (c *Cache[V]) readMany(ctx context.Context, mine []missed[V]) {
	full, servers := make([]string, len(mine)), make([]*server, len(mine))
	for i, m := range mine {
		full[i], servers[i] = c.config.Prefix+m.key, m.f.from
	}
	answers := c.client.remote.fetchMany(ctx, full, servers)
	if !c.loads() {
		// Without a loader, whose lease would be refused, nothing else tells a key of another type from one that is not there.
		c.refuseOtherTypes(ctx, full, answers)
	}
	var settled, open []answered[V]
	for i, m := range mine {
		if value, ok, err := c.outcome(ctx, full[i], answers[i]); ok {
			c.flights.publish(m.hash, m.f, value, err)
			settled = append(settled, answered[V]{m, answers[i]})
		} else {
			open = append(open, answered[V]{m, answers[i]})
		}
	}
	if len(settled) > 0 {
		if !c.detach(ctx, func(ctx context.Context) { c.keepMany(ctx, settled) }) {
			c.removeMany(settled)
		}
	}
	if len(open) == 0 {
		return
	}
	abandoned := ctx.Err() != nil
	if !c.detach(ctx, func(ctx context.Context) { c.resumeMany(ctx, open, abandoned) }) {
		for _, m := range open {
			c.flights.end(m.hash, m.f, record[V]{}, ErrClosed)
		}
	}
}

// answered is a key of GetMany with what Redis holds.
type answered[V any] struct {
	missed[V]
	answer reply
}

// keepMany stores in L1 what a GetMany has returned already. It comes after, because L1 has to know how long the values live, and nobody
// should wait for that.
func (c *Cache[V]) keepMany(ctx context.Context, settled []answered[V]) {
	defer c.removeMany(settled)
	var kept []answered[V]
	var full []string
	var servers []*server
	var answers []reply
	for _, s := range settled {
		if (s.answer.state == held || s.answer.state == negative) && (s.f.token.Live() || c.good != nil) {
			kept = append(kept, s)
			full = append(full, c.config.Prefix+s.key)
			servers = append(servers, s.f.from)
			answers = append(answers, s.answer)
		}
	}
	if len(kept) == 0 || c.client.remote.lives(ctx, full, servers, answers) != nil {
		return
	}
	for i, s := range kept {
		if s.f.err == nil || s.f.value.absent {
			c.keep(s.key, s.hash, s.f.token, answers[i], s.f.value)
			c.remember(s.key, s.hash, s.f, answers[i], s.f.value, s.f.err)
		}
	}
}

func (c *Cache[V]) removeMany(settled []answered[V]) {
	for _, s := range settled {
		c.flights.remove(s.hash, s.f)
	}
}

func (c *Cache[V]) resumeMany(ctx context.Context, open []answered[V], abandoned bool) {
	if c.config.LoadMany != nil {
		c.resumeBatch(ctx, open, abandoned)
		return
	}
	var running sync.WaitGroup
	slots := make(chan struct{}, loadsAtOnce)
	for _, m := range open {
		slots <- struct{}{}
		running.Go(func() {
			defer func() { <-slots }()
			c.resume(ctx, m.f, m.key, m.hash, m.answer, abandoned)
		})
	}
	running.Wait()
}

func (c *Cache[V]) refuseOtherTypes(ctx context.Context, full []string, answers []reply) {
	var absent []int
	var keys []string
	for i, answer := range answers {
		if answer.state == missing {
			absent = append(absent, i)
			keys = append(keys, full[i])
		}
	}
	if len(keys) == 0 {
		return
	}
	checked := make([]reply, len(keys))
	for i := range checked {
		checked[i] = answers[absent[i]]
	}
	if c.client.remote.refuseOtherTypes(ctx, keys, checked) != nil {
		return
	}
	for i, answer := range checked {
		answers[absent[i]] = answer
	}
}
