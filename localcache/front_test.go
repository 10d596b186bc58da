package localcache

import (
	"fmt"
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
	v.front.offer(e, c.stripe(k).Load(), 1)
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
