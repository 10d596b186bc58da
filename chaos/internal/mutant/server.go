package mutant

import (
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/go-nearcache/nearcache/internal/oracle"
)

// A server is what a near cache can rely on of Redis, and nothing more: commands take effect at one instant each; a link gets pushes
// and replies in one order; a write is acknowledged before it is pushed; and between the answers to two pings, of which the second was
// sent after the first was answered, everything is pushed that had been written before the first was sent. A single PONG may overtake
// pushes.
type server struct {
	network network

	mu    sync.Mutex
	data  map[int]stored
	links map[*link]struct{}
}

// stored is what a key holds: a version of the key named in it, or the marker of a lease.
type stored struct {
	key     int
	version uint64
	lease   uint64 // not 0: the marker
	ends    oracle.Instant
}

const endless = oracle.Instant(1<<63 - 1)

// network makes delays. Each goroutine has its own, so that a seed gives the same ones.
type network struct{ seed uint64 }

func (n network) rng(stream uint64) *rand.Rand { return rand.New(rand.NewPCG(n.seed, stream)) }

func pause(rng *rand.Rand, most time.Duration) {
	time.Sleep(time.Duration(rng.Int64N(int64(most))))
}

func newServer(seed uint64) *server {
	return &server{network: network{seed}, data: map[int]stored{}, links: map[*link]struct{}{}}
}

// get returns what a key holds, and what is left of its life; false if nothing.
func (s *server) get(key int) (value stored, life time.Duration, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	value, ok = s.alive(key)
	return value, value.ends.Sub(oracle.Now()), ok
}

// alive returns what a key holds. What has expired is gone, and nobody is told.
func (s *server) alive(key int) (stored, bool) {
	value, ok := s.data[key]
	return value, ok && value.ends > oracle.Now()
}

func (s *server) set(key int, value stored) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.data[key] = value
	s.changed(key)
}

func (s *server) del(key int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.data, key)
	s.changed(key)
}

// setIfNone stores a value unless the key holds one.
func (s *server) setIfNone(key int, value stored) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.alive(key); ok {
		return false
	}
	s.data[key] = value
	s.changed(key)
	return true
}

// replace stores a value if the key still holds the lease.
func (s *server) replace(key int, lease uint64, value stored) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if held, ok := s.alive(key); !ok || held.lease != lease {
		return false
	}
	s.data[key] = value
	s.changed(key)
	return true
}

func (s *server) changed(key int) {
	for l := range s.links {
		l.unpushed = append(l.unpushed, key)
	}
}

// A link is a connection that is told of changes.
type link struct {
	server   *server
	unpushed []int // written, and not yet on the way; guarded by server.mu
	rng      *rand.Rand

	out    chan message // what is on the way
	pings  chan struct{}
	closed chan struct{}
	once   sync.Once
	work   sync.WaitGroup
}

// A message is a push of keys, or a PONG.
type message struct {
	keys []int
	pong bool
}

var errCut = errors.New("mutant: the link was cut")

// connect makes a link; everything written from then on is pushed.
func (s *server) connect(stream uint64) *link {
	l := &link{
		server: s, rng: s.network.rng(stream),
		out: make(chan message, 1024), pings: make(chan struct{}, 1), closed: make(chan struct{}),
	}
	s.mu.Lock()
	s.links[l] = struct{}{}
	s.mu.Unlock()
	l.work.Go(l.serve)
	return l
}

// serve is the server's side: it pushes at its leisure, and answers a ping before or after it has pushed, but never two before.
func (l *link) serve() {
	pushed := true // everything that was written before the last PONG
	for {
		select {
		case <-l.closed:
			return
		case <-l.pings:
			if !pushed || l.rng.IntN(2) == 0 {
				l.push()
			}
			pushed = l.send(message{pong: true}) && l.rng.IntN(2) == 0
			if pushed {
				l.push()
			}
		case <-time.After(time.Duration(l.rng.Int64N(int64(4 * time.Millisecond)))):
			l.push()
			pushed = true
		}
	}
}

func (l *link) push() {
	l.server.mu.Lock()
	keys := l.unpushed
	l.unpushed = nil
	l.server.mu.Unlock()
	if len(keys) > 0 {
		l.send(message{keys: keys})
	}
}

func (l *link) send(m message) bool {
	select {
	case l.out <- m:
		return true
	case <-l.closed:
		return false
	}
}

// receive returns the next message.
func (l *link) receive() (message, error) {
	select {
	case m := <-l.out:
		return m, nil
	case <-l.closed:
		return message{}, errCut
	}
}

// ping sends a ping. Never two before a PONG.
func (l *link) ping() { l.pings <- struct{}{} }

// cut ends the link, for both sides.
func (l *link) cut() {
	l.once.Do(func() {
		l.server.mu.Lock()
		delete(l.server.links, l)
		l.server.mu.Unlock()
		close(l.closed)
	})
}
