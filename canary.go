package nearcache

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-nearcache/nearcache/localcache"
	"github.com/go-nearcache/nearcache/tracking"
)

// canaryLife is how long a canary's key outlives its writer, besides two intervals. While the canary is alive the key never expires: the
// push of an expiry could be taken for that of a write.
const canaryLife = time.Minute

// A canary writes a key over a data connection, again and again, and waits for its push on the link: see Options.Canary.
type canary struct {
	client   *Client
	server   *server
	key      atomic.Pointer[string] // what is written; in a cluster it follows the slots of the server
	interval time.Duration
	patience time.Duration
	live     chan struct{} // holds a token when the link has become live

	current  atomic.Pointer[trial]
	lag      atomic.Int64
	reported string // the failure to write that was logged last
}

func newCanary(s *server) *canary {
	c := &canary{
		client:   s.client,
		server:   s,
		interval: s.client.options.Canary,
		patience: s.client.options.MaxStaleness,
		live:     make(chan struct{}, 1),
	}
	key := s.newKey("canary")
	c.key.Store(&key)
	return c
}

// perch makes the key one that the server owns; false if there seems to be none under the prefix.
func (c *canary) perch() bool {
	owns := c.server.owns.Load()
	if owns == nil || owns.has(tracking.Slot(*c.key.Load())) {
		return true
	}
	key, ok := c.server.ownKey("canary")
	if ok {
		c.key.Store(&key)
	}
	return ok
}

// newKey returns a key that nobody else has.
func (s *server) newKey(purpose string) string {
	return s.client.options.Prefixes[0] + "nearcache:" + purpose + ":" + rand.Text()
}

// ownKey returns a new key that the server owns; false if there seems to be none under the first prefix.
func (s *server) ownKey(purpose string) (key string, ok bool) {
	owns := s.owns.Load()
	for range ownKeyTries {
		if key = s.newKey(purpose); owns == nil || owns.has(tracking.Slot(key)) {
			return key, true
		}
	}
	return "", false
}

// ownKeyTries is enough to find a key of a server that owns one in a thousand slots.
const ownKeyTries = 20_000

// A trial is one write and the wait for its push.
type trial struct {
	sent  localcache.Instant
	once  sync.Once
	ended chan struct{}
	lag   time.Duration // until the push; 0 if there is nothing to learn: everything was flushed, or the link was lost
}

func (t *trial) end(lag time.Duration) {
	t.once.Do(func() {
		t.lag = lag
		close(t.ended)
	})
}

// pushed takes note of a push on the goroutine that reads the link, and reports whether it was the canary's own.
func (c *canary) pushed(key string) bool {
	if c == nil || key != *c.key.Load() {
		return false
	}
	if t := c.current.Load(); t != nil {
		t.end(max(localcache.Now().Sub(t.sent), 1))
	}
	return true
}

// moot ends the wait for a push that need not come any more.
func (c *canary) moot() {
	if c == nil {
		return
	}
	if t := c.current.Load(); t != nil {
		t.end(0)
	}
}

// renewed has the new link tried at once: the old one may have been given up because of this canary.
func (c *canary) renewed() {
	if c == nil {
		return
	}
	c.moot()
	select {
	case c.live <- struct{}{}:
	default:
	}
}

func (c *canary) run(ctx context.Context) {
	tick := time.NewTicker(c.interval)
	defer tick.Stop()
	for {
		select {
		case <-c.live:
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		tracker, ok := c.server.link().(*tracking.Tracker)
		if !ok || c.server.degraded() {
			continue
		}
		if status := tracker.Status(); status.Live {
			c.try(ctx, tracker, status.Epoch)
		}
	}
}

// try writes once. If the push does not come, a fence tells late from lost: a server that is slow is not accused. What is known then
// is known of the link of that epoch; if there is another one by now, the loss of the first has ended the trial.
func (c *canary) try(ctx context.Context, tracker *tracking.Tracker, epoch uint64) {
	if !c.perch() {
		return
	}
	links := c.server.linkNumber()
	t := &trial{sent: localcache.Now(), ended: make(chan struct{})}
	c.current.Store(t)
	defer c.current.Store(nil)
	if err := c.write(ctx); err != nil {
		return
	}
	patience := time.NewTimer(c.patience)
	defer patience.Stop()
	select {
	case <-t.ended:
	case <-patience.C:
		if !fenced(c.client.fenceShortly(ctx, "", *c.key.Load())) {
			return
		}
	case <-ctx.Done():
		return
	}
	select {
	case <-t.ended:
		if t.lag > 0 {
			c.lag.Store(int64(t.lag))
			c.client.telemetry.InvalidationLag(ctx, c.server.name, t.lag)
		}
	default:
		evidence := fmt.Errorf("%w: waited for %v and fenced", errCanaryUnheard, c.patience)
		if c.client.options.Tracking == Degrade {
			c.server.degrade(ctx, links, evidence) // so that the next link has to prove itself
		}
		tracker.Doubt(epoch, evidence)
	}
}

var errCanaryMoved = errors.New("nearcache: the slot of the canary has moved to another server")

var errCanaryUnheard = errors.New("nearcache: the server acknowledged the canary's write and did not announce it (Options.Canary)")

// write logs why the canary cannot be written, once for each reason.
func (c *canary) write(ctx context.Context) error {
	direct, err := c.client.remote.setOn(ctx, c.server, *c.key.Load(), nil, canaryLife+2*c.interval)
	switch {
	case err == nil && !direct:
		return errCanaryMoved
	case err == nil:
		c.reported = ""
	case ctx.Err() == nil && err.Error() != c.reported:
		c.reported = err.Error()
		c.client.logger.LogAttrs(ctx, slog.LevelWarn, "nearcache: the canary cannot be written", slog.String("error", c.reported))
	}
	return err
}

// lastLag is the newest measurement, or 0.
func (c *canary) lastLag() time.Duration {
	if c == nil {
		return 0
	}
	return time.Duration(c.lag.Load())
}
