package nearcache_test

import (
	"testing"

	"github.com/go-nearcache/nearcache"
	"github.com/go-nearcache/nearcache/internal/redistest"
)

// What is read often comes back to L1 without a reader.
func TestRefreshInvalidated(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{})
	options := optionsFor(server)
	options.SettleFills = true
	client := open(t, options)
	source := newSource(map[string]string{"hot": "1", "cold": "1"})
	cache := newCache(t, client, nearcache.Config[string]{Name: "test", Prefix: prefix, Codec: nearcache.String(), Load: source.load, RefreshInvalidated: 100})
	warm(t, cache, "hot", "1")
	server.Do(t, "SET", prefix+"cold", "1")
	want(t, cache, "cold", "1")
	for range 10_000 { // of which one in 64 is noted
		want(t, cache, "hot", "1")
	}
	source.set("hot", "2")
	server.Do(t, "DEL", prefix+"hot", prefix+"cold")
	eventually(t, "the key that is read often is loaded, and in L1", func() bool { return inLocal(cache, "hot") && source.loads.Load() >= 2 })
	want(t, cache, "hot", "2")
	if n := statsOf(client); n.RefreshesInvalidated == 0 || inLocal(cache, "cold") {
		t.Errorf("%d refreshes; the key that was read once is in L1: %t", n.RefreshesInvalidated, inLocal(cache, "cold"))
	}
	_, err := nearcache.New(client, nearcache.Config[string]{Name: "bad", Prefix: prefix + "bad:", RefreshInvalidated: -1})
	mentions(t, err, "RefreshInvalidated", "from 0 to 10,000")
}

// Invalidations that come faster than the budget are not followed.
func TestStormOfInvalidations(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{})
	client := open(t, optionsFor(server))
	cache := newCache(t, client, nearcache.Config[string]{Name: "test", Prefix: prefix, Codec: nearcache.String(), RefreshInvalidated: 1})
	server.Do(t, "SET", prefix+"a", "1")
	warm(t, cache, "a", "1")
	for range 10_000 {
		want(t, cache, "a", "1")
	}
	eventually(t, "the budget is spent", func() bool {
		server.Do(t, "SET", prefix+"a", "1")
		return statsOf(client).RefreshesRefused > 20
	})
	// Each took less than a second, so what was begun is far less than what was refused.
	if n := statsOf(client); n.RefreshesInvalidated > n.RefreshesRefused/4 {
		t.Errorf("%d refreshes, %d refused", n.RefreshesInvalidated, n.RefreshesRefused)
	}
}
