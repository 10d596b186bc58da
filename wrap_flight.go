package nearcache

import (
	"sync"

	"github.com/redis/rueidis"

	"github.com/go-nearcache/nearcache/localcache"
)

// A replyFlight is one command under way to Redis, shared by the readers that came in the meantime. Who may join is what flights.join
// says; the flight is the command's, and the token its key's.
type replyFlight struct {
	name  replyName
	token localcache.Token // taken before anything was sent
	began localcache.Instant
	shard *localcache.Shard // of the server that answered: see reply.shard; for its leader

	done      chan struct{} // closed when what follows is set
	message   rueidis.RedisMessage
	err       error
	abandoned bool // by its leader, whose context ended: its error is nobody else's

	ended bool // for its leader
}

// replyName tells commands under way apart.
type replyName struct {
	key     localcache.Key
	command string
}

type replyFlights struct {
	parts [64]struct {
		mu     sync.Mutex
		byName map[replyName]*replyFlight
	}
}

// join returns the flight to wait for, or a new one that the caller has to lead.
func (r *rueidisClient) join(m read, q query) (f *replyFlight, leader bool) {
	shard := r.client.shardOf("", m.key)
	asOf := shard.AsOf() // first: see flights.join
	name := replyName{m.hash, commandOf(m.parts, m.at)}
	part := &r.flights.parts[m.hash.Part(len(r.flights.parts))]
	part.mu.Lock()
	defer part.mu.Unlock()
	if current := part.byName[name]; current != nil && current.token.Current() {
		if current.token.Of(shard) && (current.began >= q.notBefore || asOf >= q.notBefore) {
			return current, false
		}
		// What the new flight finds may be newer, and be read from L1 before the old one stores what it found: it must not any more.
		r.view.Invalidate(m.hash, localcache.Local)
	}
	f = &replyFlight{name: name, token: r.view.Token(m.hash, shard), began: localcache.Now(), done: make(chan struct{})}
	if part.byName == nil {
		part.byName = make(map[replyName]*replyFlight)
	}
	part.byName[name] = f
	return f, true
}

// abandon ends a flight that its leader has not ended, whatever it is that made the leader return: those who wait go on by themselves.
func (r *rueidisClient) abandon(m read, f *replyFlight) {
	if !f.ended {
		f.abandoned = true
		r.end(m, f)
	}
}

// end publishes the result.
func (r *rueidisClient) end(m read, f *replyFlight) {
	f.ended = true
	part := &r.flights.parts[m.hash.Part(len(r.flights.parts))]
	part.mu.Lock()
	if part.byName[f.name] == f {
		delete(part.byName, f.name)
	}
	part.mu.Unlock()
	close(f.done)
}
