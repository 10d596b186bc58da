package nearcache_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/go-nearcache/nearcache"
	"github.com/go-nearcache/nearcache/localcache"
)

// Dashboards and probes read these names: changing one breaks them.
func TestJSONOfStatsIsStable(t *testing.T) {
	links := []nearcache.LinkStats{{
		Server: "127.0.0.1:6379", Live: true, Epoch: 38, Staleness: 39 * time.Millisecond, Reconnects: 40, CanaryLag: 41 * time.Microsecond,
	}}
	stats := nearcache.Stats{
		Caches: map[string]nearcache.CacheStats{"users": {
			LocalHits: 1, LocalNegatives: 2, LocalStale: 3, LocalMisses: 4, LocalBypasses: 42, LocalUncached: 43, Coalesced: 5,
			RemoteHits: 6, RemoteNegatives: 7, RemoteMisses: 8, LeaseWaits: 9,
			Loads: 10, LoadNegatives: 11, LoadErrors: 12, LoadsUnasked: 44, Refreshes: 45, Unstored: 13, Undecodable: 14,
			Oversized: 46, FailSafe: 47, RefreshesInvalidated: 48, RefreshesRefused: 49, EventsLost: 50,
			Shadow: nearcache.ShadowStats{Same: 51, Different: 52, Unresolved: 53, Skipped: 54},
			Verify: nearcache.VerifyStats{Coherent: 15, Wrong: 16, Unresolved: 17, Skipped: 18},
		}},
		Local: localcache.Stats{
			Items: 19, Bytes: 20, MaxBytes: 21,
			Fills:     localcache.FillStats{Accepted: 22, Invalidated: 23, Epoch: 24, Capacity: 25, Closed: 26},
			Evictions: localcache.EvictionStats{Capacity: 27, Expired: 28, Rejected: 29, Flushed: 30, Replaced: 31},
			Invalidations: localcache.InvalidationStats{
				Tracking:  localcache.InvalidationCounts{Evicted: 32, Absent: 33},
				Broadcast: localcache.InvalidationCounts{Evicted: 34, Absent: 35},
				Local:     localcache.InvalidationCounts{Evicted: 36, Absent: 37},
			},
		},
		Link: links[0], Links: links,
	}
	const link = `{"server":"127.0.0.1:6379","mode":"tracking","live":true,"epoch":38,"staleness_ns":39000000,"reconnects":40,"canary_lag_ns":41000}`
	for name, test := range map[string]struct {
		value  any
		golden string
	}{
		"stats": {stats, `{"caches":{"users":{"local_hits":1,"local_negatives":2,"local_stale":3,"local_misses":4,"local_bypasses":42,"local_uncached":43,"coalesced":5,` +
			`"remote_hits":6,"remote_negatives":7,"remote_misses":8,"lease_waits":9,` +
			`"loads":10,"load_negatives":11,"load_errors":12,"loads_unasked":44,"refreshes":45,"refreshes_invalidated":48,"refreshes_refused":49,"unstored":13,"undecodable":14,"oversized":46,"fail_safe":47,"events_lost":50,` +
			`"verify":{"coherent":15,"wrong":16,"unresolved":17,"skipped":18},"shadow":{"same":51,"different":52,"unresolved":53,"skipped":54}}},` +
			`"local":{"items":19,"bytes":20,"max_bytes":21,` +
			`"fills":{"accepted":22,"invalidated":23,"epoch":24,"capacity":25,"closed":26},` +
			`"evictions":{"capacity":27,"expired":28,"rejected":29,"flushed":30,"replaced":31},` +
			`"invalidations":{"tracking":{"evicted":32,"absent":33},"broadcast":{"evicted":34,"absent":35},"local":{"evicted":36,"absent":37}}},` +
			`"links":[` + link + `]}`},
		"no caches": {nearcache.Stats{Link: stats.Link, Links: links}, `{"caches":{},"local":{"items":0,"bytes":0,"max_bytes":0,` +
			`"fills":{"accepted":0,"invalidated":0,"epoch":0,"capacity":0,"closed":0},` +
			`"evictions":{"capacity":0,"expired":0,"rejected":0,"flushed":0,"replaced":0},` +
			`"invalidations":{"tracking":{"evicted":0,"absent":0},"broadcast":{"evicted":0,"absent":0},"local":{"evicted":0,"absent":0}}},` +
			`"links":[` + link + `]}`},
		"ready": {
			nearcache.Health{Ready: true, Since: time.Date(2026, 1, 2, 15, 4, 5, 0, time.UTC), Link: stats.Link, Links: links},
			`{"ready":true,"mode":"tracking","since":"2026-01-02T15:04:05Z","links":[` + link + `]}`,
		},
		"not ready": {
			nearcache.Health{Reason: "the invalidation link is down", Since: time.Date(2026, 1, 2, 15, 4, 5, 0, time.UTC), Link: stats.Link, Links: links},
			`{"ready":false,"mode":"tracking","reason":"the invalidation link is down","since":"2026-01-02T15:04:05Z","links":[` + link + `]}`,
		},
	} {
		got, err := json.Marshal(test.value)
		if err != nil || string(got) != test.golden {
			t.Errorf("%s: %v\n got %s\nwant %s", name, err, got, test.golden)
		}
	}
}

// probe asks the handler and decodes what it says.
func probe(t *testing.T, handler http.Handler, method string) (response *http.Response, health struct {
	Ready  bool
	Reason string
	Since  time.Time
	Links  []struct {
		Server string
		Live   bool
	}
}) {
	t.Helper()
	recorder := httptest.NewRecorder()
	handler.ServeHTTP(recorder, httptest.NewRequestWithContext(t.Context(), method, "/ready", nil))
	response = recorder.Result()
	if method == http.MethodGet {
		check(t, json.NewDecoder(response.Body).Decode(&health))
	}
	check(t, response.Body.Close())
	return response, health
}

func TestHealthHandler(t *testing.T) {
	t.Parallel()
	n := startNetwork(t, nil)
	handler := n.client.HealthHandler()

	response, health := probe(t, handler, http.MethodGet)
	if response.StatusCode != http.StatusOK || !health.Ready || health.Reason != "" || health.Since.IsZero() {
		t.Errorf("%d %+v", response.StatusCode, health)
	}
	if len(health.Links) != 1 || !health.Links[0].Live || health.Links[0].Server != n.proxy.addr() {
		t.Errorf("links %+v", health.Links)
	}
	if header := response.Header; header.Get("Content-Type") != "application/json" || header.Get("Cache-Control") != "no-store" {
		t.Errorf("%v", header)
	}
	if response, _ = probe(t, handler, http.MethodHead); response.StatusCode != http.StatusOK {
		t.Errorf("HEAD: %d", response.StatusCode)
	}
	if response, _ = probe(t, handler, http.MethodPost); response.StatusCode != http.StatusMethodNotAllowed || response.Header.Get("Allow") != "GET, HEAD" {
		t.Errorf("POST: %d %v", response.StatusCode, response.Header)
	}

	n.proxy.refuseLinks(true)
	awaitDown(t, n.client)
	response, health = probe(t, handler, http.MethodGet)
	if response.StatusCode != http.StatusServiceUnavailable || health.Ready || !strings.Contains(health.Reason, "link is down") || health.Links[0].Live {
		t.Errorf("%d %+v", response.StatusCode, health)
	}
	n.proxy.refuseLinks(false)
	eventually(t, "ready again", func() bool {
		response, _ = probe(t, handler, http.MethodGet)
		return response.StatusCode == http.StatusOK
	})

	closeNode(t, n.client)
	response, health = probe(t, handler, http.MethodGet)
	if response.StatusCode != http.StatusServiceUnavailable || health.Reason != nearcache.ErrClosed.Error() {
		t.Errorf("%d %+v", response.StatusCode, health)
	}
}
