package nearcache

import (
	"slices"

	"github.com/go-nearcache/nearcache/localcache"
	"github.com/go-nearcache/nearcache/tracking"
)

// A routing says which server owns which key. It is immutable once published.
type routing struct {
	only    *server                  // it owns every key; nil in a cluster
	slots   *[tracking.Slots]*server // in a cluster: the owner of each slot, or the client's stranger
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

// uncovered reports whether a slot of the cluster has no owner whose link is open.
func (c *Client) uncovered() bool { return slices.Contains(c.routing.Load().slots[:], c.stranger) }

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
