package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/rueidis"

	"github.com/go-nearcache/nearcache"
	"github.com/go-nearcache/nearcache/examples/data"
)

// A node is what a process of your service would be: one client, and a typed cache for each kind of item.
type node struct {
	name     string
	client   *nearcache.Client
	airports *nearcache.Cache[data.Airport]
}

func openNode(ctx context.Context, name string, redis rueidis.ClientOption, prefix string, database *data.Database) (*node, error) {
	redis.ClientName = clientName(name) // shown by CLIENT LIST
	client, err := nearcache.Open(ctx, nearcache.Options{
		Redis:    redis,
		Prefixes: []string{prefix}, // what Redis announces to this node
	})
	if err != nil {
		return nil, err
	}
	airports, err := nearcache.New(client, nearcache.Config[data.Airport]{
		Name:   "airports",
		Prefix: prefix + "airport:",
		TTL:    time.Minute,
		Load: func(ctx context.Context, code string) (data.Airport, error) {
			airport, err := database.Airport(ctx, code)
			if errors.Is(err, data.ErrNotFound) {
				// Any other error means "try again later"; this one, "there is none".
				err = fmt.Errorf("%w: %w", nearcache.ErrNotFound, err)
			}
			return airport, err
		},
	})
	if err != nil {
		return nil, errors.Join(err, client.Close(ctx))
	}
	return &node{name: name, client: client, airports: airports}, nil
}

func clientName(node string) string { return "nearcache-quickstart-" + node }

// A source is what answered a read.
type source string

const (
	fromLocal    source = "L1"
	fromRedis    source = "Redis"
	fromDatabase source = "the database"
)

// get is Get, and tells what answered. It goes by the cache's counters, so nobody else may read from the node meanwhile.
func (n *node) get(ctx context.Context, code string, options ...nearcache.ReadOption) (data.Airport, source, error) {
	before := n.counts()
	airport, err := n.airports.Get(ctx, code, options...)
	after := n.counts()
	switch {
	case after.Loads > before.Loads:
		return airport, fromDatabase, err
	case after.RemoteHits > before.RemoteHits:
		return airport, fromRedis, err
	}
	return airport, fromLocal, err
}

func (n *node) counts() nearcache.CacheStats { return n.client.Stats().Caches[n.airports.Name()] }

// warm reads until L1 answers. A value that was fetched gets into L1 a moment after it was returned.
func (n *node) warm(ctx context.Context, code string) (airport data.Airport, err error) {
	err = await(ctx, fmt.Sprintf("L1 of node %s holds %s", n.name, code), func() (bool, error) {
		var from source
		airport, from, err = n.get(ctx, code)
		return from == fromLocal, err
	})
	return airport, err
}

// evictedAfter returns how long after began the push of a change made L1 forget the airport. The change has been acknowledged.
func (n *node) evictedAfter(ctx context.Context, code string, began time.Time) (time.Duration, error) {
	// The eviction needs no fence. The fence says when the push of the change must have been here.
	if err := n.client.Fence(ctx); err != nil {
		return 0, fmt.Errorf("node %s: %w", n.name, err)
	}
	last := n.airports.Explain(ctx, code).LastInvalidation
	if last == nil || last.At.Before(began) {
		return 0, fmt.Errorf("node %s was not told that %s has changed", n.name, code)
	}
	return last.At.Sub(began), nil
}

// await returns when the condition holds, or with an error that says what did not come to be.
func await(ctx context.Context, what string, holds func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		if ok, err := holds(); ok || err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("waited in vain until %s: %w", what, context.Cause(ctx))
		}
	}
}
