package nearcache

import (
	"sync/atomic"
	"time"

	"github.com/go-nearcache/nearcache/localcache"
	"github.com/go-nearcache/nearcache/telemetry"
)

// Stats is what a client has counted since Open, and what it holds now.
type Stats struct {
	Caches map[string]CacheStats // by Config.Name
	Local  localcache.Stats      // L1, for all caches together
	Link   LinkStats             // the only link; of several the one that is worst off
	Links  []LinkStats           // all of them: one to each primary of a cluster, and then to each replica that is read
}

// CacheStats counts the reads of one cache by what answered them.
type CacheStats struct {
	LocalHits      uint64 `json:"local_hits"`      // from L1, within the bound
	LocalNegatives uint64 `json:"local_negatives"` // L1 knew that there is no such item
	LocalStale     uint64 `json:"local_stale"`     // from L1 past the bound, under ServeStale, or without one, degraded; those without an item are LocalNegatives
	LocalMisses    uint64 `json:"local_misses"`    // L1 had nothing that it might serve
	LocalBypasses  uint64 `json:"local_bypasses"`  // the link was down, and Options.OnDisconnect is BypassLocal; or ModeOff

	LocalUncached uint64 `json:"local_uncached"` // DoCache of what L1 cannot hold: see Client.Rueidis

	Coalesced uint64 `json:"coalesced"` // misses that joined another reader's fetch or load in this process

	RemoteHits      uint64 `json:"remote_hits"`      // fetches that found a value in Redis
	RemoteNegatives uint64 `json:"remote_negatives"` // fetches that found the mark of an absent item
	RemoteMisses    uint64 `json:"remote_misses"`    // fetches that found nothing
	LeaseWaits      uint64 `json:"lease_waits"`      // loads that waited for another node's

	Loads                uint64      `json:"loads"`                 // items that the loader was asked for
	LoadNegatives        uint64      `json:"load_negatives"`        // those that do not exist
	LoadErrors           uint64      `json:"load_errors"`           // those that failed otherwise
	LoadsUnasked         uint64      `json:"loads_unasked"`         // values that LoadMany returned for keys that it was not asked for
	Refreshes            uint64      `json:"refreshes"`             // loads that Config.RefreshAhead started
	RefreshesInvalidated uint64      `json:"refreshes_invalidated"` // reads that Config.RefreshInvalidated started
	RefreshesRefused     uint64      `json:"refreshes_refused"`     // those that it did not, because there were too many
	Unstored             uint64      `json:"unstored"`              // loaded, and not stored because the key was written meanwhile or Redis did not answer
	Undecodable          uint64      `json:"undecodable"`           // values in Redis that the codec did not take
	Oversized            uint64      `json:"oversized"`             // values longer than Config.MaxValueBytes, which were not stored
	FailSafe             uint64      `json:"fail_safe"`             // reads that Config.FailSafe answered with the last good value
	EventsLost           uint64      `json:"events_lost"`           // for which Cache.Events had no room
	Verify               VerifyStats `json:"verify"`                // what Options.Verify found
	Shadow               ShadowStats `json:"shadow"`                // what Config.Shadow found
}

// LinkStats is the state of the invalidation link.
type LinkStats struct {
	Server     string        `json:"server"`            // host:port
	Replica    bool          `json:"replica,omitempty"` // to a replica that is read: see Options.Redis
	Mode       Mode          `json:"mode"`              // what keeps L1 coherent
	Live       bool          `json:"live"`              // pushes arrive and reads may be served from L1
	Epoch      uint64        `json:"epoch"`             // grows with each reconnect and flush; 0 while the link is down
	Staleness  time.Duration `json:"staleness_ns"`      // age of the last instant of which all writes are known; negative where nothing is: in all modes but ModeTracking
	Reconnects uint64        `json:"reconnects"`
	CanaryLag  time.Duration `json:"canary_lag_ns"` // from the last canary's write to its push; 0 if there was none: see Options.Canary
}

// counts are what a cache counts off the path of a hit; hits and misses are counted by its view.
type counts struct {
	localNegative, localStale             atomic.Uint64
	localBypassed                         atomic.Uint64
	lookedAgain                           atomic.Uint64 // after L1 lacked certainty
	coalesced                             atomic.Uint64
	remoteHit, remoteNegative, remoteMiss atomic.Uint64
	leaseWaits                            atomic.Uint64
	loads, loadNegatives, loadErrors      atomic.Uint64
	loadsUnasked                          atomic.Uint64
	unstored, undecodable                 atomic.Uint64
	oversized, failSafe, refreshes        atomic.Uint64

	undecodableLog oncePerSecond
	verify         verifyCounts
}

// oncePerSecond keeps a log from repeating itself.
type oncePerSecond struct{ next atomic.Int64 }

func (o *oncePerSecond) allow() bool {
	now, next := localcache.Now(), o.next.Load()
	return int64(now) >= next && o.next.CompareAndSwap(next, int64(now.Add(time.Second)))
}

func (h *heat) stats() (refreshed, refused uint64) {
	if h == nil {
		return 0, 0
	}
	return h.refreshed.Load(), h.refused.Load()
}

func (c *Cache[V]) stats() CacheStats {
	refreshed, refused := c.heat.stats()
	n := &c.counts
	negatives, stale, again := n.localNegative.Load(), n.localStale.Load(), n.lookedAgain.Load()
	bypassed := n.localBypassed.Load()
	lookups := c.view.Lookups()
	misses := lookups.Misses + max(lookups.Stale, again) - again
	return CacheStats{
		LocalHits:            max(lookups.Hits, negatives+stale) - negatives - stale,
		LocalNegatives:       negatives,
		LocalStale:           stale,
		LocalMisses:          max(misses, bypassed) - bypassed,
		LocalBypasses:        bypassed,
		Coalesced:            n.coalesced.Load(),
		RemoteHits:           n.remoteHit.Load(),
		RemoteNegatives:      n.remoteNegative.Load(),
		RemoteMisses:         n.remoteMiss.Load(),
		LeaseWaits:           n.leaseWaits.Load(),
		Loads:                n.loads.Load(),
		LoadNegatives:        n.loadNegatives.Load(),
		LoadErrors:           n.loadErrors.Load(),
		LoadsUnasked:         n.loadsUnasked.Load(),
		Refreshes:            n.refreshes.Load(),
		RefreshesInvalidated: refreshed,
		RefreshesRefused:     refused,
		Unstored:             n.unstored.Load(),
		Undecodable:          n.undecodable.Load(),
		Oversized:            n.oversized.Load(),
		FailSafe:             n.failSafe.Load(),
		EventsLost:           c.events.lost.Load(),
		Verify:               n.verify.stats(),
		Shadow:               c.shadow.stats(),
	}
}

// Stats returns the client's counters. It may be called after Close.
func (c *Client) Stats() Stats {
	all := c.caches.all()
	links := c.linkStats()
	stats := Stats{Caches: make(map[string]CacheStats, len(all)), Local: c.local.Stats(), Link: worst(links), Links: links}
	for _, cache := range all {
		name, _ := cache.describe()
		stats.Caches[name] = cache.stats()
	}
	return stats
}

func (c *Client) linkStats() []LinkStats {
	servers := c.servers()
	all := make([]LinkStats, len(servers))
	for i, s := range servers {
		all[i] = s.linkStats()
	}
	for _, s := range servers {
		if r := s.replica.Load(); r != nil {
			all = append(all, r.linkStats())
		}
	}
	return all
}

func (s *server) linkStats() LinkStats {
	staleness := localcache.Now().Sub(s.shard.AsOf())
	if s.degraded() {
		staleness = -1
	}
	return LinkStats{
		Server:     s.node.Address,
		Replica:    s.primary != nil,
		Mode:       s.shownMode(),
		Live:       s.shard.Live() && !s.degraded(),
		Epoch:      s.shard.Epoch(),
		Staleness:  staleness,
		Reconnects: s.status().Reconnects,
		CanaryLag:  s.canary.lastLag(),
	}
}

// worst returns a link that is down, or else the one whose knowledge is oldest. A replica does not count: its primary is read instead.
func worst(links []LinkStats) (found LinkStats) {
	for i, link := range links {
		if link.Replica {
			break // after all primaries
		}
		if i == 0 || found.Live && (!link.Live || link.Staleness > found.Staleness) {
			found = link
		}
	}
	return found
}

// Health says whether the client can do all that it promises, and if not, why.
type Health struct {
	Ready  bool        // every link is live: reads are served from L1; or, with Degrade, its server answers
	Mode   Mode        // of the server that is worst off
	Reason string      // why not, or why degraded; empty otherwise
	Since  time.Time   // when it became so
	Link   LinkStats   // the only link; of several the one that is worst off
	Links  []LinkStats // all of them: one to each primary of a cluster, and then to each replica that is read
}

// Health returns the state of the client. A client that is not ready still serves reads, as Options.OnDisconnect says. In a cluster one link
// that is down makes it not ready, and what the others cover is served from L1 all the same.
func (c *Client) Health() Health {
	links := c.linkStats()
	health := Health{Ready: true, Link: worst(links), Links: links}
	for _, s := range c.servers() {
		status := s.status()
		health.Mode = max(health.Mode, s.shownMode())
		if s.degraded() {
			c.degradedHealth(s, status, &health)
			continue
		}
		if s.shard.Live() {
			if health.Ready && status.Since.After(health.Since) {
				health.Since = status.Since
			}
			continue
		}
		if health.Ready {
			health.Since = status.Since
		}
		health.Ready = false
		if health.Reason == "" {
			health.Reason = "the invalidation link is down"
			if status.LastError != nil {
				health.Reason += ": " + status.LastError.Error()
			}
		}
	}
	if health.Ready && c.primaries != nil && c.routing.Load().uncovered(c.stranger) {
		health.Ready, health.Reason = false, "keys have no owner that is known and has a live link"
	}
	if c.closed.Load() {
		health.Reason = ErrClosed.Error()
	}
	return health
}

// observe fills a snapshot for the instruments.
func (c *Client) observe(snapshot *telemetry.Snapshot) {
	for _, cache := range c.caches.all() {
		name, _ := cache.describe()
		n := cache.stats()
		snapshot.Caches = append(snapshot.Caches, telemetry.CacheSnapshot{
			Name: name,
			Local: telemetry.Results{
				Hit: int64(n.LocalHits), Miss: int64(n.LocalMisses), Stale: int64(n.LocalStale), Negative: int64(n.LocalNegatives),
				Bypass: int64(n.LocalBypasses),
			},
			Remote:    telemetry.Results{Hit: int64(n.RemoteHits), Miss: int64(n.RemoteMisses), Negative: int64(n.RemoteNegatives)},
			Source:    telemetry.Results{Hit: int64(n.Loads - n.LoadErrors - n.LoadNegatives), Negative: int64(n.LoadNegatives)},
			Coalesced: telemetry.Coalesced{Process: int64(n.Coalesced), Fleet: int64(n.LeaseWaits)},
			Verification: telemetry.Verification{
				Enabled:  c.verifier != nil,
				Coherent: int64(n.Verify.Coherent), Wrong: int64(n.Verify.Wrong),
				Unresolved: int64(n.Verify.Unresolved), Skipped: int64(n.Verify.Skipped),
			},
		})
	}
	local := c.local.Stats()
	snapshot.MemoryUsage, snapshot.MemoryLimit = local.Bytes, local.MaxBytes
	effects := func(n localcache.InvalidationCounts) telemetry.Effects {
		return telemetry.Effects{Evicted: int64(n.Evicted), Absent: int64(n.Absent)}
	}
	// The caches share one store, so what it counts belongs to the client.
	snapshot.Store = telemetry.StoreSnapshot{
		Items: local.Items,
		Evictions: telemetry.Evictions{
			Capacity: int64(local.Evictions.Capacity), Expired: int64(local.Evictions.Expired), Rejected: int64(local.Evictions.Rejected),
		},
		Invalidations: telemetry.Invalidations{
			Tracking:  effects(local.Invalidations.Tracking),
			Broadcast: effects(local.Invalidations.Broadcast),
			Local:     effects(local.Invalidations.Local),
		},
		FillsRejected: telemetry.FillsRejected{
			Invalidated: int64(local.Fills.Invalidated), Epoch: int64(local.Fills.Epoch), Capacity: int64(local.Fills.Capacity),
		},
	}
	snapshot.Flushes = telemetry.Flushes{Reconnect: c.flushes.reconnect.Load(), FlushAll: c.flushes.flushAll.Load(), Gap: c.flushes.gap.Load(), Manual: c.flushes.manual.Load(), Topology: c.flushes.topology.Load()}
	if c.bus != nil {
		return
	}
	for _, link := range c.linkStats() {
		snapshot.Links = append(snapshot.Links, telemetry.LinkSnapshot{
			Server:     telemetry.ParseServer(link.Server),
			Replica:    link.Replica,
			Mode:       link.Mode.String(),
			Reconnects: int64(link.Reconnects),
			Staleness:  link.Staleness,
		})
	}
}
