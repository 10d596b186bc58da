package broadcast

import (
	"context"
	"slices"
	"sync"

	"github.com/redis/rueidis"
)

// streamListener is one topic. Its position is the reader's alone once it is among the listeners.
type streamListener struct {
	transport    *redisStreams
	data         string // key
	control      string // key
	position     string // ID of the last data entry read
	controlAfter string // ID of the last heartbeat read
	// index is how many entries had ever been added to the stream when the one at position was: with it the server's
	// own count tells how many were trimmed unread.
	index  uint64
	verify bool // read together with the stream's counts next time, since something may have been trimmed meanwhile
	down   bool // an open gap has been reported

	mu       sync.Mutex // held while the receiver is called
	receiver Receiver
	closed   bool
}

// catchUp takes a verified read.
func (l *streamListener) catchUp(info streamInfo, data, control []rueidis.XRangeSlice) {
	removed := info.added - min(info.added, info.length)
	full := len(data) >= streamBatch
	switch {
	case info.missing && (l.down || l.position != firstID),
		info.counted && info.added < l.index,
		compareIDs(info.lastID, l.position) < 0:
		// The stream was deleted, or its end was lost with a server. What has come since is delivered; of what was there
		// before nobody knows.
		l.trimmed()
		if compareIDs(info.lastID, l.position) < 0 {
			l.position = info.lastID
		}
		l.index = info.added - min(info.added, uint64(len(data)))
		if full {
			l.index = removed
		}
	case info.counted && removed > l.index, !info.counted && info.beginsAfter(l.position):
		l.trimmed()
		l.index = removed
	}
	if full {
		control = nil // heartbeats tell of entries that are still to be read
	}
	l.deliver(data, control)
	if full {
		return
	}
	l.verify = false
	if l.down {
		l.down = false
		l.gap(Gap{Reason: Resumed})
	}
}

func (l *streamListener) trimmed() {
	l.down = false
	l.gap(Gap{Reason: Trimmed})
}

// deliver hands entries over and moves the position.
func (l *streamListener) deliver(data, control []rueidis.XRangeSlice) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, entry := range data {
		l.position = entry.ID
		l.index++
		l.frame(entry)
	}
	for _, entry := range control {
		l.controlAfter = entry.ID
		l.frame(entry)
	}
}

func (l *streamListener) frame(entry rueidis.XRangeSlice) {
	at := slices.IndexFunc(entry.FieldValues, func(f rueidis.XRangeFieldValue) bool { return f.Field == streamField })
	switch {
	case l.closed:
	case at < 0:
		l.receiver.Frame(nil) // somebody else's entry: the receiver counts it as foreign
	default:
		l.receiver.Frame(frameBytes(entry.FieldValues[at].Value))
	}
}

func (l *streamListener) lost() {
	l.verify = true
	if !l.down {
		l.down = true
		l.gap(Gap{Reason: Reconnect, Open: true})
	}
}

func (l *streamListener) gap(gap Gap) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closed {
		l.receiver.Gap(gap)
	}
}

// Close implements [Listener].
func (l *streamListener) Close(context.Context) error {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	t := l.transport
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, listening := t.listeners[l]; listening {
		delete(t.listeners, l)
		t.changedLocked()
	}
	return nil
}
