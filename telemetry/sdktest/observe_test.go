package sdktest

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-nearcache/nearcache/telemetry"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
)

// full is a snapshot in which every number differs, so that none can be taken for another.
func full(s *telemetry.Snapshot) {
	s.Caches = append(s.Caches, telemetry.CacheSnapshot{
		Name:      "users",
		Local:     telemetry.Results{Hit: 1, Miss: 2, Stale: 3, Negative: 4, Bypass: 5},
		Remote:    telemetry.Results{Hit: 6, Miss: 7, Stale: 8, Negative: 9, Bypass: 10},
		Source:    telemetry.Results{Hit: 11, Miss: 12, Stale: 13, Negative: 14, Bypass: 15},
		Coalesced: telemetry.Coalesced{Process: 29, Fleet: 30},

		Verification: telemetry.Verification{Enabled: true, Coherent: 300, Wrong: 100, Unresolved: 41, Skipped: 42},
	})
	s.Store = telemetry.StoreSnapshot{
		Items:     16,
		Evictions: telemetry.Evictions{Capacity: 17, Expired: 18, Rejected: 19},
		Invalidations: telemetry.Invalidations{
			Tracking:  telemetry.Effects{Evicted: 20, Absent: 21},
			Broadcast: telemetry.Effects{Evicted: 22, Absent: 23},
			Local:     telemetry.Effects{Evicted: 24, Absent: 25},
		},
		FillsRejected: telemetry.FillsRejected{Invalidated: 26, Epoch: 27, Capacity: 28},
	}
	s.MemoryUsage, s.MemoryLimit = 32, 33
	s.Flushes = telemetry.Flushes{Reconnect: 34, Overflow: 35, FlushAll: 36, Topology: 37, Manual: 38, Gap: 31}
	s.Links = append(s.Links,
		telemetry.LinkSnapshot{Server: telemetry.Server{Address: "127.0.0.1", Port: 6379}, Mode: "ttl", Reconnects: 39, Staleness: 250 * time.Millisecond},
		telemetry.LinkSnapshot{Server: telemetry.Server{Address: "/run/redis.sock"}, Replica: true, Reconnects: 40, Staleness: -1},
	)
}

// fullSeries is what full looks like from outside.
func fullSeries(client string) []string {
	lines := strings.Split(strings.TrimSpace(`
nearcache.requests counter {request} {nearcache.cache=users nearcache.name=CLIENT nearcache.result=hit nearcache.tier=local} 1
nearcache.requests counter {request} {nearcache.cache=users nearcache.name=CLIENT nearcache.result=miss nearcache.tier=local} 2
nearcache.requests counter {request} {nearcache.cache=users nearcache.name=CLIENT nearcache.result=stale nearcache.tier=local} 3
nearcache.requests counter {request} {nearcache.cache=users nearcache.name=CLIENT nearcache.result=negative nearcache.tier=local} 4
nearcache.requests counter {request} {nearcache.cache=users nearcache.name=CLIENT nearcache.result=bypass nearcache.tier=local} 5
nearcache.requests counter {request} {nearcache.cache=users nearcache.name=CLIENT nearcache.result=hit nearcache.tier=remote} 6
nearcache.requests counter {request} {nearcache.cache=users nearcache.name=CLIENT nearcache.result=miss nearcache.tier=remote} 7
nearcache.requests counter {request} {nearcache.cache=users nearcache.name=CLIENT nearcache.result=stale nearcache.tier=remote} 8
nearcache.requests counter {request} {nearcache.cache=users nearcache.name=CLIENT nearcache.result=negative nearcache.tier=remote} 9
nearcache.requests counter {request} {nearcache.cache=users nearcache.name=CLIENT nearcache.result=bypass nearcache.tier=remote} 10
nearcache.requests counter {request} {nearcache.cache=users nearcache.name=CLIENT nearcache.result=hit nearcache.tier=source} 11
nearcache.requests counter {request} {nearcache.cache=users nearcache.name=CLIENT nearcache.result=miss nearcache.tier=source} 12
nearcache.requests counter {request} {nearcache.cache=users nearcache.name=CLIENT nearcache.result=stale nearcache.tier=source} 13
nearcache.requests counter {request} {nearcache.cache=users nearcache.name=CLIENT nearcache.result=negative nearcache.tier=source} 14
nearcache.requests counter {request} {nearcache.cache=users nearcache.name=CLIENT nearcache.result=bypass nearcache.tier=source} 15
nearcache.item.count updowncounter {item} {nearcache.name=CLIENT} 16
nearcache.evictions counter {eviction} {nearcache.name=CLIENT nearcache.reason=capacity} 17
nearcache.evictions counter {eviction} {nearcache.name=CLIENT nearcache.reason=expired} 18
nearcache.evictions counter {eviction} {nearcache.name=CLIENT nearcache.reason=rejected} 19
nearcache.invalidations counter {invalidation} {nearcache.effect=evicted nearcache.name=CLIENT nearcache.source=tracking} 20
nearcache.invalidations counter {invalidation} {nearcache.effect=absent nearcache.name=CLIENT nearcache.source=tracking} 21
nearcache.invalidations counter {invalidation} {nearcache.effect=evicted nearcache.name=CLIENT nearcache.source=broadcast} 22
nearcache.invalidations counter {invalidation} {nearcache.effect=absent nearcache.name=CLIENT nearcache.source=broadcast} 23
nearcache.invalidations counter {invalidation} {nearcache.effect=evicted nearcache.name=CLIENT nearcache.source=local} 24
nearcache.invalidations counter {invalidation} {nearcache.effect=absent nearcache.name=CLIENT nearcache.source=local} 25
nearcache.fills.rejected counter {fill} {nearcache.name=CLIENT nearcache.reason=invalidated} 26
nearcache.fills.rejected counter {fill} {nearcache.name=CLIENT nearcache.reason=epoch} 27
nearcache.fills.rejected counter {fill} {nearcache.name=CLIENT nearcache.reason=capacity} 28
nearcache.load.coalesced counter {request} {nearcache.cache=users nearcache.name=CLIENT nearcache.scope=process} 29
nearcache.load.coalesced counter {request} {nearcache.cache=users nearcache.name=CLIENT nearcache.scope=fleet} 30
nearcache.memory.usage updowncounter By {nearcache.name=CLIENT} 32
nearcache.memory.limit updowncounter By {nearcache.name=CLIENT} 33
nearcache.flushes counter {flush} {nearcache.name=CLIENT nearcache.reason=reconnect} 34
nearcache.flushes counter {flush} {nearcache.name=CLIENT nearcache.reason=overflow} 35
nearcache.flushes counter {flush} {nearcache.name=CLIENT nearcache.reason=flushall} 36
nearcache.flushes counter {flush} {nearcache.name=CLIENT nearcache.reason=topology} 37
nearcache.flushes counter {flush} {nearcache.name=CLIENT nearcache.reason=manual} 38
nearcache.flushes counter {flush} {nearcache.name=CLIENT nearcache.reason=gap} 31
nearcache.verifications counter {verification} {nearcache.cache=users nearcache.name=CLIENT nearcache.result=coherent} 300
nearcache.verifications counter {verification} {nearcache.cache=users nearcache.name=CLIENT nearcache.result=wrong} 100
nearcache.verifications counter {verification} {nearcache.cache=users nearcache.name=CLIENT nearcache.result=unresolved} 41
nearcache.verifications counter {verification} {nearcache.cache=users nearcache.name=CLIENT nearcache.result=skipped} 42
nearcache.verification.consistency gauge 1 {nearcache.cache=users nearcache.name=CLIENT} 0.75
nearcache.tracking.reconnects counter {reconnect} {nearcache.name=CLIENT nearcache.role=primary server.address=127.0.0.1 server.port=6379} 39
nearcache.tracking.staleness gauge s {nearcache.name=CLIENT nearcache.role=primary server.address=127.0.0.1 server.port=6379} 0.25
nearcache.tracking.mode updowncounter {server} {nearcache.mode=tracking nearcache.name=CLIENT nearcache.role=primary server.address=127.0.0.1 server.port=6379} 0
nearcache.tracking.mode updowncounter {server} {nearcache.mode=broadcast nearcache.name=CLIENT nearcache.role=primary server.address=127.0.0.1 server.port=6379} 0
nearcache.tracking.mode updowncounter {server} {nearcache.mode=ttl nearcache.name=CLIENT nearcache.role=primary server.address=127.0.0.1 server.port=6379} 1
nearcache.tracking.mode updowncounter {server} {nearcache.mode=off nearcache.name=CLIENT nearcache.role=primary server.address=127.0.0.1 server.port=6379} 0
nearcache.tracking.reconnects counter {reconnect} {nearcache.name=CLIENT nearcache.role=replica server.address=/run/redis.sock} 40
`), "\n")
	for n := range lines {
		lines[n] = strings.ReplaceAll(lines[n], "CLIENT", client)
	}
	return lines
}

func observe(t testing.TB, client *telemetry.Telemetry, read func(*telemetry.Snapshot)) (unregister func() error) {
	t.Helper()
	unregister, err := client.Observe(read)
	if err != nil {
		t.Fatal(err)
	}
	return unregister
}

func TestObservedSeries(t *testing.T) {
	s := newSDK(t, telemetry.Options{Name: "orders"})
	observe(t, s.Telemetry, full)
	compare(t, s.series(t), fullSeries("orders"))
	compare(t, s.series(t), fullSeries("orders")) // and again: a snapshot does not add to the one before
}

func TestZeroesAreReportedFromTheStart(t *testing.T) {
	s := newSDK(t, telemetry.Options{Name: "fresh"})
	observe(t, s.Telemetry, func(s *telemetry.Snapshot) {
		s.Caches = append(s.Caches, telemetry.CacheSnapshot{Name: "users"})
		s.MemoryLimit = 1
	})
	zeroes := 0
	for _, line := range s.series(t) {
		if !strings.HasSuffix(line, " 0") && !strings.HasPrefix(line, "nearcache.memory.limit ") {
			t.Errorf("not zero: %s", line)
		}
		zeroes++
	}
	if want := 15 + 1 + 3 + 6 + 3 + 2 + 6 + 2; zeroes != want {
		t.Errorf("%d series of a client that did nothing, want %d", zeroes, want)
	}
}

// TestVerificationIsReportedWhereItHappens has zeroes from the start, and no share of nothing.
func TestVerificationIsReportedWhereItHappens(t *testing.T) {
	s := newSDK(t, telemetry.Options{})
	enabled := false
	observe(t, s.Telemetry, func(s *telemetry.Snapshot) {
		s.Caches = append(s.Caches, telemetry.CacheSnapshot{Name: "users", Verification: telemetry.Verification{Enabled: enabled}})
	})
	verifying := func() (lines []string) {
		for _, line := range s.series(t) {
			if strings.HasPrefix(line, "nearcache.verification") {
				lines = append(lines, line)
			}
		}
		return lines
	}
	compare(t, verifying(), nil)
	enabled = true
	var zeroes []string
	for _, result := range []string{"coherent", "wrong", "unresolved", "skipped"} {
		zeroes = append(zeroes, "nearcache.verifications counter {verification} {nearcache.cache=users nearcache.name=default nearcache.result="+result+"} 0")
	}
	compare(t, verifying(), zeroes)
}

// TestClientsAndCachesStayApart has two clients of one name with caches of one name.
func TestClientsAndCachesStayApart(t *testing.T) {
	s := newSDK(t, telemetry.Options{Name: "orders"})
	second := s.another(t, "orders")
	observe(t, s.Telemetry, full)
	observe(t, second, full)
	compare(t, s.series(t), append(fullSeries("orders"), fullSeries("orders-2")...))

	if err := second.Close(); err != nil {
		t.Fatal(err)
	}
	compare(t, s.series(t), fullSeries("orders"))
}

func TestUnregister(t *testing.T) {
	s := newSDK(t, telemetry.Options{Name: "orders"})
	stopped := false
	unregister := observe(t, s.Telemetry, func(snapshot *telemetry.Snapshot) {
		if stopped {
			t.Error("read after unregister")
		}
		full(snapshot)
	})
	if got := s.series(t); len(got) == 0 {
		t.Fatal("nothing observed")
	}
	for range 2 {
		if err := unregister(); err != nil {
			t.Fatal(err)
		}
		stopped = true
	}
	compare(t, s.series(t), nil)

	// The name is still the client's own, and it may observe again.
	observe(t, s.Telemetry, full)
	compare(t, s.series(t), fullSeries("orders"))
}

// TestUnregisterWaits shows that what a callback reads may be torn down once unregister returned.
func TestUnregisterWaits(t *testing.T) {
	s := newSDK(t, telemetry.Options{})
	entered, release := make(chan struct{}), make(chan struct{})
	var reading atomic.Bool
	unregister := observe(t, s.Telemetry, func(*telemetry.Snapshot) {
		reading.Store(true)
		close(entered)
		<-release
		reading.Store(false)
	})

	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { s.series(t) })
	<-entered
	returned := make(chan struct{})
	wg.Go(func() {
		defer close(returned)
		if err := unregister(); err != nil {
			t.Error(err)
		}
		if reading.Load() {
			t.Error("unregister returned while the callback was reading")
		}
	})
	select {
	case <-returned:
	case <-time.After(20 * time.Millisecond): // long enough to return in, if it did not wait
	}
	close(release)
}

// TestTwoReadersAndClose collects from two readers at once while the client closes; the race detector looks on.
func TestTwoReadersAndClose(t *testing.T) {
	readers := []*sdkmetric.ManualReader{sdkmetric.NewManualReader(), sdkmetric.NewManualReader()}
	provider := sdkmetric.NewMeterProvider(sdkmetric.WithReader(readers[0]), sdkmetric.WithReader(readers[1]))
	for range 20 {
		client, err := telemetry.New(telemetry.Options{MeterProvider: provider})
		if err != nil {
			t.Fatal(err)
		}
		observe(t, client, full)
		var wg sync.WaitGroup
		for _, reader := range readers {
			wg.Go(func() {
				for range 5 {
					var collected metricdata.ResourceMetrics
					if err := reader.Collect(context.Background(), &collected); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Go(func() {
			if err := client.Close(); err != nil {
				t.Error(err)
			}
		})
		wg.Wait()
	}
}
