// Package kafka carries the broadcast bus over Apache Kafka, or what speaks its protocol: one topic of Kafka for each
// topic of the bus, which every node reads from the exact position it holds.
//
//	transport, err := kafka.New(kafka.Options{Brokers: []string{"kafka-1:9092", "kafka-2:9092"}})
//	bus, err := broadcast.New(broadcast.Options{Transport: transport})
//
// # Guarantees
//
// The package keeps the contract of package broadcast; this is what it adds to it.
//
// Delivery. At least once from the moment of Subscribe, over lost connections and broker restarts; the bus removes what
// comes twice. A message is accepted when all in-sync replicas have it. A node that is cut off goes on where it
// stopped, and is told [broadcast.Resumed] when it has caught up. It loses messages, and is told so, if the topic no
// longer has what it had not read: see Retention. Nothing is kept over a restart of the node: it begins with what is
// published from then on.
//
// Order. The order of a topic is total: all nodes get its messages in the same order, since only one partition is used.
//
// Blocking. Sending waits for the replicas' acknowledgement, and fails at once while the cluster cannot be reached.
// Handlers never hold up a connection, since the bus takes what is fetched at once.
//
// Connections. A transport makes two clients, one to publish and one to consume. All methods may be called from any
// goroutine. Close leaves no goroutine and no connection behind.
//
// # How losses are found
//
// The client reconnects, resets positions and follows topics without a word, so this package watches it. Fetches that
// are not answered make an open gap. Whenever something is amiss, and every five seconds, it asks the cluster for the
// identity of the topics and the ends of their logs, and compares them with the positions it holds. So it finds
//
//   - records that were dropped before they were read: the log begins behind the position;
//   - a log that has lost its end, with what was read last: it ends before the position, or brokers disagree about the leader's epoch;
//   - a topic that was deleted and made anew: it has another identity. All that is in the new one is delivered;
//   - records that are missing in between.
//
// All of these are reported as [broadcast.Trimmed], and reading goes on.
//
// # Consuming
//
// Every node needs every message, so there is nothing to share out among the members of a group: partitions are
// consumed directly, and Kafka keeps no state about a node. With Options.Group a node is the only member of a group of
// its own, for those whose tools or permissions go by groups; positions are still the transport's own, and what is
// committed is for show.
//
// # On the cluster
//
// The names of topics begin with a prefix, "nearcache.bus.", and show the topic of the bus as it is where that consists
// of letters, digits, "-" and single dots. They are made with one partition when they are first used, unless
// Options.Existing says that somebody else does it. Tested with Apache Kafka 3.9 and 4.1 in KRaft mode.
package kafka
