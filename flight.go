package nearcache

import (
	"context"
	"sync"

	"github.com/go-nearcache/nearcache/localcache"
)

// A flight is one fetch of a key, shared by the readers that came while it was under way. A reader joins only a flight whose
// result it could have fetched itself: see join. A flight that later readers may not join goes on for those that did, and
// the next one, which takes its place, does not load before it has ended: so one load of a key runs at a time.
type flight[V any] struct {
	token    localcache.Token // taken before anything was sent
	began    localcache.Instant
	previous *flight[V]

	done  chan struct{} // closed when what follows is set
	value record[V]
	err   error
}

// flights are the flights of a cache by key.
type flights[V any] struct {
	parts [64]struct {
		mu    sync.Mutex
		byKey map[localcache.Key]*flight[V]
	}
}

func (fs *flights[V]) part(k localcache.Key) (*sync.Mutex, *map[localcache.Key]*flight[V]) {
	part := &fs.parts[k.Part(len(fs.parts))]
	return &part.mu, &part.byKey
}

// join returns the flight to wait for, or a new one that the caller has to lead.
//
// A flight may be joined if its result holds every write acknowledged before notBefore. That is so if it began after, since it sends
// its request later still; or if this node has seen all those writes (the as-of of the link) and none of them touched the key
// since the flight's token was taken. The as-of is read first: a write that it covers has then ended the token already. A write of
// this node ends the token too, so a reader never joins a fetch from before its own write.
func (fs *flights[V]) join(view *localcache.View[record[V]], shard *localcache.Shard, k localcache.Key, notBefore localcache.Instant) (f *flight[V], leader bool) {
	asOf := shard.AsOf()
	mu, byKey := fs.part(k)
	mu.Lock()
	defer mu.Unlock()
	current := (*byKey)[k]
	if current != nil && (current.began >= notBefore || asOf >= notBefore) && current.token.Current() {
		return current, false
	}
	f = &flight[V]{
		token:    view.Token(k, shard),
		began:    localcache.Now(),
		previous: current,
		done:     make(chan struct{}),
	}
	if *byKey == nil {
		*byKey = make(map[localcache.Key]*flight[V])
	}
	(*byKey)[k] = f
	return f, true
}

// end publishes the result.
func (fs *flights[V]) end(k localcache.Key, f *flight[V], value record[V], err error) {
	mu, byKey := fs.part(k)
	mu.Lock()
	if (*byKey)[k] == f {
		delete(*byKey, k)
	}
	mu.Unlock()
	f.value, f.err = value, err
	f.previous = nil
	close(f.done)
}

// wait returns the result of a flight, or the end of the caller's own context.
func (c *Cache[V]) wait(ctx context.Context, f *flight[V]) (V, error) {
	select {
	case <-f.done:
		return f.value.value, f.err
	default:
	}
	select {
	case <-f.done:
		return f.value.value, f.err
	case <-ctx.Done():
		var none V
		return none, context.Cause(ctx)
	}
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
