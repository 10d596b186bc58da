package gossip

import (
	"bytes"
	"time"

	"github.com/go-nearcache/nearcache/broadcast"
)

// sender is another member's stream of frames as it is received: what is due, what came too early, and what is missing.
type sender struct {
	name    string
	next    uint64 // the number that is due
	highest uint64 // the highest number known to exist
	held    map[uint64]frame
	size    int       // of what is held
	changed time.Time // when something was last heard of it
	left    bool      // it has said goodbye: memberlist does not tell that from a failure

	// While numbers are missing:
	informant string    // who told of them
	attempts  int       // how often the one that is due has been asked for
	askAt     time.Time // when it is asked for next; zero: nothing is missing
	stuck     time.Time // since when it has been missing
}

const (
	maxHeld      = 4096
	maxHeldBytes = 16 << 20

	repairTimeout = 5 * time.Second       // after which what cannot be had is given up
	reorderDelay  = 5 * time.Millisecond  // before a hole counts as a loss
	moreDelay     = 2 * time.Millisecond  // before the rest is asked for when a part has come
	minAskDelay   = 30 * time.Millisecond // before it is asked for again …
	maxAskDelay   = 400 * time.Millisecond
)

// senderLocked finds a sender, or makes its acquaintance: what it sent before first is not asked for.
func (t *Transport) senderLocked(name string, first uint64) *sender {
	s := t.senders[name]
	if s == nil {
		s = &sender{name: name, next: first, highest: first - 1}
		t.senders[name] = s
	}
	return s
}

// takeFrames takes a message of kind frames.
func (t *Transport) takeFrames(body []byte) {
	now := time.Now()
	r := reader{rest: body}
	t.mu.Lock()
	defer t.mu.Unlock()
	for len(r.rest) > 0 && !t.closed {
		encoded := r.bytes(len(r.rest))
		if r.failed {
			return
		}
		f, ok := parseFrame(encoded)
		if !ok || string(f.sender) == t.name {
			continue
		}
		first := uint64(1)
		if !t.begun {
			first = f.number // what came before this node had joined is not its business
		}
		s := t.senders[string(f.sender)]
		if s == nil {
			s = t.senderLocked(string(f.sender), first)
		}
		s.changed = now
		if _, again := s.held[f.number]; again || f.number < s.next {
			continue
		}
		encoded = bytes.Clone(encoded) // the rest of the packet goes
		f, _ = parseFrame(encoded)
		t.takeLocked(s, f, encoded, now)
	}
}

func (t *Transport) takeLocked(s *sender, f frame, encoded []byte, now time.Time) {
	s.highest = max(s.highest, f.number)
	switch {
	case f.number == s.next:
		t.deliverLocked(f)
		s.next++
		t.progressLocked(s, now)
	case len(s.held) < maxHeld && s.size+len(f.data) <= maxHeldBytes:
		if s.held == nil {
			s.held = make(map[uint64]frame)
		}
		s.held[f.number] = f
		s.size += len(f.data)
		t.missLocked(s, "", now, reorderDelay)
	default:
		return // it is asked for when those before it have come
	}
	t.received.add(id{s.name, f.number}, encoded)
}

// progressLocked passes on what was held and is due now, and looks at what is still missing.
func (t *Transport) progressLocked(s *sender, now time.Time) {
	for {
		f, ok := s.held[s.next]
		if !ok {
			break
		}
		delete(s.held, s.next)
		s.size -= len(f.data)
		t.deliverLocked(f)
		s.next++
	}
	s.attempts = 0
	s.askAt = time.Time{}
	t.missLocked(s, "", now, moreDelay)
}

// missLocked sees to it that what is missing is asked for.
func (t *Transport) missLocked(s *sender, informant string, now time.Time, delay time.Duration) {
	if s.next > s.highest {
		return
	}
	if informant != "" {
		s.informant = informant
	}
	at := now.Add(delay)
	switch {
	case s.askAt.IsZero():
		s.stuck = now
		s.askAt = at
	case s.attempts == 0 && at.Before(s.askAt):
		s.askAt = at
	default:
		return
	}
	t.wake()
}

// skipLocked gives up what is missing before number n. The bus sees from the numbers of the messages behind it what of that
// was on which topic.
func (t *Transport) skipLocked(s *sender, n uint64, now time.Time) {
	for lowest := s.lowestHeld(); lowest < n; lowest = s.lowestHeld() {
		t.deliverLocked(s.held[lowest])
		s.size -= len(s.held[lowest].data)
		delete(s.held, lowest)
	}
	s.next = n
	t.progressLocked(s, now)
}

// lowestHeld returns the number of the held frame that is nearest to its turn, or maxNumber.
func (s *sender) lowestHeld() uint64 {
	lowest := uint64(maxNumber)
	for n := range s.held {
		lowest = min(lowest, n)
	}
	return lowest
}

// abandonLocked gives up the number that is due and those missing right behind it.
func (t *Transport) abandonLocked(s *sender, now time.Time) {
	if len(s.held) == 0 {
		// No message behind the loss is here to tell of it.
		s.next = s.highest + 1
		s.askAt = time.Time{}
		if !t.isolated {
			t.tellLocked(broadcast.Gap{Reason: broadcast.SeqHole})
		}
		return
	}
	t.skipLocked(s, s.lowestHeld(), now)
}

func (t *Transport) deliverLocked(f frame) {
	if l := t.listeners[string(f.topic)]; l != nil {
		l.receiver.Frame(f.data)
	}
}

// missing lists what a sender lacks, lowest numbers first, as much as is worth asking for at once.
func (s *sender) missing() []span {
	const maxSpans, maxNumbers = 16, 512
	var spans []span
	numbers := 0
	for n := s.next; n <= s.highest && numbers < maxNumbers; n++ {
		if _, ok := s.held[n]; ok {
			continue
		}
		numbers++
		if last := len(spans) - 1; last >= 0 && spans[last].to == n-1 {
			spans[last].to = n
			continue
		}
		if len(spans) == maxSpans {
			break
		}
		spans = append(spans, span{sender: s.name, from: n, to: n})
	}
	return spans
}

// learn takes a digest: what somebody says of what all have sent.
func (t *Transport) learn(body []byte) {
	now := time.Now()
	r := reader{rest: body}
	teller := string(r.bytes(maxString))
	t.mu.Lock()
	defer t.mu.Unlock()
	for len(r.rest) > 0 && !t.closed {
		about, ok := r.state()
		if !ok {
			return
		}
		if about.sender == t.name {
			continue
		}
		first := max(1, about.oldest)
		if !t.begun {
			first = about.highest + 1 // what came before this node had joined is not its business
		}
		s := t.senderLocked(about.sender, first)
		if about.left && !s.left {
			s.left, s.changed = true, now
			delete(t.failed, s.name)
			t.lookAroundLocked(now)
		}
		if about.oldest > s.next {
			s.highest = max(s.highest, about.highest)
			t.skipLocked(s, about.oldest, now)
		}
		if about.highest <= s.highest {
			continue
		}
		s.highest = about.highest
		s.changed = now
		delay := reorderDelay
		if teller == s.name {
			delay = 0 // a frame that is too large for a packet is announced so
		}
		t.missLocked(s, teller, now, delay)
	}
}
