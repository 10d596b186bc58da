package nearcache_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-nearcache/nearcache"
	"github.com/go-nearcache/nearcache/internal/redistest"
)

// counted sums up what L1 did for the reads of a cache: each read is counted once.
func counted(s nearcache.CacheStats) uint64 {
	return s.LocalHits + s.LocalNegatives + s.LocalStale + s.LocalMisses + s.LocalBypasses
}

func TestStatsAddUp(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{})
	client := open(t, optionsFor(server))
	failure := errors.New("the database is on fire")
	cache := newCache(t, client, nearcache.Config[string]{
		Codec:       nearcache.String(),
		NegativeTTL: time.Hour,
		Load: func(_ context.Context, key string) (string, error) {
			switch {
			case strings.HasPrefix(key, "absent"):
				return "", nearcache.ErrNotFound
			case strings.HasPrefix(key, "failing"):
				return "", failure
			}
			return "v", nil
		},
	})
	other := newCache(t, client, nearcache.Config[string]{Name: "other", Prefix: prefix + "other:", Codec: nearcache.String()})
	var keys []string
	for i := range 20 {
		keys = append(keys, fmt.Sprint("k", i), fmt.Sprint("absent", i), fmt.Sprint("failing", i))
	}
	const readers, rounds = 4, 5
	var working sync.WaitGroup
	for reader := range readers {
		working.Go(func() {
			for range rounds {
				if reader%2 == 0 {
					_, _ = cache.GetMany(t.Context(), keys)
					continue
				}
				for _, key := range keys {
					_, _ = cache.Get(t.Context(), key)
				}
			}
		})
	}
	working.Wait()
	s := statsOf(client)
	if reads := uint64(readers * rounds * len(keys)); counted(s) != reads {
		t.Errorf("%d reads are counted as %d: %+v", reads, counted(s), s)
	}
	if s.LocalHits == 0 || s.LocalNegatives == 0 || s.RemoteMisses == 0 {
		t.Errorf("%+v", s)
	}
	if s.Loads != 40+s.LoadErrors || s.LoadNegatives != 20 || s.LoadErrors < 20 {
		t.Errorf("20 items, 20 absences and failures: %+v", s)
	}
	// Each miss fetched or joined one that did; a fetch that found the lease of this node's own load is neither hit nor miss.
	if fetched := s.RemoteHits + s.RemoteNegatives + s.RemoteMisses; s.LocalMisses < s.Coalesced || fetched < s.Loads {
		t.Errorf("%+v", s)
	}
	if got := client.Stats().Caches["other"]; got != (nearcache.CacheStats{}) {
		t.Errorf("the other cache counts %+v", got)
	}
	_, _ = other.Get(t.Context(), "k")
	if got := client.Stats().Caches["other"]; got.LocalMisses != 1 || got.RemoteMisses != 1 || got.Loads != 0 {
		t.Errorf("the other cache counts %+v", got)
	}

	link := client.Stats().Link
	if link.Server != server.Addr() || !link.Live || link.Epoch == 0 || link.Staleness < 0 || link.Reconnects != 0 {
		t.Errorf("%+v", link)
	}
	local := client.Stats().Local
	if local.MaxBytes != nearcache.DefaultMaxBytes || local.Bytes <= 0 || local.Bytes > local.MaxBytes || local.Items == 0 {
		t.Errorf("%+v", local)
	}
}

// A read that L1 could not serve for want of certainty is a miss like any other.
func TestStatsAddUpWithoutALink(t *testing.T) {
	t.Parallel()
	for _, policy := range []nearcache.DisconnectPolicy{nearcache.BypassLocal, nearcache.ServeStale, nearcache.FailReads} {
		t.Run(policy.String(), func(t *testing.T) {
			t.Parallel()
			n := startNetwork(t, func(o *nearcache.Options) {
				o.MaxStaleness = bound
				o.OnDisconnect = policy
				if policy == nearcache.ServeStale {
					o.StaleLimit = endless
				}
			})
			n.proxy.hold(wholeLink...)
			elapse(2 * bound)
			before := counted(statsOf(n.client))
			const reads = 20
			for i := range reads {
				if i == reads/2 {
					awaitDown(t, n.client)
				}
				if i%2 == 0 {
					_, _ = n.cache.Get(t.Context(), "k")
				} else {
					_, _ = n.cache.Get(t.Context(), "k", nearcache.Fresh())
				}
			}
			if got := counted(statsOf(n.client)) - before; got != reads {
				t.Errorf("%d reads are counted as %d: %+v", reads, got, statsOf(n.client))
			}
			if bypassed := statsOf(n.client).LocalBypasses; (bypassed > 0) != (policy == nearcache.BypassLocal) {
				t.Errorf("%v: %d reads are counted as passing L1 by", policy, bypassed)
			}
		})
	}
}

func TestHealth(t *testing.T) {
	t.Parallel()
	n := startNetwork(t, nil)
	healthy := n.client.Health()
	if !healthy.Ready || healthy.Reason != "" || healthy.Since.IsZero() || !healthy.Link.Live {
		t.Errorf("%+v", healthy)
	}
	n.proxy.refuseLinks(true)
	awaitDown(t, n.client)
	down := n.client.Health()
	if !strings.Contains(down.Reason, "link is down") || down.Link.Live || down.Since.Before(healthy.Since) {
		t.Errorf("%+v", down)
	}
	n.proxy.refuse(true)
	n.proxy.refuseLinks(false)
	n.server.Kill()
	n.proxy.refuse(false)
	eventually(t, "the reason names the server", func() bool {
		return strings.Contains(n.client.Health().Reason, n.proxy.addr())
	})
	check(t, n.server.Restart(t.Context()))
	awaitReady(t, n.client)
	if again := n.client.Health(); again.Reason != "" || !again.Since.After(down.Since) {
		t.Errorf("%+v", again)
	}
	closeNode(t, n.client)
	if closed := n.client.Health(); closed.Ready || closed.Reason != nearcache.ErrClosed.Error() {
		t.Errorf("%+v", closed)
	}
}
