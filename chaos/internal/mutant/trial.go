package mutant

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/go-nearcache/nearcache/internal/oracle"
)

// A Mutant is a cache that lacks one part of the protocol, or none.
type Mutant struct {
	Name string

	// Breaks is the rule that the missing part upholds; Kept if nothing is missing.
	Breaks oracle.Rule

	// Also are rules that break with it: a value that stays too long is too old for every reader.
	Also []oracle.Rule

	defects defects
}

// All returns every mutant, and first the sound cache.
func All() []Mutant {
	stale := []oracle.Rule{oracle.FreshRead, oracle.ReadYourWrites, oracle.MonotonicReads}
	return []Mutant{
		{Name: "nothing missing"},
		{"no token check", oracle.BoundedStaleness, stale, defects{noToken: true}},
		{"one-PING fence", oracle.FreshRead, nil, defects{onePing: true}},
		{"flush before reconnect", oracle.BoundedStaleness, stale, defects{flushBeforeReconnect: true}},
		{"watchdog-only staleness", oracle.BoundedStaleness, nil, defects{watchdogOnly: true}},
		{"no local invalidation", oracle.ReadYourWrites, nil, defects{noLocalInvalidation: true}},
		{"two halves of L1", oracle.MonotonicReads, []oracle.Rule{oracle.ReadYourWrites}, defects{twoHalves: true}},
		{"no life in L1", oracle.ExpiredRead, nil, defects{noLife: true}},
		{"no comparison with the lease", oracle.StaleFill, append(stale, oracle.BoundedStaleness), defects{noCompare: true}},
		{"lease without an end", oracle.LeaseOverdue, nil, defects{endlessLease: true}},
		{"no comparison of keys", oracle.ForeignValue, append(stale, oracle.BoundedStaleness, oracle.ExpiredRead), defects{noKeyCheck: true}},
	}
}

// A Result is what the oracle said of a mutant.
type Result struct {
	Mutant Mutant
	Counts oracle.Counts
	After  time.Duration    // from the start to the first violation of Mutant.Breaks, or to the end of the trial
	First  oracle.Violation // of Mutant.Breaks
}

// Right reports whether the oracle said what it should: the rule in question is broken, and no rule that has nothing to do with it.
func (r Result) Right() bool {
	for rule := range r.Counts.Violations {
		if rule != r.Mutant.Breaks && !slices.Contains(r.Mutant.Also, rule) {
			return false
		}
	}
	return r.Mutant.Breaks == oracle.Kept || r.Counts.Violations[r.Mutant.Breaks] > 0
}

// String returns the result in one line.
func (r Result) String() string {
	verdict := "NOT CAUGHT"
	switch {
	case r.Mutant.Breaks == oracle.Kept && r.Right():
		verdict = "nothing found"
	case r.Right():
		verdict = fmt.Sprintf("caught by %q", r.Mutant.Breaks)
	case r.Counts.Violations[r.Mutant.Breaks] > 0:
		verdict = fmt.Sprintf("caught by %q, and by rules that have nothing to do with it: %v", r.Mutant.Breaks, r.Counts.Violations)
	case len(r.Counts.Violations) > 0:
		verdict = fmt.Sprintf("caught by the wrong rules: %v", r.Counts.Violations)
	}
	return fmt.Sprintf("%-30s %s after %v and %d reads", r.Mutant.Name, verdict, r.After.Round(time.Millisecond), r.Counts.Reads)
}

// The keys of a trial: plain ones, one that expires, and sourced ones.
const (
	plainKeys    = 6
	expiringKeys = 2
	sourcedKeys  = 4
	keys         = plainKeys + expiringKeys + sourcedKeys
	nodes        = 3

	expiringLife = 2 * bound
)

func sourced(key int) bool { return key >= plainKeys+expiringKeys }

func expires(key int) bool { return key >= plainKeys && !sourced(key) }

// Try runs a mutant until the oracle has caught it, but not for longer than limit. It leaves nothing running.
func Try(ctx context.Context, m Mutant, seed uint64, limit time.Duration) Result {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	result := Result{Mutant: m}
	began := time.Now()
	var first sync.Once
	t := &trial{server: newServer(seed)}
	t.oracle = oracle.New(oracle.Options{
		Keys: keys, Nodes: nodes, Sourced: sourced,
		OnViolation: func(v oracle.Violation) {
			if v.Rule == m.Breaks {
				first.Do(func() {
					result.First, result.After = v, time.Since(began)
					cancel()
				})
			}
		},
	})
	for id := range nodes {
		t.nodes = append(t.nodes, newCache(t.server, id, t.load, m.defects))
	}
	t.run(ctx)
	first.Do(func() { result.After = time.Since(began) })
	result.Counts = t.oracle.Counts()
	return result
}

// A trial is some nodes on a server, and all that goes on there.
type trial struct {
	server *server
	oracle *oracle.Oracle
	nodes  []*cache

	mu     sync.Mutex
	source [keys]uint64
}

func (t *trial) load(key int) uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.source[key]
}

func (t *trial) run(ctx context.Context) {
	var all sync.WaitGroup
	defer all.Wait()
	streams := uint64(1) << 40
	repeat := func(most time.Duration, act func(rng *rand.Rand)) {
		streams++
		rng := t.server.network.rng(streams)
		all.Go(func() {
			for ctx.Err() == nil {
				pause(rng, most)
				act(rng)
			}
		})
	}
	for _, c := range t.nodes {
		all.Go(func() { c.run(ctx) })
		for half := range 2 {
			bounded := t.oracle.Reader(c.id, oracle.Default, bound)
			repeat(time.Millisecond, func(rng *rand.Rand) { t.read(ctx, c, rng.IntN(keys), half, bounded, bound) })
		}
		for range 4 {
			fresh := t.oracle.Reader(c.id, oracle.Fresh, 0)
			repeat(2*time.Millisecond, func(rng *rand.Rand) { t.read(ctx, c, rng.IntN(keys), 0, fresh, 0) })
		}
		repeat(20*time.Millisecond, func(rng *rand.Rand) { t.write(c, rng.IntN(keys-sourcedKeys), rng) })
		repeat(400*time.Millisecond, func(rng *rand.Rand) {
			c.running.closeFor(2*bound + time.Duration(rng.Int64N(int64(bound))))
		})
		repeat(300*time.Millisecond, func(*rand.Rand) {
			c.mu.Lock()
			l := c.link
			c.mu.Unlock()
			if l != nil {
				l.cut()
			}
		})
	}
	repeat(10*time.Millisecond, func(rng *rand.Rand) { t.write(nil, rng.IntN(keys-sourcedKeys), rng) })
	repeat(10*time.Millisecond, t.writeSource)
	direct := t.oracle.Reader(oracle.Outside, oracle.Direct, 0)
	repeat(time.Millisecond, func(rng *rand.Rand) { t.look(direct, rng.IntN(keys)) })
}

func (t *trial) read(ctx context.Context, c *cache, key, half int, r *oracle.Reader, within time.Duration) {
	began := oracle.Now()
	value, tier, ok := c.read(ctx, key, half, within)
	ended := oracle.Now()
	switch {
	case !ok:
	case value.version == 0:
		r.Missing(key, began, ended)
	case value.key != key:
		r.Value(key, 0, began, ended, tier) // no write has the version 0
	default:
		r.Value(key, value.version, began, ended, tier)
	}
}

// look reads the server itself.
func (t *trial) look(r *oracle.Reader, key int) {
	began := oracle.Now()
	value, life, ok := t.server.get(key)
	ended := oracle.Now()
	switch {
	case !ok && !sourced(key):
		r.Missing(key, began, ended)
	case !ok:
	case value.lease != 0:
		if value.ends == endless {
			life = -1
		}
		t.oracle.Lease(key, fmt.Sprint(value.lease), life, leaseLife, began)
	case value.version == 0:
		r.Missing(key, began, ended) // the source had none
	default:
		r.Value(key, value.version, began, ended, oracle.Remote)
	}
}

// write writes a key of which the server is the truth, through a node or past all.
func (t *trial) write(c *cache, key int, rng *rand.Rand) {
	change := oracle.Change{}
	if expires(key) {
		if rng.IntN(16) > 0 {
			return // what is written all the time never expires
		}
		change.Life = expiringLife
	}
	node := oracle.Outside
	if c != nil {
		node = c.id
	}
	w, ok := t.oracle.Begin(node, key, change)
	if !ok {
		return
	}
	do := func() {
		pause(rng, time.Millisecond)
		ends := endless
		if change.Life > 0 {
			ends = oracle.Now().Add(expiringLife)
		}
		t.server.set(key, stored{key: key, version: w.Version(), ends: ends})
		pause(rng, time.Millisecond)
	}
	if c == nil {
		do()
	} else {
		c.write(key, do)
	}
	w.Acknowledged()
}

// writeSource changes an item in the source, and then removes it from the server.
func (t *trial) writeSource(rng *rand.Rand) {
	key := keys - 1 - rng.IntN(sourcedKeys)
	w, ok := t.oracle.Begin(oracle.Outside, key, oracle.Change{})
	if !ok {
		return
	}
	pause(rng, time.Millisecond)
	t.mu.Lock()
	t.source[key] = w.Version()
	t.mu.Unlock()
	pause(rng, 5*time.Millisecond)
	t.server.del(key)
	pause(rng, time.Millisecond)
	w.Acknowledged()
}
