package main

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/go-nearcache/nearcache"
	"github.com/go-nearcache/nearcache/internal/redistest"
)

// misses compares a read that Redis serves with the two commands that it sends. Every key is read once by a node that starts cold.
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
	pipeline := func(i int) {
		for _, result := range data.DoMulti(ctx, data.B().Get().Key(keys[i]).Build(), data.B().Pttl().Key(keys[i]).Build()) {
			if err := result.Error(); err != nil {
				panic(err)
			}
		}
	}
	// cold calls do with what reads an item through a node that holds none.
	cold := func(do func(get func(i int))) error {
		client, cache, err := open(ctx, server, 256<<20, nearcache.Config[string]{Codec: nearcache.String()})
		if err != nil {
			return err
		}
		do(func(i int) {
			if _, err := cache.Get(ctx, ids[i]); err != nil {
				panic(err)
			}
		})
		if stats := client.Stats().Caches["products"]; stats.LocalHits > 0 {
			return fmt.Errorf("%d of the reads were hits", stats.LocalHits)
		}
		return client.Close(ctx)
	}

	var serial [][]time.Duration
	if err := cold(func(get func(int)) { serial = samples(min(n, rounds*1000), pipeline, get) }); err != nil {
		return nil, err
	}

	// parallel returns how many items a second 64 goroutines read.
	parallel := func(read func(int)) float64 {
		var next atomic.Int64
		took := together(contender{run: func(int, int) {
			for i := next.Add(1) - 1; i < n; i = next.Add(1) - 1 {
				read(int(i))
			}
		}}, 64, 0)
		return n / took.Seconds()
	}
	var bareRates, nearRates []float64
	for range max(3, rounds/3) {
		bareRates = append(bareRates, parallel(pipeline))
		if err := cold(func(get func(int)) { nearRates = append(nearRates, parallel(get)) }); err != nil {
			return nil, err
		}
	}
	bareRate, nearRate := median(bareRates), median(nearRates)
	near, pipe := percentile(serial[1], 0.5), percentile(serial[0], 0.5)
	return []row{
		atMost("miss, p50 against a bare GET and PTTL", ratio(near, pipe), 1.15, fmt.Sprintf(" (%v to %v)", near, pipe)),
		atLeast("64 goroutines, throughput against the same", nearRate/bareRate, 0.9, fmt.Sprintf(" (%.0f to %.0f a second)", nearRate, bareRate)),
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
	client, cache, err := open(ctx, server, 4<<20, nearcache.Config[string]{Codec: nearcache.String()})
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
