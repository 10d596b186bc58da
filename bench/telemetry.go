package main

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/go-nearcache/nearcache"
	"github.com/go-nearcache/nearcache/internal/redistest"
)

// scrapeInterval is a hundred times shorter than what production uses.
const scrapeInterval = 100 * time.Millisecond

// observed measures what OpenTelemetry costs a hit: nothing, because a hit is counted in the cache's own atomics and a callback reads them.
//
// The clients are alike but for their providers, and each has an L1 of its own, whose place in memory alone makes a difference of some
// nanoseconds. So there are two without an SDK: the difference between them is what this measurement cannot tell from nothing.
func observed(ctx context.Context, server *redistest.Server, rounds int) ([]row, error) {
	const n = 1024
	data, err := bare(server)
	if err != nil {
		return nil, err
	}
	defer data.Close()
	if _, err := seed(ctx, data, n); err != nil {
		return nil, err
	}
	ids := make([]string, n)
	for i := range ids {
		ids[i] = id(i)
	}

	reader := sdkmetric.NewManualReader()
	scraped := sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))
	var contenders []contender
	var scraping atomic.Int32
	for _, c := range []struct {
		name  string
		meter metric.MeterProvider
	}{
		{"no SDK", noop.NewMeterProvider()},
		{"no SDK, again", noop.NewMeterProvider()},
		{"SDK without a reader", sdkmetric.NewMeterProvider()},
		{"SDK, read every 100 ms", scraped},
	} {
		client, cache, err := openWith(ctx, server, nearcache.Options{MeterProvider: c.meter, Name: c.name}, nearcache.Config[product]{})
		if err != nil {
			return nil, err
		}
		defer client.Close(ctx)
		if err := warm(ctx, client, cache, n); err != nil {
			return nil, err
		}
		contenders = append(contenders, contender{c.name, func(worker, count int) {
			if c.meter == scraped {
				scraping.Add(1)
				defer scraping.Add(-1)
			}
			for i := range count {
				if p, err := cache.Get(ctx, ids[(i+worker*n/2)&(n-1)]); err != nil || p.Name == "" {
					panic(err)
				}
			}
		}})
	}

	// The reader reads during the turns of its own client alone: otherwise it would slow the others as much.
	scrapes, stop := scrape(ctx, reader, &scraping)
	defer stop()
	one := race(contenders, 1, rounds)
	two := race(contenders, 2, rounds)
	if scrapes.Load() == 0 {
		return nil, fmt.Errorf("nothing was read of the metrics: use more than %d rounds", rounds)
	}

	rows := make([]row, 0, 2*len(contenders)+2)
	for _, c := range contenders {
		rows = append(rows, row{what: c.name, figure: fmt.Sprintf("%s, two goroutines %s", thousandths(one[c.name]), thousandths(two[c.name]))})
	}
	rows = append(rows, row{what: "times that the metrics were read meanwhile", figure: fmt.Sprint(scrapes.Load())})
	without := one[contenders[0].name]
	for _, c := range contenders[1:] {
		extra := float64(one[c.name]-without) / 1000
		const bound = 5
		rows = append(rows, row{
			"a hit, " + c.name + ", against none", fmt.Sprintf("%+.1f ns", extra), fmt.Sprintf("≤ %d ns", bound), extra <= bound,
		})
	}
	for _, c := range contenders[2:] {
		allocated := allocations(c)
		rows = append(rows, row{"allocations of a hit, " + c.name, fmt.Sprintf("%.2f", allocated), "0", allocated < 0.01})
	}
	return rows, nil
}

// scrape collects at the interval while it is told to.
func scrape(ctx context.Context, reader sdkmetric.Reader, on *atomic.Int32) (scrapes *atomic.Int64, stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	scrapes = new(atomic.Int64)
	done := make(chan struct{})
	go func() {
		defer close(done)
		var collected metricdata.ResourceMetrics
		tick := time.NewTicker(scrapeInterval)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
			if on.Load() > 0 && reader.Collect(ctx, &collected) == nil {
				scrapes.Add(1)
			}
		}
	}()
	return scrapes, func() {
		cancel()
		<-done
	}
}
