package broadcast

import (
	"context"
	"encoding/binary"
	"math/bits"
	"math/rand/v2"
	"time"
)

// beat sends the lane's heartbeats: the first within an interval of the last message or at once after a change of who
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

// pause is the time until the next heartbeat. It is random, so that a fleet that was started at once does not beat at once.
func (l *lane) pause() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.beats < 0 {
		return 0
	}
	longest := l.intervalLocked()
	return longest - rand.N(longest/4)
}

// intervalLocked is the longest time until the next heartbeat.
func (l *lane) intervalLocked() time.Duration {
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

// greetAtOnce is how many nodes on a topic answer a newcomer within one heartbeat. More take longer: 1000 nodes that all
// answered each other at once would be a million messages.
const greetAtOnce = 64

// greet makes this node known soon to one that has just come.
func (l *lane) greet(nodes int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if soon := bits.Len(uint(nodes / greetAtOnce)); l.beats > soon {
		l.beats = soon
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

// sendHeartbeat announces the highest number that has been given out. While messages flow, they say it themselves. One
// that fails is tried again after an interval.
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
	interval := l.intervalLocked()
	l.mu.Unlock()
	defer l.yield() // after the lock below is released
	if last == 0 && flags&flagListening == 0 {
		return // nobody has heard of this origin on this topic
	}
	frame := append(make([]byte, 0, len(l.heartbeatLead)+24), l.heartbeatLead...)
	frame = append(frame, flags)
	frame = binary.AppendUvarint(frame, last)
	frame = binary.AppendUvarint(frame, uint64(interval/time.Millisecond))
	ctx, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
	if l.send(ctx, Frame{Topic: l.topic, Data: seal(frame), Control: true}) != nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.beats = 0
	}
}
