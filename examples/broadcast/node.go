package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/go-nearcache/nearcache"
	"github.com/go-nearcache/nearcache/broadcast"
	"github.com/go-nearcache/nearcache/examples/data"
)

// A node is what a process of your service would be: a bus, a client on it, and a typed cache for each kind of row.
type node struct {
	bus      *broadcast.Bus
	client   *nearcache.Client
	airports *nearcache.Cache[data.Airport]
	database *data.Database
}

func openNode(ctx context.Context, name string, transport broadcast.Transport, database *data.Database) (_ *node, err error) {
	n := &node{database: database}
	if n.bus, err = broadcast.New(broadcast.Options{Transport: transport, Origin: name}); err != nil {
		return nil, errors.Join(err, transport.Close(ctx))
	}
	if n.client, err = nearcache.Open(ctx, nearcache.Options{Bus: n.bus}); err != nil {
		return nil, errors.Join(err, n.close(ctx))
	}
	n.airports, err = nearcache.New(n.client, nearcache.Config[data.Airport]{
		Name:   "airports",
		Prefix: "airport:",
		Load: func(ctx context.Context, code string) (data.Airport, error) {
			airport, err := database.Airport(ctx, code)
			if errors.Is(err, data.ErrNotFound) {
				err = fmt.Errorf("%w: %w", nearcache.ErrNotFound, err)
			}
			return airport, err
		},
	})
	if err != nil {
		return nil, errors.Join(err, n.close(ctx))
	}
	return n, nil
}

// rename updates a row, and tells every node. The order matters: who hears of it before it is in the database would load the old row again.
// It returns when the row was in the database.
func (n *node) rename(ctx context.Context, code, name string) (updated time.Time, err error) {
	airport, err := n.database.Airport(ctx, code) // past the cache: a row that is written back must be the latest
	if err != nil {
		return updated, err
	}
	airport.Name = name
	if err := n.database.Update(ctx, airport); err != nil {
		return updated, err
	}
	updated = time.Now()
	// If this fails the row is updated and the others have not been told: try again, or let the time to live end what they hold.
	return updated, n.airports.Delete(ctx, code)
}

func (n *node) close(ctx context.Context) error {
	var failures []error
	if n.client != nil {
		failures = append(failures, n.client.Close(ctx))
	}
	return errors.Join(append(failures, n.bus.Close(ctx))...)
}
