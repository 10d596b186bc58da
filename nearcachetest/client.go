package nearcachetest

import (
	"context"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/go-nearcache/nearcache"
	"github.com/go-nearcache/nearcache/broadcast"
)

// NewClient returns a client without a server that is closed with the test. Its caches need a loader: L1 and the loader are all there
// is, Set stores nothing but makes the next read load, and a read with Fresh goes to the loader.
//
// The options may be those of the program: what concerns Redis (Redis, Bus, Verify, Canary) is left out, and SettleFills is set, so that
// a read finds what the one before it stored. It ends the test if an option is not valid.
func NewClient(t testing.TB, options nearcache.Options) *nearcache.Client {
	t.Helper()
	return NewClientOn(t, broadcast.NewNetwork(broadcast.NetworkOptions{}), options)
}

// NewClientOn is NewClient for one of several nodes: those on one network tell each other what changed. An announcement is applied a
// moment after Set or Delete has returned: wait for it with [EventuallyCoherent] or, in a bubble, with synctest.Wait. With
// Network.Disconnect the nodes lose sight of each other, as they do when the invalidation link of a real client is down.
func NewClientOn(t testing.TB, network *broadcast.Network, options nearcache.Options) *nearcache.Client {
	t.Helper()
	bus, err := broadcast.New(broadcast.Options{Transport: network.Transport(), Logger: options.Logger})
	if err != nil {
		t.Fatalf("nearcachetest: %v", err)
	}
	cleanUp(t, "bus", bus.Close)
	options.Redis, options.Bus, options.SettleFills = rueidis.ClientOption{}, bus, true
	options.Verify, options.Canary = nearcache.Verify{}, 0
	client, err := nearcache.Open(t.Context(), options)
	if err != nil {
		t.Fatalf("nearcachetest: %v", err)
	}
	cleanUp(t, "client", client.Close)
	return client
}

// patience bounds waits for what takes no time unless something is broken. It is long because a machine may be busy.
const patience = 30 * time.Second

func cleanUp(t testing.TB, what string, closeIt func(context.Context) error) {
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := closeIt(ctx); err != nil {
			t.Errorf("nearcachetest: close the %s: %v", what, err)
		}
	})
}
