package main

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/redis/rueidis"

	"github.com/go-nearcache/nearcache"
	"github.com/go-nearcache/nearcache/internal/redistest"
)

// product is what the benchmarks cache: about 150 bytes of JSON.
type product struct {
	ID          int      `json:"id"`
	Name        string   `json:"name"`
	Description string   `json:"description"`
	Price       float64  `json:"price"`
	Tags        []string `json:"tags"`
}

const prefix = "product:"

func id(i int) string { return fmt.Sprintf("%024d", i) }

// seed writes n products to Redis, with a life, and returns their keys in Redis.
func seed(ctx context.Context, client rueidis.Client, n int) ([]string, error) {
	keys := make([]string, n)
	for from := 0; from < n; from += 1000 {
		var commands rueidis.Commands
		for i := from; i < min(from+1000, n); i++ {
			data, err := json.Marshal(product{ID: i, Name: "a thing of use", Description: "what it is good for, in a line", Price: 9.95, Tags: []string{"new", "blue"}})
			if err != nil {
				return nil, err
			}
			keys[i] = prefix + id(i)
			commands = append(commands, client.B().Set().Key(keys[i]).Value(string(data)).Px(time.Hour).Build())
		}
		for _, result := range client.DoMulti(ctx, commands...) {
			if err := result.Error(); err != nil {
				return nil, err
			}
		}
	}
	return keys, nil
}

// open opens a client with one cache of what is under the prefix in Redis.
func open[V any](ctx context.Context, server *redistest.Server, maxBytes int64, config nearcache.Config[V]) (*nearcache.Client, *nearcache.Cache[V], error) {
	return openWith(ctx, server, nearcache.Options{MaxBytes: maxBytes}, config)
}

func openWith[V any](ctx context.Context, server *redistest.Server, options nearcache.Options, config nearcache.Config[V]) (*nearcache.Client, *nearcache.Cache[V], error) {
	options.Redis = rueidis.ClientOption{InitAddress: []string{server.Addr()}}
	options.Prefixes = []string{prefix}
	client, err := nearcache.Open(ctx, options)
	if err != nil {
		return nil, nil, err
	}
	config.Name, config.Prefix, config.TTL = "products", prefix, time.Hour
	cache, err := nearcache.New(client, config)
	return client, cache, err
}

// bare is a rueidis client as nearcache uses one.
func bare(server *redistest.Server) (rueidis.Client, error) {
	return rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{server.Addr()}, DisableCache: true, DisableRetry: true})
}

// warm reads ids until L1 answers all of them.
func warm[V any](ctx context.Context, client *nearcache.Client, cache *nearcache.Cache[V], n int) error {
	for range 50 {
		before := client.Stats().Caches["products"].LocalHits
		for i := range n {
			if _, err := cache.Get(ctx, id(i)); err != nil {
				return err
			}
		}
		if client.Stats().Caches["products"].LocalHits-before == uint64(n) {
			return nil
		}
	}
	return fmt.Errorf("L1 does not hold %d products", n)
}
