package mutant

import (
	"context"
	"sync"
	"time"

	"github.com/go-nearcache/nearcache/internal/oracle"
)

// defects are the parts of the protocol that a cache lacks.
type defects struct {
	noToken              bool // stores what it fetched whatever happened meanwhile
	onePing              bool // takes one PONG for a fence
	flushBeforeReconnect bool // forgets everything when the link is lost, and not when it is there again
	watchdogOnly         bool // leaves it to a goroutine to notice that nothing is heard of the server
	noLocalInvalidation  bool // learns of its own writes by the push
	noLife               bool // keeps values beyond their life in Redis
	noCompare            bool // stores what it loaded over what was written meanwhile
	endlessLease         bool // takes leases that do not end, and leaves some behind
	noKeyCheck           bool // finds entries by a short hash of the key, and does not compare the key
	twoHalves            bool // keeps two L1s, each up to date to within the bound on its own
}

const (
	bound     = 50 * time.Millisecond
	heartbeat = bound / 5
	leaseLife = 30 * time.Millisecond
	loadLimit = 20 * time.Millisecond
)

// A cache is a node: an L1 before the server, and a loader for some keys.
type cache struct {
	defects
	server *server
	source func(key int) uint64
	id     int

	running gate // closed while the process is stopped

	mu       sync.Mutex
	entries  [2]map[int]entry // the second is for twoHalves
	versions map[int]uint64   // of keys: the token
	epoch    uint64           // 0 while there is no link
	epochs   uint64
	asOf     oracle.Instant
	fences   []chan struct{}
	link     *link
	leases   uint64
}

type entry struct {
	value   stored
	epoch   uint64
	ends    oracle.Instant
	fetched oracle.Instant
}

func newCache(s *server, id int, source func(int) uint64, d defects) *cache {
	return &cache{defects: d, server: s, source: source, id: id, entries: [2]map[int]entry{{}, {}}, versions: map[int]uint64{}}
}

// run keeps a link until ctx ends.
func (c *cache) run(ctx context.Context) {
	rng := c.server.network.rng(uint64(c.id))
	for stream := uint64(c.id+1) << 16; ctx.Err() == nil; stream++ {
		l := c.server.connect(stream)
		pause(rng, 5*time.Millisecond)
		stop := context.AfterFunc(ctx, l.cut)
		c.live(l)
		c.follow(l)
		c.lost()
		stop()
		l.work.Wait()
		pause(rng, 40*time.Millisecond)
	}
}

func (c *cache) live(l *link) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.link = l
	c.asOf = oracle.Now()
	c.epoch = 1
	if !c.flushBeforeReconnect {
		c.epochs++
		c.epoch = c.epochs
	}
}

func (c *cache) lost() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.link = nil
	c.epoch = 0
	if c.flushBeforeReconnect {
		c.epoch = 1 // and goes on filling
		c.entries = [2]map[int]entry{{}, {}}
	}
	for _, done := range c.fences {
		close(done)
	}
	c.fences = nil
}

// follow takes pushes and keeps round trips going until the link is cut, or nothing is heard for too long.
func (c *cache) follow(l *link) {
	var sent oracle.Instant         // of the ping under way
	waiting := [2][]chan struct{}{} // fences that began before the ping under way, and before the last
	ping := func() {
		c.mu.Lock()
		waiting[0] = append(waiting[0], c.fences...)
		c.fences = nil
		c.mu.Unlock()
		sent = oracle.Now()
		l.ping()
	}
	c.mu.Lock()
	before := c.asOf // when the last ping was sent that has been answered; the handshake counts for one
	c.mu.Unlock()
	ping()
	watchdog := time.AfterFunc(bound, l.cut)
	defer watchdog.Stop()
	defer func() {
		for _, group := range waiting {
			for _, done := range group {
				close(done)
			}
		}
	}()
	for {
		m, err := l.receive()
		c.running.pass()
		if err != nil {
			return
		}
		for _, key := range m.keys {
			c.invalidate(key)
		}
		if m.pong {
			watchdog.Reset(bound)
			served := waiting[1]
			waiting[1], waiting[0] = waiting[0], nil
			if c.onePing {
				served, waiting[1] = waiting[1], nil
				before = sent
			}
			c.mu.Lock()
			c.asOf = before
			c.mu.Unlock()
			for _, done := range served {
				close(done)
			}
			before = sent
		}
		if m.pong {
			time.Sleep(heartbeat / 4)
			ping()
		}
	}
}

// fence waits until all that had been written is known; it reports false if the link was lost.
func (c *cache) fence() bool {
	c.mu.Lock()
	l := c.link
	if l == nil {
		c.mu.Unlock()
		return false
	}
	done := make(chan struct{})
	c.fences = append(c.fences, done)
	c.mu.Unlock()
	<-done
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.link == l
}

func (c *cache) invalidate(key int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.versions[key]++
	if !c.twoHalves {
		delete(c.entries[0], c.slot(key))
	}
}

func (c *cache) slot(key int) int {
	if c.noKeyCheck {
		return key % 5
	}
	return key
}

// read returns what a key holds, no older than within allows: the zero value if there is nothing. It reports false if ctx ended.
func (c *cache) read(ctx context.Context, key, half int, within time.Duration) (value stored, tier oracle.Tier, ok bool) {
	c.running.pass()
	began := oracle.Now()
	notBefore := began.Add(-within)
	if value, ok := c.look(key, half, began, notBefore); ok {
		return value, oracle.Local, true
	}
	if c.behind(notBefore) && c.fence() {
		if value, ok := c.look(key, half, began, notBefore); ok {
			return value, oracle.Local, true
		}
	}
	value, ok = c.fetch(ctx, key, half)
	return value, oracle.Remote, ok
}

func (c *cache) behind(notBefore oracle.Instant) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.asOf < notBefore
}

// look answers from L1.
func (c *cache) look(key, half int, began, notBefore oracle.Instant) (stored, bool) {
	if !c.twoHalves {
		half = 0
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.entries[half][c.slot(key)]
	current := c.asOf >= notBefore
	switch {
	case c.watchdogOnly && began.Sub(notBefore) == bound:
		current = true
	case c.twoHalves:
		current = e.fetched >= notBefore
	}
	return e.value, ok && e.epoch == c.epoch && e.epoch != 0 && began < e.ends && current
}

// fetch answers from the server, or loads. It reports false if ctx ended.
func (c *cache) fetch(ctx context.Context, key, half int) (stored, bool) {
	if !c.twoHalves {
		half = 0
	}
	for ctx.Err() == nil {
		c.mu.Lock()
		version, epoch := c.versions[key], c.epoch
		c.mu.Unlock()
		began := oracle.Now()
		rng := c.server.network.rng(uint64(began))
		pause(rng, time.Millisecond)
		value, life, ok := c.server.get(key)
		pause(rng, 10*time.Millisecond)
		switch {
		case ok && value.lease == 0:
			c.mu.Lock()
			if epoch != 0 && (c.noToken && c.epoch != 0 || c.versions[key] == version && c.epoch == epoch) {
				e := entry{value: value, epoch: epoch, ends: began.Add(life), fetched: began}
				if c.noLife {
					e.ends = endless
				}
				if value.ends == endless {
					e.ends = endless
				}
				c.entries[half][c.slot(key)] = e
			}
			c.mu.Unlock()
			return value, true
		case ok:
			pause(rng, 5*time.Millisecond) // another node loads it
		case c.source == nil || !sourced(key):
			return stored{}, true
		default:
			if value, ok := c.load(key); ok {
				return value, true
			}
		}
	}
	return stored{}, false
}

// load loads under a lease; false if another node has it.
func (c *cache) load(key int) (stored, bool) {
	c.mu.Lock()
	c.leases++
	lease := uint64(c.id+1)<<32 | c.leases
	c.mu.Unlock()
	ends := oracle.Now().Add(leaseLife)
	if c.endlessLease {
		ends = endless
	}
	if !c.server.setIfNone(key, stored{key: key, lease: lease, ends: ends}) {
		return stored{}, false
	}
	rng := c.server.network.rng(lease)
	value := stored{key: key, version: c.source(key), ends: oracle.Now().Add(20 * bound)}
	pause(rng, loadLimit)
	if c.endlessLease && rng.IntN(8) == 0 {
		return value, true // the process dies here
	}
	if c.noCompare {
		c.server.set(key, value)
	} else {
		c.server.replace(key, lease, value)
	}
	return value, true
}

// write changes a key through the node, by do.
func (c *cache) write(key int, do func()) {
	if c.noLocalInvalidation {
		do()
		return
	}
	c.invalidate(key)
	do()
	c.invalidate(key)
}

// A gate stops who passes while it is closed.
type gate struct {
	mu     sync.Mutex
	opened chan struct{} // nil if the gate is open
}

func (g *gate) pass() {
	g.mu.Lock()
	opened := g.opened
	g.mu.Unlock()
	if opened != nil {
		<-opened
	}
}

// closeFor closes the gate for a while.
func (g *gate) closeFor(d time.Duration) {
	opened := make(chan struct{})
	g.mu.Lock()
	g.opened = opened
	g.mu.Unlock()
	time.Sleep(d)
	g.mu.Lock()
	g.opened = nil
	g.mu.Unlock()
	close(opened)
}
