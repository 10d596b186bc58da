package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/redis/rueidis"

	"github.com/go-nearcache/nearcache"
	"github.com/go-nearcache/nearcache/examples/data"
)

// prefix is what Redis announces to the nodes. The example has it to itself.
const prefix = "nearcache-observability:"

// databaseLatency is what a load takes at least.
const databaseLatency = 8 * time.Millisecond

// A node is what each process of a service would have.
type node struct {
	client   *nearcache.Client
	airports *nearcache.Cache[data.Airport]
}

type fleet []*node

func openFleet(ctx context.Context, redis rueidis.ClientOption, p *providers, logger *slog.Logger) (fleet, error) {
	database := data.NewDatabase(databaseLatency)
	var f fleet
	for _, name := range []string{"node-1", "node-2"} {
		n, err := openNode(ctx, name, redis, database, p, logger)
		if err != nil {
			return nil, errors.Join(err, f.close(ctx))
		}
		f = append(f, n)
	}
	return f, nil
}

func openNode(ctx context.Context, name string, redis rueidis.ClientOption, database *data.Database, p *providers, logger *slog.Logger) (*node, error) {
	client, err := nearcache.Open(ctx, nearcache.Options{
		Redis:          redis,
		Prefixes:       []string{prefix},
		Name:           name, // tells the two apart: processes of their own would all be "default"
		MeterProvider:  p.meter,
		TracerProvider: p.tracer,
		Propagator:     p.propagator,
		Logger:         logger.With("node", name),
		Canary:         time.Second,
		Verify:         nearcache.Verify{SampleRate: 0.01},
	})
	if err != nil {
		return nil, err
	}
	airports, err := nearcache.New(client, nearcache.Config[data.Airport]{
		Name:        "airports",
		Prefix:      prefix + "airport:",
		NegativeTTL: 10 * time.Second,
		Load: func(ctx context.Context, code string) (data.Airport, error) {
			airport, err := database.Airport(ctx, code)
			if errors.Is(err, data.ErrNotFound) {
				err = fmt.Errorf("%w: %w", nearcache.ErrNotFound, err)
			}
			return airport, err
		},
	})
	if err != nil {
		return nil, errors.Join(err, client.Close(ctx))
	}
	return &node{client: client, airports: airports}, nil
}

func (f fleet) close(ctx context.Context) error {
	var errs []error
	for _, n := range f {
		errs = append(errs, n.client.Close(ctx))
	}
	return errors.Join(errs...)
}

// work reads and writes on all nodes until ctx ends: mostly hits, as a cache is for, and some of everything else.
func (f fleet) work(ctx context.Context) {
	airports := data.Airports()
	var all sync.WaitGroup
	for _, n := range f {
		for range 2 {
			all.Go(func() { n.read(ctx, airports) })
		}
		all.Go(func() { n.write(ctx, airports) })
	}
	all.Wait()
}

// read asks for some airports far more often than for others, and now and then for one that does not exist.
func (n *node) read(ctx context.Context, airports []data.Airport) {
	popular := rand.NewZipf(rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64())), 1.2, 1, uint64(len(airports)-1)) //nolint:gosec // no secret
	for i := 0; ctx.Err() == nil; i++ {
		code := airports[popular.Uint64()].IATA
		switch {
		case i%500 == 0:
			_, _ = n.airports.Get(ctx, "---")
		case i%200 == 0:
			_, _ = n.airports.GetMany(ctx, []string{code, airports[popular.Uint64()].IATA, airports[popular.Uint64()].IATA})
		case i%100 == 0:
			_, _ = n.airports.Get(ctx, code, nearcache.Fresh())
		default:
			_, _ = n.airports.Get(ctx, code)
		}
		pause(ctx, time.Millisecond)
	}
}

func (n *node) write(ctx context.Context, airports []data.Airport) {
	for ctx.Err() == nil {
		airport := airports[rand.IntN(20)] //nolint:gosec // no secret
		if rand.IntN(2) == 0 {             //nolint:gosec // no secret
			_ = n.airports.Set(ctx, airport.IATA, airport)
		} else {
			_ = n.airports.Delete(ctx, airport.IATA)
		}
		pause(ctx, 100*time.Millisecond)
	}
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}
