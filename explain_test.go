package nearcache_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/go-nearcache/nearcache"
	"github.com/go-nearcache/nearcache/internal/redistest"
	"github.com/go-nearcache/nearcache/localcache"
)

// explained returns an explanation whose text has the words.
func explained[V any](t *testing.T, cache *nearcache.Cache[V], key string, words ...string) nearcache.Explanation {
	t.Helper()
	e := cache.Explain(t.Context(), key)
	says(t, e, words...)
	return e
}

func says(t *testing.T, e nearcache.Explanation, words ...string) {
	t.Helper()
	for _, word := range words {
		if !strings.Contains(e.String(), word) {
			t.Errorf("%q is not in: %v", word, e)
		}
	}
}

func TestExplain(t *testing.T) {
	t.Parallel()
	n := startNetwork(t, func(o *nearcache.Options) { o.MaxStaleness = bound })
	stop := newCheckpoint(t)
	defer stop.release()
	loading := newCache(t, n.client, nearcache.Config[string]{
		Name: "loading", Prefix: prefix + "l:", Codec: nearcache.String(), NegativeTTL: time.Hour,
		Load: func(_ context.Context, key string) (string, error) {
			stop.pass()
			return "", nearcache.ErrNotFound
		},
	})

	if e := explained(t, n.cache, "nothing", `"test:nothing"`, "L1 has nothing", "Redis has nothing"); e.Local.Present || e.Remote.Present || e.LastInvalidation != nil {
		t.Errorf("%+v", e)
	}

	var e nearcache.Explanation
	eventually(t, "L1 serves", func() bool {
		want(t, n.cache, "k", "old")
		e = n.cache.Explain(t.Context(), "k")
		return e.Local.Servable
	})
	if says(t, e, "L1 serves it", "Redis holds 3 bytes", "no expiry"); e.Local.Epoch != e.Link.Epoch || !e.Link.Live || e.Remote.Bytes != 3 || e.Remote.TTL >= 0 {
		t.Errorf("%+v", e)
	}

	n.write(t, "new")
	fence(t, n.client)
	if e := explained(t, n.cache, "k", "L1 has nothing", "last evicted", "tracking"); e.LastInvalidation == nil || e.LastInvalidation.Cause != localcache.Tracking {
		t.Errorf("%+v", e)
	}

	warm(t, n.cache, "k", "new")
	check(t, n.cache.Set(t.Context(), "k", "mine"))
	fence(t, n.client)
	if e := explained(t, n.cache, "k", "L1 has nothing", "last evicted", "local", "left"); e.Remote.TTL <= 0 || e.Remote.TTL > nearcache.DefaultTTL {
		t.Errorf("%+v", e)
	}

	stop.arm()
	ended := reading(t.Context(), loading, "k")
	receive(t, "the loader runs", stop.reached)
	if e := explained(t, loading, "k", "a load holds the lease", "left"); !e.Remote.Leased || e.Remote.Present {
		t.Errorf("%+v", e)
	}
	stop.release()
	receive(t, "the load ends", ended)
	if e := explained(t, loading, "k", "remembers that there is none", "left"); !e.Remote.Negative || e.Remote.Present || e.Remote.Leased {
		t.Errorf("%+v", e)
	}

	n.server.Do(t, "LPUSH", prefix+"list", "v")
	explained(t, n.cache, "list", "holds a list")
	explained(t, n.cache, "", "invalid key")

	warm(t, n.cache, "k", "mine")
	loads := statsOf(n.client)
	n.proxy.hold(wholeLink...)
	eventually(t, "L1 lacks certainty", func() bool { return !inLocal(n.cache, "k") })
	if e := explained(t, n.cache, "k", "after a fence", "Redis holds"); !e.Local.Present || e.Local.State != localcache.Servable || e.Link.Staleness <= bound {
		t.Errorf("%+v", e)
	}
	awaitDown(t, n.client)
	if e := n.cache.Explain(t.Context(), "k"); e.Local.Servable || e.Local.Present && !strings.Contains(e.String(), "may not serve it") || e.Link.Live {
		t.Errorf("%+v", e)
	}
	if got := statsOf(n.client); got != loads {
		t.Errorf("Explain is counted: from %+v to %+v", loads, got)
	}

	closeNode(t, n.client)
	if e := explained(t, n.cache, "k", "closed"); !errors.Is(e.Remote.Err, nearcache.ErrClosed) {
		t.Errorf("%+v", e)
	}
}

func TestExplainAgreesWithGet(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{})
	client := open(t, optionsFor(server))
	cache := stringCache(t, client, nil)
	server.Do(t, "SET", prefix+"k", "v")
	fence(t, client)
	for range 50 {
		servable := cache.Explain(t.Context(), "k").Local.Servable
		before := statsOf(client).LocalHits
		want(t, cache, "k", "v")
		if hit := statsOf(client).LocalHits > before; servable && !hit {
			t.Error("L1 was said to serve, and did not")
		}
	}
}
