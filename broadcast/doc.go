// Package broadcast is a bus: every node gets every message that any node publishes. It carries configuration reloads,
// feature flags, cache invalidations of data that lives elsewhere, and it says what plain publish/subscribe does not:
// when messages may have been missed.
//
// # Guarantees
//
// Delivery. [Bus.Subscribe] returns when the subscription is live. A message that is published after that, by any node, is
// either delivered to the handler or reported to it as a [Gap]; never neither. Nothing is delivered twice to a
// subscription. How many messages are lost depends on the transport: one with replay (Redis Streams, Kafka) loses none over
// a lost connection, Redis Pub/Sub loses what is published meanwhile. That none is lost silently does not depend on it.
//
// The promise has one edge: of an origin that crashes, messages that this node missed and that no later message or heartbeat
// of the origin told of are reported only on transports that cannot lose silently, or by an [OriginLost] gap when its
// heartbeats have stopped.
//
// Order. Messages of one origin (one bus) and topic reach a handler in the order in which they were published, on every
// transport: on those without order the bus puts them back in order, waiting up to Options.ReorderWindow for late ones. A
// gap stands in its place: after all that was delivered before the loss and before all that comes after it. Between two
// origins or two topics there is no order.
//
// Blocking. Handlers run on a goroutine of their subscription, one call at a time, and may block. A slow handler never holds
// up the connection, other subscriptions or publishers: its queue is bounded, and what does not fit is reported as an
// [Overflow] gap. [Bus.Publish] blocks until the broker has accepted the message, its context ends, or
// Options.OutboxTimeout is over; [Bus.Enqueue] never blocks. The outbox is bounded: beyond that both fail with [ErrOutboxFull].
//
// Own messages are not delivered to the bus that published them, unless a subscription asks for it with [ReceiveOwn].
//
// All methods of all types may be called from any goroutine, handlers included, except where a method says otherwise.
// [Bus.Close] leaves no goroutine running.
//
// # What to do with a gap
//
// An open gap means that the link is down: messages are being missed, so state that depends on them is doubtful from now on.
// When the link is live again a closed gap follows. State is to be thrown away then, not at the open gap: what is
// flushed while the link is down can be refilled with data whose change is announced on the dead link. [Gap.MustFlush]
// says when.
//
//	subscription, err := bus.Subscribe(ctx, "prices", broadcast.Handler{
//		Message: func(ctx context.Context, m broadcast.Message) error { return cache.Evict(string(m.Payload)) },
//		Gap: func(ctx context.Context, gap broadcast.Gap) {
//			if gap.MustFlush() {
//				cache.Flush()
//			}
//		},
//	})
//
// # How losses are found
//
// Every message has a sequence number of its origin, the origin's incarnation (epoch) and its topic. A skipped number is a
// loss. A lost last message is told by heartbeats, which carry the highest number: the first comes Options.Heartbeat after
// the last message, the next ones at growing distances. The transport adds what it knows by itself: lost connections,
// stored messages that the broker has dropped. The first contact with an origin that had published before is reported too
// ([NewOrigin]), since what it sent between Subscribe and the contact may be lost.
//
// # Transports
//
// [NewRedisPubSub] is the default; [NewRedisSharded] spreads topics over a cluster's shards; [NewRedisStreams] stores messages and
// replays what was missed. Kafka, RabbitMQ and gossip are modules of their own below this package. [NewNetwork] connects
// buses of one process. All keep the same contract, shown by the suite in broadcasttest.
package broadcast
