package main

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-nearcache/nearcache"
	"github.com/go-nearcache/nearcache/internal/redistest"
)

// loads counts the loads that 10,000 readers of one cold key cause.
func loads(ctx context.Context, server *redistest.Server, _ int) ([]row, error) {
	const readers = 10_000
	var count atomic.Int64
	client, cache, err := open(ctx, server, 0, nearcache.Config[string]{
		Load: func(ctx context.Context, _ string) (string, error) {
			count.Add(1)
			select {
			case <-time.After(50 * time.Millisecond): // a slow source
			case <-ctx.Done():
			}
			return "value", nil
		},
	})
	if err != nil {
		return nil, err
	}
	defer client.Close(ctx)
	var all sync.WaitGroup
	var failed atomic.Int64
	for range readers {
		all.Go(func() {
			if v, err := cache.Get(ctx, "cold"); err != nil || v != "value" {
				failed.Add(1)
			}
		})
	}
	all.Wait()
	if failed.Load() > 0 {
		return nil, fmt.Errorf("%d readers got no value", failed.Load())
	}
	return []row{{"loads that 10,000 readers of one cold key cause", fmt.Sprint(count.Load()), "1", count.Load() == 1}}, nil
}
