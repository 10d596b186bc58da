package localcache

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
)

// TestFrontAgainstInvalidation lets a read find an entry good, and put it into the front, at each step of an invalidation: once that
// has returned, the front must not serve it.
func TestFrontAgainstInvalidation(t *testing.T) {
	for step, before := range []string{"the look for something at the address", "the look for the entry", "the deletion"} {
		t.Run("before "+before, func(t *testing.T) {
			c, s, b := openWithBreakpoints(t)
			v := NewView[string](c, "v")
			k := v.Key("k")
			mustFill(t, v, k, v.Token(k, s), "old", Never, 0)
			c.Wait()
			if _, r := v.Get(k, Now(), 0); r != Hit {
				t.Fatalf("Get before the invalidation: %v", r)
			}
			finish := b.run(k, step, func() { v.Invalidate(k, Tracking) })
			if _, r := v.Get(k, Now(), 0); r != Hit {
				t.Fatalf("the entry is still there, and Get during the invalidation: %v", r)
			}
			e := v.front.place(k).Load()
			if e == nil && before != "the deletion" {
				t.Fatal("the read did not put the entry into the front, and the test shows nothing")
			}
			finish()
			if _, r := v.Get(k, Now(), 0); r != Miss {
				t.Errorf("Get after the invalidation: %v", r)
			}
			if e != nil && e.confirmed.Load() == c.stripe(k).Load() {
				t.Error("the entry is still confirmed")
			}
		})
	}
}

// TestFrontNeedsTheSecondMove shows what the second move of the generation is for: with the first alone the read would be served.
func TestFrontNeedsTheSecondMove(t *testing.T) {
	c, s, _ := openWithBreakpoints(t)
	v := NewView[string](c, "v")
	k := v.Key("k")
	mustFill(t, v, k, v.Token(k, s), "old", Never, 0)
	c.Wait()
	if _, r := v.Get(k, Now(), 0); r != Hit {
		t.Fatalf("Get before: %v", r)
	}
	// An invalidation that moves the generation once, with a read between the move and the deletion.
	c.stripe(k).Add(1)
	if _, r := v.Get(k, Now(), 0); r != Hit {
		t.Fatalf("Get during: %v", r)
	}
	v.remove(k)
	if place := v.front.place(k); place.Load() != nil {
		t.Fatal("the deletion does not release the place")
	}
	// A reader that was about to offer the entry does so now.
	e := &entry[string]{header: header{hi: k.hi, lo: k.lo, epoch: s.Epoch(), deadline: Never}, front: &v.front}
	v.front.offer(e, c.stripe(k).Load(), Now())
	if _, r := v.Get(k, Now(), 0); r != Hit {
		t.Fatalf("the mutant is not caught: %v", r)
	}
	c.stripe(k).Add(1)
	if _, r := v.Get(k, Now(), 0); r != Miss {
		t.Errorf("Get after the second move: %v", r)
	}
}

func TestFrontObeysEpochAsOfAndDeadline(t *testing.T) {
	c, s := open(t, Options{})
	v := NewView[string](c, "v")
	k := v.Key("k")
	now := Now()
	s.Confirm(now)
	mustFill(t, v, k, v.Token(k, s), "value", now.Add(1000), 0)
	c.Wait()
	get := func(now, notBefore Instant) Result {
		_, r := v.Get(k, now, notBefore)
		return r
	}
	if r := get(now, now); r != Hit || v.front.place(k).Load() == nil {
		t.Fatalf("Get: %v, and the front has %v", r, v.front.place(k).Load())
	}
	before := v.Lookups()
	if r := get(now, now); r != Hit {
		t.Errorf("from the front: %v", r)
	}
	if after := v.Lookups(); after.Hits != before.Hits+1 {
		t.Errorf("a hit in the front counts as %d", after.Hits-before.Hits)
	}
	if r := get(now, now+1); r != Stale {
		t.Errorf("with an as-of before notBefore: %v", r)
	}
	if r := get(now.Add(1000), now); r != Miss {
		t.Errorf("at the deadline: %v", r)
	}
	s.Renew(now)
	if r := get(now, now); r != Miss {
		t.Errorf("in another epoch: %v", r)
	}
}

// TestFrontHoldsNothingThatLeft: the budget counts what is in the store, so the front must not keep more alive.
func TestFrontHoldsNothingThatLeft(t *testing.T) {
	c, s := open(t, Options{MaxBytes: leastMaxBytes})
	v := NewView[[]byte](c, "v")
	for i := range 5000 {
		k := v.Key(fmt.Sprint(i))
		filled := v.Fill(k, v.Token(k, s), make([]byte, 1000), Never, 1000)
		if filled != Filled && filled != FillCapacity {
			t.Fatal(filled)
		}
		c.Wait()
		v.Get(k, Now(), 0)
	}
	held := 0
	for i := range v.front.places {
		if e := v.front.places[i].Load(); e != nil {
			held++
			if e.gone.Load() {
				t.Fatal("the front holds an entry that has left the store")
			}
		}
	}
	if held == 0 {
		t.Fatal("the front holds nothing, and the test shows nothing")
	}
}

// Two keys of one pair of places are both served from the front, and a third takes a place when it is read often enough.
func TestFrontPairs(t *testing.T) {
	c, s := open(t, Options{})
	v := NewView[string](c, "v")
	pair := func(k Key) uint64 { return k.lo & uint64(len(v.front.places)-1) >> 1 }
	keys := []Key{v.Key("0")}
	for i := 1; len(keys) < 3; i++ {
		if k := v.Key(fmt.Sprint(i)); pair(k) == pair(keys[0]) {
			keys = append(keys, k)
		}
	}
	inFront := func(k Key) bool {
		for _, place := range []*atomic.Pointer[entry[string]]{v.front.place(k), v.front.beside(k)} {
			if e := place.Load(); e != nil && e.hi == k.hi {
				return true
			}
		}
		return false
	}
	for i, k := range keys {
		mustFill(t, v, k, v.Token(k, s), "value", Never, 0)
		c.Wait()
		get(t, v, k)
		if got, want := inFront(k), i < 2; got != want {
			t.Fatalf("key %d of the pair is in the front: %t", i, got)
		}
	}
	for range 100 * frontSample {
		get(t, v, keys[2])
	}
	if !inFront(keys[2]) || inFront(keys[0]) == inFront(keys[1]) {
		t.Errorf("a key that is read often does not take one place: %t, %t, %t", inFront(keys[0]), inFront(keys[1]), inFront(keys[2]))
	}
	for _, k := range keys {
		get(t, v, k)
		v.Invalidate(k, Local)
		if _, r := v.Get(k, Now(), 0); r != Miss || inFront(k) {
			t.Errorf("after its invalidation: %v, in the front: %t", r, inFront(k))
		}
	}
}

func get(t *testing.T, v *View[string], k Key) {
	t.Helper()
	if value, r := v.Get(k, Now(), 0); r != Hit || *value != "value" {
		t.Fatal(r)
	}
}

// A reader who comes back to a key at regular intervals has it sampled like any other.
func TestSampled(t *testing.T) {
	for interval := range Instant(1000) {
		const reads = 1000 * frontSample
		k, now, all := randomKey(), Now(), 0
		for range reads {
			now += interval + 1
			if sampled(k, now) {
				all++
			}
		}
		if all < reads/frontSample/2 || all > reads/frontSample*2 {
			t.Errorf("%d of %d reads, one every %d ns, are sampled, not about one of %d", all, reads, interval+1, frontSample)
		}
	}
}

// Goroutines that read one key do not all write to one cell.
func TestGateSpreadsGoroutines(t *testing.T) {
	const goroutines = 32
	c, s := open(t, Options{})
	v := NewView[string](c, "v")
	k := v.Key("k")
	mustFill(t, v, k, v.Token(k, s), "value", Never, 0)
	c.Wait()
	get(t, v, k)
	var reading, done sync.WaitGroup
	reading.Add(goroutines)
	for range goroutines {
		done.Go(func() {
			reading.Done()
			reading.Wait() // all of them have a stack at the same time
			v.Get(k, Now(), 0)
		})
	}
	done.Wait()
	cells, hits := 0, uint64(0)
	for i := range v.gate.cells {
		if n := v.gate.cells[i].front.Load(); n > 0 {
			cells, hits = cells+1, hits+n
		}
	}
	if hits != goroutines {
		t.Fatalf("%d hits are counted, not %d", hits, goroutines)
	}
	if cells < goroutines/4 {
		t.Errorf("%d goroutines wrote to %d cells", goroutines, cells)
	}
}

// A reader is held up between finding an entry good and putting it into the front, or between that and taking it out again, while a newer
// entry takes its place in the store: who has seen the newer one must not see the older.
func TestFrontServesNothingThatWasReplaced(t *testing.T) {
	for name, heldUp := range map[string]func(c *Cache, v *View[string], e *entry[string], fill func()){
		"by a fill that is held up before the old entry is off the books": func(_ *Cache, _ *View[string], e *entry[string], fill func()) {
			e.gone.Store(true) // so that the fill, which comes to this after it has put the new entry into the store, leaves the old one alone
			fill()
		},
		"and put there by a reader that is held up": func(_ *Cache, v *View[string], e *entry[string], fill func()) {
			fill()
			v.front.place(Key{hi: e.hi, lo: e.lo}).Store(e)
		},
		"and found good by another reader before": func(c *Cache, v *View[string], e *entry[string], fill func()) {
			k := Key{hi: e.hi, lo: e.lo}
			generation := c.stripe(k).Load()
			fill()
			v.front.offer(e, generation, Now())
			v.front.place(k).Store(e)
		},
	} {
		t.Run(name, func(t *testing.T) {
			c, s := open(t, Options{})
			v := NewView[string](c, "v")
			k := v.Key("k")
			token := v.Token(k, s)
			mustFill(t, v, k, token, "old", Never, 0)
			c.Wait()
			if value, r := v.Get(k, Now(), 0); r != Hit || *value != "old" {
				t.Fatal(r)
			}
			e := v.front.place(k).Load()
			heldUp(c, v, e, func() { mustFill(t, v, k, token, "new", Never, 0) })
			if v.front.place(k).Load() != e {
				t.Fatal("the front does not hold the old entry, and the test shows nothing")
			}
			for range 2 {
				if value, r := v.Get(k, Now(), 0); r != Hit || *value != "new" {
					t.Errorf("%v: %q", r, *value)
				}
			}
		})
	}
}
