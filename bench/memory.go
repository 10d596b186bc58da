package main

import (
	"context"
	"fmt"
	"runtime"
	"strings"

	"github.com/go-nearcache/nearcache/internal/redistest"
	"github.com/go-nearcache/nearcache/localcache"
)

// memory writes ten times the budget of L1 and compares the heap with the budget.
func memory(context.Context, *redistest.Server, int) ([]row, error) {
	const budget = 64 << 20
	var rows []row
	for _, size := range []int{32, 1 << 10, 64 << 10} {
		before := heap()
		cache, err := localcache.New(localcache.Options{MaxBytes: budget})
		if err != nil {
			return nil, err
		}
		shard := cache.NewShard()
		shard.Renew(localcache.Now())
		view := localcache.NewView[string](cache, "memory")
		for written, i := 0, 0; written < 10*budget; i++ {
			key := view.Key(fmt.Sprint(i))
			view.Fill(key, view.Token(key, shard), strings.Repeat("x", size), localcache.Never, int64(size))
			written += size
			if i%1024 == 0 {
				cache.Wait()
			}
		}
		cache.Wait()
		used := heap() - before
		items := cache.Stats().Items
		cache.Close()
		rows = append(rows, atMost(fmt.Sprintf("heap against MaxBytes, values of %d B", size), float64(used)/budget, 1.25,
			fmt.Sprintf(" (%d items, %d B each)", items, used/max(items, 1))))
	}
	return rows, nil
}

func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
