package broadcast

import "time"

// sequence follows the numbers of one origin's messages on one topic: it says which are due, which came before, and
// which are missing. On an ordered transport a message ahead of its turn proves the ones before it lost; on others it is
// held back until they come or the window is over.
type sequence struct {
	next    uint64          // the lowest number that has neither come nor been reported; 0 before first contact
	highest uint64          // the highest number known to exist, from a heartbeat; only while next <= highest
	told    time.Time       // when highest was learned
	held    map[uint64]held // messages ahead of their turn
}

type held struct {
	message Message
	arrived time.Time
}

// maxHeld bounds the messages held back for one origin; what lies behind is then given up early.
const maxHeld = 1024

type verdict uint8

const (
	due       verdict = iota // it is the next one: pass it on
	duplicate                // it has come before, or was reported as lost: drop it
	ahead                    // some before it are missing
)

// place judges number n, and takes it if it is due.
func (s *sequence) place(n uint64) verdict {
	switch {
	case n == s.next:
		s.next++
		return due
	case n < s.next:
		return duplicate
	default:
		return ahead
	}
}

// skipTo gives up the numbers before n and returns the lost range.
func (s *sequence) skipTo(n uint64) (from, to uint64) {
	from, to = s.next, n-1
	s.next = n
	return from, to
}

// hold keeps a message that is ahead; false means that it is held already.
func (s *sequence) hold(m Message, now time.Time) bool {
	if _, again := s.held[m.Seq]; again {
		return false
	}
	if s.held == nil {
		s.held = make(map[uint64]held)
	}
	s.held[m.Seq] = held{message: m, arrived: now}
	return true
}

// release takes the next message if it is being held.
func (s *sequence) release() (Message, bool) {
	if len(s.held) == 0 {
		return Message{}, false
	}
	h, ok := s.held[s.next]
	if ok {
		delete(s.held, s.next)
		s.next++
	}
	return h.message, ok
}

// lowestHeld returns the held message that is nearest to its turn.
func (s *sequence) lowestHeld() (number uint64, arrived time.Time, ok bool) {
	for n, h := range s.held {
		if !ok || n < number {
			number, arrived, ok = n, h.arrived, true
		}
	}
	return number, arrived, ok
}

// expect notes that the origin has published up to last. It reports whether some of that have not come.
func (s *sequence) expect(last uint64, now time.Time) bool {
	if last < s.next {
		return false
	}
	if last > s.highest {
		s.highest, s.told = last, now
	}
	return true
}

// overdue returns the first number after the hole at the front, and when the hole must be given up; ok is false when
// there is no hole.
func (s *sequence) overdue(window time.Duration) (resume uint64, at time.Time, ok bool) {
	if number, arrived, holds := s.lowestHeld(); holds {
		return number, arrived.Add(window), true
	}
	if s.next <= s.highest {
		return s.highest + 1, s.told.Add(window), true
	}
	return 0, time.Time{}, false
}
