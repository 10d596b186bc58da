package broadcast

import (
	"fmt"
	"strconv"
	"time"
)

// Message is one announcement to every node that listens on its topic.
//
// A publisher fills Topic, Type, Version, Headers and Payload; the bus fills the rest, overwriting what it finds there.
type Message struct {
	// Origin names the bus that published the message ([Options.Origin]).
	Origin string
	// Epoch is the incarnation of the origin: it differs each time a bus is made, even under the same name.
	Epoch uint64
	// Seq counts the messages of one origin, epoch and topic, from 1, without holes.
	Seq uint64
	// Time is the publisher's clock when Publish or Enqueue was called. Clocks of two machines differ.
	Time time.Time
	// Topic is where the message was published. 1 to 255 bytes.
	Topic string
	// Type says what the payload is, for topics that carry several kinds. Up to 255 bytes, may be empty.
	Type string
	// Version is the version of the payload's schema, for the reader's use.
	Version uint16
	// Headers carry the trace context (traceparent, tracestate, baggage) and what the publisher adds. At most 64,
	// keys up to 255 bytes, values up to 8 KiB. Names beginning with "nearcache-" are the bus's own.
	Headers map[string]string
	// Payload is the body. A handler owns it and may keep it, but subscriptions on one topic share it: do not modify it.
	Payload []byte
}

// ID identifies the message among all of its topic: "origin/epoch/seq".
func (m Message) ID() string {
	buffer := make([]byte, 0, len(m.Origin)+42)
	buffer = append(buffer, m.Origin...)
	buffer = append(buffer, '/')
	buffer = strconv.AppendUint(buffer, m.Epoch, 10)
	buffer = append(buffer, '/')
	buffer = strconv.AppendUint(buffer, m.Seq, 10)
	return string(buffer)
}

// Gap says that messages may have been missed. In a handler's stream it stands exactly where the loss is: after every
// message before it and before every message after it.
type Gap struct {
	// Reason says how the loss came about.
	Reason Reason
	// Open tells the state of the link. True: it is down, and messages are being missed now, so trust nothing that depends
	// on them; a Gap with Open false follows when the link is live again. Flush then: what is flushed at the loss
	// could be refilled with stale data before the link is back.
	Open bool
	// Topic is the subscription's topic.
	Topic string
	// Origin is whose messages are missing; empty means anybody's.
	Origin string
	// From and To are the first and the last missing sequence number of Origin. 0 means unknown.
	From, To uint64
}

// MustFlush reports whether state that is kept up to date by the topic's messages must be thrown away now. It is false
// for an open gap (wait for the link to be live again) and for [Resumed], after which nothing is missing.
func (g Gap) MustFlush() bool { return !g.Open && g.Reason != Resumed }

// Covers reports whether the loss of message number seq of origin is what the gap announces.
func (g Gap) Covers(origin string, seq uint64) bool {
	if g.Reason == Resumed {
		return false
	}
	return (g.Origin == "" || g.Origin == origin) && g.From <= seq && (g.To == 0 || seq <= g.To)
}

// String describes the gap for a log line.
func (g Gap) String() string {
	state := "closed"
	if g.Open {
		state = "open"
	}
	origin := g.Origin
	if origin == "" {
		origin = "any origin"
	}
	return fmt.Sprintf("%s (%s) on %q, %s, messages %d to %d", g.Reason, state, g.Topic, origin, g.From, g.To)
}

// Reason says how messages came to be missed.
type Reason uint8

const (
	// Reconnect: the connection to the broker was lost. Open at the loss, then closed when it is live again.
	Reconnect Reason = iota + 1
	// SeqHole: an origin's sequence numbers skip some, or a heartbeat told of messages that never came.
	SeqHole
	// Trimmed: the broker dropped stored messages before this node read them.
	Trimmed
	// EpochChanged: an origin came back as a new incarnation without having closed cleanly, so the last messages of the
	// old one may be missing.
	EpochChanged
	// Overflow: the subscription's queue was full, because its handler is slower than the messages come.
	Overflow
	// NewOrigin: the first contact with an origin that had already published. Some of its messages may have been sent
	// after Subscribe returned. It comes soon after subscribing, when there is little to lose: with an origin that listens
	// to the topic itself within about a heartbeat, with another within an idle one (16 times Options.Heartbeat).
	NewOrigin
	// OriginLost: an origin fell silent without saying goodbye, on a transport that can lose messages silently; its last
	// messages may be missing.
	OriginLost
	// Unreadable: a frame could not be decoded: corrupted, or written by a newer version of this library.
	Unreadable
	// Resumed closes a Reconnect on a transport with replay: the link is live again, everything that was published
	// meanwhile has been delivered, nothing is missing and nothing need be flushed.
	Resumed

	reasons = int(Resumed) + 1
)

// String returns the reason in lower case, as metrics carry it.
func (r Reason) String() string {
	switch r {
	case Reconnect:
		return "reconnect"
	case SeqHole:
		return "seq_hole"
	case Trimmed:
		return "trimmed"
	case EpochChanged:
		return "epoch_changed"
	case Overflow:
		return "overflow"
	case NewOrigin:
		return "new_origin"
	case OriginLost:
		return "origin_lost"
	case Unreadable:
		return "unreadable"
	case Resumed:
		return "resumed"
	default:
		return "reason(" + strconv.Itoa(int(r)) + ")"
	}
}
