package telemetry

import (
	"slices"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// report turns a snapshot into observations.
func (o *observer) report(to metric.Observer, s *Snapshot) {
	i, client := &o.telemetry.instruments, o.client
	for n := range s.Caches {
		o.caches.get(s.Caches[n].Name, o.telemetry.newCacheSeries).report(to, i, &s.Caches[n])
	}

	if s.MemoryLimit > 0 {
		client.store.report(to, i, &s.Store)
		to.ObserveInt64(i.memoryUsage, s.MemoryUsage, client.plain...)
		to.ObserveInt64(i.memoryLimit, s.MemoryLimit, client.plain...)
	}
	client.flushes.report(to, i.flushes,
		s.Flushes.Reconnect, s.Flushes.Overflow, s.Flushes.FlushAll, s.Flushes.Topology, s.Flushes.Manual, s.Flushes.Gap)

	for n := range s.Links {
		link := &s.Links[n]
		series := o.links.get(linkKey{link.Server, link.Replica}, o.telemetry.newLinkSeries)
		to.ObserveInt64(i.reconnects, link.Reconnects, series.plain...)
		if link.Staleness >= 0 {
			to.ObserveFloat64(i.staleness, link.Staleness.Seconds(), series.plain...)
		}
		if link.Mode != "" {
			series.mode.report(to, i.mode, count(link.Mode)...)
		}
	}
}

type clientSeries struct {
	plain   []metric.ObserveOption
	flushes breakdown
	store   storeSeries
}

func (t *Telemetry) newClientSeries() *clientSeries {
	return &clientSeries{
		plain: observeOptions(t.nameAttr),
		flushes: newBreakdown(reasonKey, []string{"reconnect", "overflow", "flushall", "topology", "manual", "gap"},
			t.nameAttr),
		store: newStoreSeries(t.nameAttr),
	}
}

// linkKey tells links apart: a server may become the replica of another.
type linkKey struct {
	server  Server
	replica bool
}

type linkSeries struct {
	plain []metric.ObserveOption
	mode  breakdown
}

// modes are the values of nearcache.mode.
var modes = []string{"tracking", "broadcast", "ttl", "off"}

func (t *Telemetry) newLinkSeries(key linkKey) *linkSeries {
	role := "primary"
	if key.replica {
		role = "replica"
	}
	attributes := append(serverAttributes(key.server), t.nameAttr, roleKey.String(role))
	return &linkSeries{plain: observeOptions(attributes...), mode: newBreakdown(modeKey, modes, attributes...)}
}

// count is 1 for the mode and 0 for the others.
func count(mode string) []int64 {
	counts := make([]int64, len(modes))
	if n := slices.Index(modes, mode); n >= 0 {
		counts[n] = 1
	}
	return counts
}

type cacheSeries struct {
	local, remote, source breakdown
	coalesced             breakdown
	verifications         breakdown
	plain                 []metric.ObserveOption
}

func (t *Telemetry) newCacheSeries(cache string) *cacheSeries {
	cacheAttr := cacheKey.String(cache)
	tier := func(name string) breakdown {
		return newBreakdown(resultKey, []string{"hit", "miss", "stale", "negative", "bypass"},
			t.nameAttr, cacheAttr, tierKey.String(name))
	}
	return &cacheSeries{
		local:  tier("local"),
		remote: tier("remote"),
		source: tier("source"),
		coalesced: newBreakdown(scopeKey, []string{string(ScopeProcess), string(ScopeFleet)},
			t.nameAttr, cacheAttr),
		verifications: newBreakdown(resultKey, []string{"coherent", "wrong", "unresolved", "skipped"},
			t.nameAttr, cacheAttr),
		plain: observeOptions(t.nameAttr, cacheAttr),
	}
}

func (c *cacheSeries) report(to metric.Observer, i *instruments, s *CacheSnapshot) {
	c.local.report(to, i.requests, s.Local.values()...)
	c.remote.report(to, i.requests, s.Remote.values()...)
	c.source.report(to, i.requests, s.Source.values()...)
	c.coalesced.report(to, i.loadCoalesced, s.Coalesced.Process, s.Coalesced.Fleet)
	v := &s.Verification
	if !v.Enabled {
		return
	}
	c.verifications.report(to, i.verifications, v.Coherent, v.Wrong, v.Unresolved, v.Skipped)
	if compared := v.Coherent + v.Wrong; compared > 0 {
		to.ObserveFloat64(i.consistency, float64(v.Coherent)/float64(compared), c.plain...)
	}
}

func (r *Results) values() []int64 {
	return []int64{r.Hit, r.Miss, r.Stale, r.Negative, r.Bypass}
}

type storeSeries struct {
	items                      breakdown
	evictions                  breakdown
	tracking, broadcast, local breakdown // invalidations
	fillsRejected              breakdown
}

func newStoreSeries(client attribute.KeyValue) storeSeries {
	source := func(name string) breakdown {
		return newBreakdown(effectKey, []string{"evicted", "absent"}, client, sourceKey.String(name))
	}
	return storeSeries{
		items:         breakdown{observeOptions(client)},
		evictions:     newBreakdown(reasonKey, []string{"capacity", "expired", "rejected"}, client),
		tracking:      source("tracking"),
		broadcast:     source("broadcast"),
		local:         source("local"),
		fillsRejected: newBreakdown(reasonKey, []string{"invalidated", "epoch", "capacity"}, client),
	}
}

func (b *storeSeries) report(to metric.Observer, i *instruments, s *StoreSnapshot) {
	b.items.report(to, i.itemCount, s.Items)
	b.evictions.report(to, i.evictions, s.Evictions.Capacity, s.Evictions.Expired, s.Evictions.Rejected)
	b.tracking.report(to, i.invalidations, s.Invalidations.Tracking.Evicted, s.Invalidations.Tracking.Absent)
	b.broadcast.report(to, i.invalidations, s.Invalidations.Broadcast.Evicted, s.Invalidations.Broadcast.Absent)
	b.local.report(to, i.invalidations, s.Invalidations.Local.Evicted, s.Invalidations.Local.Absent)
	b.fillsRejected.report(to, i.fillsRejected,
		s.FillsRejected.Invalidated, s.FillsRejected.Epoch, s.FillsRejected.Capacity)
}

// breakdown is one instrument's series over the values of one attribute: the options of its observations, built once.
type breakdown [][]metric.ObserveOption

func newBreakdown(key attribute.Key, values []string, base ...attribute.KeyValue) breakdown {
	b := make(breakdown, len(values))
	for n, value := range values {
		b[n] = observeOptions(append(slices.Clip(base), key.String(value))...)
	}
	return b
}

// report takes the values in the order of the breakdown. Zeroes are reported too: a rate over a series that first appears at its
// first event would miss that event.
func (b breakdown) report(to metric.Observer, instrument metric.Int64Observable, values ...int64) {
	for n, value := range values {
		to.ObserveInt64(instrument, value, b[n]...)
	}
}

func observeOptions(attributes ...attribute.KeyValue) []metric.ObserveOption {
	return []metric.ObserveOption{metric.WithAttributeSet(attribute.NewSet(attributes...))}
}
