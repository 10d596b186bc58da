package localcache

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"testing"
	"time"
)

// liveHeap collects twice because a sync.Pool keeps its content through one collection.
func liveHeap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func randomKey() Key { return Key{hi: rand.Uint64(), lo: rand.Uint64()} }

// write fills new keys with values of one size until ten times the budget has been charged, by the constants that this
// test is there to check.
func write(v *View[[]byte], s *Shard, size int) {
	for written := int64(0); written < 10*v.cache.maxBytes; written += v.cost(int64(size)) {
		k := randomKey()
		for v.Fill(k, v.Token(k, s), make([]byte, size), Never, int64(size)) == FillCapacity {
			v.cache.Wait() // what is refused would not have been written
		}
	}
	v.cache.Wait()
}

// TestBudget holds the package's constants to what the process needs. The tables of the store double at different
// numbers of entries, so several budgets are tried.
func TestBudget(t *testing.T) {
	budgets := []int64{4 << 20, 8 << 20, 12 << 20}
	if raceDetector || testing.Short() {
		budgets = budgets[:1]
	}
	for _, maxBytes := range budgets {
		for _, size := range []int{32, 200, 1024, 20_000, 200_000} {
			t.Run(fmt.Sprintf("%dMiB/%dB", maxBytes>>20, size), func(t *testing.T) {
				before := liveHeap()
				c, s := open(t, Options{MaxBytes: maxBytes})
				v := NewView[[]byte](c, "v")
				write(v, s, size)
				live := float64(liveHeap()-before) / float64(maxBytes)
				stats := c.Stats()
				t.Logf("%d items, heap %.2f, booked %.2f of MaxBytes", stats.Items, live, float64(stats.Bytes)/float64(maxBytes))
				if live > 1.25 {
					t.Errorf("live heap is %.2f of MaxBytes", live)
				}
				if live < 0.7 {
					t.Errorf("live heap is only %.2f of MaxBytes: entries are charged too much", live)
				}
				if stats.Bytes > maxBytes+maxBytes/8 {
					t.Errorf("%d bytes on the books of %d", stats.Bytes, maxBytes)
				}
				runtime.KeepAlive(v)
			})
		}
	}
}

// A cache that was full of small values keeps the tables for them. Large values must not come on top of that.
func TestBudgetAfterSizesShift(t *testing.T) {
	const maxBytes = 4 << 20
	before := liveHeap()
	c, s := open(t, Options{MaxBytes: maxBytes})
	v := NewView[[]byte](c, "v")
	write(v, s, 32)
	c.tidy() // as it does every ten seconds
	write(v, s, 20_000)
	if live := float64(liveHeap()-before) / maxBytes; live > 1.25 {
		t.Errorf("live heap is %.2f of MaxBytes", live)
	}
	runtime.KeepAlive(v)
}

// When a fill takes the place of a smaller value, the policy makes no room for the difference.
func TestBudgetWhenValuesGrow(t *testing.T) {
	const maxBytes = 4 << 20
	c, s := open(t, Options{MaxBytes: maxBytes})
	v := NewView[[]byte](c, "v")
	keys := make([]Key, 1000)
	for i := range keys {
		keys[i] = randomKey()
		mustFill(t, v, keys[i], v.Token(keys[i], s), make([]byte, 10), Never, 10)
	}
	c.Wait()
	refused := false
	for _, k := range keys {
		refused = v.Fill(k, v.Token(k, s), make([]byte, 10_000), Never, 10_000) == FillCapacity || refused
	}
	c.Wait()
	if !refused {
		t.Error("10 MB were accepted on top of each other")
	}
	c.tidy()
	c.Wait()
	if stats := c.Stats(); stats.Bytes > maxBytes {
		t.Errorf("%d bytes on the books of %d after tidying", stats.Bytes, maxBytes)
	}
	for i := range 10 {
		k := randomKey()
		mustFill(t, v, k, v.Token(k, s), make([]byte, i), Never, int64(i))
	}
	checkBooks(t, c)
}

func TestValueLargerThanTheBudget(t *testing.T) {
	c, s := open(t, Options{MaxBytes: 1 << 20})
	v := NewView[string](c, "v")
	k := v.Key("k")
	for _, cost := range []int64{1 << 20, 1 << 40, 1<<63 - 1} {
		if r := v.Fill(k, v.Token(k, s), "", Never, cost); r != FillCapacity {
			t.Errorf("Fill with a cost of %d: %v", cost, r)
		}
	}
	mustFill(t, v, k, v.Token(k, s), "", Never, -1)
	c.Wait()
	if info, ok := v.Peek(k); !ok || info.Cost != v.overhead {
		t.Errorf("a negative cost: %+v, %v", info, ok)
	}
	checkBooks(t, c)
}

func TestEntryBytes(t *testing.T) {
	b := newBudget(64 << 20)
	for _, test := range []struct {
		name                    string
		items, bytes, mostItems int64
		want                    int64
	}{
		{"empty", 0, 0, 1000, b.capacity},
		{"as many as ever", 1000, 300_000, 1000, b.capacity},
		{"tables for 100,000, now 10 KB each", 1000, 10_000_000, 100_000, (b.capacity - 100_000*slotBytes) * 10_000 / (10_000 - slotBytes)},
		{"tables larger than everything", 1000, 10_000_000, 10_000_000, b.capacity / 8},
	} {
		if got := b.entryBytes(test.items, test.bytes, test.mostItems); got < test.want-1 || got > test.want+1 {
			t.Errorf("%s: %d, want %d", test.name, got, test.want)
		}
	}
}

func TestFixedTablesFitTheLeastBudget(t *testing.T) {
	for maxBytes := int64(leastMaxBytes); maxBytes <= mostMaxBytes; maxBytes *= 2 {
		if b := newBudget(maxBytes); b.capacity < maxBytes/2 {
			t.Errorf("MaxBytes %d leaves %d for entries", maxBytes, b.capacity)
		}
	}
}

// An entry that expires is gone within an interval although nobody asks for it.
func TestExpiredEntriesAreSwept(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c, s := open(t, Options{})
		v := NewView[string](c, "v")
		mortal, immortal := v.Key("mortal"), v.Key("immortal")
		mustFill(t, v, mortal, v.Token(mortal, s), "m", Now().Add(time.Second), 1)
		mustFill(t, v, immortal, v.Token(immortal, s), "i", Never, 1)
		time.Sleep(tidyInterval + time.Second)
		c.Wait()
		if stats := c.Stats(); stats.Items != 1 || stats.Evictions.Expired != 1 {
			t.Errorf("%+v", stats)
		}
		if _, ok := v.Peek(mortal); ok {
			t.Error("the expired entry is still there")
		}
		if _, ok := v.Peek(immortal); !ok {
			t.Error("the other entry is gone")
		}
		checkBooks(t, c)
	})
}

// The entries of an epoch that is over are swept without waiting for the interval, and those of other shards are not.
func TestDeadEpochsAreSwept(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c, dying := open(t, Options{})
		living := c.NewShard()
		living.Renew(Now())
		v := NewView[int](c, "v")
		for i := range 10_000 {
			k, s := randomKey(), dying
			if i%10 == 0 {
				s = living
			}
			mustFill(t, v, k, v.Token(k, s), i, Never, 0)
		}
		c.Wait()
		dying.Renew(Now())
		time.Sleep(time.Millisecond) // the bubble's clock moves when everything has come to rest
		if stats := c.Stats(); stats.Items != 1000 || stats.Evictions.Flushed != 9000 {
			t.Errorf("%+v", stats)
		}
		for info, i := range v.All() {
			if info.State != Servable || *i%10 != 0 {
				t.Errorf("%+v", info)
			}
		}
		checkBooks(t, c)
	})
}

// An entry that an invalidation overtook on its way into the store is of no use to anyone.
func TestOvertakenEntriesAreSwept(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c, s := open(t, Options{})
		v := NewView[string](c, "v")
		k := v.Key("k")
		release := stallWorker(c)
		mustFill(t, v, k, v.Token(k, s), "old", Never, 0)
		v.Invalidate(k, Tracking)
		release()
		c.Wait()
		if info, ok := v.Peek(k); !ok || info.State != Invalidated {
			t.Fatalf("%+v, %v", info, ok)
		}
		c.tidy()
		if _, ok := v.Peek(k); ok {
			t.Error("still there")
		}
		checkBooks(t, c)
	})
}

// A fill that took the place of a dead entry is not swept with it.
func TestSweepSparesTheSuccessor(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c, s := open(t, Options{})
		v := NewView[string](c, "v")
		k := v.Key("k")
		mustFill(t, v, k, v.Token(k, s), "dead", 0, 0)
		c.Wait()
		r, _ := c.look(k)
		mustFill(t, v, k, v.Token(k, s), "alive", Never, 0)
		c.remove([]departing{{r, departedExpired}})
		c.Wait()
		if got, r := v.Get(k, Now(), 0); r != Hit || *got != "alive" {
			t.Errorf("%v", r)
		}
		checkBooks(t, c)
	})
}
