package localcache

import "time"

const (
	// sweepInterval bounds how long an expired entry that nobody asks for occupies its bytes. A full sweep of a million
	// entries takes about a tenth of a second, so one that takes longer than a hundredth of the interval stretches it.
	sweepInterval = 10 * time.Second
	sweepShare    = 100

	// sweepBatch bounds the memory of a sweep, 16 bytes a departing entry.
	sweepBatch = 1 << 18

	// sweepPace is how many deletions are queued before waiting for the store to apply them: a full queue would refuse
	// fills and hold up invalidations.
	sweepPace = 1024
)

// tend is the cache's own goroutine.
func (c *Cache) tend() {
	defer close(c.stopped)
	timer := time.NewTimer(sweepInterval)
	defer timer.Stop()
	for {
		select {
		case <-c.stop:
			return
		case <-c.trimRequests:
			c.trim()
		case <-c.sweepRequests:
			c.sweep()
		case <-timer.C:
			start := Now()
			c.trim()
			c.sweep()
			timer.Reset(max(sweepInterval, sweepShare*Now().Sub(start)))
		}
	}
}

func (c *Cache) requestSweep() { request(c.sweepRequests) }
func (c *Cache) requestTrim()  { request(c.trimRequests) }

func request(requests chan<- struct{}) {
	select {
	case requests <- struct{}{}:
	default: // one that is pending will see what this one is for
	}
}

// sweep removes every entry that can never be served again. Reads do not: what they find dead they are about to refill,
// and a fill takes a dead entry's place at once.
func (c *Cache) sweep() {
	for more := true; more && !c.closed(); {
		var dead []departing
		now := Now()
		c.store.IterValues(func(r resident) (stop bool) {
			if why, ok := c.dead(r.head(), now); ok {
				dead = append(dead, departing{r, why})
			}
			return len(dead) == sweepBatch
		})
		c.remove(dead)
		more = len(dead) == sweepBatch
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

// trim brings entries and tables back under the capacity when the policy believes they already are, and tells the policy
// what the tables leave for entries.
func (c *Cache) trim() {
	if c.closed() {
		return
	}
	c.store.Wait() // only what is resident counts
	items, bytes := c.items.Load(), c.bytes.Load()
	c.mostItems.Store(max(c.mostItems.Load(), items))
	c.store.UpdateMaxCost(c.budget.entryBytes(items, bytes, c.mostItems.Load()))

	excess := bytes + c.idleBytes() - c.budget.capacity
	if excess <= 0 {
		return
	}
	var surplus []departing
	c.store.IterValues(func(r resident) (stop bool) {
		surplus = append(surplus, departing{r, departedCapacity})
		excess -= r.head().cost - slotBytes
		return excess <= 0
	})
	c.remove(surplus)
}

type departing struct {
	resident
	why departure
}

func (c *Cache) remove(dead []departing) {
	for i, d := range dead {
		if c.closed() {
			return
		}
		// An entry that has left in the meantime, most likely because a fill took its place, must not take that fill
		// with it.
		if c.depart(d.resident, d.why) {
			c.store.Del(d.head().lo)
		}
		if i%sweepPace == sweepPace-1 {
			c.store.Wait()
		}
	}
}
