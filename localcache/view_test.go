package localcache

import (
	"slices"
	"strings"
	"testing"
	"time"
)

func TestGet(t *testing.T) {
	c, s := open(t, Options{})
	v := NewView[string](c, "v")
	k := v.Key("k")
	deadline := Now().Add(time.Hour)
	if _, r := v.Get(k, Now(), 0); r != Miss {
		t.Fatalf("Get of an empty cache: %v", r)
	}
	mustFill(t, v, k, v.Token(k, s), "value", deadline, 5)
	c.Wait()
	asOf := s.AsOf()
	for _, test := range []struct {
		name           string
		now, notBefore Instant
		want           Result
	}{
		{"fresh enough", deadline - 1, asOf, Hit},
		{"not fresh enough", deadline - 1, asOf + 1, Stale},
		{"any age will do", deadline - 1, asOf.Add(-time.Hour), Hit},
		{"at the deadline", deadline, asOf, Miss},
		{"after it", Never, asOf, Miss},
		{"expired and not fresh enough", deadline, asOf + 1, Miss},
	} {
		got, r := v.Get(k, test.now, test.notBefore)
		if r != test.want || (r == Miss) != (got == nil) || got != nil && *got != "value" {
			t.Errorf("%s: %v %v", test.name, r, got)
		}
	}
	s.Confirm(asOf + 1)
	if _, r := v.Get(k, deadline-1, asOf+1); r != Hit {
		t.Errorf("after the confirmation: %v", r)
	}
	if got, want := v.Lookups(), (Lookups{Hits: 3, Misses: 4, Stale: 1}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}

// The pointer is to the entry's own value, and outlives the entry.
func TestGetPointsIntoTheEntry(t *testing.T) {
	c, s := open(t, Options{})
	v := NewView[[4]int](c, "v")
	k := v.Key("k")
	mustFill(t, v, k, v.Token(k, s), [4]int{1, 2, 3, 4}, Never, 0)
	c.Wait()
	p, _ := v.Get(k, Now(), 0)
	q, _ := v.Get(k, Now(), 0)
	peeked, info, ok := v.PeekValue(k)
	if p != q || p != peeked || !ok || info.State != Servable {
		t.Errorf("three reads: %p, %p, %p (%+v, %v)", p, q, peeked, info, ok)
	}
	v.Invalidate(k, Local)
	c.Wait()
	if peeked, _, ok := v.PeekValue(k); ok || peeked != nil {
		t.Error("PeekValue finds what has been invalidated")
	}
	if *p != [4]int{1, 2, 3, 4} {
		t.Errorf("%v", *p)
	}
}

func TestGetDoesNotAllocate(t *testing.T) {
	c, s := open(t, Options{})
	v := NewView[string](c, "v")
	name := strings.Repeat("k", 32)
	k := v.Key(name)
	mustFill(t, v, k, v.Token(k, s), "value", Never, 5)
	c.Wait()
	// The store allocates a buffer of 64 accesses every 64 accesses, unless its policy is busy.
	if n := testing.AllocsPerRun(6400, func() { v.Get(v.Key(name), Now(), 0) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestViewsShareNothing(t *testing.T) {
	c, s := open(t, Options{})
	v, w := NewView[string](c, "same"), NewView[string](c, "same")
	if v.Key("k") == w.Key("k") {
		t.Error("two views hash alike")
	}
	if a, b := v.Key("k"), v.Key("k"); a != b {
		t.Error("one view hashes differently")
	}
	mustFill(t, v, v.Key("k"), v.Token(v.Key("k"), s), "value", Never, 0)
	c.Wait()
	if _, r := w.Get(w.Key("k"), Now(), 0); r != Miss {
		t.Errorf("Get by the other view: %v", r)
	}
	if w.Invalidate(w.Key("k"), Local) {
		t.Error("the other view evicted it")
	}
	if v.Name() != "same" {
		t.Error(v.Name())
	}
	if n := len(slices.Collect(values(v))); n != 1 {
		t.Errorf("%d entries of the view", n)
	}
	if n := len(slices.Collect(values(w))); n != 0 {
		t.Errorf("%d entries of the other view", n)
	}
}

func values[V any](v *View[V]) func(func(V) bool) {
	return func(yield func(V) bool) {
		for _, value := range v.All() {
			if !yield(*value) {
				return
			}
		}
	}
}

func TestRefillReplacesAtOnce(t *testing.T) {
	c, s := open(t, Options{})
	v := NewView[int](c, "v")
	k := v.Key("k")
	for i := range 100 {
		mustFill(t, v, k, v.Token(k, s), i, Never, 0)
		if i == 0 {
			c.Wait()
		}
		if got, r := v.Get(k, Now(), 0); r != Hit || *got != i {
			t.Fatalf("fill %d: %v", i, r)
		}
	}
	if e := c.Stats().Evictions; e.Replaced != 99 {
		t.Errorf("%+v", e)
	}
	checkBooks(t, c)
}

func TestTokens(t *testing.T) {
	c, s := open(t, Options{})
	v := NewView[int](c, "v")
	k := v.Key("k")

	token := v.Token(k, s)
	if !token.Live() || !token.Current() {
		t.Error("a new token of a live shard is not live and current")
	}
	v.Invalidate(k, Local)
	if !token.Live() || token.Current() {
		t.Error("after an invalidation the token is current, or not live")
	}

	token = v.Token(k, s)
	s.Freeze()
	if token.Current() {
		t.Error("after Freeze the token is current")
	}
	frozen := v.Token(k, s)
	if frozen.Live() || !frozen.Current() {
		t.Error("a new token of a frozen shard is live, or not current")
	}
	s.Suspend() // from one way of having no epoch for fills to another
	if !frozen.Current() {
		t.Error("a token of a frozen shard is not current when the shard is suspended")
	}
	if r := v.Fill(k, frozen, 1, Never, 0); r != FillEpoch {
		t.Errorf("Fill with a token of a frozen shard: %v", r)
	}
	s.Renew(Now())
	if frozen.Current() {
		t.Error("a token of a suspended shard is current in the next epoch")
	}

	var zero Token
	if zero.Live() || zero.Current() {
		t.Error("the zero token is live or current")
	}
	if r := v.Fill(k, zero, 1, Never, 0); r != FillEpoch {
		t.Errorf("Fill with the zero token: %v", r)
	}
	other := Key{hi: k.hi + 1, lo: k.lo}
	if r := v.Fill(k, v.Token(other, s), 1, Never, 0); r != FillInvalidated {
		t.Errorf("Fill with a token of another stripe: %v", r)
	}
	if got := c.Stats().Fills; got != (FillStats{Epoch: 2, Invalidated: 1}) {
		t.Errorf("%+v", got)
	}
}

func TestTokenOfAnotherCache(t *testing.T) {
	c, _ := open(t, Options{})
	d, foreign := open(t, Options{})
	v, w := NewView[int](c, "v"), NewView[int](d, "w")
	k := v.Key("k")
	if r := v.Fill(k, w.Token(k, foreign), 1, Never, 0); r != FillEpoch {
		t.Errorf("Fill with a token of another cache: %v", r)
	}
	defer func() {
		if p, ok := recover().(string); !ok || !strings.Contains(p, "another Cache") {
			t.Errorf("recovered %v", p)
		}
	}()
	v.Token(k, foreign)
}

func TestInvalidate(t *testing.T) {
	c, s := open(t, Options{})
	v := NewView[string](c, "v")
	for _, cause := range []Cause{Tracking, Broadcast, Local} {
		k := v.Key(cause.String())
		if v.Invalidate(k, cause) {
			t.Errorf("%v: an absent key was evicted", cause)
		}
		if _, ok := v.LastInvalidation(k); ok {
			t.Errorf("%v: an invalidation without effect is remembered", cause)
		}
		mustFill(t, v, k, v.Token(k, s), "value", Never, 0)
		c.Wait()
		before := Now()
		if !v.Invalidate(k, cause) {
			t.Errorf("%v: a resident key was not evicted", cause)
		}
		last, ok := v.LastInvalidation(k)
		if !ok || last.Cause != cause || last.At < before || last.At > Now() {
			t.Errorf("%v: last invalidation %+v, %v", cause, last, ok)
		}
	}
	want := InvalidationCounts{Evicted: 1, Absent: 1}
	if got := c.Stats().Invalidations; got != (InvalidationStats{want, want, want}) {
		t.Errorf("%+v", got)
	}
	checkBooks(t, c)
}

// What is remembered of one key is not told about another of its group.
func TestLastInvalidationIsOfThatKey(t *testing.T) {
	c, _ := open(t, Options{})
	v := NewView[string](c, "v")
	a, b := Key{hi: 5, lo: 1}, Key{hi: 5 + recentGroups, lo: 2}
	c.recent.note(a, Local)
	if _, ok := v.LastInvalidation(b); ok {
		t.Error("another key's invalidation")
	}
	c.recent.note(b, Tracking)
	if _, ok := v.LastInvalidation(a); ok {
		t.Error("another key's invalidation")
	}
}

func TestPeekAndAll(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c, s := open(t, Options{})
		v := NewView[string](c, "v")
		k := v.Key("k")
		if _, ok := v.Peek(k); ok {
			t.Fatal("Peek of an empty cache")
		}
		deadline := Now().Add(5 * time.Second)
		token := v.Token(k, s)
		mustFill(t, v, k, token, "value", deadline, 160)
		c.Wait()
		time.Sleep(time.Second)
		want := Info{
			Key: k, State: Servable, Age: time.Second, Deadline: deadline,
			Epoch: s.Epoch(), AsOf: s.AsOf(), Sealed: false, Cost: v.overhead + 170,
		}
		check := func(state State) {
			t.Helper()
			want.State = state
			if got, ok := v.Peek(k); !ok || got != want {
				t.Errorf("Peek: %+v, want %+v", got, want)
			}
			n := 0
			for got, value := range v.All() {
				n++
				if got != want || *value != "value" {
					t.Errorf("All: %+v, want %+v", got, want)
				}
			}
			if n != 1 {
				t.Errorf("All yields %d entries", n)
			}
		}
		check(Servable)
		before := v.Lookups()
		c.stripe(k).Add(1)
		check(Invalidated)
		c.stripe(k).Add(^uint64(0))
		if v.Lookups() != before {
			t.Error("Peek counts as a read")
		}
		v.Get(k, Now(), 0)
		want.Sealed = true
		check(Servable)
		c.stripe(k).Add(1)
		check(Servable) // another key of the stripe
		time.Sleep(4 * time.Second)
		want.Age = 5 * time.Second
		check(Expired)
	})
}

func TestPeekAfterTheEpoch(t *testing.T) {
	c, s := open(t, Options{})
	v := NewView[string](c, "v")
	k := v.Key("k")
	mustFill(t, v, k, v.Token(k, s), "value", Never, 0)
	c.Wait()
	r, _ := c.look(k)
	s.Renew(Now()) // and the sweep may have taken it already, so the entry itself is asked
	if info, ok := c.describe(r.head(), Now()); !ok || info.State != EpochOver {
		t.Errorf("%+v, %v", info, ok)
	}
}

// The loop over All may use the cache, and may leave.
func TestAllIsReentrant(t *testing.T) {
	c, s := open(t, Options{})
	v := NewView[int](c, "v")
	for i := range 100 {
		k := randomKey()
		mustFill(t, v, k, v.Token(k, s), i, Never, 0)
	}
	c.Wait()
	n := 0
	for info := range v.All() {
		if !v.Invalidate(info.Key, Local) {
			t.Errorf("%v is not there", info.Key)
		}
		mustFill(t, v, info.Key, v.Token(info.Key, s), 1, Never, 0)
		c.Wait()
		if n++; n == 50 {
			break
		}
	}
	for range v.All() {
		c.Close()
	}
}

func TestStrings(t *testing.T) {
	for _, test := range []struct {
		value interface{ String() string }
		want  string
	}{
		{Hit, "hit"}, {Miss, "miss"}, {Stale, "stale"},
		{Filled, "filled"}, {FillInvalidated, "invalidated"}, {FillEpoch, "epoch"}, {FillCapacity, "capacity"}, {FillClosed, "closed"},
		{Tracking, "tracking"}, {Broadcast, "broadcast"}, {Local, "local"},
		{Servable, "servable"}, {Expired, "expired"}, {EpochOver, "epoch over"}, {Invalidated, "invalidated"},
	} {
		if got := test.value.String(); got != test.want {
			t.Errorf("%q, want %q", got, test.want)
		}
	}
}
