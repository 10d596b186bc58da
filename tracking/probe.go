package tracking

import (
	"context"
	"crypto/rand"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"
)

// probeLife is how long the key of a probe exists.
const probeLife = time.Second

// Probe proves that changes under prefix really are announced: it opens a link of its own, writes a key that lives for a second
// over another connection, and fences. A key "<prefix>nearcache:probe:<random>" is announced to everybody who follows the
// prefix.
//
// It returns nil if the announcement came. Errors wrap what [Open] returns, or [ErrProbeRefused] if the key could not be
// written (no right to, a read-only server, no memory), or [ErrNoTracking] if everything was accepted and nothing came: what
// answers is then no server but a proxy that swallows pushes, or one that leads two connections to two servers.
func Probe(ctx context.Context, redis rueidis.ClientOption, prefix string) error {
	handler := &probe{key: prefix + "nearcache:probe:" + rand.Text()}
	t, err := Open(ctx, Options{
		Redis: redis, Prefixes: []string{prefix}, Handler: handler,
		Deadline: rueidis.DefaultDialTimeout, // nobody serves anything by this link: better a late proof than none
	})
	if err != nil {
		return err
	}
	defer t.Close(ctx)
	if err := t.writeProbe(ctx, handler.key); err != nil {
		return err
	}
	// After a fence nothing can still be on its way.
	if err := t.Fence(ctx); err != nil {
		return err
	}
	if handler.lost.Load() {
		return downError(t.Status().LastError) // by a new link nothing is proved
	}
	if !handler.announced.Load() {
		return &LinkError{
			Address: t.options.Redis.InitAddress[0], Step: "probe", Kind: ErrNoTracking,
			Cause:  fmt.Errorf("CLIENT TRACKING was accepted, and a write under %q was not announced", prefix),
			Advice: "connect to the server itself: the proxy before it does not pass pushes on, or leads to several servers",
		}
	}
	return nil
}

// writeProbe writes the key over a connection of its own.
func (t *Tracker) writeProbe(ctx context.Context, key string) error {
	ctx, cancel := context.WithTimeout(ctx, t.options.Redis.Dialer.Timeout)
	defer cancel()
	c := new(connection)
	settled := c.connect(ctx, t.options.Redis, func(error) {})
	defer c.discard()
	defer settled()
	if c.failure != nil {
		return c.failure
	}
	life := fmt.Sprint(probeLife.Milliseconds())
	_, err := c.do(ctx, "SET", key, "", "PX", life)
	if err == nil {
		return nil
	}
	failure := &LinkError{
		Address: t.options.Redis.InitAddress[0], Step: "SET " + key, Kind: ErrLinkDown,
		Cause: redact(causeOf(ctx, err), c.secrets),
	}
	if text, refused := refusal(err); refused && !noAnswer(err) {
		failure.Kind = ErrProbeRefused
		failure.Advice = "let the server accept writes"
		if strings.HasPrefix(text, "NOPERM ") {
			failure.Advice = "grant the user +set and the keys under the prefix, or do without the probe"
		}
	}
	return failure
}

// A probe waits for one key.
type probe struct {
	key       string
	announced atomic.Bool
	lost      atomic.Bool
}

// Invalidate looks for the key.
func (p *probe) Invalidate(key string) {
	if key == p.key {
		p.announced.Store(true)
	}
}

// Flush tells nothing of the key, but that pushes arrive.
func (p *probe) Flush() { p.announced.Store(true) }

// Lost remembers that the link was not the same throughout.
func (p *probe) Lost(error) { p.lost.Store(true) }

// Live means nothing to a probe.
func (p *probe) Live(time.Time) {}

// Confirm means nothing to a probe: it waits for a fence.
func (p *probe) Confirm(time.Time) {}

var _ Handler = (*probe)(nil)
