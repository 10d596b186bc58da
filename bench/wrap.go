package main

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"

	"github.com/go-nearcache/nearcache"
	"github.com/go-nearcache/nearcache/internal/redistest"
)

// wraps compares DoCache of a wrapped client with rueidis's own: a hit, the memory of replies, and an MGET that L1 answers but for a few keys.
func wraps(ctx context.Context, server *redistest.Server, rounds int) ([]row, error) {
	rows, err := wrapHits(ctx, server, rounds)
	if err != nil {
		return nil, err
	}
	more, err := wrapMGets(ctx, server, rounds)
	if err != nil {
		return nil, err
	}
	rows = append(rows, more...)
	more, err = wrapMemory(ctx, server)
	return append(rows, more...), err
}

// openWrapped opens a wrapped client, and rueidis's own as it is by default.
func openWrapped(ctx context.Context, server *redistest.Server, maxBytes int64) (wrapped, own rueidis.Client, err error) {
	option := rueidis.ClientOption{InitAddress: []string{server.Addr()}}
	client, err := nearcache.Open(ctx, nearcache.Options{Redis: option, Prefixes: []string{prefix}, MaxBytes: maxBytes})
	if err != nil {
		return nil, nil, err
	}
	if wrapped, err = client.Rueidis(); err != nil {
		return nil, nil, err
	}
	own, err = rueidis.NewClient(option)
	return wrapped, own, err
}

// warmDoCache reads keys until the client's cache answers all of them.
func warmDoCache(ctx context.Context, client rueidis.Client, keys []string) error {
	for range 50 {
		hits := 0
		for from := 0; from < len(keys); from += 100 {
			var commands []rueidis.CacheableTTL
			for _, key := range keys[from:min(from+100, len(keys))] {
				commands = append(commands, rueidis.CT(client.B().Get().Key(key).Cache(), time.Hour))
			}
			for _, result := range client.DoMultiCache(ctx, commands...) {
				if err := result.Error(); err != nil {
					return err
				}
				if result.IsCacheHit() {
					hits++
				}
			}
		}
		if hits == len(keys) {
			return nil
		}
	}
	return fmt.Errorf("the cache does not hold %d keys", len(keys))
}

func wrapHits(ctx context.Context, server *redistest.Server, rounds int) ([]row, error) {
	const n = 1024
	data, err := bare(server)
	if err != nil {
		return nil, err
	}
	defer data.Close()
	keys, err := seed(ctx, data, n)
	if err != nil {
		return nil, err
	}
	wrapped, own, err := openWrapped(ctx, server, 0)
	if err != nil {
		return nil, err
	}
	defer wrapped.Close()
	defer own.Close()
	for _, client := range []rueidis.Client{wrapped, own} {
		if err := warmDoCache(ctx, client, keys); err != nil {
			return nil, err
		}
	}
	reader := func(client rueidis.Client) func(worker, count int) {
		return func(worker, count int) {
			for i := range count {
				key := keys[(i+worker*n/2)&(n-1)]
				if _, err := client.DoCache(ctx, client.B().Get().Key(key).Cache(), time.Hour).ToString(); err != nil {
					panic(err)
				}
			}
		}
	}
	// With commands that are built once, and pinned so that they can be sent again, there is nothing but DoCache.
	pinned := func(client rueidis.Client) func(worker, count int) {
		commands := make([]rueidis.Cacheable, n)
		for i := range commands {
			commands[i] = client.B().Get().Key(keys[i]).Cache().Pin()
		}
		return func(worker, count int) {
			for i := range count {
				if _, err := client.DoCache(ctx, commands[(i+worker*n/2)&(n-1)], time.Hour).ToString(); err != nil {
					panic(err)
				}
			}
		}
	}
	contenders := []contender{
		{"wrapped", reader(wrapped)},
		{"rueidis", reader(own)},
		{"wrapped, pinned", pinned(wrapped)},
		{"rueidis, pinned", pinned(own)},
		{"builder", func(worker, count int) { // the command alone, which is thrown away
			for i := range count {
				command := own.B().Get().Key(keys[(i+worker*n/2)&(n-1)]).Cache()
				if len(command.Commands()) != 2 {
					panic(command)
				}
			}
		}},
	}
	one, two := race(contenders, 1, rounds), race(contenders, 2, rounds)
	beyond := allocations(contenders[0]) - allocations(contenders[4])
	var rows []row
	for _, c := range contenders {
		rows = append(rows, row{"  DoCache hit: " + c.name, fmt.Sprintf("%s, two goroutines %s", thousandths(one[c.name]), thousandths(two[c.name])), "", true})
	}
	return append(rows,
		atLeast("rueidis DoCache hit, against a wrapped one, commands built before", ratio(one["rueidis, pinned"], one["wrapped, pinned"]), 2, ""),
		atLeast("the same on two goroutines", ratio(two["rueidis, pinned"], two["wrapped, pinned"]), 2, ""),
		// rueidis takes back the memory of a command, and lets nobody else do so.
		atLeast("the same with the building of commands", ratio(one["rueidis"], one["wrapped"]), 1, ""),
		row{"allocations of a wrapped hit, beyond the builder's", fmt.Sprintf("%.2f", beyond), "0", beyond < 0.01},
	), nil
}

// wrapMGets reads 100 keys, of which 3 change each time and are never there. The 97 come in an order that changes too, because rueidis picks the
// connection, and with it the cache, by the first key.
func wrapMGets(ctx context.Context, server *redistest.Server, rounds int) ([]row, error) {
	const hot, cold, n, readers = 97, 3, 1 << 17, 16
	data, err := bare(server)
	if err != nil {
		return nil, err
	}
	defer data.Close()
	keys, err := seed(ctx, data, hot+n)
	if err != nil {
		return nil, err
	}
	wrapped, own, err := openWrapped(ctx, server, 256<<20)
	if err != nil {
		return nil, err
	}
	defer wrapped.Close()
	defer own.Close()
	read := func(client rueidis.Client, i int, of []string) {
		batch := make([]string, 0, hot+cold)
		batch = append(append(append(batch, keys[i%hot:hot]...), keys[:i%hot]...), of...)
		values, err := client.DoCache(ctx, client.B().Mget().Key(batch...).Cache(), time.Hour).AsStrSlice()
		if err != nil || len(values) != len(batch) {
			panic(fmt.Sprint(len(values), err))
		}
	}
	clients := []rueidis.Client{wrapped, own}
	for _, client := range clients {
		for i := range 50 * hot {
			read(client, i, nil)
		}
	}
	// Each read takes cold keys that its client has not read.
	var next [2]atomic.Int64
	readCold := func(c, i int) {
		from := hot + int(next[c].Add(1)-1)*cold%(n-cold)
		read(clients[c], i, keys[from:from+cold])
	}
	alone := samples(rounds*150, func(i int) { readCold(0, i) }, func(i int) { readCold(1, i) })
	// And many at once, in turns.
	var together [2][]time.Duration
	for range rounds {
		for c := range clients {
			var mu sync.Mutex
			var all sync.WaitGroup
			for reader := range readers {
				all.Go(func() {
					var times []time.Duration
					for i := range 40 {
						began := time.Now()
						readCold(c, i+reader*7)
						times = append(times, time.Since(began))
					}
					mu.Lock()
					defer mu.Unlock()
					together[c] = append(together[c], times...)
				})
			}
			all.Wait()
		}
	}
	p99 := func(near, theirs []time.Duration) (float64, string) {
		return ratio(percentile(near, 0.99), percentile(theirs, 0.99)), fmt.Sprintf(" (%v to %v; p50 %v to %v)",
			percentile(near, 0.99), percentile(theirs, 0.99), percentile(near, 0.5), percentile(theirs, 0.5))
	}
	figure, note := p99(alone[0], alone[1])
	many, manyNote := p99(together[0], together[1])
	return []row{
		atMost("MGET of 100 keys, 97 held, p99 against rueidis", figure, 0.5, note),
		{fmt.Sprintf("  the same from %d goroutines", readers), fmt.Sprintf("%.2f×%s", many, manyNote), "", true},
	}, nil
}

// wrapMemory compares the heap of 100,000 replies of the benchmarks' 150 bytes.
func wrapMemory(ctx context.Context, server *redistest.Server) ([]row, error) {
	const n = 100_000
	data, err := bare(server)
	if err != nil {
		return nil, err
	}
	defer data.Close()
	keys, err := seed(ctx, data, n)
	if err != nil {
		return nil, err
	}
	wrapped, own, err := openWrapped(ctx, server, 256<<20)
	if err != nil {
		return nil, err
	}
	defer wrapped.Close()
	defer own.Close()
	grown := func(client rueidis.Client) (int64, error) {
		before := heap()
		err := warmDoCache(ctx, client, keys)
		after := heap()
		runtime.KeepAlive(client)
		return after - before, err
	}
	theirs, err := grown(own)
	if err != nil {
		return nil, err
	}
	near, err := grown(wrapped)
	if err != nil {
		return nil, err
	}
	return []row{
		atMost("heap of 100,000 replies, against rueidis", float64(near)/float64(theirs), 0.7, fmt.Sprintf(" (%d to %d B each)", near/n, theirs/n)),
	}, nil
}
