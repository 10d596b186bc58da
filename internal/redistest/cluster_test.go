package redistest

import (
	"context"
	"testing"
)

func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), clusterTimeout)
	t.Cleanup(cancel)
	return ctx
}

func TestClusterMovesSlotsAndFailsOver(t *testing.T) {
	ctx := within(t)
	c := StartCluster(t, ClusterConfig{})
	if nodes := c.Nodes(); len(nodes) != 6 {
		t.Fatalf("%d nodes", len(nodes))
	}
	primaries, err := c.Primaries(ctx)
	check(t, err)
	if len(primaries) != 3 {
		t.Fatalf("%d primaries", len(primaries))
	}

	slot, err := c.Slot(ctx, "k")
	check(t, err)
	from, err := c.Owner(ctx, slot)
	check(t, err)
	from.Do(t, "SET", "k", "v")
	to := primaries[0]
	if to == from {
		to = primaries[1]
	}
	check(t, c.MigrateSlot(ctx, slot, to))
	if got, err := to.Command(ctx, "GET", "k").ToString(); err != nil || got != "v" {
		t.Errorf("after the migration: %q, %v", got, err)
	}
	check(t, c.AwaitStable(ctx))
	check(t, c.StealSlot(ctx, slot, from))
	check(t, c.AwaitStable(ctx))
	if reply := from.Do(t, "GET", "k"); !reply.IsNil() {
		t.Errorf("the slot came back with its keys: %v", reply)
	}

	replica, err := c.ReplicaOf(ctx, from)
	check(t, err)
	check(t, c.Failover(ctx, replica, ""))
	check(t, c.AwaitStable(ctx))
	replica.Kill()
	check(t, c.AwaitPromotion(ctx, from))
	check(t, replica.Restart(ctx))
	check(t, c.AwaitStable(ctx))

	added, err := c.AddPrimary(ctx)
	check(t, err)
	check(t, c.MigrateSlot(ctx, slot, added))
	check(t, c.MigrateSlot(ctx, slot, from))
	check(t, c.Remove(ctx, added))
	check(t, c.AwaitStable(ctx))
}

func TestClusterThatCannotStartLeavesNothing(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := RunCluster(ctx, ClusterConfig{}); err == nil {
		t.Error("a cluster was formed under a context that has ended")
	}
}

func TestSentinelFailsOver(t *testing.T) {
	ctx := within(t)
	s := StartSentinel(t, SentinelConfig{})
	old, err := s.Primary(ctx)
	check(t, err)
	if old != s.Servers[0] {
		t.Errorf("the primary is %s", old.Addr())
	}
	check(t, s.Failover(ctx))
	check(t, s.AwaitStable(ctx))
	now, err := s.Primary(ctx)
	check(t, err)
	if now == old {
		t.Error("the failover changed nothing")
	}
	now.Kill()
	check(t, s.AwaitPrimaryOtherThan(ctx, now))
}

func TestParseClusterNodes(t *testing.T) {
	view, err := parseClusterNodes("a 127.0.0.1:1@2 myself,master - 0 0 1 connected 0-5 7 [8->-b]\n" +
		"b 127.0.0.1:3@4 slave a 0 0 1 connected\n")
	check(t, err)
	a, _ := view.node("a")
	b, _ := view.node("b")
	if !a.owns(5) || a.owns(6) || !a.owns(7) || a.owns(8) || b.Primary != "a" || !b.has("slave") || a.Primary != "" {
		t.Errorf("got %+v", view)
	}
	for _, malformed := range []string{"a b\n", "a b master - 0 0 1 connected x\n"} {
		if _, err := parseClusterNodes(malformed); err == nil {
			t.Errorf("no error for %q", malformed)
		}
	}
}

func TestFreePortWithBus(t *testing.T) {
	port, err := freePort(true)
	check(t, err)
	if port <= 0 || port+busPort > 65535 {
		t.Errorf("port %d", port)
	}
}
