package rabbitmq

import "github.com/go-nearcache/nearcache/broadcast"

// QueueOf returns the queue of a node. The name stays as long as the broker is not a cluster.
func QueueOf(t broadcast.Transport) string { return t.(*fanout).queue }

// HasQueue reports whether a node listens, and so has a queue.
func HasQueue(t broadcast.Transport) bool {
	f := t.(*fanout)
	f.mu.RLock()
	defer f.mu.RUnlock()
	return len(f.listeners) > 0
}

// ExchangeOf returns the exchange of a topic.
func ExchangeOf(t broadcast.Transport, topic string) string { return t.(target).exchange(topic) }
