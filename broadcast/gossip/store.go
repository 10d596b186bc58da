package gossip

// store retains encoded frames for repair, the newest ones that fit.
type store struct {
	limit  int
	bytes  int
	frames map[id][]byte
	order  []id // oldest first, from head on
	head   int
}

type id struct {
	sender string
	number uint64
}

func newStore(limit int) *store { return &store{limit: limit, frames: make(map[id][]byte)} }

// overhead is what retaining a frame costs besides its bytes.
const overhead = 128

func (s *store) add(key id, encoded []byte) {
	if _, again := s.frames[key]; again {
		return
	}
	s.frames[key] = encoded
	s.order = append(s.order, key)
	s.bytes += len(encoded) + overhead
	for s.bytes > s.limit && s.head < len(s.order)-1 { // the newest stays whatever its size
		s.bytes -= len(s.frames[s.order[s.head]]) + overhead
		delete(s.frames, s.order[s.head])
		s.order[s.head] = id{}
		s.head++
	}
	if s.head > 1024 && s.head > len(s.order)/2 {
		s.order = append(s.order[:0], s.order[s.head:]...)
		s.head = 0
	}
}

// oldest is the number of the oldest frame of a store that has one sender, or 0.
func (s *store) oldest() uint64 {
	if s.head == len(s.order) {
		return 0
	}
	return s.order[s.head].number
}
