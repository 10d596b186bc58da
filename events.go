package nearcache

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-nearcache/nearcache/localcache"
)

// An EventKind says what happened to an item.
type EventKind uint8

// Kinds of events.
const (
	EventHit   EventKind = iota // a read was served from L1; Err is ErrNotFound if L1 knew that there is none
	EventMiss                   // a read was not
	EventLoad                   // the loader was asked; Err is what it returned
	EventEvict                  // an invalidation evicted the item from L1; Cause is what told of the change
	EventFlush                  // L1 forgot everything, of one server or of all; Cause is why, Key is empty
)

// String returns "hit", "miss", "load", "evict" or "flush".
func (k EventKind) String() string {
	switch k {
	case EventHit:
		return "hit"
	case EventMiss:
		return "miss"
	case EventLoad:
		return "load"
	case EventEvict:
		return "evict"
	case EventFlush:
		return "flush"
	}
	return fmt.Sprintf("EventKind(%d)", uint8(k))
}

// An Event is something that happened in a cache of this node.
type Event struct {
	Kind  EventKind
	Key   string // the item's, without Config.Prefix
	Cause string // evict: "tracking", "broadcast" or "local"; flush: "reconnect", "flush_all", "gap", "manual" or "topology"
	Err   error
	At    time.Time
}

// Events returns a channel of what happens in this cache from now on, until ctx ends or the client is closed, which closes the channel.
// Nothing ever waits for its reader: an event for which the buffer, of so many events, has no room is dropped and counted in
// CacheStats.EventsLost. Events of one goroutine come in their order. What leaves L1 at the end of its life, or for want of room, leaves without its key, which L1 does
// not keep: it is counted in Stats.Local.Evictions and is no event.
//
// It is for debugging and for tests. While nobody listens a hit pays nothing for it; while somebody does, a lock and the time. The
// buffer must be positive; any other is taken for 1.
func (c *Cache[V]) Events(ctx context.Context, buffer int) <-chan Event {
	s := &subscriber{events: make(chan Event, max(buffer, 1))}
	c.events.mu.Lock()
	defer c.events.mu.Unlock()
	if c.client.closed.Load() {
		close(s.events)
		return s.events
	}
	list := append(slices.Clone(c.events.all()), s)
	c.events.list.Store(&list)
	c.extras.Or(extraEvents)
	s.stop = context.AfterFunc(ctx, func() { c.unsubscribe(s) })
	return s.events
}

// extraEvents is the bit of Cache.extras that says that somebody listens.
const extraEvents uint32 = 1 << 8

// extraSample is the one that says that hits are sampled, for Config.Shadow or RefreshInvalidated.
const extraSample uint32 = 1 << 9

// subscribers are those who listen to a cache. They change under the lock, which also orders the bit with them.
type subscribers struct {
	mu   sync.Mutex
	list atomic.Pointer[[]*subscriber]
	lost atomic.Uint64
}

type subscriber struct {
	mu     sync.Mutex
	events chan Event
	closed bool
	stop   func() bool // set before the lock of the subscribers is given back
}

func (s *subscribers) all() []*subscriber {
	if list := s.list.Load(); list != nil {
		return *list
	}
	return nil
}

func (c *Cache[V]) unsubscribe(s *subscriber) {
	c.events.mu.Lock()
	list := slices.DeleteFunc(slices.Clone(c.events.all()), func(other *subscriber) bool { return other == s })
	c.events.list.Store(&list)
	if len(list) == 0 {
		c.extras.And(^extraEvents)
	}
	c.events.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.closed = true
		close(s.events)
	}
}

// endEvents is for the client's Close.
func (c *Cache[V]) endEvents() {
	c.events.mu.Lock()
	list := c.events.all()
	c.events.mu.Unlock()
	for _, s := range list {
		s.stop()
		c.unsubscribe(s)
	}
}

// tell gives an event to whoever listens.
func (c *Cache[V]) tell(kind EventKind, key, cause string, err error) {
	if c.extras.Load()&extraEvents == 0 {
		return
	}
	event := Event{Kind: kind, Key: key, Cause: cause, Err: err, At: time.Now()}
	for _, s := range c.events.all() {
		if !s.offer(event) {
			c.events.lost.Add(1)
		}
	}
}

// offer reports false if there was no room.
func (s *subscriber) offer(event Event) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return true
	}
	select {
	case s.events <- event:
		return true
	default:
		return false
	}
}

// listenable is a cache with events.
type listenable interface {
	tell(kind EventKind, key, cause string, err error)
	endEvents()
}

// flushed counts a flush, and tells of it.
func (c *Client) flushed(counted *atomic.Int64) {
	counted.Add(1)
	var cause string
	switch n := &c.flushes; counted {
	case &n.reconnect:
		cause = "reconnect"
	case &n.flushAll:
		cause = "flush_all"
	case &n.gap:
		cause = "gap"
	case &n.manual:
		cause = "manual"
	case &n.topology:
		cause = "topology"
	}
	for _, cache := range c.caches.all() {
		if l, ok := cache.(listenable); ok {
			l.tell(EventFlush, "", cause, nil)
		}
	}
}

// A Rejection is why something that was fetched or loaded was not kept.
type Rejection struct {
	Reason string
	At     time.Time
}

// rejections remembers the last rejection of some keys.
type rejections struct {
	mu   sync.Mutex
	last map[localcache.Key]Rejection
}

// mostRejections bounds the keys that are remembered. When they are as many, all are forgotten.
const mostRejections = 512

func (r *rejections) note(k localcache.Key, reason string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.last == nil || len(r.last) >= mostRejections {
		r.last = make(map[localcache.Key]Rejection)
	}
	r.last[k] = Rejection{Reason: reason, At: time.Now()}
}

func (r *rejections) of(k localcache.Key) *Rejection {
	r.mu.Lock()
	defer r.mu.Unlock()
	if last, ok := r.last[k]; ok {
		return &last
	}
	return nil
}
