package telemetry

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.opentelemetry.io/otel/metric"
)

// ErrClosed is returned by [Telemetry.Observe] after [Telemetry.Close].
var ErrClosed = errors.New("telemetry: closed")

// Snapshot is a client's state at one instant, in plain numbers. Counters count from the client's start and never go down.
type Snapshot struct {
	Caches []CacheSnapshot // one for each cache; their names differ
	Links  []LinkSnapshot  // one for each tracked server

	// Store is the local tier: one store for all of the caches.
	Store StoreSnapshot

	MemoryUsage int64 // bytes
	MemoryLimit int64 // bytes; zero: there is no local tier, and neither these figures nor Store are reported
	Flushes     Flushes
}

// CacheSnapshot is the state of one cache.
type CacheSnapshot struct {
	Name                  string  // nearcache.cache
	Local, Remote, Source Results // nearcache.requests by nearcache.tier: L1, Redis, the loader
	Coalesced             Coalesced
	Verification          Verification
}

// Results counts requests to one tier by what they found there (nearcache.result).
type Results struct {
	Hit      int64 // a value that may be served
	Miss     int64 // none
	Stale    int64 // one past its time, served because the options allow it
	Negative int64 // the knowledge that the source has none
	Bypass   int64 // the tier was not asked
}

// StoreSnapshot is the state of the local tier.
type StoreSnapshot struct {
	Items         int64         // nearcache.item.count
	Evictions     Evictions     // nearcache.evictions
	Invalidations Invalidations // nearcache.invalidations
	FillsRejected FillsRejected // nearcache.fills.rejected
}

// Evictions counts entries by why they left the local tier, or never entered it (nearcache.reason).
type Evictions struct {
	Capacity int64 // to make room
	Expired  int64
	Rejected int64 // refused on arrival by the admission policy
}

// Invalidations counts invalidations of single keys by where they came from (nearcache.source).
type Invalidations struct {
	Tracking  Effects // pushed by the server
	Broadcast Effects // a message on the bus
	Local     Effects // this node's own writes
}

// Effects counts invalidations by what they met (nearcache.effect).
type Effects struct {
	Evicted int64 // an entry
	Absent  int64 // nothing
}

// FillsRejected counts fetched values that were not stored (nearcache.reason).
type FillsRejected struct {
	Invalidated int64 // the key was invalidated while the value was on its way
	Epoch       int64 // the link was lost, or everything was flushed, meanwhile
	Capacity    int64 // the store could not take it
}

// Flushes counts the times that everything was dropped (nearcache.reason).
type Flushes struct {
	Reconnect int64 // a link was lost or came back
	Overflow  int64 // more invalidations than the node could take
	FlushAll  int64 // the server was flushed
	Topology  int64 // slots or roles moved
	Manual    int64 // the program asked for it
	Gap       int64 // messages of the bus were lost, or not understood
}

// Coalesced counts requests that waited for another's load (nearcache.scope).
type Coalesced struct {
	Process int64
	Fleet   int64
}

// Verification counts sampled answers of the local tier by what a comparison with Redis found (nearcache.result).
type Verification struct {
	Enabled    bool  // answers are sampled; otherwise nothing of it is reported
	Coherent   int64 // what Redis held too
	Wrong      int64 // what should have been invalidated
	Unresolved int64 // it left the local tier before it could be compared, or there was nothing to compare with
	Skipped    int64 // more than may be compared
}

// LinkSnapshot is the state of one tracking link.
type LinkSnapshot struct {
	Server     Server
	Replica    bool   // nearcache.role is replica: it is read in its primary's place; else it is primary
	Mode       string // what keeps the local tier coherent: one of tracking, broadcast, ttl, off; empty: not reported
	Reconnects int64
	Staleness  time.Duration // age of the link's as-of; negative: it was never live, and the figure is not reported
}

// Observe has read called once in every collection, to fill a snapshot that is empty but for the room of earlier ones in its
// slices: append to them. read runs on a goroutine of the SDK, never twice at a time, and must neither block nor call Observe,
// the returned function or [Telemetry.Close].
//
// The returned function ends it and waits for a call that is running; it may be called again. [Telemetry.Close] does the same
// for all that are left. Several callbacks may be registered, if each reports series that no other does.
func (t *Telemetry) Observe(read func(*Snapshot)) (unregister func() error, err error) {
	o := &observer{telemetry: t, read: read}
	o.client = t.newClientSeries()
	o.registration, err = t.meter.RegisterCallback(o.collect, t.instruments.observable()...)
	if err != nil {
		return nil, fmt.Errorf("telemetry: register the client's callback: %w", err)
	}

	t.mu.Lock()
	closed := t.closed
	if !closed {
		t.observers[o] = struct{}{}
	}
	t.mu.Unlock()
	if closed {
		return nil, errors.Join(ErrClosed, o.stop())
	}

	return func() error {
		t.mu.Lock()
		delete(t.observers, o)
		t.mu.Unlock()
		return o.stop()
	}, nil
}

// observer is one registered callback.
type observer struct {
	telemetry    *Telemetry
	registration metric.Registration
	client       *clientSeries
	caches       memo[string, *cacheSeries]
	links        memo[linkKey, *linkSeries]

	mu       sync.Mutex // several readers of one provider may collect at the same time
	read     func(*Snapshot)
	snapshot Snapshot
}

func (o *observer) stop() error {
	o.mu.Lock()
	stopped := o.read == nil
	o.read = nil
	o.mu.Unlock()
	if stopped {
		return nil
	}
	// Not under the lock: a collection may hold the SDK's own lock while its callback waits for this one.
	return o.registration.Unregister()
}

func (o *observer) collect(_ context.Context, to metric.Observer) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.read == nil {
		return nil
	}
	s := &o.snapshot
	*s = Snapshot{Caches: s.Caches[:0], Links: s.Links[:0]}
	o.read(s)
	o.report(to, s)
	return nil
}
