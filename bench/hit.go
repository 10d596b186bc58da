package main

import (
	"context"
	"fmt"
	"time"

	"github.com/dgraph-io/ristretto/v2"
	"github.com/redis/go-redis/v9"
	"github.com/redis/rueidis"

	"github.com/go-nearcache/nearcache"
	"github.com/go-nearcache/nearcache/internal/redistest"
)

// hits compares a read that is served from memory.
func hits(ctx context.Context, server *redistest.Server, rounds int) ([]row, error) {
	const n = 1024 // a power of two, so that picking a key costs nothing to speak of
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

	client, cache, err := open(ctx, server, 0, nearcache.Config[*product]{})
	if err != nil {
		return nil, err
	}
	defer client.Close(ctx)
	if err := warm(ctx, client, cache, n); err != nil {
		return nil, err
	}

	plain, err := bareRistretto(ids, 0)
	if err != nil {
		return nil, err
	}
	defer plain.Close()
	withTTL, err := bareRistretto(ids, time.Hour)
	if err != nil {
		return nil, err
	}
	defer withTTL.Close()

	doCache, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{server.Addr()}})
	if err != nil {
		return nil, err
	}
	defer doCache.Close()

	goRedis := redis.NewClient(&redis.Options{Addr: server.Addr(), Protocol: 3, ClientSideCache: redis.NewLocalCache(redis.CacheConfig{MaxEntries: 2 * n})})
	defer goRedis.Close()

	read := func(i int) rueidis.RedisResult {
		return doCache.DoCache(ctx, doCache.B().Get().Key(keys[i]).Cache(), time.Hour)
	}
	for range 2 {
		for i := range n {
			if err := read(i).Error(); err != nil {
				return nil, err
			}
			if err := goRedis.Get(ctx, keys[i]).Err(); err != nil {
				return nil, err
			}
		}
	}
	if !read(0).IsCacheHit() {
		return nil, fmt.Errorf("rueidis does not hit")
	}

	nearReader := func(ids []string) func(worker, count int) {
		n := len(ids)
		return func(worker, count int) {
			for i := range count {
				if p, err := cache.Get(ctx, ids[(i+worker*n/2)&(n-1)]); err != nil || p.Name == "" {
					panic(err)
				}
			}
		}
	}
	contenders := []contender{
		{"nearcache", nearReader(ids)},
		{"ristretto", ristrettoReader(plain, ids)},
		{"ristretto with TTL", ristrettoReader(withTTL, ids)},
		{"rueidis DoCache", func(worker, count int) {
			for i := range count {
				if _, err := read((i + worker*n/2) & (n - 1)).ToString(); err != nil {
					panic(err)
				}
			}
		}},
		{"rueidis DoCache + JSON", func(worker, count int) {
			for i := range count {
				var p product
				if err := read((i + worker*n/2) & (n - 1)).DecodeJSON(&p); err != nil {
					panic(err)
				}
			}
		}},
		{"go-redis client-side cache", func(worker, count int) {
			for i := range count {
				if err := goRedis.Get(ctx, keys[(i+worker*n/2)&(n-1)]).Err(); err != nil {
					panic(err)
				}
			}
		}},
		{"nearcache, one key", nearReader(ids[:1])},
		{"ristretto, one key", ristrettoReader(plain, ids[:1])},
	}
	one := race(contenders, 1, rounds)
	two := race(contenders, 2, rounds)
	near := one["nearcache"]

	rows := []row{{what: "one goroutine:"}}
	for _, c := range contenders {
		rows = append(rows, row{what: "  " + c.name, figure: fmt.Sprintf("%s, two goroutines %s", thousandths(one[c.name]), thousandths(two[c.name]))})
	}
	return append(rows[1:],
		atMost("hit, against ristretto with TTL", ratio(near, one["ristretto with TTL"]), 1, ""),
		atMost("hit, against ristretto without", ratio(near, one["ristretto"]), 1.5, ""),
		atLeast("rueidis DoCache hit, against a hit", ratio(one["rueidis DoCache"], near), 2.5, ""),
		atLeast("the same with JSON decoded", ratio(one["rueidis DoCache + JSON"], near), 15, ""),
		atLeast("go-redis client-side cache hit, against a hit", ratio(one["go-redis client-side cache"], near), 8, ""),
		atMost("two goroutines: loss of scaling, against ristretto's", ratio(two["nearcache"], near)/ratio(two["ristretto"], one["ristretto"]), 1.1, ""),
		atMost("two goroutines: the same, against ristretto's with TTL",
			ratio(two["nearcache"], near)/ratio(two["ristretto with TTL"], one["ristretto with TTL"]), 1.1, ""),
		atMost("two goroutines that read one key, time of a hit against one's", ratio(two["nearcache, one key"], one["nearcache, one key"]), 0.75,
			fmt.Sprintf(" (ristretto %.2f×)", ratio(two["ristretto, one key"], one["ristretto, one key"]))),
		row{"allocations of a hit", fmt.Sprintf("%.2f", allocations(contenders[0])), "0", allocations(contenders[0]) < 0.01},
	), nil
}

func bareRistretto(ids []string, ttl time.Duration) (*ristretto.Cache[string, *product], error) {
	cache, err := ristretto.NewCache(&ristretto.Config[string, *product]{NumCounters: 1 << 19, MaxCost: 64 << 20, BufferItems: 64})
	if err != nil {
		return nil, err
	}
	for i, id := range ids {
		cache.SetWithTTL(id, &product{ID: i, Name: "a thing of use"}, 400, ttl)
	}
	cache.Wait()
	for _, id := range ids {
		if _, ok := cache.Get(id); !ok {
			return nil, fmt.Errorf("ristretto does not hold %q", id)
		}
	}
	return cache, nil
}

func ristrettoReader(cache *ristretto.Cache[string, *product], ids []string) func(worker, count int) {
	n := len(ids)
	return func(worker, count int) {
		for i := range count {
			if p, ok := cache.Get(ids[(i+worker*n/2)&(n-1)]); !ok || p.Name == "" {
				panic("miss")
			}
		}
	}
}
