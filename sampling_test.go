package nearcache

import (
	"context"
	"math"
	"testing"

	"github.com/go-nearcache/nearcache/broadcast"
	"github.com/go-nearcache/nearcache/localcache"
)

// Reads come at any pace, an even one too, and the share of them that is picked is the rate all the same.
func TestSamplingKeepsItsRate(t *testing.T) {
	t.Parallel()
	const reads = 2_000_000
	for _, rate := range []float64{0.001, 0.01, 0.5} {
		for _, pace := range []localcache.Instant{1, 41, 64, 100, 1000, 1024, 4096, 100_000, 1 << 20, 1_000_000} {
			s, picked := newSampling(rate), 0
			for i := range localcache.Instant(reads) {
				if s.picks(localcache.Key{}, 12_345_678_901+i*pace) {
					picked++
				}
			}
			expected := rate * reads
			if tolerance := 6 * math.Sqrt(expected); math.Abs(float64(picked)-expected) > tolerance {
				t.Errorf("rate %v, a read every %d ns: %d picked of %d, want %.0f ± %.0f", rate, pace, picked, reads, expected, tolerance)
			}
		}
	}
	for _, began := range []localcache.Instant{0, 1, math.MaxInt64} {
		if newSampling(0).picks(localcache.Key{}, began) || !newSampling(1).picks(localcache.Key{}, began) {
			t.Error("all is not all, or none is not none")
		}
	}
}

// Without Verify and Canary a client runs nothing by itself.
func TestNothingRunsUnlessAskedFor(t *testing.T) {
	t.Parallel()
	network := broadcast.NewNetwork(broadcast.NetworkOptions{})
	bus, err := broadcast.New(broadcast.Options{Transport: network.Transport()})
	if err != nil {
		t.Fatal(err)
	}
	defer bus.Close(t.Context())
	c, err := Open(t.Context(), Options{Bus: bus})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(t.Context())
	if c.verifier != nil || c.servers()[0].canary != nil || len(c.background.done) != 0 {
		t.Errorf("%d goroutines run in the background", len(c.background.done))
	}
}

func BenchmarkHit(b *testing.B) {
	network := broadcast.NewNetwork(broadcast.NetworkOptions{})
	bus, err := broadcast.New(broadcast.Options{Transport: network.Transport()})
	if err != nil {
		b.Fatal(err)
	}
	defer bus.Close(context.Background())
	client, err := Open(b.Context(), Options{Bus: bus, SettleFills: true})
	if err != nil {
		b.Fatal(err)
	}
	defer client.Close(context.Background())
	client.verifier = newVerifier(Verify{MaxPerSecond: DefaultVerifyPerSecond})
	cache, err := New(client, Config[int]{
		Name: "numbers", Prefix: "number:", Load: func(context.Context, string) (int, error) { return 1, nil },
	})
	if err != nil {
		b.Fatal(err)
	}
	for name, rate := range map[string]float64{"unsampled": 0, "one in a thousand sampled": 0.001} {
		b.Run(name, func(b *testing.B) {
			cache.sampling = newSampling(rate)
			ctx := b.Context()
			b.ReportAllocs()
			for b.Loop() {
				if _, err := cache.Get(ctx, "k"); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
