package oracle

import (
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A register is a key of a perfect server: every operation takes effect at one instant between its beginning and its end, except that a
// write may be cut off, and take effect later or never.
type register struct {
	mu      sync.Mutex
	past    []state       // what it has held, and since when
	severed chan struct{} // closed when the writes that were cut off can happen no more
}

type state struct {
	since   Instant
	version uint64 // 0: nothing
}

func (r *register) set(version uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.past = append(r.past, state{Now(), version})
}

// get returns what the register held some time ago.
func (r *register) get(ago time.Duration) uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	then := Now().Add(-ago)
	for i := len(r.past) - 1; i > 0; i-- {
		if r.past[i].since <= then {
			return r.past[i].version
		}
	}
	return 0
}

// simulate runs writers and readers of one key for a minute of a bubble. Every default read of node n returns what the key held lag
// before its beginning; every fresh read what it held at an instant between its beginning and its end. Without a lag the nodes write too, since
// they then read what they have written.
func simulate(t *testing.T, seed uint64, bound, lag time.Duration) Counts {
	var counts Counts
	synctest.Test(t, func(t *testing.T) {
		const nodes = 3
		o := New(Options{Keys: 1, Nodes: nodes, OnViolation: func(v Violation) {
			if lag <= bound {
				t.Errorf("seed %d: %v", seed, v)
			}
		}})
		r := &register{past: []state{{}}, severed: make(chan struct{})}
		end := Now().Add(time.Minute)
		var all sync.WaitGroup
		actor := func(id uint64, act func(rng *rand.Rand, nap func(most time.Duration))) {
			rng := rand.New(rand.NewPCG(seed, id))
			nap := func(most time.Duration) { time.Sleep(time.Duration(rng.Int64N(int64(most)))) }
			all.Go(func() {
				for Now() < end {
					nap(100 * ms)
					act(rng, nap)
				}
			})
		}
		for id := range uint64(3) {
			actor(id, func(rng *rand.Rand, nap func(time.Duration)) {
				change := Change{Absent: rng.IntN(5) == 0}
				by := Outside
				if lag == 0 {
					by = int(id)
				}
				w, ok := o.Begin(by, 0, change)
				if !ok {
					return
				}
				version := w.Version()
				if change.Absent {
					version = 0
				}
				nap(20 * ms)
				switch rng.IntN(20) {
				case 0: // cut off
					r.mu.Lock()
					severed := r.severed
					r.mu.Unlock()
					late := time.Duration(rng.Int64N(int64(20 * time.Second)))
					all.Go(func() {
						select {
						case <-time.After(late):
							r.set(version)
						case <-severed:
						}
					})
					w.Unknown()
				case 1: // lost
					w.Unknown()
				case 2: // happened, though its answer was lost
					r.set(version)
					nap(20 * ms)
					w.Unknown()
				default:
					r.set(version)
					nap(20 * ms)
					w.Acknowledged()
				}
			})
		}
		actor(10, func(_ *rand.Rand, nap func(time.Duration)) {
			nap(10 * time.Second)
			began := Now()
			nap(20 * ms)
			r.mu.Lock()
			close(r.severed)
			r.severed = make(chan struct{})
			r.mu.Unlock()
			synctest.Wait()
			o.Settle(began)
		})
		for node := range nodes {
			fresh, bounded := o.Reader(node, Fresh, 0), o.Reader(node, Default, bound)
			look := func(reader *Reader, began Instant, version uint64, nap func(time.Duration)) {
				nap(20 * ms)
				if version == 0 {
					reader.Missing(0, began, Now())
				} else {
					reader.Value(0, version, began, Now(), Unknown)
				}
			}
			actor(uint64(20+node), func(_ *rand.Rand, nap func(time.Duration)) {
				began := Now()
				nap(20 * ms)
				look(fresh, began, r.get(0), nap)
			})
			actor(uint64(30+node), func(_ *rand.Rand, nap func(time.Duration)) {
				began := Now()
				look(bounded, began, r.get(lag), nap)
			})
		}
		all.Wait()
		counts = o.Counts()
	})
	return counts
}

func TestALawfulCacheIsNeverAccused(t *testing.T) {
	const bound = 500 * ms
	for seed := range uint64(20) {
		for _, lag := range []time.Duration{0, bound} {
			if c := simulate(t, seed, bound, lag); c.Reads < 1000 || c.Undecided != 0 {
				t.Errorf("seed %d, lag %v: %+v", seed, lag, c)
			}
		}
	}
}

func TestALateCacheIsAccused(t *testing.T) {
	const bound = 500 * ms
	for seed := range uint64(5) {
		c := simulate(t, seed, bound, 2*bound)
		if c.Violations[BoundedStaleness] < c.Reads/20 || len(c.Violations) != 1 {
			t.Errorf("seed %d: %+v", seed, c)
		}
	}
}
