package localcache

import (
	"math/rand/v2"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dgraph-io/ristretto/v2"
)

const benchKeys = 1000

// benchNames are 32 bytes long.
func benchNames(n int) []string {
	names := make([]string, n)
	for i := range names {
		s := strconv.Itoa(i)
		names[i] = "user:profile:0000000000000000000"[:32-len(s)] + s
	}
	return names
}

func benchCache(b *testing.B, maxBytes int64) (*Cache, *View[string], *Shard) {
	b.Helper()
	c, err := New(Options{MaxBytes: maxBytes})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(c.Close)
	s := c.NewShard()
	s.Renew(Now())
	return c, NewView[string](c, "bench"), s
}

func benchFill(b *testing.B, c *Cache, v *View[string], s *Shard, names []string) {
	b.Helper()
	for i, name := range names {
		k := v.Key(name)
		if r := v.Fill(k, v.Token(k, s), name, Never, 32); r != Filled {
			b.Fatal(r)
		}
		if i%1000 == 999 {
			c.Wait()
		}
	}
	c.Wait()
}

// benchGet is what a caller does for a hit: hash, read the clock once, look up.
func benchGet(v *View[string], name string) (*string, Result) {
	now := Now()
	return v.Get(v.Key(name), now, now.Add(-time.Hour))
}

func hits(b *testing.B, n int) {
	c, v, s := benchCache(b, 1<<30)
	names := benchNames(n)
	benchFill(b, c, v, s, names)
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		if _, r := benchGet(v, names[i]); r != Hit {
			b.Fatal(r)
		}
		if i++; i == n {
			i = 0
		}
	}
}

func BenchmarkHit(b *testing.B)        { hits(b, benchKeys) }
func BenchmarkHitMillion(b *testing.B) { hits(b, 1_000_000) }

func BenchmarkHitParallel(b *testing.B) {
	c, v, s := benchCache(b, 64<<20)
	names := benchNames(benchKeys)
	benchFill(b, c, v, s, names)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		i := rand.IntN(benchKeys)
		for pb.Next() {
			if _, r := benchGet(v, names[i]); r != Hit {
				b.Error(r)
			}
			if i++; i == benchKeys {
				i = 0
			}
		}
	})
}

func bareRistretto(b *testing.B, n int, ttl time.Duration) (*ristretto.Cache[string, string], []string) {
	b.Helper()
	c, err := ristretto.NewCache(&ristretto.Config[string, string]{
		NumCounters: 8 << 20, MaxCost: 1 << 30, BufferItems: 64,
	})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(c.Close)
	names := benchNames(n)
	for i, name := range names {
		if !c.SetWithTTL(name, name, 32, ttl) {
			b.Fatal("dropped")
		}
		if i%1000 == 999 {
			c.Wait()
		}
	}
	c.Wait()
	return c, names
}

func bareHits(b *testing.B, n int, ttl time.Duration) {
	c, names := bareRistretto(b, n, ttl)
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		if _, ok := c.Get(names[i]); !ok {
			b.Fatal("miss")
		}
		if i++; i == n {
			i = 0
		}
	}
}

func BenchmarkRistrettoHit(b *testing.B)           { bareHits(b, benchKeys, 0) }
func BenchmarkRistrettoHitMillion(b *testing.B)    { bareHits(b, 1_000_000, 0) }
func BenchmarkRistrettoHitTTL(b *testing.B)        { bareHits(b, benchKeys, time.Hour) }
func BenchmarkRistrettoHitTTLMillion(b *testing.B) { bareHits(b, 1_000_000, time.Hour) }

func bareParallel(b *testing.B, ttl time.Duration) {
	c, names := bareRistretto(b, benchKeys, ttl)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		i := rand.IntN(benchKeys)
		for pb.Next() {
			if _, ok := c.Get(names[i]); !ok {
				b.Error("miss")
			}
			if i++; i == benchKeys {
				i = 0
			}
		}
	})
}

func BenchmarkRistrettoHitParallel(b *testing.B)    { bareParallel(b, 0) }
func BenchmarkRistrettoHitTTLParallel(b *testing.B) { bareParallel(b, time.Hour) }

// BenchmarkMiss is a look-up of an absent key.
func BenchmarkMiss(b *testing.B) {
	_, v, _ := benchCache(b, 64<<20)
	names := benchNames(benchKeys)
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		if _, r := benchGet(v, names[i]); r != Miss {
			b.Fatal(r)
		}
		if i++; i == benchKeys {
			i = 0
		}
	}
}

// BenchmarkFill fills new keys into a cache that is full.
func BenchmarkFill(b *testing.B) {
	c, v, s := benchCache(b, 64<<20)
	value := "12345678901234567890123456789012"
	var refused int
	var n uint64
	b.ReportAllocs()
	for b.Loop() {
		n++
		k := Key{hi: n * 0x9e3779b97f4a7c15, lo: n * 0xbf58476d1ce4e5b9}
		if v.Fill(k, v.Token(k, s), value, Never, 32) != Filled {
			refused++
		}
		if n%1000 == 0 {
			c.Wait()
		}
	}
	b.ReportMetric(float64(refused)/float64(b.N), "refused/op")
}

// BenchmarkCycle reads a key that is absent, fills it and reads it until it is there; then invalidates it.
func BenchmarkCycle(b *testing.B) {
	c, v, s := benchCache(b, 64<<20)
	names := benchNames(benchKeys)
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		k := v.Key(names[i])
		now := Now()
		if _, r := v.Get(k, now, now); r == Hit {
			b.Fatal("hit")
		}
		v.Fill(k, v.Token(k, s), names[i], Never, 32)
		c.Wait()
		if _, r := v.Get(k, Now(), 0); r != Hit {
			b.Fatal(r)
		}
		v.Invalidate(k, Local)
		if i++; i == benchKeys {
			i = 0
		}
	}
}

func BenchmarkInvalidateAbsent(b *testing.B) {
	_, v, _ := benchCache(b, 64<<20)
	names := benchNames(benchKeys)
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		v.Invalidate(v.Key(names[i]), Tracking)
		if i++; i == benchKeys {
			i = 0
		}
	}
}

// BenchmarkInvalidateResident measures the time until the store has applied the deletions, not only queued them.
func BenchmarkInvalidateResident(b *testing.B) {
	const batch = 100_000
	c, v, s := benchCache(b, 1<<30)
	names := benchNames(batch)
	var evicted atomic.Int64
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		if n%batch == 0 {
			b.StopTimer()
			benchFill(b, c, v, s, names)
			b.StartTimer()
		}
		if v.Invalidate(v.Key(names[n%batch]), Tracking) {
			evicted.Add(1)
		}
		if n++; n%batch == 0 {
			c.Wait()
		}
	}
	c.Wait()
	if got := evicted.Load(); got != int64(n) {
		b.Fatalf("%d of %d were resident", got, n)
	}
}
