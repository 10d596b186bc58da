package main

import (
	"context"
	"fmt"
	"runtime"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"

	"github.com/go-nearcache/nearcache"
	"github.com/go-nearcache/nearcache/internal/redistest"
	"github.com/go-nearcache/nearcache/tracking"
)

// pushes counts what a link announces and does nothing with it.
type pushes struct{ count atomic.Int64 }

func (p *pushes) Live(time.Time)    {}
func (p *pushes) Invalidate(string) { p.count.Add(1) }
func (p *pushes) Flush()            {}
func (p *pushes) Lost(error)        {}
func (p *pushes) Confirm(time.Time) {}

// invalidations compares the time from a write to its effect in L1 with the time to the bare push, and measures how many keys a second
// a node can forget.
func invalidations(ctx context.Context, server *redistest.Server, rounds int) ([]row, error) {
	data, err := bare(server)
	if err != nil {
		return nil, err
	}
	defer data.Close()
	const n = 1024
	keys, err := seed(ctx, data, n)
	if err != nil {
		return nil, err
	}
	client, cache, err := open(ctx, server, 256<<20, nearcache.Config[string]{Codec: nearcache.String()})
	if err != nil {
		return nil, err
	}
	defer client.Close(ctx)
	var bare pushes
	link, err := tracking.Open(ctx, tracking.Options{
		Redis:    rueidis.ClientOption{InitAddress: []string{server.Addr()}},
		Prefixes: []string{prefix},
		Handler:  &bare,
	})
	if err != nil {
		return nil, err
	}

	write := func(i int) {
		if err := data.Do(ctx, data.B().Set().Key(keys[i]).Value(strconv.Itoa(i)).Build()).Error(); err != nil {
			panic(err)
		}
	}
	evicted := func() int64 { return int64(client.Stats().Local.Invalidations.Tracking.Evicted) }
	// Both are watched in the same way, by looking again and again, and take turns in going first.
	wait := func(count func() int64, before int64) time.Duration {
		began := time.Now()
		for count() == before {
			runtime.Gosched()
		}
		return time.Since(began)
	}
	var pushTimes, evictTimes []time.Duration
	for i := range rounds * 100 {
		key := i & (n - 1)
		for !client.Health().Ready || !cache.Explain(ctx, id(key)).Local.Servable {
			if _, err := cache.Get(ctx, id(key)); err != nil {
				return nil, err
			}
		}
		began := time.Now()
		if i%2 == 0 {
			before := bare.count.Load()
			write(key)
			wait(bare.count.Load, before)
			pushTimes = append(pushTimes, time.Since(began))
		} else {
			before := evicted()
			write(key)
			wait(evicted, before)
			evictTimes = append(evictTimes, time.Since(began))
		}
	}
	if err := link.Close(ctx); err != nil {
		return nil, err
	}

	rate, behind, err := drain(ctx, client, cache, data)
	if err != nil {
		return nil, err
	}
	push, evict := percentile(pushTimes, 0.5), percentile(evictTimes, 0.5)
	return []row{
		atMost("write to evict, p50 against the bare push", ratio(evict, push), 1.2, fmt.Sprintf(" (%v to %v)", evict, push)),
		{"keys written and forgotten a second, half of them held", fmt.Sprintf("%.0f, the last %v after its write", rate, behind.Round(time.Millisecond)), "≥ 500000", rate >= 500_000},
	}, nil
}

// writeScript writes the keys ARGV[2]+ARGV[3] … of the prefix ARGV[1], some hundreds at a time.
var writeScript = rueidis.NewLuaScript(`
local from, count = tonumber(ARGV[2]), tonumber(ARGV[3])
local pairs = {}
for i = from, from + count - 1 do
	pairs[#pairs + 1] = string.format('%s%024d', ARGV[1], i)
	pairs[#pairs + 1] = 'x'
	if #pairs == 500 then redis.call('MSET', unpack(pairs)); pairs = {} end
end
return 'OK'`)

// drain has scripts write 20,000 keys each, as fast as Redis can, half of which L1 holds, and returns how many a second went by until the
// last of them was known to be forgotten.
func drain(ctx context.Context, client *nearcache.Client, cache *nearcache.Cache[string], data rueidis.Client) (rate float64, behind time.Duration, err error) {
	const batch, batches = 20_000, 50
	write := func(from int) error {
		return writeScript.Exec(ctx, data, []string{prefix}, []string{prefix, strconv.Itoa(from), strconv.Itoa(batch)}).Error()
	}
	for b := range batches {
		if err := write(b * batch); err != nil {
			return 0, 0, err
		}
	}
	for from := 0; from < batch*batches; from += 2000 {
		held := make([]string, 1000)
		for i := range held {
			held[i] = id(from + i)
		}
		for range 20 { // L1 takes in what it is given a moment later, and not all of what comes too fast
			before := client.Stats().Caches["products"].LocalMisses
			if _, err := cache.GetMany(ctx, held); err != nil {
				return 0, 0, err
			}
			if client.Stats().Caches["products"].LocalMisses == before {
				break
			}
		}
	}
	before := client.Stats().Local.Invalidations.Tracking
	began := time.Now()
	for b := range batches {
		if err := write(b * batch); err != nil {
			return 0, 0, err
		}
	}
	written := time.Now()
	if err := client.Fence(ctx); err != nil {
		return 0, 0, err
	}
	done := time.Now()
	after := client.Stats().Local.Invalidations.Tracking
	if seen := after.Evicted + after.Absent - before.Evicted - before.Absent; seen < batch*batches {
		return 0, 0, fmt.Errorf("%d keys were written and %d forgotten", batch*batches, seen)
	}
	if after.Evicted-before.Evicted < batch*batches/4 {
		return 0, 0, fmt.Errorf("L1 held only %d of %d", after.Evicted-before.Evicted, batch*batches/2)
	}
	return batch * batches / done.Sub(began).Seconds(), done.Sub(written), nil
}
