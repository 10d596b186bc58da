package gossip_test

import (
	"testing"
	"time"

	"github.com/go-nearcache/nearcache/broadcast"
	"github.com/go-nearcache/nearcache/broadcast/broadcasttest"
)

func config(name string, h func() *harness) broadcasttest.Config {
	return broadcasttest.Config{Name: name, Start: func(testing.TB) broadcasttest.Harness { return h() }}
}

func TestConformance(t *testing.T) {
	broadcasttest.Run(t, config("gossip", func() *harness { return newHarness(nil) }))
}

// TestPartition divides the network in two halves, each with publishers and subscribers.
func TestPartition(t *testing.T) {
	c := config("gossip", func() *harness { return newHarness(nil) })
	broadcasttest.RunFault(t, c, "partition", func(f broadcasttest.Fault) {
		heal := f.Harness.(*harness).divide(true, f.Publishers[0], f.Subscribers[0])
		defer heal()
		awaitMembers(f, f.Subscribers[0], 2)
		awaitMembers(f, f.Subscribers[1], 2)
	})
}

// awaitMembers waits until a node knows so many members to be alive.
func awaitMembers(t testing.TB, node broadcast.Transport, count int) {
	t.Helper()
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	deadline := time.After(time.Minute)
	for len(node.(*member).Members()) != count {
		select {
		case <-look.C:
		case <-deadline:
			t.Fatalf("a node knows the members %v, want %d", node.(*member).Members(), count)
		}
	}
}
