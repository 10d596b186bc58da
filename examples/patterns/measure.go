package main

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-nearcache/nearcache/examples/internal/measure"
)

// result is what one system showed.
type result struct {
	name     string
	latency  measure.Samples // from a write until another node reads it
	writes   float64         // a second, from many writers
	bytes    float64         // a write, all nodes together
	cpu      time.Duration   // of the broker, a write
	cpuKnown bool
	healthy  outcome
	cut      outcome
	restart  *outcome // nil without a broker
}

// outcome is what readers and counters saw while something went on.
type outcome struct {
	stale    time.Duration // the oldest version that was read, by the time since the write that replaced it was acknowledged
	counted  bool          // lost and reported are known
	lost     int64         // messages that a node did not get
	reported bool          // every node that did not get some was told that it may have missed them
	back     time.Duration // from the end of the fault until every node read the latest version of everything
}

func measureSystem(ctx context.Context, name string, phase time.Duration) (r result, err error) {
	f, err := openFleet(ctx, name)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, f.close(context.WithoutCancel(ctx))) }()
	r.name = name
	if err := f.settle(ctx); err != nil {
		return r, err
	}
	if r.latency, err = f.latencies(ctx, phase); err != nil {
		return r, err
	}
	if err := f.throughput(ctx, phase, &r); err != nil {
		return r, err
	}
	if err := f.settle(ctx); err != nil {
		return r, err
	}
	if r.healthy, err = f.observe(ctx, func() error { return pause(ctx, phase) }); err != nil {
		return r, err
	}
	last := f.nodes[nodes-1]
	r.cut, err = f.observe(ctx, func() error {
		last.wire.Cut()
		defer last.wire.Mend()
		return pause(ctx, phase)
	})
	if err != nil || f.system.Broker == nil {
		return r, err
	}
	restart, err := f.observe(ctx, func() error {
		return errors.Join(f.system.Broker.Stop(ctx), pause(ctx, phase/3), f.system.Broker.Start(ctx))
	})
	r.restart = &restart
	return r, err
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// latencies writes on one node and waits until another reads that, one after the other.
func (f *fleet) latencies(ctx context.Context, phase time.Duration) (samples measure.Samples, err error) {
	end := time.Now().Add(phase)
	for i := 0; time.Now().Before(end); i++ {
		key, writer, reader := i%keys, f.nodes[i%nodes], f.nodes[(i+1)%nodes]
		began := time.Now()
		version, err := f.write(ctx, writer, key)
		if err != nil {
			return nil, err
		}
		for {
			got, err := reader.cache.Get(ctx, strconv.Itoa(key))
			if err != nil {
				return nil, err
			}
			if got >= version {
				break
			}
			if err := pause(ctx, 20*time.Microsecond); err != nil {
				return nil, err
			}
		}
		samples = append(samples, time.Since(began))
	}
	return samples, nil
}

// throughput writes from many goroutines.
func (f *fleet) throughput(ctx context.Context, phase time.Duration, r *result) error {
	const writers = 32
	before := f.tally(ctx)
	var count atomic.Int64
	began := time.Now()
	err := inParallel(writers, func(i int) error {
		for k := i; time.Since(began) < phase; k += writers {
			if _, err := f.write(ctx, f.nodes[i%nodes], k%keys); err != nil {
				return err
			}
			count.Add(1)
		}
		return nil
	})
	took := time.Since(began)
	if err != nil {
		return err
	}
	after := f.tally(ctx)
	written := max(count.Load(), 1)
	r.writes = float64(written) / took.Seconds()
	r.bytes = float64(after.bytes-before.bytes) / float64(written)
	r.cpuKnown = before.cpuKnown && after.cpuKnown
	r.cpu = (after.cpu - before.cpu) / time.Duration(written)
	_, _, err = f.arrived(ctx, before, patience) // so that what is measured next does not come after what is queued
	return err
}

func inParallel(count int, do func(int) error) error {
	failures := make([]error, count)
	var running sync.WaitGroup
	for i := range count {
		running.Go(func() { failures[i] = do(i) })
	}
	running.Wait()
	return errors.Join(failures...)
}

// observe has writers and readers at work on every node while something goes on, and judges what they saw.
func (f *fleet) observe(ctx context.Context, meanwhile func() error) (o outcome, err error) {
	before := f.tally(ctx)
	working, stop := context.WithCancel(ctx)
	defer stop()
	var oldest atomic.Int64
	var running sync.WaitGroup
	var failed atomic.Pointer[error]
	for i, n := range f.nodes {
		running.Go(func() {
			for k := i; working.Err() == nil; k += nodes {
				// A write that has been begun is carried to its end, so that what others hold can be judged.
				if _, err := f.write(ctx, n, k%keys); err != nil {
					failed.Store(&err)
					return
				}
				_ = pause(working, 2*time.Millisecond)
			}
		})
		running.Go(func() {
			for k := i; working.Err() == nil; k++ {
				at := time.Now()
				version, err := n.cache.Get(working, strconv.Itoa(k%keys))
				if err == nil {
					stale := int64(f.truth.staleness(k%keys, version, at))
					for old := oldest.Load(); stale > old && !oldest.CompareAndSwap(old, stale); old = oldest.Load() {
					}
				}
				_ = pause(working, 100*time.Microsecond)
			}
		})
	}
	err = meanwhile()
	ended := time.Now()
	stop()
	running.Wait()
	if failure := failed.Load(); failure != nil {
		err = errors.Join(err, *failure)
	}
	if err != nil {
		return o, err
	}
	if err := f.settle(ctx); err != nil {
		return o, err
	}
	o.back, o.stale = time.Since(ended), time.Duration(oldest.Load())
	o.counted = f.nodes[0].bus != nil
	o.lost, o.reported, err = f.arrived(ctx, before, 2*time.Second)
	return o, err
}
