package localcache

import "sync/atomic"

// A front is a small index of the entries of one view that reads have found good, looked at before the store: most hits of
// hot keys end here, in half the time. The places come in pairs, and a key may have either place of its pair.
//
// It rests on the stripe's generation alone. A read notes the generation, then looks the key up in the store, and confirms
// the entry with that generation if it may be served. Invalidate moves the generation before it deletes and again after. So
// while the generation is still the noted one, no invalidation of the key has returned since it was noted: one that had
// moved it before is one that had deleted, or, if it was still about to, it moves it once more before it returns.
//
// A fill moves no generation. An entry whose place in the store a newer one takes is withdrawn before the newer one can be read, and
// nobody can confirm it again: readers do not go back from the newer to the older.
type front[V any] struct {
	places []atomic.Pointer[entry[V]]
}

const (
	// frontShare is how many bytes of the cache's budget go to one place of 8 bytes.
	frontShare = 8 << 10

	// frontSample is how many hits the store's policy is told of one of, and how many hits in the store it takes for a key
	// to take another's place: hot keys of one pair would write to it for ever.
	frontSample = 8
)

func newFront[V any](maxBytes int64) front[V] {
	n := min(max(powerOfTwoUpTo(maxBytes/frontShare), 256), 65536)
	return front[V]{places: make([]atomic.Pointer[entry[V]], n)}
}

// place is where an entry of k goes if it can choose; the other place of the pair is beside it.
func (f *front[V]) place(k Key) *atomic.Pointer[entry[V]] {
	return &f.places[k.lo&uint64(len(f.places)-1)]
}

func (f *front[V]) beside(k Key) *atomic.Pointer[entry[V]] {
	return &f.places[(k.lo^1)&uint64(len(f.places)-1)]
}

// offer puts an entry that a read found good into a place. The generation was read before the entry was looked up.
func (f *front[V]) offer(e *entry[V], generation uint64, now Instant) {
	k := Key{hi: e.hi, lo: e.lo}
	place, beside := f.place(k), f.beside(k)
	first, second := place.Load(), beside.Load()
	switch {
	case first == e, second == e:
		e.confirm(generation)
		return
	case first == nil:
	case second == nil:
		place = beside
	case !sampled(k, now):
		return
	}
	if !e.confirm(generation) {
		return
	}
	place.Store(e)
	if e.gone.Load() {
		f.release(e) // it left the store before it was here to be released
	}
}

// release forgets an entry that leaves the store, so that its memory is free.
func (f *front[V]) release(e *entry[V]) {
	k := Key{hi: e.hi, lo: e.lo}
	f.place(k).CompareAndSwap(e, nil)
	f.beside(k).CompareAndSwap(e, nil)
}
