package nearcache

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-nearcache/nearcache/broadcast"
	"github.com/go-nearcache/nearcache/localcache"
	"github.com/go-nearcache/nearcache/tracking"
)

// A TrackingPolicy says what a client does with a server that does not announce what changes, or not to it: the server is too old, a proxy is in
// between, the user lacks a right.
type TrackingPolicy int

const (
	// RequireTracking fails Open, with an error that says why. It is the default. If tracking is lost later, Options.OnDisconnect says what reads do
	// until it is back.
	RequireTracking TrackingPolicy = iota
	// Degrade goes on in the best Mode that there is, shows it, and goes back to ModeTracking as soon as that is possible.
	Degrade
)

func (p TrackingPolicy) String() string {
	switch p {
	case RequireTracking:
		return "RequireTracking"
	case Degrade:
		return "Degrade"
	}
	return fmt.Sprintf("TrackingPolicy(%d)", int(p))
}

// A Mode is what keeps the part of L1 that belongs to a server coherent, from the best to the least. In all but ModeTracking reads with Fresh,
// MaxStaleness or SkipLocal go to Redis, Client.Fence fails, and reads that L1 answers are counted as CacheStats.LocalStale.
type Mode int

const (
	// ModeTracking is the server's announcements: the bound is Options.MaxStaleness.
	ModeTracking Mode = iota
	// ModeBroadcast is messages between the nodes on Options.Bus. What is written through this library is seen when its message comes; what others
	// write, and what a message that is lost was about, after Options.DegradedTTL.
	ModeBroadcast
	// ModeTTL is the life of each entry: nothing that L1 serves was read from Redis longer ago than Options.DegradedTTL. This node reads its own
	// writes all the same.
	ModeTTL
	// ModeOff is an L1 that is not used: every read goes to Redis.
	ModeOff
)

func (m Mode) String() string {
	switch m {
	case ModeTracking:
		return "tracking"
	case ModeBroadcast:
		return "broadcast"
	case ModeTTL:
		return "ttl"
	case ModeOff:
		return "off"
	}
	return fmt.Sprintf("Mode(%d)", int(m))
}

// MarshalText writes a mode as String does.
func (m Mode) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText reads what MarshalText writes, for programs that read the health or the statistics of another.
func (m *Mode) UnmarshalText(text []byte) error {
	for _, mode := range []Mode{ModeTracking, ModeBroadcast, ModeTTL, ModeOff} {
		if string(text) == mode.String() {
			*m = mode
			return nil
		}
	}
	return fmt.Errorf("nearcache: %q is no Mode", text)
}

// NoLocal as Options.DegradedTTL turns L1 off where there is no tracking.
const NoLocal time.Duration = -1

// modeInterval is how often a server that is not tracked is looked at, and modeRetry how often tracking is tried where the tracker does not try
// by itself, and how often a link that did not announce a write is given another one.
const (
	modeInterval = 500 * time.Millisecond
	modeRetry    = 5 * time.Second
)

// degradation is the mode of a server. With RequireTracking it is ModeTracking all the time.
//
// The mode is changed before the epoch begins in which it holds when that makes it worse, and after it when that makes it better. So
// whoever fills with a token that is good in the end has seen the worse of the two.
type degradation struct {
	mode atomic.Int32

	mu     sync.Mutex // held while the mode, the link's state or the shard's change together
	up     bool       // the link is live, trusted or not
	links  uint64     // how many have been
	asOf   time.Time  // of the link
	since  time.Time  // when the mode last changed; zero if it never did
	reason error      // why the mode is not ModeTracking
	kicked chan struct{}
}

func (s *server) mode() Mode { return Mode(s.degradation.mode.Load()) }

// degraded reports whether nothing tells what changes on the server, so that nothing may be promised of it.
func (s *server) degraded() bool { return s.mode() != ModeTracking }

// linkLive has a link that has come up protect L1, if the mode is ModeTracking; otherwise it has yet to prove itself. It reports whether it does.
func (s *server) linkLive(asOf time.Time) bool {
	d := &s.degradation
	d.mu.Lock()
	defer d.mu.Unlock()
	d.up, d.asOf = true, asOf
	d.links++
	if s.degraded() {
		d.kick()
		return false
	}
	s.shard.Renew(localcache.At(asOf))
	return true
}

// linkLost ends what rests on the link; freeze says that what L1 holds may still be served to those who want it. It reports whether anything did.
func (s *server) linkLost(freeze bool) bool {
	d := &s.degradation
	d.mu.Lock()
	defer d.mu.Unlock()
	d.up = false
	d.kick()
	switch {
	case s.degraded():
		return false
	case freeze:
		s.shard.Freeze()
	default:
		s.shard.Suspend()
	}
	return true
}

func (s *server) linkConfirms(asOf time.Time) {
	d := &s.degradation
	d.mu.Lock()
	defer d.mu.Unlock()
	d.asOf = asOf
	if !s.degraded() {
		s.shard.Confirm(localcache.At(asOf))
	}
}

func (d *degradation) kick() {
	select {
	case d.kicked <- struct{}{}: // a nil channel is never ready
	default:
	}
}

// linkNumber is the number of the link that is live, or was last.
func (s *server) linkNumber() uint64 {
	s.degradation.mu.Lock()
	defer s.degradation.mu.Unlock()
	return s.degradation.links
}

// degrade leaves ModeTracking, because of what has been found out, which was about one link and holds only while it is the last one.
func (s *server) degrade(ctx context.Context, links uint64, reason error) {
	d := &s.degradation
	d.mu.Lock()
	if d.links != links {
		d.mu.Unlock()
		return
	}
	d.reason = reason
	changed := !s.degraded()
	if changed {
		s.setMode(s.client.nextBest())
	}
	d.mu.Unlock()
	if changed {
		s.client.caches.wakeAll() // whoever waits for a push waits in vain
		s.client.logger.LogAttrs(ctx, slog.LevelWarn, "nearcache: L1 is degraded: the server does not announce what changes; will try again",
			slog.String("server", s.node.Address), slog.String("mode", s.mode().String()), slog.String("error", reason.Error()))
	}
}

// setMode enters a mode other than ModeTracking. What was filled before is forgotten.
func (s *server) setMode(mode Mode) {
	s.degradation.mode.Store(int32(mode))
	s.degradation.since = time.Now()
	if mode == ModeOff {
		s.shard.Suspend()
	} else {
		s.shard.RenewUnconfirmed()
	}
	s.endIfClosed()
}

// endIfClosed undoes what came in between Client.Close and the end of a server.
func (s *server) endIfClosed() {
	if s.client.closed.Load() {
		s.shard.Suspend()
	}
}

// promote goes back to ModeTracking by a link that has proved itself and is still the same.
func (s *server) promote(ctx context.Context, links uint64) {
	d := &s.degradation
	d.mu.Lock()
	promoted := d.up && d.links == links && s.degraded()
	if promoted {
		s.shard.Renew(localcache.At(d.asOf))
		d.mode.Store(int32(ModeTracking))
		d.since, d.reason = time.Now(), nil
		s.endIfClosed()
	}
	d.mu.Unlock()
	if promoted {
		s.client.caches.wakeAll()
		s.client.logger.LogAttrs(ctx, slog.LevelInfo, "nearcache: L1 is kept coherent by tracking again", slog.String("server", s.node.Address))
	}
}

// prove has a write announced on the link that is live, and degrades the server if it is not and the policy allows it.
func (s *server) prove(ctx context.Context) error {
	d := &s.degradation
	d.mu.Lock()
	links, up := d.links, d.up
	d.mu.Unlock()
	if s.degraded() && !up {
		return nil
	}
	err := s.client.prove(ctx, s.node.Address)
	switch {
	case err == nil:
		s.promote(ctx, links)
	case s.client.options.Tracking == Degrade && errors.Is(err, ErrNoTracking):
		s.degrade(ctx, links, err)
		return nil
	}
	return err
}

// keepMode looks whether tracking is to be had again, or no longer.
func (s *server) keepMode(ctx context.Context) {
	tick := time.NewTicker(modeInterval)
	defer tick.Stop()
	next := time.Now().Add(modeRetry)
	for {
		kicked := false
		select {
		case <-s.degradation.kicked:
			kicked = true
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		d := &s.degradation
		d.mu.Lock()
		links, up := d.links, d.up
		d.mu.Unlock()
		due := kicked || !time.Now().Before(next)
		switch {
		case s.link() == nil && due:
			next = time.Now().Add(modeRetry)
			_ = s.openLink(ctx) // the reason is noted there
		case up && s.degraded() && due:
			next = time.Now().Add(modeRetry)
			_ = s.prove(ctx)
		case !up && !kicked: // the tracker notes the reason for a loss a moment after it has told of it
			if last := s.status().LastError; errors.Is(last, ErrNoTracking) {
				s.degrade(ctx, links, last)
			}
		}
	}
}

// nextBest is the mode of a server without tracking.
func (c *Client) nextBest() Mode {
	switch {
	case c.options.DegradedTTL < 0:
		return ModeOff
	case c.nodes != nil && c.nodes.live.Load():
		return ModeBroadcast
	}
	return ModeTTL
}

// boundLife bounds the life in L1 of what was read from the server of a shard; false if it must not be kept at all.
func (c *Client) boundLife(shard *localcache.Shard, life time.Duration) (time.Duration, bool) {
	if c.options.Tracking != Degrade {
		return life, true
	}
	for _, s := range c.servers() {
		if r := s.replica.Load(); s.shard == shard || r != nil && r.shard == shard {
			if s.degraded() {
				life = min(life, c.options.DegradedTTL)
			}
			return life, true
		}
	}
	return 0, false // it owns nothing any more
}

// lookDegraded is what a read without a bound of its own gets from L1 where nothing is promised: whatever has not come to the end of its life.
func (c *Cache[V]) lookDegraded(ctx context.Context, s *server, key string, k localcache.Key, q query, found *record[V], result localcache.Result) (*record[V], localcache.Result) {
	switch {
	case s.mode() == ModeOff:
		c.counts.localBypassed.Add(1)
		return found, result
	case result != localcache.Stale || q.wants(bounded):
		return found, result
	}
	c.counts.lookedAgain.Add(1)
	now := localcache.Now()
	found, result = c.view.Get(k, now, math.MinInt64)
	if result == localcache.Hit && !found.absent {
		c.counts.localStale.Add(1)
		if found.refreshAt != 0 && now >= found.refreshAt {
			c.refresh(ctx, key, k)
		}
		if q.served != nil {
			info, _ := c.view.Peek(k)
			*q.served = served{stale: true, age: info.Age, err: fmt.Errorf("nearcache: L1 is degraded to %q: %w", s.mode(), ErrNoTracking)}
		}
	}
	return found, result
}

// nodes are the messages between nodes of a client that has Redis too: for those nodes that are degraded.
type nodes struct {
	client       *Client
	bus          *broadcast.Bus
	subscription *broadcast.Subscription
	live         atomic.Bool
	log          oncePerSecond
}

// connectNodes subscribes. All clients of the topic announce what they write, degraded or not.
func (c *Client) connectNodes(ctx context.Context) error {
	n := &nodes{client: c, bus: c.options.Bus}
	n.live.Store(true)
	c.nodes = n
	subscription, err := n.bus.Subscribe(ctx, BusTopic, broadcast.Handler{Message: n.message, Gap: n.gap})
	if err != nil {
		return fmt.Errorf("nearcache: Options.Bus: %w", err)
	}
	n.subscription = subscription
	c.askBypass()
	return nil
}

func (n *nodes) message(_ context.Context, m broadcast.Message) error {
	switch {
	case m.Version == announcementVersion && m.Type == announcementEverything:
		n.client.forgetAll(&n.client.flushes.manual)
		return nil
	case m.Version == announcementVersion && m.Type == announcementKeys:
		if keys, err := decodeKeys(m.Payload); err == nil {
			for _, key := range keys {
				n.client.invalidate(key, localcache.Broadcast)
			}
			return nil
		}
	}
	if m.Version == announcementVersion && n.client.hearBypass(m.Type, m.Payload) {
		return nil
	}
	n.forget(&n.client.flushes.gap) // it may have been anything
	return nil
}

func (n *nodes) gap(_ context.Context, gap broadcast.Gap) {
	if !gap.Open {
		n.client.askBypass()
	}
	if open := gap.Open; open == n.live.Load() {
		n.live.Store(!open)
	} else if !gap.MustFlush() {
		return
	}
	n.forget(&n.client.flushes.gap)
}

// forget drops what degraded servers rest on, and has them enter the mode that is the best now.
func (n *nodes) forget(counted *atomic.Int64) {
	for _, s := range n.client.servers() {
		d := &s.degradation
		d.mu.Lock()
		degraded := s.degraded()
		if degraded {
			s.setMode(n.client.nextBest())
		}
		d.mu.Unlock()
		if degraded {
			n.client.flushed(counted)
		}
	}
}

// announce tells the other nodes what was written. That it fails, or is not accepted within RemoteTimeout, is no failure of the write: a degraded
// node finds out after DegradedTTL.
func (n *nodes) announce(ctx context.Context, keys []string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), n.client.options.RemoteTimeout)
	defer cancel()
	l := busLink{bus: n.bus}
	if err := l.announce(ctx, keys); err != nil && n.log.allow() {
		n.client.warn(ctx, "nearcache: degraded nodes are not told of a write: the bus failed", err)
	}
}

func (n *nodes) close(ctx context.Context) error {
	if n == nil || n.subscription == nil {
		return nil
	}
	return n.subscription.Close(ctx)
}

// away reports whether a server is not to be reached, as far as its link tells: that is lost, or, of a degraded server, tracking was not even
// refused when it was tried last.
func (s *server) away() bool {
	if !s.degraded() {
		return !s.shard.Live()
	}
	status := s.status()
	return !status.Live && status.LastError != nil && !errors.Is(status.LastError, ErrNoTracking)
}

// shownMode is what people are told: a client without Redis has messages and nothing else.
func (s *server) shownMode() Mode {
	if s.client.bus != nil {
		return ModeBroadcast
	}
	return s.mode()
}

// degradedHealth adds a degraded server. It is ready if it was reached when tracking was tried last.
func (c *Client) degradedHealth(s *server, status tracking.Status, health *Health) {
	d := &s.degradation
	d.mu.Lock()
	since, reason := d.since, d.reason
	d.mu.Unlock()
	if s.away() {
		if health.Ready {
			health.Since = status.Since
		}
		health.Ready, health.Reason = false, status.LastError.Error()
		return
	}
	if health.Ready && since.After(health.Since) {
		health.Since = since
	}
	if health.Reason == "" {
		health.Reason = fmt.Sprintf("L1 is degraded to %q: %v", s.mode(), reason)
	}
}
