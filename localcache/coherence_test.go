package localcache

import (
	"testing"
)

// A fill goes through these moments. Whatever makes it worthless may happen at any of them.
type moment int

const (
	beforeToken moment = iota
	beforeFill         // the value is being fetched
	duringFill         // the token has been checked, the value has not been handed to the store
	queued             // Fill has returned, the store has not applied it
	visible            // nobody has read it
	sealed             // it has been read
	moments
)

func (m moment) String() string {
	return [...]string{"before token", "before fill", "during fill", "queued", "visible", "sealed"}[m]
}

// fillWith fills k and lets event happen at the given moment. When it returns nothing is pending.
func fillWith(t *testing.T, c *Cache, v *View[string], s *Shard, b *breakpoints, k Key, value string, at moment, event func()) FillResult {
	t.Helper()
	happen := func(m moment) {
		if m == at {
			event()
		}
	}
	happen(beforeToken)
	token := v.Token(k, s)
	happen(beforeFill)

	release := func() {}
	if at == queued || at == duringFill {
		release = stallWorker(c)
	}
	var result FillResult
	if at == duringFill {
		finish := b.run(k, 0, func() { result = v.Fill(k, token, value, Never, 0) })
		// What the event queues is queued before the fill, and applied when the worker goes on.
		event()
		finish()
	} else {
		result = v.Fill(k, token, value, Never, 0)
	}
	happen(queued)
	release()
	c.Wait()
	happen(visible)
	if at == sealed {
		if _, r := v.Get(k, Now(), 0); r != Hit {
			t.Fatalf("Get before the event: %v", r)
		}
		event()
	}
	return result
}

// TestFillAgainstInvalidation is the promise that no read that begins after an invalidation has returned sees what was
// fetched before it, with the race forced at each moment, over an empty place and over an older entry.
func TestFillAgainstInvalidation(t *testing.T) {
	for _, over := range []string{"", "an older entry"} {
		for at := range moments {
			t.Run(at.String()+over, func(t *testing.T) {
				c, s, b := openWithBreakpoints(t)
				v := NewView[string](c, "v")
				k := v.Key("k")
				if over != "" {
					mustFill(t, v, k, v.Token(k, s), "older", Never, 0)
					c.Wait()
				}
				result := fillWith(t, c, v, s, b, k, "old", at, func() { v.Invalidate(k, Tracking) })
				got, r := v.Get(k, Now(), 0)
				switch at {
				case beforeToken:
					if r != Hit || *got != "old" || result != Filled {
						t.Errorf("fetched after the invalidation, but Fill: %v, Get: %v", result, r)
					}
				default:
					if r != Miss {
						t.Errorf("Get: %v %q", r, *got)
					}
				}
				if at == beforeFill && result != FillInvalidated {
					t.Errorf("Fill: %v", result)
				}
				// Whatever is left in the store is not in the way of the next fill.
				mustFill(t, v, k, v.Token(k, s), "new", Never, 0)
				c.Wait()
				if got, r := v.Get(k, Now(), 0); r != Hit || *got != "new" {
					t.Errorf("Get after the next fill: %v", r)
				}
				checkBooks(t, c)
			})
		}
	}
}

// TestFillAgainstEpochs is the same for the end of an epoch: a flush, a lost link, a shard that is gone.
func TestFillAgainstEpochs(t *testing.T) {
	events := map[string]func(*Shard){
		"flush":   func(s *Shard) { s.Renew(Now()) },
		"suspend": (*Shard).Suspend,
		"outage":  func(s *Shard) { s.Suspend(); s.Renew(Now()) },
		"thaw":    func(s *Shard) { s.Freeze(); s.Renew(Now()) },
		"close":   (*Shard).Close,
	}
	for name, event := range events {
		for at := range moments {
			t.Run(name+" "+at.String(), func(t *testing.T) {
				c, s, b := openWithBreakpoints(t)
				v := NewView[string](c, "v")
				k := v.Key("k")
				result := fillWith(t, c, v, s, b, k, "old", at, func() { event(s) })
				_, r := v.Get(k, Now(), 0)
				switch {
				case at == beforeToken && s.Live():
					if r != Hit {
						t.Errorf("fetched in the new epoch, but Fill: %v, Get: %v", result, r)
					}
				case r != Miss:
					t.Errorf("Get: %v", r)
				case at <= beforeFill && result != FillEpoch:
					t.Errorf("Fill: %v", result)
				}
				checkBooks(t, c)
			})
		}
	}
}

// TestFillAgainstFreeze: from Freeze on nothing is filled, but what was on its way is as good as what is there.
func TestFillAgainstFreeze(t *testing.T) {
	for at := range moments {
		t.Run(at.String(), func(t *testing.T) {
			c, s, b := openWithBreakpoints(t)
			v := NewView[string](c, "v")
			k := v.Key("k")
			result := fillWith(t, c, v, s, b, k, "value", at, s.Freeze)
			_, r := v.Get(k, Now(), 0)
			if at <= beforeFill {
				if result != FillEpoch || r != Miss {
					t.Errorf("Fill: %v, Get: %v", result, r)
				}
			} else if result != Filled || r != Hit {
				t.Errorf("Fill: %v, Get: %v", result, r)
			}
			if _, r := v.Get(k, Now(), Now()); r == Hit {
				t.Error("a frozen shard satisfied a reader who wants the present")
			}
			checkBooks(t, c)
		})
	}
}

// Two fills race. Either may win, an invalidation ends both, and one that the invalidation preceded survives.
func TestTwoFills(t *testing.T) {
	t.Run("both current", func(t *testing.T) {
		c, s, b := openWithBreakpoints(t)
		v := NewView[string](c, "v")
		k := v.Key("k")
		finish := b.run(k, 0, func() { v.Fill(k, v.Token(k, s), "first", Never, 0) })
		mustFill(t, v, k, v.Token(k, s), "second", Never, 0)
		c.Wait()
		finish()
		c.Wait()
		if _, r := v.Get(k, Now(), 0); r != Hit {
			t.Errorf("Get: %v", r)
		}
		v.Invalidate(k, Local)
		c.Wait()
		if _, r := v.Get(k, Now(), 0); r != Miss {
			t.Errorf("Get after the invalidation: %v", r)
		}
		checkBooks(t, c)
	})
	for _, order := range []string{"old one visible first", "new one visible first", "both queued, old one first", "both queued, new one first"} {
		t.Run(order, func(t *testing.T) {
			c, s, b := openWithBreakpoints(t)
			v := NewView[string](c, "v")
			k := v.Key("k")
			release := func() {}
			if order[0] == 'b' {
				release = stallWorker(c)
			}
			fillNew := func() {
				mustFill(t, v, k, v.Token(k, s), "new", Never, 0)
				if order[0] != 'b' {
					c.Wait()
				}
			}
			finishOld := b.run(k, 0, func() { v.Fill(k, v.Token(k, s), "old", Never, 0) })
			v.Invalidate(k, Tracking)
			switch order {
			case "old one visible first", "both queued, old one first":
				finishOld()
				if order[0] != 'b' {
					c.Wait()
				}
				fillNew()
			default:
				fillNew()
				finishOld()
			}
			release()
			c.Wait()
			// The store may have kept only the old one, so a miss is allowed.
			if got, r := v.Get(k, Now(), 0); r == Hit && *got != "new" {
				t.Errorf("Get: %q", *got)
			}
			checkBooks(t, c)
		})
	}
}

// A read that overlaps an invalidation may have either outcome, but must not make the old entry servable to a later one.
func TestReadDuringInvalidation(t *testing.T) {
	// Invalidate looks twice at a resident key, then deletes.
	for skip, at := range []string{"before the look", "between the looks", "before the deletion"} {
		for _, wasRead := range []bool{false, true} {
			c, s, b := openWithBreakpoints(t)
			v := NewView[string](c, "v")
			k := v.Key("k")
			mustFill(t, v, k, v.Token(k, s), "old", Never, 0)
			c.Wait()
			if wasRead {
				v.Get(k, Now(), 0)
			}
			finish := b.run(k, skip, func() { v.Invalidate(k, Tracking) })
			if _, r := v.Get(k, Now(), 0); (r == Hit) != wasRead {
				t.Errorf("%s, read before %v: Get during the invalidation: %v", at, wasRead, r)
			}
			finish()
			if _, r := v.Get(k, Now(), 0); r != Miss {
				t.Errorf("%s, read before %v: Get: %v", at, wasRead, r)
			}
			checkBooks(t, c)
		}
	}
}

// Two invalidations of one key: the one that returns first must have removed the entry even if the other one was first
// to find it.
func TestTwoInvalidations(t *testing.T) {
	c, s, b := openWithBreakpoints(t)
	v := NewView[string](c, "v")
	k := v.Key("k")
	mustFill(t, v, k, v.Token(k, s), "old", Never, 0)
	c.Wait()
	v.Get(k, Now(), 0)
	var slow bool
	finish := b.run(k, 2, func() { slow = v.Invalidate(k, Tracking) })
	if v.Invalidate(k, Local) {
		t.Error("both report the eviction")
	}
	if _, r := v.Get(k, Now(), 0); r != Miss {
		t.Errorf("Get: %v", r)
	}
	finish()
	if !slow {
		t.Error("neither reports the eviction")
	}
	checkBooks(t, c)
}

// The as-of instant by which a read is judged is taken before the look-up. One that is confirmed in between vouches for
// invalidations that the look-up may have been too early to see: the reader would serve, as fresh, what was overwritten.
func TestAsOfIsTakenBeforeTheLookUp(t *testing.T) {
	c, _, b := openWithBreakpoints(t)
	s := c.NewShard()
	s.Renew(10)
	v := NewView[string](c, "v")
	k := v.Key("k")
	mustFill(t, v, k, v.Token(k, s), "value", Never, 0)
	c.Wait()
	var r Result
	finish := b.run(k, 0, func() { _, r = v.Get(k, Now(), 20) })
	s.Confirm(30)
	finish()
	if r != Stale {
		t.Errorf("Get: %v", r)
	}
	if _, r = v.Get(k, Now(), 20); r != Hit {
		t.Errorf("the next Get: %v", r)
	}
}

// The epoch and the as-of instant that a read is judged by belong together: an old entry must not be vouched for by the
// as-of instant of the link that came after the one that lost its invalidation.
func TestRenewDuringRead(t *testing.T) {
	c, _, b := openWithBreakpoints(t)
	s := c.NewShard()
	s.Renew(10)
	v := NewView[string](c, "v")
	k := v.Key("k")
	mustFill(t, v, k, v.Token(k, s), "value", Never, 0)
	c.Wait()
	s.Freeze()
	var r Result
	finish := b.run(k, 0, func() { _, r = v.Get(k, Now(), 20) })
	s.Renew(30)
	finish()
	if r == Hit {
		t.Error("served an entry of the old epoch by the as-of instant of the new one")
	}
}

// Two keys with the same address: the second verifies as itself only.
func TestAddressCollision(t *testing.T) {
	c, s := open(t, Options{})
	v := NewView[string](c, "v")
	a, b := Key{hi: 1, lo: 7}, Key{hi: 2, lo: 7}
	mustFill(t, v, a, v.Token(a, s), "a", Never, 0)
	c.Wait()
	if got, r := v.Get(b, Now(), 0); r != Miss {
		t.Fatalf("Get of another key: %v %q", r, *got)
	}
	if _, ok := v.Peek(b); ok {
		t.Error("Peek of another key found something")
	}
	if v.Invalidate(b, Tracking) {
		t.Error("invalidating another key evicted something")
	}
	if got, r := v.Get(a, Now(), 0); r != Hit || *got != "a" {
		t.Errorf("Get after another key was invalidated: %v", r)
	}
	mustFill(t, v, b, v.Token(b, s), "b", Never, 0)
	c.Wait()
	if got, r := v.Get(b, Now(), 0); r != Hit || *got != "b" {
		t.Errorf("Get of the second key: %v", r)
	}
	if _, r := v.Get(a, Now(), 0); r != Miss {
		t.Errorf("Get of the first key, whose place was taken: %v", r)
	}
	// An entry of a that waits in the queue while b is resident is ended by an invalidation of a all the same.
	token := v.Token(a, s)
	release := stallWorker(c)
	mustFill(t, v, a, token, "a", Never, 0) // takes b's place at once
	v.Invalidate(a, Tracking)
	release()
	c.Wait()
	if _, r := v.Get(a, Now(), 0); r != Miss {
		t.Errorf("Get after the invalidation: %v", r)
	}
	checkBooks(t, c)
}

// A collision of the address between views of different types must not confuse the types.
func TestAddressCollisionBetweenTypes(t *testing.T) {
	c, s := open(t, Options{})
	v, w := NewView[string](c, "v"), NewView[int](c, "w")
	k := Key{hi: 1, lo: 7}
	mustFill(t, v, k, v.Token(k, s), "a", Never, 0)
	c.Wait()
	if _, r := w.Get(k, Now(), 0); r != Miss {
		t.Errorf("Get: %v", r)
	}
	for range w.All() {
		t.Error("iteration over the other view yields the entry")
	}
}
