package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/go-nearcache/nearcache/broadcast"
	"github.com/go-nearcache/nearcache/examples/internal/measure"
	"github.com/go-nearcache/nearcache/examples/internal/transports"
)

// patience ends the demonstration when something that must come does not.
const patience = time.Minute

func run(ctx context.Context, out io.Writer, transport string, brokers transports.Brokers) (err error) {
	if transport == "memory" {
		return errors.New("memory has no connection that can be cut: choose another transport")
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	system, err := transports.Open(ctx, transport, brokers)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, system.Close()) }()
	settings := &store{settings: Settings{Version: 1, RateLimit: 100}}
	var nodes []*node
	var wires []*transports.Wire
	defer func() {
		for _, n := range nodes {
			err = errors.Join(err, n.bus.Close(context.WithoutCancel(ctx)))
		}
	}()
	join := func() error {
		wire := new(transports.Wire)
		t, err := system.Transport(wire)
		if err != nil {
			return err
		}
		n, err := openNode(ctx, fmt.Sprintf("node-%d", len(nodes)), t, settings)
		if n != nil && n.bus != nil {
			nodes, wires = append(nodes, n), append(wires, wire)
		}
		return err
	}
	awaitAll := func(which []*node, version int64) error {
		for _, n := range which {
			if err := n.await(ctx, version); err != nil {
				return err
			}
		}
		return nil
	}

	fmt.Fprintf(out, "%s, %s\n", transport, system.Where)
	for range 3 {
		if err := join(); err != nil {
			return err
		}
	}
	fmt.Fprintf(out, "three nodes begin with version %d\n", settings.read().Version)

	began := time.Now()
	now, err := nodes[0].change(ctx, func(s *Settings) { s.RateLimit = 50 })
	if err == nil {
		err = awaitAll(nodes, now.Version)
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "node-0 lowers the rate limit to %d: all have version %d after %v\n", now.RateLimit, now.Version, measure.Round(time.Since(began)))

	if err := rollCall(ctx, out, nodes[0], len(nodes)); err != nil {
		return err
	}

	wires[2].Cut()
	now, err = nodes[1].change(ctx, func(s *Settings) { s.Maintenance = true })
	if err == nil {
		err = awaitAll(nodes[:2], now.Version)
	}
	if err != nil {
		return err
	}
	missed, _, _ := nodes[2].state()
	fmt.Fprintf(out, "node-2 is cut off; node-1 announces maintenance: node-2 is at version %d, the others at %d\n", missed.Version, now.Version)
	wires[2].Mend()
	began = time.Now()
	if err := awaitAll(nodes, now.Version); err != nil {
		return err
	}
	fmt.Fprintf(out, "node-2 is back: it has version %d after %v\n", now.Version, measure.Round(time.Since(began)))

	if err := join(); err != nil {
		return err
	}
	if err := awaitAll(nodes, now.Version); err != nil {
		return err
	}
	fmt.Fprintf(out, "node-3 starts, and has version %d\n\n", now.Version)

	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "node\tversion\tlearnt")
	for _, n := range nodes {
		state, learnt, _ := n.state()
		if state != settings.read() {
			err = errors.Join(err, fmt.Errorf("%s has %+v, and %+v is stored", n.bus.Origin(), state, settings.read()))
		}
		fmt.Fprintf(table, "%s\t%d\t%s\n", n.bus.Origin(), state.Version, learnt)
	}
	return errors.Join(err, table.Flush())
}

// rollCall asks all nodes for their version. Who asks knows from heartbeats who is there, and does not wait for more once it has heard of all.
func rollCall(ctx context.Context, out io.Writer, asking *node, nodes int) error {
	look := time.NewTicker(10 * time.Millisecond)
	defer look.Stop()
	for len(asking.bus.Presence(rollCallTopic)) < nodes {
		select {
		case <-look.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	replies, err := asking.bus.Request(ctx, broadcast.Message{Topic: rollCallTopic})
	if err != nil {
		return err
	}
	slices.SortFunc(replies.Messages, func(a, b broadcast.Message) int { return cmp.Compare(a.Origin, b.Origin) })
	fmt.Fprint(out, "roll call:")
	for _, reply := range replies.Messages {
		fmt.Fprintf(out, " %s has %s", reply.Origin, reply.Payload)
	}
	fmt.Fprintf(out, ", %d are missing\n", len(replies.Missing))
	return nil
}
