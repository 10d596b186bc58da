// Package rabbitmq carries the broadcast bus over RabbitMQ, which a company may run already, in one of two ways:
// [NewFanout], with a queue for each node, and [NewStreams], with a log that all nodes read.
//
//	transport, err := rabbitmq.NewFanout(rabbitmq.FanoutOptions{Options: rabbitmq.Options{
//		URLs: []string{"amqp://user:password@rabbit:5672/"},
//	}})
//	bus, err := broadcast.New(broadcast.Options{Transport: transport})
//
// # Guarantees
//
// Both keep the contract of package broadcast; this is what they add to it.
//
// Delivery. At least once from the moment of Subscribe, over lost connections and broker restarts; the bus removes what
// comes twice. A message is accepted when the broker has confirmed it, and a confirmed one survives a crash of the
// broker. A node that is cut off goes on where it stopped when it comes back, and is told [broadcast.Resumed] when it
// has caught up. It loses messages, and is told so, if it is cut off for longer than the broker stores them: see
// Expires, MaxBytes and MaxAge. Nothing is kept over a restart of the node: it begins with what is published from then
// on.
//
// Order. Messages of one node and topic come in the order in which they were published.
//
// Blocking. Sending waits for the broker's confirmation: about a millisecond. A broker that is short of memory or disk
// takes no messages; sending fails at once then, and the bus tries again. Handlers never hold up a connection, since
// the bus takes what is delivered at once.
//
// Connections. A transport has two, one to publish and one to consume, made when they are first needed and again when
// they are lost. All methods may be called from any goroutine. Close leaves no goroutine, no connection and no queue
// behind.
//
// # Which of the two
//
// Fanout: each topic is a durable fanout exchange, and each node has one durable queue, bound to the exchanges of the
// topics that it listens on. A topic costs the broker next to nothing. The queue is named, durable and lives on without
// a consumer until it expires: an exclusive queue would be gone with the connection, and what is published until the
// next one with it. In a cluster such a queue lives on one broker; while that broker is away, the node gets nothing and
// loses what is published meanwhile. The node finds that, as it finds the work of an operator's policy, by sequence
// numbers.
//
// Streams: each topic is a stream, replicated in a cluster, stored once for all nodes, which read it from the positions
// they hold. A node knows exactly what it has missed. Take it in clusters, where losing a broker must not lose
// messages, and for many nodes with few topics: each topic that a node listens on is a consumer of its own.
//
// # How losses are found
//
// The client library can reconnect by itself (Config.Recovery), and declares queues anew without a word about what was
// in them. So this package reconnects itself. On its return a node asks for its queue by name: if the broker does not
// know it any more, messages are lost. Otherwise the node sends itself a mark by way of the queue; when it comes back,
// everything before it has been delivered. A deleted queue is told by the broker. A binding that is gone is told by
// nobody: a node finds it because its own messages, be they heartbeats, no longer come back to it.
//
// In a stream, a node also sends a mark, and begins by reading again what it read last. If that is not what it was, the
// stream was cut off, lost its end, or is another one by the same name.
//
// # On the broker
//
// Names begin with a prefix, "nearcache.bus.": exchanges "topic.NAME", queues "node.HOST.RANDOM", the exchange "nodes"
// for marks, streams and the exchanges before them "stream.NAME". Names of topics are shown as they are where they
// consist of letters, digits and "-_.:". A user needs configure, write and read permission on "nearcache\.bus\..*".
// RabbitMQ 3.10 and later; streams need the feature flag stream_queue, which every new broker has.
package rabbitmq
