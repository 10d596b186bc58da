package main

import (
	"context"
	"crypto/rand"
	"errors"
	"time"

	"github.com/redis/rueidis"

	"github.com/go-nearcache/nearcache/examples/data"
	"github.com/go-nearcache/nearcache/examples/internal/demoserver"
)

const (
	airport         = "JFK"
	databaseLatency = 20 * time.Millisecond
	readersPerNode  = 100
	manyAirports    = 200
	localReads      = 200_000
	writes          = 50
)

// A demo is the stage: three nodes, what they share, and somebody who knows nothing of them.
type demo struct {
	server   *demoserver.Server
	database *data.Database
	nodes    [3]*node
	outsider rueidis.Client
	prefix   string

	timeline *timeline
	measured []measurement
}

// open opens the nodes. The prefix is one that no other program has, and no other run of this one.
func open(ctx context.Context, server *demoserver.Server, t *timeline) (_ *demo, err error) {
	d := &demo{
		server:   server,
		database: data.NewDatabase(databaseLatency),
		prefix:   "nearcache-quickstart:" + rand.Text() + ":",
		timeline: t,
	}
	for i, name := range []string{"A", "B", "C"} {
		if d.nodes[i], err = openNode(ctx, name, server.Option, d.prefix, d.database); err != nil {
			return nil, errors.Join(err, d.close(ctx))
		}
	}
	plain := server.Option
	plain.DisableCache = true
	plain.AlwaysRESP2 = true // as redis-cli does: nothing is pushed to such a connection
	if d.outsider, err = rueidis.NewClient(plain); err != nil {
		return nil, errors.Join(err, d.close(ctx))
	}
	return d, nil
}

// close removes what the demo has stored, and closes the nodes, also after ctx has ended.
func (d *demo) close(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	if d.outsider != nil {
		d.outsider.Close()
	}
	if n := d.nodes[0]; n != nil && !d.server.Private {
		err = n.airports.DeleteMany(ctx, codes())
	}
	for _, n := range d.nodes {
		if n != nil {
			err = errors.Join(err, n.client.Close(ctx))
		}
	}
	return err
}
