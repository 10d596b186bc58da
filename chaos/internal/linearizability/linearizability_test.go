package linearizability

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/anishathalye/porcupine"
	"go.uber.org/goleak"

	"github.com/go-nearcache/nearcache/internal/oracle"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const ms = time.Millisecond

// A run is a short life of one key: writes that overlap, and fresh reads that return at random one of the newest versions.
func run(t *testing.T, seed uint64) (h oracle.History, accused bool) {
	synctest.Test(t, func(t *testing.T) {
		o := oracle.New(oracle.Options{Keys: 1, Nodes: 1})
		var mu sync.Mutex
		newest := uint64(0)
		var all sync.WaitGroup
		repeat := func(stream uint64, times int, act func(rng *rand.Rand)) {
			rng := rand.New(rand.NewPCG(seed, stream))
			all.Go(func() {
				for range times {
					time.Sleep(time.Duration(rng.Int64N(int64(10 * ms))))
					act(rng)
				}
			})
		}
		for stream := range uint64(2) {
			repeat(stream, 4, func(rng *rand.Rand) {
				began := oracle.Now()
				w, _ := o.Begin(oracle.Outside, 0, oracle.Change{})
				mu.Lock()
				newest = w.Version()
				mu.Unlock()
				time.Sleep(ms + time.Duration(rng.Int64N(int64(8*ms))))
				w.Acknowledged()
				mu.Lock()
				defer mu.Unlock()
				h.Writes = append(h.Writes, oracle.WriteRecord{Version: w.Version(), Invoked: began, Returned: oracle.Now(), Certain: true})
			})
			reader := o.Reader(0, oracle.Fresh, 0)
			repeat(10+stream, 6, func(rng *rand.Rand) {
				began := oracle.Now()
				time.Sleep(ms + time.Duration(rng.Int64N(int64(4*ms))))
				mu.Lock()
				defer mu.Unlock()
				version := newest
				if rng.IntN(4) == 0 {
					version -= min(version, uint64(rng.IntN(2)))
				}
				r := oracle.Read{Version: version, Absent: version == 0, Began: began, Ended: oracle.Now()}
				h.Reads = append(h.Reads, r)
				var rule oracle.Rule
				if r.Absent {
					rule = reader.Missing(0, r.Began, r.Ended)
				} else {
					rule = reader.Value(0, version, r.Began, r.Ended, oracle.Unknown)
				}
				accused = accused || rule != oracle.Kept
			})
		}
		all.Wait()
	})
	return h, accused
}

// TestTheOracleAccusesOnlyWhatHasNoOrder compares the oracle's check of intervals with the search. The search may find more, since it
// looks at all reads at once.
func TestTheOracleAccusesOnlyWhatHasNoOrder(t *testing.T) {
	var accused, unordered int
	for seed := range uint64(2000) {
		h, guilty := run(t, seed)
		result := Check(h, 10*time.Second)
		if result == porcupine.Unknown {
			t.Fatalf("seed %d: the search did not end", seed)
		}
		if result == porcupine.Illegal {
			unordered++
		}
		if guilty {
			accused++
			if result != porcupine.Illegal {
				t.Errorf("seed %d: the oracle accuses a history that has an order:\n%s", seed, describe(h))
			}
		}
	}
	t.Logf("%d histories have no order, and the oracle accuses %d of them", unordered, accused)
	if accused < unordered/2 || accused < 100 {
		t.Errorf("%d histories have no order, and the oracle accuses only %d of them", unordered, accused)
	}
}

// TestSamplesOfARegisterHaveAnOrder samples the key of a perfect server, whose operations take effect at one instant each.
func TestSamplesOfARegisterHaveAnOrder(t *testing.T) {
	var histories []oracle.History
	for seed := range uint64(30) {
		synctest.Test(t, func(*testing.T) {
			var mu sync.Mutex
			o := oracle.New(oracle.Options{Keys: 1, Nodes: 1, Sample: oracle.Sampling{Keys: 1, Reads: 16, Take: func(h oracle.History) {
				mu.Lock()
				defer mu.Unlock()
				histories = append(histories, h)
			}}})
			var register atomic.Uint64
			var all sync.WaitGroup
			repeat := func(stream uint64, times int, pause time.Duration, act func(nap func(most time.Duration), dice func() int)) {
				rng := rand.New(rand.NewPCG(seed, stream))
				nap := func(most time.Duration) { time.Sleep(time.Duration(rng.Int64N(int64(most)))) }
				all.Go(func() {
					for range times {
						nap(pause)
						act(nap, func() int { return rng.IntN(10) })
					}
				})
			}
			for stream := range uint64(3) {
				repeat(stream, 100, 50*ms, func(nap func(time.Duration), dice func() int) {
					change := oracle.Change{Absent: dice() == 0}
					w, ok := o.Begin(oracle.Outside, 0, change)
					if !ok {
						return
					}
					nap(20 * ms)
					fate := dice()
					switch {
					case fate == 0: // never happens
					case change.Absent:
						register.Store(0)
					default:
						register.Store(w.Version())
					}
					nap(20 * ms)
					if fate < 2 {
						w.Unknown()
					} else {
						w.Acknowledged()
					}
				})
				reader := o.Reader(0, oracle.Fresh, 0)
				repeat(10+stream, 300, 10*ms, func(nap func(time.Duration), _ func() int) {
					began := oracle.Now()
					nap(10 * ms)
					version := register.Load()
					nap(10 * ms)
					var rule oracle.Rule
					if version == 0 {
						rule = reader.Missing(0, began, oracle.Now())
					} else {
						rule = reader.Value(0, version, began, oracle.Now(), oracle.Unknown)
					}
					if rule != oracle.Kept {
						t.Errorf("seed %d: %v", seed, rule)
					}
				})
			}
			repeat(20, 5, time.Second, func(func(time.Duration), func() int) { o.Settle(oracle.Now()) })
			all.Wait()
		})
	}
	for _, h := range histories {
		if result := Check(h, 10*time.Second); result != porcupine.Ok {
			t.Errorf("%v: %s", result, describe(h))
		}
	}
	if len(histories) < 500 {
		t.Errorf("only %d histories", len(histories))
	}
}

func TestChecker(t *testing.T) {
	var failed []oracle.History
	c := New(func(h oracle.History, _ string) { failed = append(failed, h) })
	read := func(version uint64, began, ended oracle.Instant) oracle.Read {
		return oracle.Read{Version: version, Began: began, Ended: ended}
	}
	write := func(version uint64, invoked, returned oracle.Instant, certain bool) oracle.WriteRecord {
		return oracle.WriteRecord{Version: version, Invoked: invoked, Returned: returned, Certain: certain}
	}
	ordered := oracle.History{
		Reads:  []oracle.Read{read(7, 0, 1), read(8, 2, 5), read(7, 2, 4), read(9, 9, 10)},
		Writes: []oracle.WriteRecord{write(8, 2, 3, true), write(9, 6, 7, false)},
	}
	unordered := oracle.History{
		Key:    1,
		Reads:  []oracle.Read{read(8, 2, 3), read(7, 4, 5)},
		Writes: []oracle.WriteRecord{write(8, 0, 9, true)},
	}
	var work sync.WaitGroup
	work.Go(c.Run)
	c.Offer(ordered)
	c.Offer(unordered)
	c.Close()
	work.Wait()
	if len(failed) != 1 || failed[0].Key != 1 || c.Checked.Load() != 1 || c.Reads.Load() != 4 || c.Failures.Load() != 1 {
		t.Errorf("%v", failed)
	}
}
