package nearcache

import (
	"slices"

	"github.com/go-nearcache/nearcache/localcache"
	"github.com/go-nearcache/nearcache/tracking"
)

// A routing says which server owns which key, the client's stranger where no owner is known and open. It is immutable once published.
type routing struct {
	only    *server                  // it owns every key; nil in a cluster
	slots   *[tracking.Slots]*server // in a cluster: the owner of each slot
	servers []*server
}

// serverOf returns the server that owns the key prefix+key, which is given in two parts so that nobody has to join them.
func (c *Client) serverOf(prefix, key string) *server {
	r := c.routing.Load()
	if r.slots == nil {
		return r.only
	}
	return r.slots[tracking.Slot(prefix, key)]
}

// shardOf returns what L1 knows of the server that owns the key prefix+key. A value may be kept under a token of this shard only, and only if
// it came from that server: see reply.shard.
func (c *Client) shardOf(prefix, key string) *localcache.Shard { return c.serverOf(prefix, key).shard }

// servers are those that own something.
func (c *Client) servers() []*server { return c.routing.Load().servers }

// routeOnly has one server own everything.
func (c *Client) routeOnly(s *server) { c.routing.Store(&routing{only: s, servers: []*server{s}}) }

// slotted reports whether the keys are divided into slots, so that those of one command must be of one slot.
func (c *Client) slotted() bool { return c.routing.Load().slots != nil }

// uncovered reports whether a key has no owner whose link is open.
func (r *routing) uncovered(stranger *server) bool {
	if r.slots == nil {
		return r.only == stranger
	}
	return slices.Contains(r.slots[:], stranger)
}

// lostTo returns the servers that own less in the next routing. A nil routing has none.
func (r *routing) lostTo(next *routing) map[*server]bool {
	lost := make(map[*server]bool)
	switch {
	case r == nil:
	case r.slots == nil && r.only != next.only:
		lost[r.only] = true
	case r.slots != nil:
		for slot, s := range r.slots {
			if s != next.slots[slot] {
				lost[s] = true
			}
		}
	}
	return lost
}

// A slotSet is a set of slots.
type slotSet [tracking.Slots / 64]uint64

func (s *slotSet) add(slot int)      { s[slot/64] |= 1 << (slot % 64) }
func (s *slotSet) has(slot int) bool { return s[slot/64]&(1<<(slot%64)) != 0 }

func (s *slotSet) contains(other *slotSet) bool {
	for i := range s {
		if other[i]&^s[i] != 0 {
			return false
		}
	}
	return true
}

// ownedBy returns the slots of a node.
func ownedBy(topology tracking.Topology, id string) *slotSet {
	owned := new(slotSet)
	for _, r := range topology.Slots {
		if r.Primary.ID == id {
			for slot := r.First; slot <= r.Last; slot++ {
				owned.add(slot)
			}
		}
	}
	return owned
}
