package oracle

import (
	"fmt"
	"sync"
	"time"
)

// leaseSlack covers the way of the answer that shows a lease, and what sets Redis's clock apart from this one.
const leaseSlack = 250 * time.Millisecond

// leases are the leases that were seen last, by key.
type leases struct {
	mu    sync.Mutex
	byKey map[int]lease
}

type lease struct {
	marker string
	first  Instant // when it was seen first
}

// Lease judges a lease that Redis was seen to hold: marker tells it from others of the key; remaining is what is left of its time, negative
// if it has no end; life is how long a lease may live. The look at it began at began.
func (o *Oracle) Lease(key int, marker string, remaining, life time.Duration, began Instant) Rule {
	o.leases.mu.Lock()
	if o.leases.byKey == nil {
		o.leases.byKey = map[int]lease{}
	}
	known, ok := o.leases.byKey[key]
	if !ok || known.marker != marker {
		known = lease{marker: marker, first: Now()}
		o.leases.byKey[key] = known
	}
	o.leases.mu.Unlock()
	age := began.Sub(known.first)
	if remaining >= 0 && remaining <= life+time.Millisecond && age <= life+leaseSlack {
		return Kept
	}
	end := fmt.Sprintf("ends in %v", remaining)
	if remaining < 0 {
		end = "has no end"
	}
	o.accuse(LeaseOverdue, Outside, key, fmt.Sprintf("the lease of key %d was first seen %v ago, %s, and may live for %v", key, age, end, life))
	return LeaseOverdue
}
