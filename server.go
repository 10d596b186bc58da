package nearcache

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"

	"github.com/go-nearcache/nearcache/localcache"
	"github.com/go-nearcache/nearcache/telemetry"
	"github.com/go-nearcache/nearcache/tracking"
)

// A server is one Redis server that the client reads from: the connections for data, the link that tells what changes there, and the shard
// of L1 that the link keeps coherent. A client without Redis has one too, whose link is the bus.
type server struct {
	client  *Client
	node    tracking.Node // without an ID outside a cluster
	name    telemetry.Server
	shard   *localcache.Shard
	redis   rueidis.Client // nil without Redis
	canary  *canary        // nil unless Options.Canary asks for one
	linked  atomic.Pointer[link]
	tending background
	fetches combiner

	degradation degradation

	// downUntil ends a pause in which the server is not asked: without it every read would wait for its own timeout before it goes to its
	// loader, for as long as the server is away.
	downUntil atomic.Int64

	// owns are the slots that the server itself said it owns, the last time that it was asked.
	owns atomic.Pointer[slotSet]

	// Of a primary whose replicas may be read: see replicas.go.
	positions    positions
	replicas     replicaSet
	replica      atomic.Pointer[server] // the one that reads go to; nil for none
	replicaFloor atomic.Int64           // what it has to have come to, so that it is no further behind than one before

	// Of a replica.
	primary   *server
	following following

	mu      sync.Mutex
	failure error // why there is no link yet
	since   time.Time
}

// link tells the client what changed: a tracker's, or the bus.
type link interface {
	Fence(context.Context) error
	Status() tracking.Status
	Close(context.Context) error
}

func (c *Client) newServer(node tracking.Node) *server {
	s := &server{client: c, node: node, replicas: replicaSet{changed: make(chan struct{}, 1)}, name: telemetry.ParseServer(node.Address), shard: c.local.NewShard(), since: time.Now()}
	s.fetches.send = func(batch []*fetching) { c.remote.sendTogether(s, batch) }
	if c.options.Canary > 0 {
		s.canary = newCanary(s)
	}
	if c.options.Tracking == Degrade {
		s.degradation.kicked = make(chan struct{}, 1)
	}
	return s
}

// open makes the link, and then the connections for data. If it fails, it leaves nothing behind but the shard. With Degrade there may be no link
// yet.
func (s *server) open(ctx context.Context) error {
	switch err := s.openLink(ctx); {
	case err != nil && s.degraded():
	case err != nil:
		return err
	}
	// After the link, because it takes no context: whether the server answers at all is known by now.
	redis, err := rueidis.NewClient(s.client.optionFor(s.node.Address))
	if err != nil {
		if redis != nil {
			redis.Close()
		}
		err = fmt.Errorf("nearcache: cannot connect to Redis at %q: %w: start a server there or correct Options.Redis", s.node.Address, s.client.secrets.Redact(err))
		if l := s.link(); l != nil {
			err = errors.Join(err, l.Close(ctx))
		}
		return s.failed(err)
	}
	s.redis = redis
	return nil
}

// openLink makes the link. Where that is not allowed, and the policy is Degrade, the server is degraded.
func (s *server) openLink(ctx context.Context) error {
	options := tracking.Options{
		Redis:     s.client.optionFor(s.node.Address),
		Prefixes:  s.client.options.Prefixes,
		Handler:   (*linkHandler)(s),
		Node:      s.node.ID,
		Heartbeat: s.client.options.heartbeat(),
		Deadline:  max(tracking.DefaultDeadline, s.client.options.RemoteTimeout),
		Logger:    s.client.logger,
	}
	if s.node.ID != "" {
		options.Topology = (*linkHandler)(s).Topology
	}
	if s.client.options.readsReplicas() {
		options.Position = (*linkHandler)(s).Position
	}
	tracker, err := tracking.Open(ctx, options)
	if err != nil {
		if s.client.options.Tracking == Degrade && errors.Is(err, ErrNoTracking) {
			s.degrade(ctx, 0, err)
		}
		return s.failed(fmt.Errorf("nearcache: %w", err))
	}
	s.setLink(tracker)
	return nil
}

// tend starts what a server that is open does by itself, which may need the whole client.
func (s *server) tend() {
	if s.canary != nil {
		s.tending.start(s.canary.run)
	}
	if s.client.options.Tracking == Degrade {
		s.tending.start(s.keepMode)
	}
	if s.client.options.readsReplicas() {
		s.tending.start(s.keepReplica)
	}
}

// claims reports whether the server itself has said that it owns the key prefix+key. A server that is in no cluster owns all, and one without a link is not
// asked. A replica has what its primary owns.
func (s *server) claims(prefix, key string) bool {
	if s.primary != nil {
		return s.primary.claims(prefix, key)
	}
	if s.node.ID == "" || s.degraded() {
		return true
	}
	owns := s.owns.Load()
	return owns != nil && owns.has(tracking.Slot(prefix, key))
}

func (s *server) failed(err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failure = err
	return err
}

func (s *server) setLink(l link) { s.linked.Store(&l) }

func (s *server) link() link {
	if l := s.linked.Load(); l != nil {
		return *l
	}
	return nil
}

func (s *server) status() tracking.Status {
	if l := s.link(); l != nil {
		return l.Status()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return tracking.Status{Server: tracking.Server{Address: s.node.Address}, Since: s.since, LastError: s.failure}
}

func (s *server) fence(ctx context.Context) error {
	l := s.link()
	if s.degraded() {
		s.degradation.mu.Lock()
		defer s.degradation.mu.Unlock()
		err := fmt.Errorf("nearcache: L1 is degraded to %q, and there is no fence without tracking: %w", s.mode(), s.degradation.reason)
		if !errors.Is(err, ErrNoTracking) {
			err = fmt.Errorf("%w: %w", ErrNoTracking, err)
		}
		return err
	}
	if l == nil {
		return fmt.Errorf("%w: %w", tracking.ErrLinkDown, s.status().LastError)
	}
	return l.Fence(ctx)
}

// suspend has nothing served any more that came from the server or its replica. A replica that is opened later finds the client closed, or the
// server without keys.
func (s *server) suspend() {
	s.shard.Suspend()
	if r := s.replica.Load(); r != nil {
		r.turnAway(false)
	}
}

// close ends the server in the order in which nothing can be stored after its protection is gone.
func (s *server) close(ctx context.Context) (err error) {
	s.suspend()
	err = s.tending.stop(ctx)
	if l := s.link(); l != nil {
		err = errors.Join(err, l.Close(ctx))
	}
	if s.redis != nil {
		s.redis.Close()
	}
	s.fetches.close()
	s.shard.Close()
	return err
}

func (s *server) reachable() {
	if s.downUntil.Load() != 0 {
		s.downUntil.Store(0)
	}
}

// linkHandler is a server as its link sees it. Its methods run on the goroutine that reads the link: none blocks.
type linkHandler server

func (h *linkHandler) Live(asOf time.Time) {
	if h.client.closed.Load() {
		return
	}
	(*server)(h).reachable()
	if !(*server)(h).linkLive(asOf) {
		return
	}
	h.canary.renewed()
	h.client.caches.wakeAll()
}

func (h *linkHandler) Invalidate(key string) {
	if !h.canary.pushed(key) {
		h.client.invalidate(key, localcache.Tracking)
	}
}

func (h *linkHandler) Flush() { h.flush(&h.client.flushes.flushAll) }

func (h *linkHandler) flush(counted *atomic.Int64) {
	h.shard.Flush()
	if r := h.replica.Load(); r != nil {
		r.shard.Flush() // the slots that one has lost, the other has lost as well
	}
	h.client.flushed(counted)
	h.canary.moot()
	h.client.caches.wakeAll()
}

func (h *linkHandler) Lost(error) {
	closed := h.client.closed.Load()
	if lost := (*server)(h).linkLost(h.client.options.OnDisconnect == ServeStale && !closed); lost && !closed {
		h.client.flushed(&h.client.flushes.reconnect)
	}
	h.canary.moot()
	h.client.caches.wakeAll()
	h.client.watch.kick()
}

func (h *linkHandler) Confirm(asOf time.Time) { (*server)(h).linkConfirms(asOf) }

// Topology is told what the server says of the slots of its cluster. What it has lost is written elsewhere from now on, and may have been
// dropped without a word; so nothing that was read from it stays. What it has gained was never read from it.
func (h *linkHandler) Topology(topology tracking.Topology) {
	owns := ownedBy(topology, topology.Self)
	if before := h.owns.Swap(owns); before != nil && !owns.contains(before) {
		h.flush(&h.client.flushes.topology)
	}
	h.client.watch.report(topology)
}

// warn logs what an operator should know.
func (c *Client) warn(ctx context.Context, message string, err error) {
	c.logger.LogAttrs(ctx, slog.LevelWarn, message, slog.String("error", err.Error()))
}
