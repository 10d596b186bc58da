package nearcache

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/go-nearcache/nearcache/localcache"
)

// Bypass says which parts of a cache its reads go past, for a time: a set of the constants, joined with |. It concerns reads alone. Set,
// Update, Touch, Delete and Clear do what they always do, because a write that is not announced leaves every node with the old value.
type Bypass uint8

const (
	// BypassL1 has each read be as one with SkipLocal.
	BypassL1 Bypass = 1 << iota
	// BypassRedis has each read be as one with SkipRemote.
	BypassRedis
	// BypassStores has each read be as one with ReadOnly.
	BypassStores

	bypassAll = BypassL1 | BypassRedis | BypassStores
)

// String returns "none", or the names joined with "|".
func (b Bypass) String() string {
	if b == 0 {
		return "none"
	}
	var names []string
	for _, part := range []struct {
		is   Bypass
		name string
	}{{BypassL1, "BypassL1"}, {BypassRedis, "BypassRedis"}, {BypassStores, "BypassStores"}} {
		if b&part.is != 0 {
			names, b = append(names, part.name), b&^part.is
		}
	}
	if b != 0 {
		names = append(names, fmt.Sprintf("Bypass(%d)", uint8(b)))
	}
	return strings.Join(names, "|")
}

// SetBypass has the reads of this cache on this node that begin from now on go past the parts that b names, and those past nothing if b is 0,
// in place of what was set before, by this or by [Client.SetBypass]. It is for incidents and for tests in production: what a tier is worth, and
// whether it is to blame. Unknown parts are ignored.
func (c *Cache[V]) SetBypass(b Bypass) {
	for {
		old := c.extras.Load()
		if c.extras.CompareAndSwap(old, old&^uint32(bypassAll)|uint32(b&bypassAll)) {
			return
		}
	}
}

// Bypass returns what the reads of this cache go past on this node.
func (c *Cache[V]) Bypass() Bypass { return Bypass(c.extras.Load()) & bypassAll }

// SetBypass is Cache.SetBypass for the cache of that name, or, if the name is empty, for all: those that this client has and those that it will
// have; with Options.Bus, on every node. Of two calls the later one holds, by the clocks of those who called. A node that starts
// later, or missed messages, asks the others when its subscription is open again, and learns it as long as one that knows it runs: nothing is written
// down, so a fleet that is restarted whole begins without.
//
// The error is ErrClosed, one for unknown parts, or that of the bus if it did not accept the announcement; this node bypasses then all the same.
func (c *Client) SetBypass(ctx context.Context, cache string, b Bypass) error {
	switch {
	case c.closed.Load():
		return ErrClosed
	case b&^bypassAll != 0:
		return fmt.Errorf("nearcache: SetBypass: %v: use the constants that start with Bypass", b)
	}
	setting := map[string]bypassSetting{cache: {Bypass: b, At: time.Now().UnixNano()}}
	c.adoptBypass(setting)
	bus := c.announcer()
	if bus == nil {
		return nil
	}
	payload, err := json.Marshal(setting)
	if err == nil {
		err = bus.publish(ctx, announcementBypass, payload)
	}
	if err != nil {
		return fmt.Errorf("nearcache: set bypass: %w", err)
	}
	return nil
}

// What nodes tell each other of bypasses, besides announcementKeys and announcementEverything.
const (
	announcementBypass    = "bypass"  // the payload is a JSON object of settings by the names of caches; "" is for all
	announcementAskBypass = "bypass?" // no payload: who knows of any tells
)

// bypassSetting is what a call of SetBypass asked for.
type bypassSetting struct {
	Bypass Bypass `json:"bypass"`
	At     int64  `json:"at"` // nanoseconds since 1970, by the clock of the caller
}

// after says which of two settings holds, the same on every node.
func (s bypassSetting) after(other bypassSetting) bool {
	return s.At > other.At || s.At == other.At && s.Bypass > other.Bypass
}

// bypasses are the settings by the name of the cache.
type bypasses struct {
	mu     sync.Mutex
	byName map[string]bypassSetting
}

// give sets a cache to what holds for it, if anything was ever set. The lock is held.
func (s *bypasses) give(cache registered, name string) {
	setting, named := s.byName[name]
	all, general := s.byName[""]
	if general && (!named || all.after(setting)) {
		setting = all
	}
	if switchable, ok := cache.(interface{ SetBypass(Bypass) }); ok && (named || general) {
		switchable.SetBypass(setting.Bypass)
	}
}

// adoptBypass takes over the settings that are newer than what is known.
func (c *Client) adoptBypass(settings map[string]bypassSetting) {
	s := &c.bypasses
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, setting := range settings {
		if known, ok := s.byName[name]; ok && !setting.after(known) {
			continue
		}
		if s.byName == nil {
			s.byName = make(map[string]bypassSetting)
		}
		s.byName[name] = setting
		for _, cache := range c.caches.all() {
			if cacheName, _ := cache.describe(); name == "" || name == cacheName {
				s.give(cache, cacheName)
			}
		}
	}
}

// beginBypass gives a new cache what was set before it was there.
func (c *Client) beginBypass(cache registered) {
	s := &c.bypasses
	s.mu.Lock()
	defer s.mu.Unlock()
	name, _ := cache.describe()
	s.give(cache, name)
}

// hearBypass handles a message of the bus; false if it is of another kind, or malformed.
func (c *Client) hearBypass(kind string, payload []byte) bool {
	switch kind {
	case announcementBypass:
		var settings map[string]bypassSetting
		if json.Unmarshal(payload, &settings) != nil {
			return false
		}
		c.adoptBypass(settings)
		return true
	case announcementAskBypass:
		c.bypasses.mu.Lock()
		known, err := json.Marshal(c.bypasses.byName)
		some := len(c.bypasses.byName) > 0
		c.bypasses.mu.Unlock()
		if some && err == nil {
			c.say(announcementBypass, known)
		}
		return true
	}
	return false
}

// askBypass asks the other nodes for what this one has missed.
func (c *Client) askBypass() { c.say(announcementAskBypass, nil) }

// say publishes in the background: handlers of messages must not wait for the bus.
func (c *Client) say(kind string, payload []byte) {
	if !c.loads.begin() {
		return
	}
	go func() {
		defer c.loads.end()
		ctx, release := c.loads.attach(context.Background())
		defer release()
		if err := c.announcer().publish(ctx, kind, payload); err != nil && !c.closed.Load() {
			c.warn(ctx, "nearcache: nodes may not know of a bypass: the bus failed", err)
		}
	}()
}

// announcer is the way to the other nodes; nil if there is none.
func (c *Client) announcer() *busLink {
	switch {
	case c.bus != nil:
		return c.bus
	case c.options.Bus != nil:
		return &busLink{bus: c.options.Bus}
	}
	return nil
}

// passMany reads items for a reader who wants nothing stored, from Redis unless it is to be skipped, and else from the loader, which is called
// for this reader alone: other readers may not join, since they count on what they wait for being stored.
func (c *Cache[V]) passMany(ctx context.Context, keys []string, q query) []loadedItem[V] {
	items := make([]loadedItem[V], len(keys))
	open := make([]int, 0, len(keys))
	if q.wants(skipRemote) || c.client.bus != nil {
		for i := range keys {
			open = append(open, i)
		}
	} else {
		full := make([]string, len(keys))
		for i, key := range keys {
			full[i] = c.config.Prefix + key
		}
		var answers []reply
		if len(full) == 1 {
			answers = []reply{c.client.remote.fetch(ctx, full[0])}
		} else {
			answers = c.client.remote.fetchMany(ctx, full, c.client.remote.owners(full))
			if !c.loads() {
				c.refuseOtherTypes(ctx, full, answers)
			}
		}
		for i, answer := range answers {
			var settled bool
			if items[i].value, settled, items[i].err = c.outcome(ctx, full[i], answer); settled {
				continue
			}
			open = append(open, i)
		}
	}
	unrested := open[:0]
	for _, i := range open {
		switch err := c.resting(c.view.Key(keys[i])); {
		case err != nil:
			items[i].err = err
		case !c.loads():
			items[i].err = fmt.Errorf("%w: cache %q: Redis was not asked or did not know, nothing is in L1, and there is no loader", ErrUnavailable, c.config.Name)
		default:
			unrested = append(unrested, i)
		}
	}
	if len(unrested) > 0 {
		c.loadAside(ctx, keys, unrested, items)
	}
	return items
}

// loadAside loads some of the keys for one reader, whose end is theirs.
func (c *Cache[V]) loadAside(ctx context.Context, keys []string, wanted []int, items []loadedItem[V]) {
	loaded := make([]loadedItem[V], len(wanted))
	done := make(chan struct{})
	caller := ctx
	begun := c.detach(ctx, func(ctx context.Context) {
		defer close(done)
		ctx, cancel := context.WithCancelCause(ctx)
		defer cancel(context.Canceled)
		defer context.AfterFunc(caller, func() { cancel(context.Cause(caller)) })()
		if c.config.LoadMany != nil && (len(wanted) > 1 || c.config.Load == nil) {
			for first := 0; first < len(wanted); first += batchKeys {
				part := wanted[first:min(first+batchKeys, len(wanted))]
				batch := make([]string, len(part))
				for n, i := range part {
					batch[n] = keys[i]
				}
				copy(loaded[first:], c.callLoadMany(ctx, batch))
			}
			return
		}
		var running sync.WaitGroup
		slots := make(chan struct{}, loadsAtOnce)
		for n, i := range wanted {
			slots <- struct{}{}
			running.Go(func() {
				defer func() { <-slots }()
				loaded[n].value, loaded[n].err = c.callLoader(ctx, keys[i], c.lastKnown(c.view.Key(keys[i])))
			})
		}
		running.Wait()
	})
	fail := func(err error) {
		for _, i := range wanted {
			items[i] = loadedItem[V]{err: err}
		}
	}
	if !begun {
		fail(ErrClosed)
		return
	}
	select {
	case <-done:
		for n, i := range wanted {
			items[i] = loaded[n]
		}
	case <-ctx.Done():
		fail(context.Cause(ctx))
	}
}

// pass is miss for a reader who wants nothing stored.
func (c *Cache[V]) pass(ctx context.Context, key string, k localcache.Key, q query) (V, error) {
	item := c.passMany(ctx, []string{key}, q)[0]
	return c.ofItem(k, q, item)
}

func (c *Cache[V]) ofItem(k localcache.Key, q query, item loadedItem[V]) (none V, err error) {
	if item.err != nil {
		if value, ok := c.fallBack(k, q, item.err); ok {
			return value, nil
		}
		return none, item.err
	}
	return c.own(item.value.value), nil
}
