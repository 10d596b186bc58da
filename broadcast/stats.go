package broadcast

import (
	"errors"
	"sync/atomic"
)

// Stats counts what a bus has done since it was made. The fields are read one after another while the bus works, so they
// may disagree by what happened meanwhile.
type Stats struct {
	Published     uint64 // messages the broker accepted from Publish
	Enqueued      uint64 // messages taken by Enqueue
	Undelivered   uint64 // of these, given up: see Options.OutboxTimeout
	Outbox        int    // messages waiting to be accepted by the broker now
	FramesSent    uint64 // frames the broker accepted, heartbeats included
	SendErrors    uint64 // attempts to send a frame that failed
	Retries       uint64 // attempts that repeated an earlier one
	FramesHeard   uint64 // frames received and readable, heartbeats and own ones included
	Delivered     uint64 // calls of message handlers that ended, over all subscriptions
	HandlerErrors uint64 // of these, with an error or a panic
	Duplicates    uint64 // messages dropped because they had come before or came after their loss was reported
	Overflowed    uint64 // messages dropped because a subscription's queue was full
	Refused       Refused
	Gaps          map[Reason]uint64 // gaps by reason, counted once a topic; every reason is present
}

// Refused counts frames that were not understood.
type Refused struct {
	Foreign   uint64 // not of this library
	Truncated uint64 // cut short
	Future    uint64 // of a newer version of this library
	Corrupted uint64 // the checksum or the structure is wrong, or the frame is larger than Options.MaxFrameBytes
	Misrouted uint64 // of another topic
}

type counters struct {
	published, enqueued, undelivered, framesSent, sendErrors, retries         atomic.Uint64
	framesReceived, delivered, handlerErrors, duplicates, overflowed          atomic.Uint64
	refusedForeign, refusedTruncated, refusedFuture, refusedCorrupt, misroute atomic.Uint64
	gaps                                                                      [reasons]atomic.Uint64
}

func (c *counters) refused(err error) {
	switch {
	case errors.Is(err, errForeign):
		c.refusedForeign.Add(1)
	case errors.Is(err, errTruncated):
		c.refusedTruncated.Add(1)
	case errors.Is(err, errFuture):
		c.refusedFuture.Add(1)
	case errors.Is(err, errMisrouted):
		c.misroute.Add(1)
	default:
		c.refusedCorrupt.Add(1)
	}
}

// Stats returns the counts.
func (b *Bus) Stats() Stats {
	c := &b.counters
	s := Stats{
		Published: c.published.Load(), Enqueued: c.enqueued.Load(), Undelivered: c.undelivered.Load(),
		Outbox:     int(b.outbox.messages.Load()),
		FramesSent: c.framesSent.Load(), SendErrors: c.sendErrors.Load(), Retries: c.retries.Load(),
		FramesHeard: c.framesReceived.Load(), Delivered: c.delivered.Load(), HandlerErrors: c.handlerErrors.Load(),
		Duplicates: c.duplicates.Load(), Overflowed: c.overflowed.Load(),
		Refused: Refused{
			Foreign: c.refusedForeign.Load(), Truncated: c.refusedTruncated.Load(), Future: c.refusedFuture.Load(),
			Corrupted: c.refusedCorrupt.Load(), Misrouted: c.misroute.Load(),
		},
		Gaps: make(map[Reason]uint64, reasons-1),
	}
	for reason := range reasons {
		if reason > 0 {
			s.Gaps[Reason(reason)] = c.gaps[reason].Load()
		}
	}
	return s
}
