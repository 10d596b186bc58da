package nearcache

import (
	"context"
	"fmt"
	"sync/atomic"
)

// Flush makes this node forget everything that it holds in memory, of all caches, and with Options.Bus every other node too: it is for a
// change of which nobody can say which items it touches, such as an import into the database. A read that
// begins after it returned, with or without an error, gets nothing on this node that was read or loaded before. What Redis holds stays; to make all nodes forget what came from there, delete it
// there, and they are told.
//
// The error is ErrClosed, or the one of the bus if it did not accept the announcement; see [broadcast.Bus.Publish].
func (c *Client) Flush(ctx context.Context) error {
	if c.closed.Load() {
		return ErrClosed
	}
	c.forgetAll(&c.flushes.manual)
	bus := c.bus
	if c.nodes != nil {
		bus = &busLink{bus: c.nodes.bus}
	}
	if bus == nil {
		return nil
	}
	if err := bus.publish(ctx, announcementEverything, nil); err != nil {
		return fmt.Errorf("nearcache: flush: %w", err)
	}
	return nil
}

// forgetAll ends what L1 holds and all fetches under way. A link that is down stays so: nothing is held that it would bring back.
func (c *Client) forgetAll(counted *atomic.Int64) {
	c.local.Flush()
	c.floors.raiseAll()
	c.flushed(counted)
	c.caches.wakeAll()
}
