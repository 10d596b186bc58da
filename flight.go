package nearcache

import (
	"context"
	"errors"
	"sync"

	"go.opentelemetry.io/otel/trace"

	"github.com/go-nearcache/nearcache/localcache"
	"github.com/go-nearcache/nearcache/telemetry"
)

// A flight is one fetch of a key, shared by the readers that came while it was under way. A reader joins only a flight whose
// result it could have fetched itself: see join. A flight that later readers may not join goes on for those that did, beside the one
// that takes its place; of all that are under way, one at a time loads: see claim.
type flight[V any] struct {
	token localcache.Token   // taken before anything was sent
	from  *server            // that is to be asked
	began localcache.Instant // the result holds every write acknowledged before
	span  trace.SpanContext  // of the read that leads it

	good localcache.Token // for FailSafe; for whoever leads this one

	joined bool // the load of another flight; for whoever leads this one

	// What follows is guarded by the lock of the part, until ended is set; then value and err stay as they are.
	ended bool
	value record[V]
	err   error
	done  chan struct{} // closed at the end; nil while nobody waits for it
}

// flights are the flights of a cache by key.
type flights[V any] struct {
	parts [64]flightsPart[V]
}

type flightsPart[V any] struct {
	mu    sync.Mutex
	byKey map[localcache.Key]*flight[V]
	loads map[localcache.Key]*running
}

// running is a load under way.
type running struct {
	ended chan struct{}     // closed at its end
	span  trace.SpanContext // of the read that it is part of
}

func (fs *flights[V]) part(k localcache.Key) *flightsPart[V] { return &fs.parts[k.Part(len(fs.parts))] }

// join returns the flight to wait for, or a new one that the caller has to lead.
//
// A flight may be joined if its result holds every write acknowledged before notBefore. That is so if it began after, since it sends
// its request later still, and a replica had come to that instant already; or if this node has seen all those writes (the as-of of the link) and none of them touched the key
// since the flight's token was taken. The as-of is read first: a write that it covers has then ended the token already. A write of
// this node ends the token too, so a reader never joins a fetch from before its own write.
func (fs *flights[V]) join(view *localcache.View[record[V]], s *server, k localcache.Key, notBefore localcache.Instant, span trace.SpanContext) (f *flight[V], leader bool) {
	asOf, shard := s.shard.AsOf(), s.shard
	part := fs.part(k)
	part.mu.Lock()
	defer part.mu.Unlock()
	current := part.byKey[k]
	if current != nil && (current.began >= notBefore || asOf >= notBefore) && current.token.Of(shard) && current.token.Current() {
		return current, false
	}
	if current != nil && current.token.Current() {
		// What the new flight finds may be newer, and be read from L1 before the old one stores what it found: it must not any more.
		view.Invalidate(k, localcache.Local)
	}
	f = &flight[V]{token: view.Token(k, shard), from: s, began: localcache.Now(), span: span}
	if s.primary != nil {
		f.began = asOf
	}
	if part.byKey == nil {
		part.byKey = make(map[localcache.Key]*flight[V])
	}
	part.byKey[k] = f
	return f, true
}

// end publishes the result of a flight that nobody may join any more.
func (fs *flights[V]) end(k localcache.Key, f *flight[V], value record[V], err error) {
	fs.publish(k, f, value, err)
	fs.remove(k, f)
}

// publish gives the result to those who wait. The flight may still be joined, under the same rule, until it is removed: between the two
// its result has not yet been stored, and a reader who fetched anew could see a later value stored before this one.
func (fs *flights[V]) publish(k localcache.Key, f *flight[V], value record[V], err error) {
	part := fs.part(k)
	part.mu.Lock()
	f.value, f.err, f.ended = value, err, true
	done := f.done
	part.mu.Unlock()
	if done != nil {
		close(done)
	}
}

func (fs *flights[V]) remove(k localcache.Key, f *flight[V]) {
	part := fs.part(k)
	part.mu.Lock()
	defer part.mu.Unlock()
	if part.byKey[k] == f {
		delete(part.byKey, k)
	}
}

// done returns what is closed at the end of the flight; nil if that has come.
func (fs *flights[V]) done(k localcache.Key, f *flight[V]) <-chan struct{} {
	part := fs.part(k)
	part.mu.Lock()
	defer part.mu.Unlock()
	if f.ended {
		return nil
	}
	if f.done == nil {
		f.done = make(chan struct{})
	}
	return f.done
}

// claim takes the right to load a key in this process, for unclaim to give back. If a load of the key runs, it returns
// that one instead.
func (fs *flights[V]) claim(k localcache.Key, span trace.SpanContext) *running {
	part := fs.part(k)
	part.mu.Lock()
	defer part.mu.Unlock()
	if other, ok := part.loads[k]; ok {
		return other
	}
	if part.loads == nil {
		part.loads = make(map[localcache.Key]*running)
	}
	part.loads[k] = &running{ended: make(chan struct{}), span: span}
	return nil
}

func (fs *flights[V]) unclaim(k localcache.Key) {
	part := fs.part(k)
	part.mu.Lock()
	defer part.mu.Unlock()
	close(part.loads[k].ended)
	delete(part.loads, k)
}

// loading returns the load of the key that runs in this process, or nil.
func (fs *flights[V]) loading(k localcache.Key) *running {
	part := fs.part(k)
	part.mu.Lock()
	defer part.mu.Unlock()
	return part.loads[k]
}

// wait returns the result of a flight, or the end of the caller's own context.
func (c *Cache[V]) wait(ctx context.Context, k localcache.Key, q query, f *flight[V]) (V, error) {
	var none V
	if done := c.flights.done(k, f); done != nil {
		soft, stop := c.softTimeout(k, q)
		defer stop()
		for waiting := true; waiting; {
			select {
			case <-done:
				waiting = false
			case <-soft:
				if value, ok := c.fallBack(k, q, errSlowLoad); ok {
					return value, nil
				}
				soft = nil
			case <-ctx.Done():
				return none, context.Cause(ctx)
			}
		}
	}
	if f.err != nil {
		if value, ok := c.fallBack(k, q, f.err); ok {
			return value, nil
		}
		return none, f.err
	}
	return c.own(f.value.value), nil
}

// follow is wait for a flight that another read leads.
func (c *Cache[V]) follow(ctx context.Context, k localcache.Key, q query, f *flight[V]) (V, error) {
	ctx, span := c.client.telemetry.StartFollow(ctx, c.config.Name, telemetry.ScopeProcess, f.span)
	value, err := c.wait(ctx, k, q, f)
	span.End(failureOf(err))
	return value, err
}

// failureOf is an error as telemetry sees it: that there is no such item is an answer.
func failureOf(err error) error {
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	return err
}

// wakes lets loads wait for the push of a key: a lease that another node holds ends with one.
type wakes struct {
	mu    sync.Mutex
	byKey map[localcache.Key]*wake
}

type wake struct {
	pushed  chan struct{}
	waiters int
}

// await returns a channel that is closed by the next push of the key, or when pushes can no longer be relied on. The caller looks
// at Redis after it, and calls release in the end.
func (w *wakes) await(k localcache.Key) (pushed <-chan struct{}, release func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	entry := w.byKey[k]
	if entry == nil {
		if w.byKey == nil {
			w.byKey = make(map[localcache.Key]*wake)
		}
		entry = &wake{pushed: make(chan struct{})}
		w.byKey[k] = entry
	}
	entry.waiters++
	return entry.pushed, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		entry.waiters--
		if entry.waiters == 0 && w.byKey[k] == entry {
			delete(w.byKey, k)
		}
	}
}

func (w *wakes) wake(k localcache.Key) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if entry := w.byKey[k]; entry != nil {
		close(entry.pushed)
		delete(w.byKey, k)
	}
}

func (w *wakes) wakeAll() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, entry := range w.byKey {
		close(entry.pushed)
	}
	clear(w.byKey)
}
