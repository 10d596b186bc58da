package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"

	"github.com/go-nearcache/nearcache"
	"github.com/go-nearcache/nearcache/internal/oracle"
)

// The user that nodes connect as, so that faults may take its rights.
const nodeUser = "node"

// A nodeConfig says what a node is, in this process or another.
type nodeConfig struct {
	ID         int
	Bound      time.Duration // Options.MaxStaleness
	StaleLimit time.Duration // 0, or how stale the node serves while its link is down
	MaxBytes   int64
	Verify     bool // the library compares what it serves with Redis, and writes canaries
	Ahead      bool // sourced and tagged items are refreshed before their end, and loaded several at a time
	Through    bool // sourced items are written through the library
	FailSafe   bool // sourced items are served past every bound if a load fails or is slow, to readers that set none
	Wires      wires
}

// promised is what a read without options may be stale by.
func (c nodeConfig) promised() time.Duration { return max(c.Bound, c.StaleLimit) }

// credentials are what nodes connect with. Faults change them.
type credentials struct{ password atomic.Pointer[string] }

func (c *credentials) set(password string) { c.password.Store(&password) }
func (c *credentials) get() string         { return *c.password.Load() }

// A node is a client of the library with a cache of each class.
type node struct {
	nodeConfig
	client *nearcache.Client
	redis  rueidis.Client // on the same L1
	caches [classes]cache
	tagged *nearcache.Tagged[*item] // the one of its class

	failedReads atomic.Uint64
	failSafe    atomic.Uint64 // reads that were served past every bound, and knew
	slowest     atomic.Int64  // the longest read, in nanoseconds
}

// A cache is what a Cache and a Tagged have in common.
type cache interface {
	Get(ctx context.Context, key string, options ...nearcache.ReadOption) (*item, error)
	GetItem(ctx context.Context, key string, options ...nearcache.ReadOption) (nearcache.Item[*item], error)
	GetMany(ctx context.Context, keys []string, options ...nearcache.ReadOption) (map[string]*item, error)
	Set(ctx context.Context, key string, value *item, options ...nearcache.WriteOption) error
	Delete(ctx context.Context, key string) error
	DeleteMany(ctx context.Context, keys []string) error
}

// remoteTimeout is short, so that a black hole costs a reader little.
const remoteTimeout = 250 * time.Millisecond

func openNode(ctx context.Context, config nodeConfig, login *credentials, source source) (*node, error) {
	n := &node{nodeConfig: config}
	options := nearcache.Options{
		Prefixes:      []string{keySpace},
		MaxStaleness:  config.Bound,
		MaxBytes:      config.MaxBytes,
		RemoteTimeout: remoteTimeout,
		StaleLimit:    config.StaleLimit,
		Redis: rueidis.ClientOption{
			InitAddress: []string{config.Wires.Data},
			DialCtxFn:   config.Wires.dial,
			AuthCredentialsFn: func(rueidis.AuthCredentialsContext) (rueidis.AuthCredentials, error) {
				return rueidis.AuthCredentials{Username: nodeUser, Password: login.get()}, nil
			},
			ReadBufferEachConn:  64 << 10,
			WriteBufferEachConn: 64 << 10,
			PipelineMultiplex:   1,
		},
	}
	if config.StaleLimit > 0 {
		options.OnDisconnect = nearcache.ServeStale
	}
	if config.Verify {
		options.Verify = nearcache.Verify{SampleRate: 0.01, MaxPerSecond: 50}
		options.Canary = time.Second
	}
	var err error
	if n.client, err = nearcache.Open(ctx, options); err != nil {
		return nil, err
	}
	load := func(c class) func(context.Context, string) (*item, error) {
		return func(ctx context.Context, name string) (*item, error) {
			key, err := keyOf(c, name)
			if err != nil {
				return nil, err
			}
			version, err := source.version(ctx, key)
			switch {
			case err != nil:
				return nil, err
			case version == 0:
				return nil, nearcache.ErrNotFound
			}
			return &item{key: key, version: version, made: oracle.Now()}, nil
		}
	}
	configs := [classes]nearcache.Config[*item]{
		plain:    {TTL: longLife},
		expiring: {TTL: expiringLife},
		sourced:  {TTL: sourcedLife, NegativeTTL: negativeLife, LoadTimeout: loadTimeout, Load: load(sourced)},
		tagged:   {TTL: sourcedLife, NegativeTTL: negativeLife, LoadTimeout: loadTimeout, Load: load(tagged)},
	}
	if config.Ahead {
		for _, c := range []class{sourced, tagged} {
			configs[c].RefreshAhead, configs[c].LocalTTL = 0.5, sourcedLife/2
			configs[c].LoadMany = func(ctx context.Context, names []string) (map[string]*item, error) {
				items := make(map[string]*item, len(names))
				for _, name := range names {
					one, err := configs[c].Load(ctx, name)
					if err != nil && !errors.Is(err, nearcache.ErrNotFound) {
						return nil, err
					}
					if err == nil {
						items[name] = one
					}
				}
				return items, nil
			}
		}
	}
	if config.Verify {
		// Whatever else a cache may have on at once.
		all := &configs[sourced]
		all.Jitter, all.StaleWhileRevalidate, all.RefreshInvalidated, all.MaxValueBytes = 0.2, sourcedLife, 1000, 1<<20
		all.Shadow = nearcache.Shadow{SampleRate: 0.01, MaxPerSecond: 50}
		all.Entry = func(string, *item) nearcache.EntryOptions { return nearcache.EntryOptions{LocalTTL: sourcedLife} }
		all.Clone = func(i *item) *item { other := *i; return &other }
	}
	if config.Through {
		store := source.(*memorySource) // of this process
		configs[sourced].Store = func(_ context.Context, name string, value *item) error {
			store.commit(value.key, value.version)
			return nil
		}
		configs[sourced].Remove = func(_ context.Context, name string) error {
			key, err := keyOf(sourced, name)
			if err == nil {
				store.commit(key, 0)
			}
			return err
		}
	}
	if config.FailSafe {
		configs[sourced].FailSafe = nearcache.FailSafe{MaxAge: time.Minute, SoftTimeout: loadTimeout / 10, RetryAfter: loadTimeout / 2}
	}
	for c := range classes {
		configs[c].Name, configs[c].Prefix, configs[c].Codec = classNames[c], c.prefix(), codec
		if c == tagged {
			n.tagged, err = nearcache.NewTagged(n.client, configs[c], func(key string) []string { return []string{tagOf(key)} })
			n.caches[c] = n.tagged
		} else {
			n.caches[c], err = nearcache.New(n.client, configs[c])
		}
		if err != nil {
			return nil, errors.Join(err, n.client.Close(ctx))
		}
	}
	if n.redis, err = n.client.Rueidis(); err != nil {
		return nil, errors.Join(err, n.client.Close(ctx))
	}
	return n, nil
}

// A witness is told what reads returned: a reader of the oracle, or the way to one.
type witness interface {
	Value(key int, version uint64, began, ended oracle.Instant, tier oracle.Tier) oracle.Rule
	Missing(key int, began, ended oracle.Instant) oracle.Rule
}

// testify passes on what a read returned.
func (n *node) testify(w witness, key int, value *item, err error, began, ended oracle.Instant) {
	if took := int64(ended.Sub(began)); took > n.slowest.Load() {
		n.slowest.Store(took)
	}
	switch {
	case err == nil:
		tier := oracle.Remote
		if value.made < began {
			tier = oracle.Local
		}
		version := value.version
		if value.key != key {
			version = 0 // which no write has
		}
		w.Value(key, version, began, ended, tier)
	case errors.Is(err, nearcache.ErrNotFound):
		w.Missing(key, began, ended)
	default:
		n.failedReads.Add(1)
	}
}

// A reading is one kind of reader.
type reading struct {
	demand  oracle.Demand
	bound   time.Duration
	options []nearcache.ReadOption
	readers int
	burst   int // reads in a row
	many    bool
	command bool // by DoCache
	hottest int  // how many plain keys are read; 0: all of all classes
}

const burstPause = 4 * time.Millisecond

func (n *node) readings() []reading {
	tighter, looser := n.Bound/4, 2*n.promised()
	demand := oracle.Default
	if n.StaleLimit > 0 {
		demand = oracle.Looser
	}
	return []reading{
		{demand: demand, bound: n.promised(), readers: 6, burst: 256},
		// Of the reads of few keys almost all are served from L1, so they see the moment at which it changes its mind.
		{demand: demand, bound: n.promised(), readers: 2, burst: 256, hottest: 48},
		{demand: demand, bound: n.promised(), readers: 1, burst: 2, many: true},
		{demand: demand, bound: n.promised(), readers: 2, burst: 256, command: true},
		{demand: oracle.Tighter, bound: tighter, options: []nearcache.ReadOption{nearcache.MaxStaleness(tighter)}, readers: 1, burst: 16},
		{demand: oracle.Looser, bound: looser, options: []nearcache.ReadOption{nearcache.MaxStaleness(looser)}, readers: 1, burst: 16},
		{demand: oracle.Fresh, options: []nearcache.ReadOption{nearcache.Fresh()}, readers: 2, burst: 8},
		// The histories of these are searched for an order.
		{demand: oracle.Fresh, options: []nearcache.ReadOption{nearcache.Fresh()}, readers: 1, burst: 8, hottest: sampledKeys},
	}
}

// read runs the node's readers until ctx ends.
func (n *node) read(ctx context.Context, seed uint64, witnesses func(oracle.Demand, time.Duration) witness) {
	var readers sync.WaitGroup
	defer readers.Wait()
	for kind, reading := range n.readings() {
		for i := range reading.readers {
			w := witnesses(reading.demand, reading.bound)
			pick := newPicker(seed, uint64(n.ID)<<16|uint64(kind)<<8|uint64(i))
			readers.Go(func() {
				for ctx.Err() == nil {
					n.readBurst(ctx, reading, pick, w)
					time.Sleep(burstPause)
				}
			})
		}
	}
}

// patience is more than any call of the library takes; what takes longer hangs.
const patience = 30 * time.Second

func (n *node) readBurst(ctx context.Context, r reading, pick *picker, w witness) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for range r.burst {
		if r.command {
			n.readByCommands(ctx, pick, w)
			continue
		}
		c := pick.class()
		if r.many {
			n.readMany(ctx, c, pick, w, r.options)
			continue
		}
		key := pick.hot(c)
		if r.hottest > 0 {
			c, key = plain, plain.first()+pick.rng.IntN(r.hottest)
		}
		began := oracle.Now()
		if n.FailSafe && c == sourced {
			item, err := n.caches[c].GetItem(ctx, keyNames[key], r.options...)
			if item.Stale && len(r.options) == 0 {
				n.failSafe.Add(1) // which is what was asked for
			} else {
				n.testify(w, key, item.Value, err, began, oracle.Now())
			}
			continue
		}
		value, err := n.caches[c].Get(ctx, keyNames[key], r.options...)
		n.testify(w, key, value, err, began, oracle.Now())
	}
}

func (n *node) readMany(ctx context.Context, c class, pick *picker, w witness, options []nearcache.ReadOption) {
	const batch = 24
	began := oracle.Now()
	for _, a := range n.getMany(ctx, c, distinctHot(pick, c, batch), options...) {
		n.testify(w, a.key, a.value, a.err, began, oracle.Now())
	}
}

func distinctHot(pick *picker, c class, n int) (keys []int) {
	for range n {
		if key := pick.hot(c); !slices.Contains(keys, key) {
			keys = append(keys, key)
		}
	}
	return keys
}

// An answer is what one key of several got.
type answer struct {
	key   int
	value *item
	err   error
}

// getMany is GetMany with an answer for each key, as Get gives it.
func (n *node) getMany(ctx context.Context, c class, keys []int, options ...nearcache.ReadOption) []answer {
	if c == commanded {
		return n.mget(ctx, keys)
	}
	names := make([]string, len(keys))
	for i, key := range keys {
		names[i] = keyNames[key]
	}
	if n.FailSafe && c == sourced && len(options) == 0 {
		options = []nearcache.ReadOption{nearcache.MaxStaleness(n.promised())} // GetMany does not tell what is served past it
	}
	values, err := n.caches[c].GetMany(ctx, names, options...)
	failures := keyErrors(err)
	answers := make([]answer, len(keys))
	for i, key := range keys {
		answers[i] = answer{key: key, value: values[names[i]]}
		switch failure := failures[names[i]]; {
		case failure != nil:
			answers[i].err = failure
		case answers[i].value == nil && err != nil && len(failures) == 0:
			answers[i].err = err
		case answers[i].value == nil:
			answers[i].err = nearcache.ErrNotFound
		}
	}
	return answers
}

// keyErrors returns the failures that GetMany joined.
func keyErrors(err error) map[string]error {
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return nil
	}
	failures := map[string]error{}
	for _, err := range joined.Unwrap() {
		if failure, ok := errors.AsType[*nearcache.KeyError](err); ok {
			failures[failure.Key] = failure.Err
		}
	}
	return failures
}

// awaitReady waits until the node serves from L1.
func (n *node) awaitReady(ctx context.Context) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		health := n.client.Health()
		if health.Ready {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("chaos: node %d is not ready although nothing is wrong: %s", n.ID, health.Reason)
		}
	}
}

// fence fences once the node is ready; it returns when the fence began.
func (n *node) fence(ctx context.Context) (began oracle.Instant, err error) {
	for {
		if err := n.awaitReady(ctx); err != nil {
			return 0, err
		}
		began = oracle.Now()
		if err = n.client.Fence(ctx); err == nil || ctx.Err() != nil {
			return began, err
		}
	}
}

// verified returns what the library's own comparisons found.
func (n *node) verified() (coherent, wrong uint64) {
	for _, stats := range n.client.Stats().Caches {
		coherent += stats.Verify.Coherent
		wrong += stats.Verify.Wrong
	}
	return coherent, wrong
}

func (n *node) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return n.client.Close(ctx)
}

func warn(format string, args ...any) { fmt.Fprintf(os.Stderr, "chaos: "+format+"\n", args...) }
