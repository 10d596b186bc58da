package main

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/go-nearcache/nearcache"
	"github.com/go-nearcache/nearcache/internal/redistest"
)

// leastBytes is an L1 too small to hold what the benchmarks of misses read in turn.
const leastBytes = 2 << 20

// misses compares a read that Redis serves with the two commands that it sends.
func misses(ctx context.Context, server *redistest.Server, rounds int) ([]row, error) {
	const n = 1 << 17
	data, err := bare(server)
	if err != nil {
		return nil, err
	}
	defer data.Close()
	keys, err := seed(ctx, data, n)
	if err != nil {
		return nil, err
	}
	ids := make([]string, n)
	for i := range ids {
		ids[i] = id(i)
	}
	client, cache, err := open(ctx, server, leastBytes, nearcache.Config[string]{Codec: nearcache.String()})
	if err != nil {
		return nil, err
	}
	defer client.Close(ctx)

	pipeline := func(i int) {
		for _, result := range data.DoMulti(ctx, data.B().Get().Key(keys[i&(n-1)]).Build(), data.B().Pttl().Key(keys[i&(n-1)]).Build()) {
			if err := result.Error(); err != nil {
				panic(err)
			}
		}
	}
	get := func(i int) {
		if _, err := cache.Get(ctx, ids[i&(n-1)]); err != nil {
			panic(err)
		}
	}

	times := samples(rounds*1000, pipeline, get)
	before := client.Stats().Caches["products"]
	if share := float64(before.LocalHits) / float64(before.LocalHits+before.LocalMisses); share > 0.05 {
		return nil, fmt.Errorf("%.0f %% of the reads were hits", 100*share)
	}

	const goroutines = 64
	parallel := func(one func(int)) func(worker, count int) {
		var next atomic.Int64
		return func(_, count int) {
			for range count {
				one(int(next.Add(1)))
			}
		}
	}
	throughput := race([]contender{{"pipeline", parallel(pipeline)}, {"nearcache", parallel(get)}}, goroutines, rounds)

	return []row{
		atMost("miss, p50 against a bare GET and PTTL", ratio(percentile(times[1], 0.5), percentile(times[0], 0.5)), 1.15,
			fmt.Sprintf(" (%v to %v)", percentile(times[1], 0.5), percentile(times[0], 0.5))),
		atLeast("64 goroutines, throughput against the same", ratio(throughput["pipeline"], throughput["nearcache"]), 0.9,
			fmt.Sprintf(" (%.0f to %.0f a second)", 1e12/float64(throughput["nearcache"]), 1e12/float64(throughput["pipeline"]))),
	}, nil
}

// getMany compares a read of 100 items, 10 of which are missing, with an MGET of those 10.
func getMany(ctx context.Context, server *redistest.Server, rounds int) ([]row, error) {
	const n, hot, cold = 1 << 16, 90, 10
	data, err := bare(server)
	if err != nil {
		return nil, err
	}
	defer data.Close()
	keys, err := seed(ctx, data, hot+n)
	if err != nil {
		return nil, err
	}
	ids := make([]string, hot+n)
	for i := range ids {
		ids[i] = id(i)
	}
	client, cache, err := open(ctx, server, 2*leastBytes, nearcache.Config[string]{Codec: nearcache.String()})
	if err != nil {
		return nil, err
	}
	defer client.Close(ctx)
	for range 20 {
		if err := warm(ctx, client, cache, hot); err != nil {
			return nil, err
		}
	}

	coldOnes := func(i int) (from int) { return hot + i*cold%(n-cold) }
	mget := func(i int) {
		from := coldOnes(i)
		values, err := data.Do(ctx, data.B().Mget().Key(keys[from:from+cold]...).Build()).AsStrSlice()
		if err != nil || len(values) != cold {
			panic(err)
		}
	}
	batch := make([]string, hot+cold)
	copy(batch, ids[:hot])
	many := func(i int) {
		from := coldOnes(i)
		copy(batch[hot:], ids[from:from+cold])
		items, err := cache.GetMany(ctx, batch)
		if err != nil || len(items) != len(batch) {
			panic(fmt.Sprint(len(items), err))
		}
	}
	times := samples(rounds*500, mget, many)
	after := client.Stats().Caches["products"]
	missed := float64(after.LocalMisses) / float64(rounds*500)
	return []row{
		atMost("GetMany of 100 with 10 missing, p50 against an MGET of the 10", ratio(percentile(times[1], 0.5), percentile(times[0], 0.5)), 1.2,
			fmt.Sprintf(" (%v to %v; %.1f missed)", percentile(times[1], 0.5), percentile(times[0], 0.5), missed)),
	}, nil
}
