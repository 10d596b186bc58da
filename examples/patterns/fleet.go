package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/redis/rueidis"

	"github.com/go-nearcache/nearcache"
	"github.com/go-nearcache/nearcache/broadcast"
	"github.com/go-nearcache/nearcache/examples/internal/transports"
)

const (
	nodes    = 5
	keys     = 50
	patience = 30 * time.Second
)

// truth is the source of truth: the version of each item, and when the write of each was acknowledged.
type truth struct {
	mu           sync.Mutex
	acknowledged [keys][]time.Time // of version v at index v; zero until then

	rows [keys]sync.Mutex // held while an item is written: two writes of one item must not overtake each other
}

func (t *truth) latest(key int) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.acknowledged[key]) - 1
}

func (t *truth) advance(key int) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.acknowledged[key] = append(t.acknowledged[key], time.Time{})
	return len(t.acknowledged[key]) - 1
}

func (t *truth) acknowledge(key, version int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.acknowledged[key][version] = time.Now()
}

// staleness is for how long, at an instant, the write that replaced a version had been acknowledged; 0 if it had not.
func (t *truth) staleness(key, version int, at time.Time) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	if version+1 >= len(t.acknowledged[key]) || t.acknowledged[key][version+1].IsZero() {
		return 0
	}
	return max(at.Sub(t.acknowledged[key][version+1]), 0)
}

// A node is a process of a service.
type node struct {
	wire   *transports.Wire
	bus    *broadcast.Bus // nil for tracking
	client *nearcache.Client
	cache  *nearcache.Cache[int]
}

// fleet is all nodes of one system.
type fleet struct {
	truth  *truth
	system *transports.System
	nodes  []*node
}

func openFleet(ctx context.Context, name string) (f *fleet, err error) {
	f = &fleet{truth: new(truth)}
	for key := range keys {
		f.truth.acknowledge(key, f.truth.advance(key))
	}
	var redis func(*transports.Wire) rueidis.ClientOption
	if name == "tracking" {
		f.system, redis, err = transports.OpenTracking(ctx)
	} else {
		f.system, err = transports.Open(ctx, name, transports.Brokers{})
	}
	if err != nil {
		return nil, err
	}
	for range nodes {
		if err := f.join(ctx, redis); err != nil {
			return nil, errors.Join(err, f.close(context.WithoutCancel(ctx)))
		}
	}
	return f, nil
}

func (f *fleet) join(ctx context.Context, redis func(*transports.Wire) rueidis.ClientOption) (err error) {
	n := &node{wire: new(transports.Wire)}
	options := nearcache.Options{Prefixes: []string{"item:"}}
	if redis != nil {
		options.Redis = redis(n.wire)
	} else {
		transport, err := f.system.Transport(n.wire)
		if err != nil {
			return err
		}
		if n.bus, err = broadcast.New(broadcast.Options{Transport: transport}); err != nil {
			return errors.Join(err, transport.Close(ctx))
		}
		options = nearcache.Options{Bus: n.bus}
	}
	f.nodes = append(f.nodes, n)
	if n.client, err = nearcache.Open(ctx, options); err != nil {
		return err
	}
	n.cache, err = nearcache.New(n.client, nearcache.Config[int]{
		Name: "items", Prefix: "item:",
		Load: func(_ context.Context, key string) (int, error) {
			i, err := strconv.Atoi(key)
			return f.truth.latest(i), err
		},
	})
	return err
}

// write changes an item and tells the others; it goes on until they are told, as a service would that has promised to.
func (f *fleet) write(ctx context.Context, n *node, key int) (version int, err error) {
	f.truth.rows[key].Lock()
	defer f.truth.rows[key].Unlock()
	version = f.truth.advance(key)
	for ctx.Err() == nil {
		// With data in Redis the write itself is announced, by the server.
		if n.bus == nil {
			err = n.cache.Set(ctx, strconv.Itoa(key), version)
		} else {
			err = n.cache.Delete(ctx, strconv.Itoa(key))
		}
		if err == nil {
			f.truth.acknowledge(key, version)
			return version, nil
		}
		select {
		case <-ctx.Done():
		case <-time.After(10 * time.Millisecond):
		}
	}
	return version, fmt.Errorf("a write was not accepted: %w", err)
}

// settle waits until every node reads the latest version of every item.
func (f *fleet) settle(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for i, n := range f.nodes {
		for key := range keys {
			for {
				version, err := n.cache.Get(ctx, strconv.Itoa(key))
				if err == nil && version == f.truth.latest(key) {
					break
				}
				select {
				case <-ctx.Done():
					return fmt.Errorf("node %d still reads version %d of item %d, %w; the latest is %d", i, version, key, err, f.truth.latest(key))
				case <-time.After(time.Millisecond):
				}
			}
		}
	}
	return nil
}

// tally is what the counters say.
type tally struct {
	nodes    []counters
	bytes    int64
	cpu      time.Duration
	cpuKnown bool
}

// counters are those of a node: of its own announcements, of others' that it applied, and of those that it was told it may have missed.
type counters struct{ announced, applied, gaps uint64 }

func (f *fleet) tally(ctx context.Context) tally {
	var t tally
	for _, n := range f.nodes {
		t.bytes += n.wire.Bytes()
		if n.bus == nil {
			continue
		}
		stats := n.bus.Stats()
		c := counters{announced: stats.Published, applied: stats.Delivered}
		for reason, count := range stats.Gaps {
			if (broadcast.Gap{Reason: reason}).MustFlush() && reason != broadcast.NewOrigin {
				c.gaps += count
			}
		}
		t.nodes = append(t.nodes, c)
	}
	if f.system.Broker != nil {
		t.cpu, t.cpuKnown = f.system.Broker.CPU(ctx)
	}
	return t
}

// missed is how many announcements since before have not come to a node they were meant for, which is every one but their own, and whether each
// node that misses some was told.
func (t tally) missed(before tally) (lost int64, reported bool) {
	var announced int64
	for i := range t.nodes {
		announced += int64(t.nodes[i].announced - before.nodes[i].announced)
	}
	reported = true
	for i, c := range t.nodes {
		missed := announced - int64(c.announced-before.nodes[i].announced) - int64(c.applied-before.nodes[i].applied)
		if missed > 0 {
			lost += missed
			reported = reported && c.gaps > before.nodes[i].gaps
		}
	}
	return lost, reported
}

// arrived waits until nothing that was announced since before is on its way: what is missing after all that time is lost.
func (f *fleet) arrived(ctx context.Context, before tally, within time.Duration) (lost int64, reported bool, err error) {
	deadline := time.Now().Add(within)
	for {
		lost, reported = f.tally(ctx).missed(before)
		if lost == 0 || time.Now().After(deadline) {
			return lost, reported, nil
		}
		if err := pause(ctx, 10*time.Millisecond); err != nil {
			return lost, reported, err
		}
	}
}

func (f *fleet) close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var failures []error
	for _, n := range slices.Backward(f.nodes) {
		if n.client != nil {
			failures = append(failures, n.client.Close(ctx))
		}
		if n.bus != nil {
			failures = append(failures, n.bus.Close(ctx))
		}
	}
	return errors.Join(append(failures, f.system.Close())...)
}
