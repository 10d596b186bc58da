package broadcast

import (
	"context"
	"encoding/binary"
	"time"
)

// beat sends the lane's heartbeats: the first one interval after the last message or at once after a change of who
// listens, the following ones at twice the distance each, so that an idle topic costs next to nothing.
func (l *lane) beat(ctx context.Context) {
	timer := time.NewTimer(l.pause())
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.restart:
			timer.Reset(l.pause())
		case <-timer.C:
			l.sendHeartbeat(ctx, false)
			timer.Reset(l.pause())
		}
	}
}

// pause is the time until the next heartbeat.
func (l *lane) pause() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.pauseLocked()
}

func (l *lane) pauseLocked() time.Duration {
	if l.beats < 0 {
		return 0
	}
	return l.bus.options.Heartbeat * time.Duration(min(1<<min(l.beats, 16), idleHeartbeats))
}

// news makes the heartbeat quick again after a message.
func (l *lane) news() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.beats != 0 {
		l.beats = 0
		l.wakeLocked()
	}
}

// setListening notes that a subscription came (1) or went (-1), and announces a change of whether there are any.
func (l *lane) setListening(change int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	before := l.listens > 0
	l.listens += change
	if before != (l.listens > 0) {
		l.beats = -1
		l.wakeLocked()
	}
}

func (l *lane) wakeLocked() {
	select {
	case l.restart <- struct{}{}:
	default:
	}
}

// sendHeartbeat announces the highest number that has been given out. While messages flow, they say it themselves. A
// heartbeat that fails is not repeated: the next one says the same.
func (l *lane) sendHeartbeat(ctx context.Context, leaving bool) {
	l.mu.Lock()
	l.beats++
	if l.busy {
		l.beats = 0
		l.mu.Unlock()
		return
	}
	l.busy = true
	last := l.sequence
	var flags byte
	if l.listens > 0 {
		flags |= flagListening
	}
	if leaving {
		flags |= flagLeaving
	}
	interval := l.pauseLocked()
	l.mu.Unlock()
	defer l.yield()
	if last == 0 && flags&flagListening == 0 {
		return // nobody has heard of this origin on this topic
	}
	frame := append(make([]byte, 0, len(l.heartbeatLead)+24), l.heartbeatLead...)
	frame = append(frame, flags)
	frame = binary.AppendUvarint(frame, last)
	frame = binary.AppendUvarint(frame, uint64(interval/time.Millisecond))
	ctx, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
	// The outcome is in the counters.
	_ = l.send(ctx, Frame{Topic: l.topic, Data: seal(frame), Control: true})
}
