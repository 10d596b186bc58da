package broadcast

import "context"

// Transport carries frames between nodes: a message broker's client, or a gossip protocol. A frame is opaque; the [Bus]
// above owns its contents, packs messages into it, removes duplicates, finds losses and puts order back.
//
// A Transport is used by one Bus, from several goroutines, and is closed by it. The suite in broadcasttest shows whether
// an implementation keeps the contract.
type Transport interface {
	// Capabilities says what the transport can do. It is asked once, when a Bus is made, and does not change.
	Capabilities() Capabilities

	// Send hands one frame to the broker and returns when the broker has accepted it. nil means accepted. An error means
	// that it may or may not have been: the Bus sends the same frame again, so a transport does not retry by itself and
	// returns at once when the connection is down. An error that trying again cannot cure wraps [ErrRejected].
	//
	// The Bus sends one frame at a time on a topic, and frames of different topics concurrently. frame.Data is valid only
	// until Send returns. Send returns soon after ctx ends or the transport is closed.
	Send(ctx context.Context, frame Frame) error

	// Listen begins to deliver a topic's frames, everybody's, to receiver, and returns when it is live: a frame that is
	// accepted by the broker after that is delivered, or the receiver is told of a [Gap]. While the broker cannot be
	// reached it keeps trying until ctx ends. The Bus listens at most once at a time on a topic.
	//
	// Afterwards the transport keeps the subscription alive by itself, across lost connections, until it is closed, and
	// reports to the receiver what it knows about losses.
	Listen(ctx context.Context, topic string, receiver Receiver) (Listener, error)

	// Close drops every connection and goroutine within ctx. It is idempotent. Listeners still open are closed by it.
	Close(ctx context.Context) error
}

// Frame is what a Transport carries.
type Frame struct {
	// Topic is where it goes: 1 to 255 bytes, any bytes. A transport maps it to a name its broker allows, one to one.
	Topic string
	// Data is the frame's contents.
	Data []byte
	// Control marks a heartbeat: it need not outlive the moment, so a transport that stores messages may store it apart
	// or not at all. It must not overtake frames sent before it on the topic.
	Control bool
}

// Listener is one topic that a Transport delivers.
type Listener interface {
	// Close ends delivery; when it has returned the receiver is not called any more. It is idempotent, and is never
	// called from inside the receiver.
	Close(ctx context.Context) error
}

// Receiver takes what a Transport delivers for one topic. It never blocks: it may be called on the goroutine that reads
// the connection. A transport that says it is Ordered makes its calls one after another, in order.
type Receiver interface {
	// Frame takes one frame. The receiver keeps data, which nobody may modify afterwards. A frame may come more than once.
	Frame(data []byte)
	// Gap takes the transport's own knowledge of a loss, in its place among the frames. The Bus fills in the topic.
	//
	// A transport that sees its connection lost reports {Reconnect, Open: true} at once, and when frames flow again, before
	// the first of them, {Reconnect, Open: false}. One with Replay reports, once it has delivered all that was stored
	// meanwhile, {Resumed} instead; or {Trimmed} before the first frame after the loss, if something was lost.
	Gap(gap Gap)
}

// Capabilities describe a Transport.
type Capabilities struct {
	// System is the value of messaging.system in spans and metrics, such as "redis" or "kafka".
	System string
	// Ordered: frames of one sender and topic are delivered in the order they were sent (a repetition may come later).
	// Without it the Bus waits for late frames during [Options.ReorderWindow].
	Ordered bool
	// Replay: after a lost connection delivery goes on from where it stopped.
	Replay bool
	// Signals: every loss, and every doubt of one, is reported by the transport itself as a Gap. Without it an origin that
	// falls silent without goodbye is reported as [OriginLost], since its last messages may have been lost with it.
	Signals bool
	// Echo: the frames that this node sends are delivered to its own listeners too. Without it the Bus does that itself.
	Echo bool
	// MaxFrame is the size of the largest frame in bytes. 0 means no limit of its own.
	MaxFrame int
}
