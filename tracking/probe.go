package tracking

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
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
// In a cluster the server must own the slot of some such key.
//
// It returns nil if the announcement came. Errors wrap what [Open] returns, or [ErrProbeRefused] if the key could not be
// written (no right to, a read-only server, no memory), or [ErrNoTracking] if everything was accepted and nothing came: what
// answers is then no server but a proxy that swallows pushes, or one that leads two connections to two servers.
func Probe(ctx context.Context, redis rueidis.ClientOption, prefix string) error {
	handler := &probe{key: prefix + "nearcache:probe:" + rand.Text()}
	options := Options{
		Redis: redis, Prefixes: []string{prefix}, Handler: handler,
		Deadline: rueidis.DefaultDialTimeout, // nobody serves anything by this link: better a late proof than none
	}
	t, err := Open(ctx, options)
	if errors.Is(err, ErrClusterNode) {
		var first sync.Once // before anything is announced
		options.Topology = func(topology Topology) { first.Do(func() { handler.key = topology.ownKey(handler.key) }) }
		t, err = Open(ctx, options)
	}
	if err != nil {
		return err
	}
	defer t.Close(ctx)
	if handler.key == "" {
		return &LinkError{
			Address: t.options.Redis.InitAddress[0], Step: "probe", Kind: ErrProbeRefused,
			Cause: fmt.Errorf("the node owns the slot of no key under %q", prefix), Advice: "probe another one",
		}
	}
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

// ownKeyTries is enough to find a key of a node that owns one in a thousand slots.
const ownKeyTries = 20_000

// ownKey returns a key that begins with the given one and whose slot the node that was asked owns; "" if there seems to be none.
func (t Topology) ownKey(key string) string {
	for n := range ownKeyTries {
		candidate := key + ":" + strconv.Itoa(n)
		slot := Slot(candidate)
		if slices.ContainsFunc(t.Slots, func(r SlotRange) bool { return r.Primary.ID == t.Self && r.First <= slot && slot <= r.Last }) {
			return candidate
		}
	}
	return ""
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
		Cause: c.secrets.Redact(causeOf(ctx, err)),
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
