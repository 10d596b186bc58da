package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/go-nearcache/nearcache/broadcast"
	"github.com/go-nearcache/nearcache/examples/data"
	"github.com/go-nearcache/nearcache/examples/internal/measure"
	"github.com/go-nearcache/nearcache/examples/internal/transports"
)

const (
	longest  = 3 * time.Minute        // for one transport, its broker's start included
	patience = 10 * time.Second       // for a node to read what was written
	glance   = 100 * time.Microsecond // between two reads of a node that waits for it

	databaseLatency = 2 * time.Millisecond
)

// run shows one transport.
func run(ctx context.Context, out io.Writer, transport string, brokers transports.Brokers, nodes, updates int) (err error) {
	ctx, cancel := context.WithTimeout(ctx, longest)
	defer cancel()
	system, err := transports.Open(ctx, transport, brokers)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, system.Close()) }()
	database := data.NewDatabase(databaseLatency)
	fleet, err := openFleet(ctx, system, database, nodes)
	defer func() { err = errors.Join(err, fleet.close(context.WithoutCancel(ctx))) }()
	if err != nil {
		return err
	}

	fmt.Fprintf(out, "\n%s: %d nodes, a database that takes %v, %s\n", transport, nodes, databaseLatency, system.Where)
	codes := fleet.codes(updates)
	if err := fleet.warm(ctx, codes); err != nil {
		return err
	}
	loads := database.Queries()
	if err := fleet.warm(ctx, codes); err != nil {
		return err
	}
	fmt.Fprintf(out, "  every node has read %d rows; reading them again asked the database %d times\n", len(codes), database.Queries()-loads)

	var seen measure.Samples
	for i := range updates {
		took, err := fleet.update(ctx, i%nodes, codes[i%len(codes)], fmt.Sprintf("name %d", i))
		if err != nil {
			return err
		}
		seen = append(seen, took...)
	}
	fmt.Fprintf(out, "  %d updates, each on one node; the others forgot the old row after %v (median), %v (99 %%), %v (longest)\n",
		updates, measure.Round(seen.Median()), measure.Round(seen.Quantile(0.99)), measure.Round(seen.Quantile(1)))

	if err := fleet[0].client.Flush(ctx); err != nil {
		return err
	}
	if err := fleet.await(ctx, func(n *node) (bool, error) {
		before := n.loads()
		_, err := n.airports.Get(ctx, codes[0])
		return n.loads() > before, err
	}); err != nil {
		return err
	}
	fmt.Fprintf(out, "  one node said that anything may have changed: all have forgotten what they held\n")
	var gaps uint64
	for _, n := range fleet {
		for reason, count := range n.bus.Stats().Gaps {
			if reason != broadcast.NewOrigin { // not a loss here: nodes begin one after the other
				gaps += count
			}
		}
	}
	fmt.Fprintf(out, "  losses reported: %d\n", gaps)
	return nil
}

// fleet is all nodes.
type fleet []*node

func openFleet(ctx context.Context, system *transports.System, database *data.Database, nodes int) (fleet, error) {
	var f fleet
	for i := range nodes {
		transport, err := system.Transport(new(transports.Wire))
		if err != nil {
			return f, err
		}
		n, err := openNode(ctx, fmt.Sprintf("node-%d", i), transport, database)
		if err != nil {
			return f, err
		}
		f = append(f, n)
	}
	return f, nil
}

// codes are the keys of some rows.
func (f fleet) codes(most int) []string {
	var codes []string
	for _, airport := range data.Airports()[:min(most, 20)] {
		codes = append(codes, airport.IATA)
	}
	return codes
}

// warm has every node read every row.
func (f fleet) warm(ctx context.Context, codes []string) error {
	for _, code := range codes {
		err := f.await(ctx, func(n *node) (bool, error) {
			before := n.loads()
			_, err := n.airports.Get(ctx, code)
			return n.loads() == before, err // it comes from memory
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// update has one node rename an airport, and returns how long after that each of the others forgot the old row. All must read the new one.
func (f fleet) update(ctx context.Context, writer int, code, name string) (took measure.Samples, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	forgot := make([]time.Time, len(f))
	var watching sync.WaitGroup
	for i, n := range f {
		if i != writer {
			watching.Go(func() { forgot[i] = n.awaitForgotten(ctx, code) })
		}
	}
	updated, err := f[writer].rename(ctx, code, name)
	if err != nil {
		cancel()
	}
	watching.Wait()
	if err != nil {
		return nil, err
	}
	for i, n := range f {
		airport, err := n.airports.Get(ctx, code)
		if err != nil || airport.Name != name {
			return nil, errors.Join(err, fmt.Errorf("node %d reads %q, and node %d wrote %q %v ago", i, airport.Name, writer, name, time.Since(updated)))
		}
		if i != writer {
			took = append(took, forgot[i].Sub(updated))
		}
	}
	return took, f.warm(ctx, []string{code})
}

// awaitForgotten returns when the node does not hold a row any more, or ctx ends.
func (n *node) awaitForgotten(ctx context.Context, code string) time.Time {
	tick := time.NewTicker(glance)
	defer tick.Stop()
	for n.airports.Explain(ctx, code).Local.Servable {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return time.Now()
		}
	}
	return time.Now()
}

// await waits until done says so of every node.
func (f fleet) await(ctx context.Context, done func(*node) (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(glance)
	defer tick.Stop()
	for i, n := range f {
		for {
			ok, err := done(n)
			if err != nil {
				return err
			}
			if ok {
				break
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				return fmt.Errorf("node %d still has not seen it after %v", i, patience)
			}
		}
	}
	return nil
}

func (n *node) loads() uint64 { return n.client.Stats().Caches[n.airports.Name()].Loads }

func (f fleet) close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var failures []error
	for _, n := range f {
		failures = append(failures, n.close(ctx))
	}
	return errors.Join(failures...)
}
