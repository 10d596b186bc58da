package localcache

import "time"

const (
	// tidyInterval bounds how long an expired entry that nobody asks for occupies its bytes. A pass over a million
	// entries takes about a tenth of a second, so one that takes longer than a hundredth of the interval stretches it.
	tidyInterval = 10 * time.Second
	tidyShare    = 100

	// trimInterval keeps refused fills from causing one pass after another.
	trimInterval = time.Second

	// removeBatch bounds the memory that a pass needs, 24 bytes a departing entry.
	removeBatch = 1 << 18

	// removePace is how many deletions are queued before waiting for the store to apply them: a full queue would refuse
	// fills and hold up invalidations.
	removePace = 1024
)

// tend is the cache's own goroutine.
func (c *Cache) tend() {
	defer close(c.stopped)
	timer := time.NewTimer(tidyInterval)
	defer timer.Stop()
	var took time.Duration
	start := Now()
	for {
		select {
		case <-c.stop:
			return
		case <-c.trimRequests:
			// A request that comes too early is dropped. The next refused fill makes another.
			if Now().Sub(start) < max(trimInterval, tidyShare*took) {
				continue
			}
		case <-c.tidyRequests:
		case <-timer.C:
		}
		start = Now()
		c.tidy()
		took = Now().Sub(start)
		timer.Reset(max(tidyInterval, tidyShare*took))
	}
}

// requestTidy is for shards whose entries have become unservable, requestTrim for fills that found no room.
func (c *Cache) requestTidy() { request(c.tidyRequests) }
func (c *Cache) requestTrim() { request(c.trimRequests) }

func request(requests chan<- struct{}) {
	select {
	case requests <- struct{}{}:
	default: // one that is pending will see what this one is for
	}
}

// tidy removes every entry that can never be served again, then sees to it that the budget is kept. Reads remove nothing:
// what they find dead they are about to refill, and a fill takes a dead entry's place at once.
func (c *Cache) tidy() {
	for !c.closed() {
		var dead []departing
		var items, bytes int64
		now := Now()
		c.store.IterValues(func(r resident) (stop bool) {
			h := r.head()
			items++
			bytes += h.cost
			if why, ok := c.dead(h, now); ok {
				dead = append(dead, departing{r, why})
			}
			return len(dead) == removeBatch
		})
		c.mostItems.Store(max(c.mostItems.Load(), items))
		for _, d := range dead {
			items--
			bytes -= d.head().cost
		}
		c.remove(dead)
		if len(dead) < removeBatch {
			c.trim(items, bytes)
			return
		}
	}
}

// dead reports whether an entry that is in the store can never be served again, and how to book its departure.
func (c *Cache) dead(h *header, now Instant) (departure, bool) {
	switch {
	case h.deadline <= now:
		return departedExpired, true
	case h.passed(c.stripe(Key{hi: h.hi}).Load()):
		return departedFlushed, true
	}
	// The table is read after the entry was seen, so it is not older than the entry's token.
	table := c.shards.Load()
	return departedFlushed, table == nil || (*table)[h.shard].epoch != h.epoch
}

// trim evicts, without regard to popularity, what the policy does not know it has: see admit.
func (c *Cache) trim(items, bytes int64) {
	if c.closed() {
		return
	}
	idle := max(0, c.mostItems.Load()-items) * slotBytes
	excess := bytes + idle - c.budget.capacity
	if excess < c.budget.capacity/32 { // what was filled and evicted during the pass
		return
	}
	var surplus []departing
	c.store.IterValues(func(r resident) (stop bool) {
		surplus = append(surplus, departing{r, departedCapacity})
		excess -= r.head().cost - slotBytes
		return excess <= 0 || len(surplus) == removeBatch
	})
	c.remove(surplus)
}

type departing struct {
	resident
	why departure
}

func (c *Cache) remove(entries []departing) {
	for i, d := range entries {
		if c.closed() {
			return
		}
		// An entry that has left in the meantime, most likely because a fill took its place, must not take that fill
		// with it.
		if c.depart(d.resident, d.why) {
			c.store.Del(d.head().lo)
		}
		if i%removePace == removePace-1 {
			c.store.Wait()
		}
	}
}
