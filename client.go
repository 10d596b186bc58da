package nearcache

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"

	"github.com/go-nearcache/nearcache/internal/secret"
	"github.com/go-nearcache/nearcache/localcache"
	"github.com/go-nearcache/nearcache/telemetry"
	"github.com/go-nearcache/nearcache/tracking"
)

// A Client is a node: one per process and Redis. It holds the connections, the invalidation links, the budget of L1 and the
// instruments that the caches made with New share. All of its methods may be called from any goroutine.
type Client struct {
	options   Options
	secrets   secret.Keeper
	redis     rueidis.Client // finds the server of a key by itself: the one of the only server, or one that follows redirections
	local     *localcache.Cache
	routing   atomic.Pointer[routing]
	stranger  *server    // stands for the owner of keys whose link is not open, in a cluster and with sentinels
	primaries *primaries // nil for one server that is always the same
	watch     watch
	bus       *busLink // the link, if there is no Redis; else nil
	nodes     *nodes   // for degraded nodes, if there are a Redis and a bus; else nil
	telemetry *telemetry.Telemetry
	logger    *slog.Logger
	remote    remote
	verifier  *verifier // nil unless Options.Verify asks for one
	floors    *floors   // nil unless replicas are to be read

	wrapper
	caches     caches
	bypasses   bypasses
	loads      loads
	background background
	closed     atomic.Bool
	closedDone chan struct{}
	flushes    struct{ reconnect, flushAll, gap, manual, topology atomic.Int64 }
}

// Open connects to Redis, proves that the server announces changes, and returns once the invalidation link is live. It fails with
// an error that wraps ErrNoTracking if the server, a proxy or the user's rights do not allow tracking, unless Options.Tracking is Degrade, and
// with the reason if there is no server. ctx bounds Open alone.
func Open(ctx context.Context, options Options) (*Client, error) {
	options = options.withDefaults()
	if err := options.validate(); err != nil {
		return nil, err
	}
	instruments, err := telemetry.New(telemetry.Options{
		Name:           options.Name,
		TracerProvider: options.TracerProvider,
		MeterProvider:  options.MeterProvider,
		Propagator:     options.Propagator,
	})
	if err != nil {
		return nil, fmt.Errorf("nearcache: telemetry: %w", err)
	}
	local, err := localcache.New(localcache.Options{MaxBytes: options.MaxBytes})
	if err != nil {
		return nil, fmt.Errorf("nearcache: %w", err)
	}
	c := &Client{
		options:   options,
		local:     local,
		telemetry: instruments,
		logger:    options.Logger,
	}
	if options.readsReplicas() {
		c.floors = &floors{seed: maphash.MakeSeed()}
	}
	c.secrets.Watch(&c.options.Redis)
	c.closedDone = make(chan struct{})
	c.remote = remote{client: c, timeout: options.RemoteTimeout, telemetry: instruments}
	if options.Verify.SampleRate > 0 {
		c.verifier = newVerifier(options.Verify)
	}
	c.loads.init()
	connect := c.connect
	if options.withoutRedis() {
		connect = c.connectBus
	}
	err = connect(ctx)
	if err == nil {
		_, err = c.telemetry.Observe(c.observe)
	}
	if err != nil {
		return nil, errors.Join(err, c.disconnect(ctx))
	}
	if c.verifier != nil {
		c.background.start(c.verifier.run)
	}
	return c, nil
}

func (c *Client) connectBus(ctx context.Context) (err error) {
	s := c.newServer(tracking.Node{Address: c.options.Bus.Capabilities().System})
	c.routeOnly(s)
	c.bus, err = openBusLink(ctx, s, c.options.Bus)
	if err == nil {
		s.setLink(c.bus)
		c.askBypass()
	}
	return err
}

func (c *Client) connect(ctx context.Context) error {
	if c.options.Redis.Sentinel.MasterSet != "" {
		return c.connectSentinel(ctx)
	}
	addresses := c.options.Redis.InitAddress
	s := c.newServer(tracking.Node{Address: addresses[0]})
	for _, address := range c.options.Redis.Standalone.ReplicaAddress {
		s.replicas.nodes = append(s.replicas.nodes, tracking.Node{Address: address})
	}
	c.routeOnly(s)
	if c.options.Bus != nil {
		if err := c.connectNodes(ctx); err != nil {
			return err
		}
	}
	err := s.open(ctx)
	switch {
	case errors.Is(err, tracking.ErrClusterNode), errors.Is(err, tracking.ErrLinkDown) && len(addresses) > 1 && ctx.Err() == nil:
		s.shard.Close()
		return c.connectCluster(ctx)
	case err != nil:
		return err
	case len(addresses) > 1:
		return optionError("Redis.InitAddress", fmt.Sprintf("%q", addresses), "must name one server, or nodes of a cluster: the first is a server on its own")
	}
	c.redis = s.redis
	if err := s.prove(ctx); err != nil {
		return err
	}
	s.tend()
	return nil
}

// prove has a write announced by a server. A proxy may accept the command and push nothing, so the link is proved by a write. A user without
// the right to write has no such proof, and needs none less for it.
func (c *Client) prove(ctx context.Context, address string) error {
	err := tracking.Probe(ctx, c.optionFor(address), c.options.Prefixes[0])
	switch {
	case err == nil:
		return nil
	case !errors.Is(err, tracking.ErrProbeRefused):
		return fmt.Errorf("nearcache: %w", err)
	}
	c.warn(ctx, "nearcache: tracking is not proved: the user may not write", err)
	return nil
}

// optionFor says how to connect to one server.
func (c *Client) optionFor(address string) rueidis.ClientOption {
	option := c.options.Redis
	option.InitAddress = []string{address}
	option.Sentinel = rueidis.SentinelOption{}
	option.ForceSingleClient = true
	return withoutReplicas(option)
}

// withoutReplicas leaves out what tells rueidis of replicas, which would read them without knowing how far they are behind.
func withoutReplicas(option rueidis.ClientOption) rueidis.ClientOption {
	option.ReadNodeSelector, option.EnableReplicaAZInfo, option.Standalone = nil, false, rueidis.StandaloneOption{}
	return option
}

// disconnect ends what connect started, in the order in which nothing can be stored after its protection is gone.
func (c *Client) disconnect(ctx context.Context) (err error) {
	err = c.nodes.close(ctx)
	if c.primaries != nil {
		err = errors.Join(err, c.primaries.close(ctx))
	} else if r := c.routing.Load(); r != nil && r.only != nil {
		err = errors.Join(err, r.only.close(ctx))
	}
	if c.redis != nil {
		c.redis.Close()
	}
	c.local.Close()
	return errors.Join(err, c.telemetry.Close())
}

// Close ends the client. New calls fail with ErrClosed at once; loads that are running may finish until ctx ends, and are cancelled
// then, with Options.RemoteTimeout to give back their leases. It leaves no goroutine and no connection behind, except a loader that does not obey its context and, in a
// cluster, what rueidis lets sleep for up to five seconds. Calling it again waits for the
// first call. The error is ctx's if loads had to be cancelled.
func (c *Client) Close(ctx context.Context) error {
	if c.closed.CompareAndSwap(false, true) {
		defer close(c.closedDone)
		for _, s := range c.servers() {
			s.suspend()
		}
		err := errors.Join(c.background.stop(ctx), c.loads.close(ctx, c.options.RemoteTimeout))
		c.caches.wakeAll()
		for _, cache := range c.caches.all() {
			if l, ok := cache.(listenable); ok {
				l.endEvents()
			}
		}
		return errors.Join(err, c.disconnect(ctx))
	}
	select {
	case <-c.closedDone:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Fence returns once every write that had been acknowledged by Redis when it was called has reached L1. Reads that begin after
// it see those writes, without Fresh. It costs two small round trips to each server, shared by all callers. A client without Redis has no
// fence: there it always fails.
func (c *Client) Fence(ctx context.Context) error { return c.fence(ctx, c.servers(), true) }

// fenceShortly is Fence for a read of the key prefix+key, which has Redis to ask if the link does not answer in time, or a replica is behind: see
// fenced.
func (c *Client) fenceShortly(ctx context.Context, prefix, key string) error {
	ctx, cancel := context.WithTimeout(ctx, c.options.RemoteTimeout)
	defer cancel()
	return c.fence(ctx, []*server{c.serverOf(prefix, key)}, false)
}

// fence fences servers, and the replicas that are read. If behind is true, a replica that is behind is of no use until it is not any more; else that
// it is behind is an error.
func (c *Client) fence(ctx context.Context, servers []*server, behind bool) error {
	if c.closed.Load() {
		return ErrClosed
	}
	if c.bus != nil {
		return errNoFence
	}
	began, since := time.Now(), localcache.Now()
	err := inParallel(servers, func(s *server) error {
		if behind {
			raise(&s.replicaFloor, since) // of one that comes later, too
		}
		err := s.fence(ctx)
		r := s.replica.Load()
		if err != nil || r == nil {
			return err
		}
		err = r.fenceReplica(ctx, since)
		if behind && errors.Is(err, errBehind) {
			r.shard.Suspend()
			return nil
		}
		return err
	})
	c.telemetry.Fence(ctx, time.Since(began), err)
	if err != nil && c.closed.Load() {
		return ErrClosed
	}
	return err
}

// inParallel calls do for each server and returns the errors joined, or the only one as it is.
func inParallel(servers []*server, do func(*server) error) error {
	if len(servers) == 1 {
		return do(servers[0])
	}
	failures := make([]error, len(servers))
	var running sync.WaitGroup
	for i, s := range servers {
		running.Go(func() { failures[i] = do(s) })
	}
	running.Wait()
	return errors.Join(failures...)
}

// invalidate makes L1 forget one key of Redis in whichever caches may hold it.
func (c *Client) invalidate(key string, cause localcache.Cause) {
	if cause == localcache.Local {
		c.floors.raise(key)
	}
	for _, cache := range c.caches.all() {
		cache.invalidate(key, cause)
	}
}

// overwritten makes this node forget a key that it writes itself, with whatever FailSafe remembers of it.
func (c *Client) overwritten(key string) {
	c.floors.raise(key)
	for _, cache := range c.caches.all() {
		cache.invalidate(key, localcache.Local)
		cache.forgetGood(key)
	}
}

// registered is a typed cache as the client sees it.
type registered interface {
	invalidate(key string, cause localcache.Cause) // key as Redis knows it
	forgetGood(key string)                         // key as Redis knows it
	wakeAll()
	describe() (name, prefix string)
	stats() CacheStats
}

// caches is the list of a client's typed caches: written rarely, read for every push.
type caches struct {
	mu   sync.Mutex
	list atomic.Pointer[[]registered]
}

func (c *caches) all() []registered {
	if list := c.list.Load(); list != nil {
		return *list
	}
	return nil
}

func (c *caches) add(cache registered) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	name, prefix := cache.describe()
	all := c.all()
	for _, other := range all {
		otherName, otherPrefix := other.describe()
		if name == otherName {
			return configError(name, "Name", fmt.Sprintf("%q", name), "is taken by another cache of this client: use that one, or another name")
		}
		if prefix == otherPrefix {
			return configError(name, "Prefix", fmt.Sprintf("%q", prefix), fmt.Sprintf("is the one of the cache %q: two caches would decode each other's values", otherName))
		}
	}
	all = append(slices.Clip(all), cache)
	c.list.Store(&all)
	return nil
}

func (c *caches) wakeAll() {
	for _, cache := range c.all() {
		cache.wakeAll()
	}
}

// loads counts the goroutines that run loaders, so that Close can wait for them and, in the end, cancel them.
type loads struct {
	mu      sync.Mutex
	running int
	closed  bool
	idle    chan struct{} // closed once there are none and there will be none
	ctx     context.Context
	cancel  context.CancelCauseFunc
}

func (l *loads) init() {
	l.idle = make(chan struct{})
	l.ctx, l.cancel = context.WithCancelCause(context.Background())
}

// begin reports false if the client is closed.
func (l *loads) begin() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false
	}
	l.running++
	return true
}

func (l *loads) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.running--
	if l.closed && l.running == 0 {
		close(l.idle)
	}
}

// close returns once no load runs. When ctx ends before, the loads are cancelled, and given up if they have not ended after a while.
func (l *loads) close(ctx context.Context, while time.Duration) error {
	l.mu.Lock()
	l.closed = true
	if l.running == 0 {
		close(l.idle)
	}
	l.mu.Unlock()
	defer l.cancel(ErrClosed)
	select {
	case <-l.idle:
		return nil
	default:
	}
	select {
	case <-l.idle:
		return nil
	case <-ctx.Done():
	}
	l.cancel(ErrClosed)
	// A load that is cut off here would leave its lease behind, and the fleet would wait for its end.
	select {
	case <-l.idle:
	case <-time.After(while):
	}
	return fmt.Errorf("nearcache: loads were still running and have been cancelled: %w", context.Cause(ctx))
}

// attach gives a load its context: the values of the caller that started it, and an end with the client.
func (l *loads) attach(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	stop := context.AfterFunc(l.ctx, func() { cancel(ErrClosed) })
	return ctx, func() {
		stop()
		cancel(context.Canceled)
	}
}
