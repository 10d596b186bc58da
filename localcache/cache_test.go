package localcache

import (
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestOptions(t *testing.T) {
	for _, maxBytes := range []int64{-1, math.MinInt64, 1, leastMaxBytes - 1, mostMaxBytes + 1, math.MaxInt64} {
		c, err := New(Options{MaxBytes: maxBytes})
		if err == nil {
			c.Close()
			t.Errorf("MaxBytes %d is accepted", maxBytes)
			continue
		}
		for _, part := range []string{"localcache: Options.MaxBytes", "must be"} {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%v does not say %q", err, part)
			}
		}
	}
	for _, maxBytes := range []int64{0, leastMaxBytes, 10_000_001} {
		c, _ := open(t, Options{MaxBytes: maxBytes})
		want := maxBytes
		if want == 0 {
			want = defaultMaxBytes
		}
		if got := c.Stats().MaxBytes; got != want {
			t.Errorf("MaxBytes %d, want %d", got, want)
		}
	}
}

func TestClosed(t *testing.T) {
	c, s := open(t, Options{})
	v := NewView[string](c, "v")
	k := v.Key("k")
	mustFill(t, v, k, v.Token(k, s), "value", Never, 0)
	c.Wait()
	token := v.Token(k, s)
	c.Close()
	c.Close()

	if _, r := v.Get(k, Now(), 0); r != Miss {
		t.Errorf("Get: %v", r)
	}
	if r := v.Fill(k, token, "value", Never, 0); r != FillClosed {
		t.Errorf("Fill: %v", r)
	}
	if v.Invalidate(k, Local) {
		t.Error("Invalidate evicted something")
	}
	if _, ok := v.Peek(k); ok {
		t.Error("Peek found something")
	}
	for range v.All() {
		t.Error("All yields something")
	}
	if epoch := s.Renew(Now()); epoch != 0 || s.Live() {
		t.Errorf("Renew: %d", epoch)
	}
	s.Confirm(Now())
	s.Freeze()
	s.Suspend()
	s.Close()
	if late := c.NewShard(); late.Renew(Now()) != 0 || late.Live() {
		t.Error("a shard made after Close is live")
	}
	if token.Current() {
		t.Error("a token is current")
	}
	late := NewView[string](c, "late")
	if _, r := late.Get(late.Key("k"), Now(), 0); r != Miss {
		t.Errorf("Get by a view made after Close: %v", r)
	}
	c.Wait()
	stats := c.Stats()
	if stats.Items != 0 || stats.Evictions.Flushed != 1 || stats.Evictions.Capacity != 0 || stats.Fills.Closed != 1 {
		t.Errorf("%+v", stats)
	}
}

// TestCloseDuringEverything closes caches in the middle of every other operation, many times.
func TestCloseDuringEverything(t *testing.T) {
	rounds := 50
	if raceDetector || testing.Short() {
		rounds = 10
	}
	for range rounds {
		c, err := New(Options{MaxBytes: leastMaxBytes})
		if err != nil {
			t.Fatal(err)
		}
		s := c.NewShard()
		s.Renew(Now())
		v := NewView[[]byte](c, "v")
		var wg sync.WaitGroup
		var busy atomic.Int64
		for _, f := range []func(Key){
			func(k Key) { v.Get(k, Now(), 0) },
			func(k Key) { v.Fill(k, v.Token(k, s), make([]byte, 500), Never, 500) },
			func(k Key) { v.Fill(k, v.Token(k, s), make([]byte, 1000), Now(), 1000) },
			func(k Key) { v.Invalidate(k, Local) },
			func(k Key) { v.Peek(k) },
			func(Key) {
				for range v.All() {
					break
				}
			},
			func(Key) { c.Wait() },
			func(Key) { c.Stats(); v.Lookups() },
			func(Key) { s.Renew(Now()); s.Confirm(Now()); s.Freeze() },
			func(Key) { c.requestTidy(); c.requestTrim() },
			func(k Key) {
				if k.lo%1000 == 0 {
					NewView[int](c, "w").Get(k, 0, 0)
				}
			},
		} {
			wg.Go(func() {
				for i := uint64(0); ; i++ {
					f(Key{hi: i % 5000 << 48, lo: i % 5000})
					busy.Add(1)
					if c.closed() && i%100 == 0 {
						return
					}
				}
			})
		}
		for busy.Load() < 2000 {
			time.Sleep(10 * time.Microsecond)
		}
		for range 3 {
			wg.Go(c.Close)
		}
		wg.Wait()
		if stats := c.Stats(); stats.Items != 0 || stats.Bytes != c.fixedBytes() {
			t.Fatalf("%d items, %d bytes after Close", stats.Items, stats.Bytes-c.fixedBytes())
		}
	}
}

func empty(g *gate) bool {
	for i := range g.cells {
		if !g.cells[i].empty() {
			return false
		}
	}
	return true
}

// Close waits for an operation that is inside the store.
func TestCloseWaits(t *testing.T) {
	c, s, b := openWithBreakpoints(t)
	v := NewView[string](c, "v")
	k := v.Key("k")
	for name, f := range map[string]func(){
		"get":        func() { v.Get(k, Now(), 0) },
		"fill":       func() { v.Fill(k, v.Token(k, s), "value", Never, 0) },
		"invalidate": func() { v.Invalidate(k, Local) },
		"peek":       func() { v.Peek(k) },
	} {
		finish := b.run(k, 0, f)
		if empty(&v.gate) {
			t.Errorf("%s is not counted", name)
		}
		finish()
		if !empty(&v.gate) {
			t.Errorf("%s is still counted after it has left", name)
		}
	}
	finish := b.run(k, 0, func() { v.Get(k, Now(), 0) })
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		c.Close()
	}()
	for !c.closed() {
		time.Sleep(10 * time.Microsecond)
	}
	select {
	case <-closed:
		t.Error("Close has returned while a read is inside")
	default:
	}
	finish()
	<-closed
}

func TestStatsAddUp(t *testing.T) {
	c, s := open(t, Options{MaxBytes: leastMaxBytes})
	v := NewView[int](c, "v")
	var wg sync.WaitGroup
	var results [fillResults]atomic.Uint64
	var found [3]atomic.Uint64
	for g := range 4 {
		wg.Go(func() {
			for i := range 20_000 {
				k := Key{hi: uint64(i % 7000 * 31), lo: uint64(i % 7000)}
				_, r := v.Get(k, Now(), 0)
				found[r].Add(1)
				if r == Miss {
					deadline := Never
					if i%3 == 0 {
						deadline = Now().Add(time.Microsecond)
					}
					token := v.Token(k, s)
					if i%50 == 0 {
						v.Invalidate(k, Tracking)
					}
					results[v.Fill(k, token, i, deadline, int64(i%300))].Add(1)
				}
				if i%10 == g {
					v.Invalidate(k, Cause(g%int(causes)))
				}
				if i%5000 == 0 {
					s.Renew(Now())
				}
			}
		})
	}
	wg.Wait()
	fills := c.Stats().Fills
	if got := [...]uint64{fills.Accepted, fills.Invalidated, fills.Epoch, fills.Capacity, fills.Closed}; got != [...]uint64{
		results[Filled].Load(), results[FillInvalidated].Load(), results[FillEpoch].Load(), results[FillCapacity].Load(), 0} {
		t.Errorf("%+v", fills)
	}
	if got, want := v.Lookups(), (Lookups{Hits: found[Hit].Load(), Misses: found[Miss].Load(), Stale: found[Stale].Load()}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	c.tidy()
	checkBooks(t, c)
}

func TestInstant(t *testing.T) {
	before := time.Now()
	now := Now()
	after := time.Now()
	if At(before) > now || At(after) < now {
		t.Errorf("%d is not between %d and %d", now, At(before), At(after))
	}
	if got := now.Add(time.Second).Sub(now); got != time.Second {
		t.Error(got)
	}
	for _, test := range []struct {
		i    Instant
		d    time.Duration
		want Instant
	}{
		{Never, 1, Never},
		{Never - 1, 5, Never},
		{Never, -1, Never - 1},
		{math.MinInt64 + 1, -5, math.MinInt64},
		{5, math.MaxInt64, Never},
		{-5, math.MinInt64, math.MinInt64},
		{5, -5, 0},
	} {
		if got := test.i.Add(test.d); got != test.want {
			t.Errorf("%d + %d = %d, want %d", test.i, test.d, got, test.want)
		}
	}
}
