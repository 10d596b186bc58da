package gossip

import (
	"math/rand/v2"
	"slices"
	"time"

	"github.com/hashicorp/memberlist"
)

const (
	digestInterval = 200 * time.Millisecond // between telling some members what has been sent, while something is
	idleDigests    = 10                     // intervals from one to the next when nothing is
	digestFanout   = 3                      // how many members are told
	tailDelay      = 50 * time.Millisecond  // after the last frame, before all members are told its number

	forgetAfter = 10 * time.Minute // how long the position in a member's frames is kept when it has gone
)

// packet is something to be sent to a member without holding the lock.
type packet struct {
	targets []*memberlist.Node
	message []byte
}

// maintain asks for what is missing, and tells others what there is, so that they find what they miss.
func (t *Transport) maintain() {
	timer := time.NewTimer(digestInterval)
	defer timer.Stop()
	digestAt := time.Now().Add(digestInterval)
	idle := 0
	for {
		select {
		case <-t.ctx.Done():
			return
		case <-t.news:
		case <-timer.C:
		}
		now := time.Now()
		t.mu.Lock()
		packets, next := t.asksLocked(now)
		tail, tailAt := t.tailLocked(now)
		packets = append(packets, tail...)
		if !now.Before(digestAt) {
			digestAt = now.Add(digestInterval - rand.N(digestInterval/4))
			full := idle >= idleDigests
			digests := t.digestsLocked(now, full)
			if packets = append(packets, digests...); full || len(digests) > 0 {
				idle = 0
			} else {
				idle++
			}
			t.forgetLocked(now)
		}
		t.mu.Unlock()
		for _, p := range packets {
			t.sendAll(p.targets, p.message)
		}
		for _, at := range []time.Time{tailAt, digestAt} {
			if next.IsZero() || !at.IsZero() && at.Before(next) {
				next = at
			}
		}
		timer.Reset(max(time.Until(next), time.Millisecond))
	}
}

// asksLocked returns what is to be asked now, and when the next question is due.
func (t *Transport) asksLocked(now time.Time) (packets []packet, next time.Time) {
	for _, s := range t.senders {
		if !s.askAt.IsZero() && now.Sub(s.stuck) >= repairTimeout {
			t.abandonLocked(s, now)
		}
		if s.askAt.IsZero() {
			continue
		}
		if !s.askAt.After(now) {
			if target := t.helperLocked(s); target != nil {
				packets = append(packets, packet{[]*memberlist.Node{target}, t.wantLocked(s)})
			}
			delay := min(minAskDelay<<min(s.attempts, 8), maxAskDelay)
			s.askAt = now.Add(delay - rand.N(delay/4))
			s.attempts++
		}
		if next.IsZero() || s.askAt.Before(next) {
			next = s.askAt
		}
	}
	return packets, next
}

// helperLocked chooses whom to ask for what a sender sent: itself, then who told of it, then anybody.
func (t *Transport) helperLocked(s *sender) *memberlist.Node {
	switch s.attempts % 3 {
	case 0:
		if node := t.peers[s.name]; node != nil {
			return node
		}
		fallthrough
	case 1:
		if node := t.peers[s.informant]; node != nil {
			return node
		}
	}
	if len(t.targets) == 0 {
		return nil
	}
	return t.targets[rand.IntN(len(t.targets))]
}

func (t *Transport) wantLocked(s *sender) []byte {
	message := appendString([]byte{kindWant}, t.name)
	var flags byte
	if s.attempts >= 2 {
		flags |= flagReliable
	}
	message = append(message, flags)
	for _, missing := range s.missing() {
		if len(message)+len(s.name)+20 > t.packet {
			break
		}
		message = appendSpan(message, missing)
	}
	return message
}

// ownDigestLocked is what this node says of itself alone.
func (t *Transport) ownDigestLocked() []byte {
	return appendState(appendString([]byte{kindDigest}, t.name), t.ownStateLocked())
}

func (t *Transport) ownStateLocked() state {
	return state{sender: t.name, highest: t.number, oldest: t.sent.oldest(), left: t.closed}
}

// tailLocked tells everybody the last number once no more frames follow that would.
func (t *Transport) tailLocked(now time.Time) ([]packet, time.Time) {
	if t.told == t.number {
		return nil, time.Time{}
	}
	if at := t.sentAt.Add(tailDelay); at.After(now) {
		return nil, at
	}
	t.told = t.number
	return []packet{{t.targets, t.ownDigestLocked()}}, time.Time{}
}

// digestsLocked tells some members, in packets, of the senders that have been active, or of all.
func (t *Transport) digestsLocked(now time.Time, full bool) []packet {
	const active = 10 * time.Second
	if len(t.targets) == 0 {
		return nil
	}
	var targets []*memberlist.Node
	for _, i := range rand.Perm(len(t.targets))[:min(digestFanout, len(t.targets))] {
		targets = append(targets, t.targets[i])
	}
	var packets []packet
	lead := appendString([]byte{kindDigest}, t.name)
	message := lead
	add := func(s state) {
		if len(message)+len(s.sender)+24 > t.packet {
			packets = append(packets, packet{targets, message})
			message = lead
		}
		message = appendState(slices.Clip(message), s)
	}
	if full || t.number > 0 && now.Sub(t.sentAt) < active {
		add(t.ownStateLocked())
	}
	for _, s := range t.senders {
		if full || now.Sub(s.changed) < active {
			add(s.state())
		}
	}
	if len(message) > len(lead) {
		packets = append(packets, packet{targets, message})
	}
	return packets
}

// state is what this node can say of another: that it sent so much.
func (s *sender) state() state { return state{sender: s.name, highest: s.highest, left: s.left} }

// everything is a digest of all that is known, for memberlist's exchange of states.
func (t *Transport) everything() []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	message := t.ownDigestLocked()
	for _, s := range t.senders {
		message = appendState(message, s.state())
	}
	return message
}

// forgetLocked drops the positions in the frames of members that have long gone.
func (t *Transport) forgetLocked(now time.Time) {
	for name, s := range t.senders {
		if t.peers[name] == nil && now.Sub(s.changed) > forgetAfter {
			delete(t.senders, name)
		}
	}
}

// answerAll answers what others ask for, one after the other.
func (t *Transport) answerAll() {
	for {
		select {
		case <-t.ctx.Done():
			return
		case want := <-t.wants:
			t.answer(want)
		}
	}
}

// maxAnswer bounds an answer, and maxBurst one that consists of packets; the rest is asked for again when this has come.
const (
	maxAnswer = 2 << 20
	maxBurst  = 32 << 10
)

func (t *Transport) answer(want []byte) {
	r := reader{rest: want}
	asker := r.bytes(maxString)
	reliable := r.byte()&flagReliable != 0
	t.mu.Lock()
	target := t.peers[string(asker)]
	frames, reliable := t.findLocked(&r, reliable)
	digest := t.ownDigestLocked()
	t.mu.Unlock()
	if r.failed || target == nil {
		return
	}
	if frames == nil {
		// What this node has dropped it must say, or the asker would go on.
		_ = t.members.SendBestEffort(target, digest)
		return
	}
	message := []byte{kindFrames}
	for _, encoded := range frames {
		if !reliable && len(message) > 1 && len(message)+len(encoded)+5 > t.packet {
			_ = t.members.SendBestEffort(target, message)
			message = message[:1]
		}
		message = appendSized(message, encoded)
	}
	if reliable {
		_ = t.members.SendReliable(target, message) // it asks again
	} else {
		_ = t.members.SendBestEffort(target, message)
	}
}

// findLocked looks up what is asked for, as much as fits an answer. It must be reliable if a frame does not fit a packet.
func (t *Transport) findLocked(r *reader, reliable bool) (frames [][]byte, _ bool) {
	size := 0
	for len(r.rest) > 0 {
		asked, ok := r.span()
		if !ok {
			r.fail()
			return nil, false
		}
		from := t.received
		if asked.sender == t.name {
			from = t.sent
		}
		for n := asked.from; n <= min(asked.to, asked.from+maxHeld); n++ {
			encoded := from.frames[id{asked.sender, n}]
			if encoded == nil {
				continue
			}
			if large := len(encoded)+6 > t.packet; large && !reliable {
				if len(frames) > 0 {
					return frames, false // the large one is asked for again
				}
				reliable = true
			}
			if size += len(encoded); len(frames) > 0 && (size > maxAnswer || !reliable && size > maxBurst) {
				return frames, reliable
			}
			frames = append(frames, encoded)
		}
	}
	return frames, reliable
}
