package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"sync"
	"time"

	"github.com/redis/rueidis"

	"github.com/go-nearcache/nearcache"
	"github.com/go-nearcache/nearcache/examples/internal/demoserver"
)

// prefix is what Redis announces to the nodes. The program has it to itself.
const prefix = "nearcache-live:"

// bound is Options.MaxStaleness. It is longer than the default, so that a person can see it being kept.
const bound = 2 * time.Second

// keys are the items, by the codes of some airports. A value is the number of its version.
var keys = []string{"AMS", "BOM", "CDG", "DXB", "EZE", "GRU", "HND", "JFK", "LIM", "NBO", "SIN", "VIE"}

var nodeNames = []string{"A", "B", "C", "D"}

// A fleet is the nodes, the database behind them, and somebody outside who writes to Redis without nearcache.
type fleet struct {
	redis   *demoserver.Server
	nodes   []*node
	outside rueidis.Client
	source  source
	log     journal

	mu     sync.Mutex
	frozen bool
	stored map[string]string // what Redis held when it was looked at last
}

// A node is what a process of a service would have, and what the page shows of it.
type node struct {
	name   string
	client *nearcache.Client
	cache  *nearcache.Cache[int]
	wire   wire

	mu      sync.Mutex
	read    map[string]reading  // by key
	evicted map[string]eviction // by key
	rate    rate
}

// reading is the last answer that a node got for a key.
type reading struct {
	version int
	from    string // "memory", "Redis" or "the database"
}

// source stands for a database: the version of each item, and some time to say it.
type source struct {
	mu       sync.Mutex
	versions map[string]int
}

const sourceLatency = 15 * time.Millisecond

func (s *source) load(ctx context.Context, key string) (int, error) {
	select {
	case <-time.After(sourceLatency):
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
	return s.version(key), nil
}

func (s *source) version(key string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.versions[key]
}

// next makes a new version.
func (s *source) next(key string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.versions[key]++
	return s.versions[key]
}

func openFleet(ctx context.Context, redis *demoserver.Server, logger *slog.Logger) (*fleet, error) {
	f := &fleet{redis: redis, stored: make(map[string]string)}
	f.source.versions = make(map[string]int)
	for _, key := range keys {
		f.source.versions[key] = 1
	}
	option := redis.Option
	option.DisableCache = true
	var err error
	if f.outside, err = rueidis.NewClient(option); err != nil {
		return nil, err
	}
	for _, name := range nodeNames {
		n, err := f.openNode(ctx, name, logger)
		if err != nil {
			return nil, errors.Join(err, f.close(ctx))
		}
		f.nodes = append(f.nodes, n)
	}
	return f, nil
}

func (f *fleet) openNode(ctx context.Context, name string, logger *slog.Logger) (*node, error) {
	n := &node{name: name, read: make(map[string]reading), evicted: make(map[string]eviction)}
	option := f.redis.Option
	option.DialCtxFn = n.wire.dial
	var err error
	n.client, err = nearcache.Open(ctx, nearcache.Options{
		Redis:         option,
		Prefixes:      []string{prefix},
		MaxStaleness:  bound,
		RemoteTimeout: 500 * time.Millisecond,
		Name:          name,
		Logger:        logger.With("node", name),
	})
	if err != nil {
		return nil, err
	}
	n.cache, err = nearcache.New(n.client, nearcache.Config[int]{
		Name: "items", Prefix: prefix, TTL: time.Hour, LoadTimeout: 2 * time.Second,
		Load: f.source.load,
	})
	if err != nil {
		return nil, errors.Join(err, n.client.Close(ctx))
	}
	return n, nil
}

// close ends the clients. A frozen server is thawed before, since it could not end otherwise.
func (f *fleet) close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	errs := []error{f.freeze(false)}
	for _, n := range f.nodes {
		errs = append(errs, n.client.Close(ctx))
	}
	f.outside.Close()
	return errors.Join(errs...)
}

func (f *fleet) node(name string) *node {
	for _, n := range f.nodes {
		if n.name == name {
			return n
		}
	}
	return nil
}

// readsEvery is the time between two reads of a node.
const readsEvery = 40 * time.Millisecond

// work reads on all nodes, writes on one after another, and looks at Redis, until ctx ends.
func (f *fleet) work(ctx context.Context, writes time.Duration) {
	var all sync.WaitGroup
	for _, n := range f.nodes {
		all.Go(func() { every(ctx, readsEvery, func() { n.get(ctx, keys[rand.IntN(len(keys))]) }) }) //nolint:gosec // no secret
	}
	all.Go(func() { every(ctx, 200*time.Millisecond, func() { f.look(ctx) }) })
	if writes > 0 {
		all.Go(func() {
			every(ctx, writes, func() {
				_ = f.write(ctx, f.nodes[rand.IntN(len(f.nodes))], keys[rand.IntN(len(keys))]) //nolint:gosec // no secret
			})
		})
	}
	all.Go(func() { every(ctx, 50*time.Millisecond, f.notice) })
	all.Wait()
}

func every(ctx context.Context, interval time.Duration, do func()) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			do()
		case <-ctx.Done():
			return
		}
	}
}

// get reads, and finds out from the node's own counters what answered. Nobody else reads on the node.
func (n *node) get(ctx context.Context, key string) {
	before := n.client.Stats().Caches["items"]
	version, err := n.cache.Get(ctx, key)
	after := n.client.Stats().Caches["items"]
	if err != nil {
		return
	}
	r := reading{version: version}
	switch {
	case after.LocalHits > before.LocalHits:
		r.from = "memory"
	case after.Loads > before.Loads:
		r.from = "the database"
	default:
		r.from = "Redis"
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.read[key] = r
	n.rate.add(r.from == "memory")
}

// write makes a new version of an item in the database and in Redis, as a node does: everybody else forgets the old one.
func (f *fleet) write(ctx context.Context, n *node, key string) error {
	version := f.source.next(key)
	began := time.Now()
	if err := n.cache.Set(ctx, key, version); err != nil {
		f.log.add("trouble", fmt.Sprintf("Node %s could not write %s: Redis does not answer", n.name, key))
		return err
	}
	f.log.wrote(n.name, key, version, began)
	return nil
}

// writeOutside does so as any other program does, which has never heard of nearcache.
func (f *fleet) writeOutside(ctx context.Context, key string) error {
	version := f.source.next(key)
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	began := time.Now()
	set := f.outside.B().Set().Key(prefix + key).Value(strconv.Itoa(version)).Px(time.Hour).Build()
	if err := f.outside.Do(ctx, set).Error(); err != nil {
		f.log.add("trouble", fmt.Sprintf("Outside: SET %s was not answered", key))
		return err
	}
	f.log.wrote("Outside", key, version, began)
	return nil
}

var errNotOurs = errors.New("this Redis was there before the program: it is not frozen or flushed")

func (f *fleet) freeze(freeze bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.frozen == freeze {
		return nil
	}
	act, text := f.redis.Resume, "Redis runs again"
	if freeze {
		act, text = f.redis.Pause, "Redis is frozen: it answers nobody, and its connections stay open"
	}
	if err := act(); err != nil {
		return err
	}
	f.frozen = freeze
	f.log.add("server", text)
	return nil
}

func (f *fleet) isFrozen() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.frozen
}

func (f *fleet) flush(ctx context.Context) error {
	if !f.redis.Private {
		return errNotOurs
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if err := f.outside.Do(ctx, f.outside.B().Flushall().Build()).Error(); err != nil {
		f.log.add("trouble", "FLUSHALL was not answered")
		return err
	}
	f.log.add("server", "FLUSHALL: Redis is empty, and so is every node's memory")
	f.look(ctx)
	return nil
}

// look asks Redis what it holds.
func (f *fleet) look(ctx context.Context) {
	if f.isFrozen() {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	defer cancel()
	full := make([]string, len(keys))
	for i, key := range keys {
		full[i] = prefix + key
	}
	values, err := f.outside.Do(ctx, f.outside.B().Mget().Key(full...).Build()).ToArray()
	if err != nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, key := range keys {
		text, err := values[i].ToString()
		if _, notANumber := strconv.Atoi(text); err != nil || notANumber != nil {
			text = "" // nothing, or the mark of a load
		}
		f.stored[key] = text
	}
}

// rate counts the reads of the last seconds, and how many of them memory answered.
type rate struct {
	second       int64
	reads, hits  [rateSeconds]int
	total, saved int
}

const rateSeconds = 5

func (r *rate) add(hit bool) {
	r.forget()
	i := r.second % rateSeconds
	r.reads[i]++
	r.total++
	if hit {
		r.hits[i]++
		r.saved++
	}
}

// forget empties the seconds that have passed.
func (r *rate) forget() {
	now := time.Now().Unix()
	for ; r.second < now; r.second = min(r.second+1, now) {
		if now-r.second > rateSeconds {
			r.reads, r.hits, r.second = [rateSeconds]int{}, [rateSeconds]int{}, now
			return
		}
		i := (r.second + 1) % rateSeconds
		r.reads[i], r.hits[i] = 0, 0
	}
}

// recent is the share of hits in the last seconds; false if there was no read.
func (r *rate) recent() (float64, bool) {
	r.forget()
	reads, hits := 0, 0
	for i := range r.reads {
		reads, hits = reads+r.reads[i], hits+r.hits[i]
	}
	if reads == 0 {
		return 0, false
	}
	return float64(hits) / float64(reads), true
}
