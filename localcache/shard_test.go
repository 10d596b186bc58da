package localcache

import (
	"math"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestShard(t *testing.T) {
	c, _ := open(t, Options{})
	s := c.NewShard()
	check := func(step string, epoch uint64, asOf Instant, live bool) {
		t.Helper()
		if s.Epoch() != epoch || s.AsOf() != asOf || s.Live() != live {
			t.Errorf("%s: epoch %d, as of %d, live %v", step, s.Epoch(), s.AsOf(), s.Live())
		}
	}
	check("new", 0, 0, false)
	s.Confirm(5)
	check("confirmed without an epoch", 0, 0, false)
	s.Freeze()
	check("frozen without an epoch", 0, 0, false)
	first := s.Renew(10)
	check("renewed", first, 10, true)
	s.Confirm(20)
	check("confirmed", first, 20, true)
	s.Confirm(15)
	check("confirmed an earlier instant", first, 20, true)
	s.Freeze()
	check("frozen", first, 20, false)
	s.Confirm(30)
	check("confirmed while frozen", first, 20, false)
	second := s.Renew(15)
	check("renewed with an earlier instant", second, 20, true)
	if second <= first {
		t.Errorf("epoch %d after %d", second, first)
	}
	s.Suspend()
	check("suspended", 0, 20, false)
	s.Close()
	s.Close()
	check("closed", 0, 0, false)
	if epoch := s.Renew(40); epoch != 0 {
		t.Errorf("a closed shard was renewed: %d", epoch)
	}
	check("renewed after Close", 0, 0, false)
}

// A closed shard's place goes to a new one, and nothing else does.
func TestShardPlaceIsReused(t *testing.T) {
	c, _ := open(t, Options{})
	v := NewView[string](c, "v")
	k := v.Key("k")
	old := c.NewShard()
	old.Renew(1)
	token := v.Token(k, old)
	mustFill(t, v, k, token, "value", Never, 0)
	c.Wait()
	old.Close()
	s := c.NewShard()
	s.Renew(1)
	if s.index != old.index {
		t.Errorf("place %d, not %d", s.index, old.index)
	}
	if _, r := v.Get(k, Now(), 0); r != Miss {
		t.Errorf("Get: %v", r)
	}
	if r := v.Fill(k, token, "value", Never, 0); r != FillEpoch {
		t.Errorf("Fill: %v", r)
	}
	old.Suspend()
	old.Freeze()
	if !s.Live() {
		t.Error("the closed shard rules its successor")
	}
}

func TestShardsAreIndependent(t *testing.T) {
	c, a := open(t, Options{})
	b := c.NewShard()
	b.Renew(Now())
	v := NewView[string](c, "v")
	ka, kb := v.Key("a"), v.Key("b")
	mustFill(t, v, ka, v.Token(ka, a), "a", Never, 0)
	mustFill(t, v, kb, v.Token(kb, b), "b", Never, 0)
	c.Wait()
	a.Renew(Now())
	if _, r := v.Get(ka, Now(), 0); r != Miss {
		t.Errorf("the flushed shard: %v", r)
	}
	if _, r := v.Get(kb, Now(), 0); r != Hit {
		t.Errorf("the other shard: %v", r)
	}
}

// Whatever happens at the same time, epochs are unique, and in the end the state is what the last call left.
func TestShardConcurrently(t *testing.T) {
	c, s := open(t, Options{})
	var mu sync.Mutex
	seen := map[uint64]bool{}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			var last uint64
			for i := range 500 {
				switch i % 4 {
				case 0:
					epoch := s.Renew(Now())
					if epoch <= last {
						t.Errorf("epoch %d after %d", epoch, last)
					}
					last = epoch
					mu.Lock()
					if seen[epoch] {
						t.Errorf("epoch %d twice", epoch)
					}
					seen[epoch] = true
					mu.Unlock()
				case 1:
					s.Confirm(Now())
				case 2:
					s.Freeze()
				case 3:
					s.Suspend()
				}
				other := c.NewShard()
				other.Renew(Now())
				other.Close()
			}
		})
	}
	wg.Wait()
	if n := len(*c.shards.Load()); n > 6 {
		t.Errorf("%d rows for at most 5 shards at a time", n)
	}
	epoch := s.Renew(Now())
	if !s.Live() || s.Epoch() != epoch {
		t.Error("not live after the last Renew")
	}
}

// TestStalenessUnderOutages checks the bound itself: a read that is content with what was true at notBefore never gets
// what had been overwritten by then, while the link that announces the writes freezes and comes back.
func TestStalenessUnderOutages(t *testing.T) {
	// On a machine that is busy enough nothing becomes visible before it is overwritten.
	for range 20 {
		if readUnderOutages(t) > 0 || t.Failed() {
			return
		}
	}
	t.Error("no hits: this run shows nothing")
}

// readUnderOutages returns the number of hits.
func readUnderOutages(t *testing.T) int64 {
	c, s := open(t, Options{})
	v := NewView[uint64](c, "v")
	k := v.Key("k")
	const bound = 200 * time.Microsecond

	// overwritten[n] is when version n had been overwritten for certain.
	versions := uint64(3_000)
	if raceDetector || testing.Short() {
		versions = 500
	}
	var source atomic.Uint64
	overwritten := make([]atomic.Int64, versions+1)
	for i := range overwritten {
		overwritten[i].Store(int64(Never))
	}
	var wg sync.WaitGroup
	var done atomic.Bool
	wg.Go(func() {
		defer done.Store(true)
		announced := true
		for n := uint64(1); n <= versions; n++ {
			source.Store(n)
			now := Now()
			overwritten[n-1].Store(int64(now))
			switch n % 100 {
			case 50: // the link is in doubt: writes are no longer announced, nor confirmed
				announced = false
				s.Freeze()
			case 99:
				announced = true
				s.Renew(now)
			}
			if announced {
				v.Invalidate(k, Tracking)
				s.Confirm(now)
			}
			time.Sleep(10 * time.Microsecond) // lets reads hit; nothing waits for it
		}
	})
	var hits atomic.Int64
	for range 2 {
		wg.Go(func() {
			for !done.Load() {
				now := Now()
				notBefore := now.Add(-bound)
				version, r := v.Get(k, now, notBefore)
				switch r {
				case Hit:
					hits.Add(1)
					if at := Instant(overwritten[*version].Load()); at < notBefore {
						t.Errorf("version %d was overwritten %v before the bound", *version, notBefore.Sub(at))
						return
					}
				case Miss:
					token := v.Token(k, s)
					v.Fill(k, token, source.Load(), Never, 0)
				case Stale:
				}
			}
		})
	}
	wg.Wait()
	checkBooks(t, c)
	return hits.Load()
}

// TestTokenOfAnEarlierTimeWithoutAnEpoch: in between there was a link, whose as-of vouches for nothing that came before it.
func TestTokenOfAnEarlierTimeWithoutAnEpoch(t *testing.T) {
	c, s := open(t, Options{})
	v := NewView[string](c, "v")
	k := v.Key("k")
	s.Suspend()
	token := v.Token(k, s)
	if !token.Current() || token.Live() {
		t.Errorf("during the first: current %v, live %v", token.Current(), token.Live())
	}
	s.Renew(Now())
	s.Suspend()
	if token.Current() {
		t.Error("current again in the second")
	}
}

func TestShardThatNobodyConfirms(t *testing.T) {
	c, s := open(t, Options{})
	view := NewView[string](c, "test")
	epoch := s.RenewUnconfirmed()
	if !s.Live() || s.Epoch() != epoch {
		t.Fatalf("epoch %d, want %d", s.Epoch(), epoch)
	}
	k := view.Key("k")
	view.Fill(k, view.Token(k, s), "v", Never, 1)
	c.Wait()
	if value, result := view.Get(k, Now(), math.MinInt64); result != Hit || *value != "v" {
		t.Errorf("without a bound: %v", result)
	}
	if _, result := view.Get(k, Now(), math.MinInt64+1); result != Stale {
		t.Errorf("with the weakest bound: %v", result)
	}
	s.Confirm(Now())
	if _, result := view.Get(k, Now(), s.AsOf()); result != Hit {
		t.Errorf("after a confirmation: %v", result)
	}
}
