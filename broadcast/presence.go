package broadcast

import (
	"cmp"
	"slices"
	"time"
)

// Presence is a node that listens on a topic, as its heartbeats tell.
type Presence struct {
	Origin string
	Epoch  uint64
	Since  time.Time // when this node first heard of it
	Heard  time.Time // when it was last heard
}

// Presence returns the nodes that listen on a topic, in the order of their names, this one included if it does. It is
// known on a node that is itself subscribed to the topic, and complete about one Options.Heartbeat after it has subscribed (later
// with more than 64 nodes). One that crashes is present until three of its heartbeats are missed.
func (b *Bus) Presence(topic string) []Presence {
	value, ok := b.receivers.Load(topic)
	if !ok {
		return nil
	}
	return value.(*receiver).presence()
}

func (r *receiver) presence() []Presence {
	r.mu.Lock()
	defer r.mu.Unlock()
	var present []Presence
	if len(r.subscriptions) > 0 {
		now := time.Now()
		present = append(present, Presence{
			Origin: r.bus.options.Origin, Epoch: r.bus.epoch, Since: r.subscriptions[0].since, Heard: now,
		})
	}
	for _, p := range r.peers {
		for _, i := range p.incarnations {
			if i.listening && !i.left && !r.bus.isOwn([]byte(i.origin), i.epoch) {
				present = append(present, Presence{Origin: i.origin, Epoch: i.epoch, Since: i.since, Heard: i.heard})
			}
		}
	}
	slices.SortFunc(present, func(a, b Presence) int {
		return cmp.Or(cmp.Compare(a.Origin, b.Origin), cmp.Compare(a.Epoch, b.Epoch))
	})
	return present
}
