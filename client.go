package nearcache

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"

	"github.com/go-nearcache/nearcache/localcache"
	"github.com/go-nearcache/nearcache/telemetry"
	"github.com/go-nearcache/nearcache/tracking"
)

// A Client is a node: one per process and Redis server. It holds the connections, the invalidation link, the budget of L1 and the
// instruments that the caches made with New share. All of its methods may be called from any goroutine.
type Client struct {
	options   Options
	redis     rueidis.Client
	local     *localcache.Cache
	shard     *localcache.Shard
	link      link
	bus       *busLink // the link, if there is no Redis; else nil
	telemetry *telemetry.Telemetry
	logger    *slog.Logger
	remote    remote
	verifier  *verifier // nil unless Options.Verify asks for one
	canary    *canary   // nil unless Options.Canary asks for one

	wrapper
	caches     caches
	loads      loads
	background background
	closed     atomic.Bool
	closedDone chan struct{}
	flushes    struct{ reconnect, flushAll, gap, manual atomic.Int64 }
}

// link tells the client what changed: a tracker's, or the bus.
type link interface {
	Fence(context.Context) error
	Status() tracking.Status
	Close(context.Context) error
}

// Open connects to Redis, proves that the server announces changes, and returns once the invalidation link is live. It fails with
// an error that wraps ErrNoTracking if the server, a proxy or the user's rights do not allow tracking, and with the reason if there is no
// server. ctx bounds Open alone.
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
		shard:     local.NewShard(),
		telemetry: instruments,
		logger:    options.Logger,
	}
	c.closedDone = make(chan struct{})
	c.remote.timeout, c.remote.telemetry, c.remote.linkLive = options.RemoteTimeout, instruments, c.shard.Live
	if options.Verify.SampleRate > 0 {
		c.verifier = newVerifier(options.Verify)
	}
	if options.Canary > 0 {
		c.canary = newCanary(c)
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
	if c.canary != nil {
		c.background.start(c.canary.run)
	}
	return c, nil
}

func (c *Client) connectBus(ctx context.Context) (err error) {
	c.bus, err = openBusLink(ctx, c, c.options.Bus)
	if err == nil {
		c.link = c.bus
	}
	return err
}

func (c *Client) connect(ctx context.Context) error {
	c.remote.server = telemetry.ParseServer(c.options.Redis.InitAddress[0])
	tracker, err := tracking.Open(ctx, tracking.Options{
		Redis:     c.options.Redis,
		Prefixes:  c.options.Prefixes,
		Handler:   (*linkHandler)(c),
		Heartbeat: c.options.heartbeat(),
		Deadline:  max(tracking.DefaultDeadline, c.options.RemoteTimeout),
		Logger:    c.logger,
	})
	if err != nil {
		return fmt.Errorf("nearcache: %w", err)
	}
	c.link = tracker
	if c.canary != nil {
		c.canary.tracker = tracker
	}
	// After the link, because it takes no context: whether the server answers at all is known by now.
	if c.redis, err = rueidis.NewClient(c.options.Redis); err != nil {
		return fmt.Errorf("nearcache: cannot connect to Redis at %q: %w: start a server there or correct Options.Redis", c.options.Redis.InitAddress, err)
	}
	if mode := c.redis.Mode(); mode != rueidis.ClientModeStandalone {
		return fmt.Errorf("nearcache: Redis at %q runs as a %s, and a single server is what this version covers: name a server on its own in Options.Redis.InitAddress", c.options.Redis.InitAddress, mode)
	}
	c.remote.redis = c.redis
	// A proxy may accept the command and push nothing, so the link is proved by a write. A user without the right to write has no
	// such proof, and needs none less for it.
	if err := tracking.Probe(ctx, c.options.Redis, c.options.Prefixes[0]); err != nil {
		if !errors.Is(err, tracking.ErrProbeRefused) {
			return fmt.Errorf("nearcache: %w", err)
		}
		c.logger.LogAttrs(ctx, slog.LevelWarn, "nearcache: tracking is not proved: the user may not write", slog.String("error", err.Error()))
	}
	return nil
}

// disconnect ends what connect started, in the order in which nothing can be stored after its protection is gone.
func (c *Client) disconnect(ctx context.Context) (err error) {
	c.shard.Suspend()
	if c.link != nil {
		err = c.link.Close(ctx)
	}
	if c.redis != nil {
		c.redis.Close()
	}
	c.remote.fetches.close()
	c.local.Close()
	return errors.Join(err, c.telemetry.Close())
}

// Close ends the client. New calls fail with ErrClosed at once; loads that are running may finish until ctx ends, and are cancelled
// then, with Options.RemoteTimeout to give back their leases. It leaves no goroutine and no connection behind, except a loader that does not obey its context. Calling it again waits for the
// first call. The error is ctx's if loads had to be cancelled.
func (c *Client) Close(ctx context.Context) error {
	if c.closed.CompareAndSwap(false, true) {
		defer close(c.closedDone)
		c.shard.Suspend()
		err := errors.Join(c.background.stop(ctx), c.loads.close(ctx, c.options.RemoteTimeout))
		c.caches.wakeAll()
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
// it see those writes, without Fresh. It costs two small round trips, shared by all callers. A client without Redis has no fence:
// there it always fails.
func (c *Client) Fence(ctx context.Context) error {
	if c.closed.Load() {
		return ErrClosed
	}
	if c.bus != nil {
		return errNoFence
	}
	began := time.Now()
	err := c.link.Fence(ctx)
	c.telemetry.Fence(ctx, time.Since(began), err)
	if err != nil && c.closed.Load() {
		return ErrClosed
	}
	return err
}

// fenceShortly is Fence for a read of the key prefix+key, which has Redis to ask if the link does not answer in time.
func (c *Client) fenceShortly(ctx context.Context, _, _ string) error {
	ctx, cancel := context.WithTimeout(ctx, c.options.RemoteTimeout)
	defer cancel()
	return c.Fence(ctx)
}

// shardOf returns what L1 knows of the server that owns the key prefix+key, which is given in two parts so that nobody has to join them. A
// value may be kept under a token of this shard only.
func (c *Client) shardOf(_, _ string) *localcache.Shard { return c.shard }

// invalidate makes L1 forget one key of Redis in whichever caches may hold it.
func (c *Client) invalidate(key string, cause localcache.Cause) {
	for _, cache := range c.caches.all() {
		cache.invalidate(key, cause)
	}
}

// overwritten makes this node forget a key that it writes itself, with whatever FailSafe remembers of it.
func (c *Client) overwritten(key string) {
	for _, cache := range c.caches.all() {
		cache.invalidate(key, localcache.Local)
		cache.forgetGood(key)
	}
}

// linkHandler is the client as its link sees it. Its methods run on the goroutine that reads the link: none blocks.
type linkHandler Client

func (h *linkHandler) Live(asOf time.Time) {
	if h.closed.Load() {
		return
	}
	h.shard.Renew(localcache.At(asOf))
	(*Client)(h).remote.reachable()
	h.canary.renewed()
	h.caches.wakeAll()
}

func (h *linkHandler) Invalidate(key string) {
	if !h.canary.pushed(key) {
		(*Client)(h).invalidate(key, localcache.Tracking)
	}
}

func (h *linkHandler) Flush() { h.flush(&h.flushes.flushAll) }

func (h *linkHandler) flush(counted *atomic.Int64) {
	h.shard.Renew(h.shard.AsOf())
	counted.Add(1)
	h.canary.moot()
	h.caches.wakeAll()
}

func (h *linkHandler) Lost(error) {
	if h.options.OnDisconnect == ServeStale && !h.closed.Load() {
		h.shard.Freeze()
	} else {
		h.shard.Suspend()
	}
	if !h.closed.Load() {
		h.flushes.reconnect.Add(1)
	}
	h.canary.moot()
	h.caches.wakeAll()
}

func (h *linkHandler) Confirm(asOf time.Time) { h.shard.Confirm(localcache.At(asOf)) }

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
