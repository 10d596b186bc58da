package nearcache

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"

	"github.com/go-nearcache/nearcache/localcache"
	"github.com/go-nearcache/nearcache/tracking"
)

// Reads from replicas. A replica is a server with a link and a shard of its own. Its link says what the replica has applied, which may be any
// amount behind its primary; so its as-of time is taken from both links: the primary's says where its history of writes stood at an instant,
// and once the replica's has delivered everything up to there, every write that the primary acknowledged before that instant has reached L1.
//
// A reader is sent to the replica only if its as-of time satisfies him before anything is sent: what it holds then is new enough, and what it
// applies later ends the token that was taken. All others, and all writes and loads, go to the primary. So a replica that lags is used by nobody
// whom it would give something too old, however far it is behind and however it came to be. That it has not gone back since, as one does that is
// started anew with the data of an hour ago, its answer shows: the position comes with it.
//
// What a node has written or read at a primary must not be older when it looks again: floors remember it.

// positions are where a primary's history of writes stood when.
type positions struct {
	mu      sync.Mutex
	history string
	known   []position // both ascending
}

// A position says that every write acknowledged before asOf is at offset or before.
type position struct {
	offset int64
	asOf   localcache.Instant
}

// mostPositions is how many are remembered. There are up to positionsPerBound of them for each MaxStaleness, so that they reach back for longer than
// a replica may be behind and be of use.
const (
	positionsPerBound = 128
	mostPositions     = 4 * positionsPerBound
)

func (p *positions) note(asOf localcache.Instant, at tracking.Position, apart time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.history != at.History {
		p.history, p.known = at.History, nil
	}
	next := position{offset: at.Offset, asOf: asOf}
	n := len(p.known)
	switch {
	case n > 0 && p.known[n-1].offset == at.Offset, n > 1 && p.known[n-1].asOf.Sub(p.known[n-2].asOf) < apart:
		p.known[n-1] = next
	case n == mostPositions:
		p.known = append(p.known[:0], p.known[n/2:]...)
		p.known = append(p.known, next)
	default:
		p.known = append(p.known, next)
	}
}

// reached returns the latest instant whose position a replica has come to. It reports whether the replica is one of the same history, as far
// as that is known.
func (p *positions) reached(by tracking.Position) (asOf localcache.Instant, ok, same bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.history == "" || by.History == "" {
		return 0, false, true
	}
	if p.history != by.History {
		return 0, false, false
	}
	n, found := slices.BinarySearchFunc(p.known, by.Offset, func(p position, offset int64) int { return cmp.Compare(p.offset, offset) })
	if found {
		n++
	}
	if n == 0 {
		return 0, false, true
	}
	return p.known[n-1].asOf, true, true
}

// following is what a replica's link has told. The shard is live while the link is, and the replica known to be no further behind than
// the shard's as-of time says.
type following struct {
	mu        sync.Mutex
	up        bool // the link is live, and the replica wanted
	unsettled bool // the next position may be from before a flush
	delivered atomic.Pointer[tracking.Position]
	proof     atomic.Pointer[proof] // while the replica is opened
}

// A proof is a write at the primary that the replica is to announce.
type proof struct {
	key       string
	once      sync.Once
	announced chan struct{}
}

// nowhereYet is the position of a replica of which none is known.
var nowhereYet = new(tracking.Position)

// A replicaHandler is a replica as its link sees it.
type replicaHandler server

func (h *replicaHandler) Live(time.Time) {
	f := &h.following
	f.mu.Lock()
	defer f.mu.Unlock()
	(*server)(h).reachable()
	f.up, f.unsettled = true, false
	f.delivered.Store(nowhereYet)
}

func (h *replicaHandler) Invalidate(key string) {
	if p := h.following.proof.Load(); p != nil && p.key == key {
		p.once.Do(func() { close(p.announced) })
	}
	h.client.invalidate(key, localcache.Tracking)
}

// Flush is told of FLUSHALL, and of a full resynchronisation, after which the replica may be another primary's.
func (h *replicaHandler) Flush() {
	f := &h.following
	f.mu.Lock()
	defer f.mu.Unlock()
	f.unsettled = true
	f.delivered.Store(nowhereYet)
	h.shard.Suspend()
	raise(&h.primary.replicaFloor, localcache.Now())
}

func (h *replicaHandler) Lost(error) { (*server)(h).turnAway(false) }

// Confirm says nothing of the primary.
func (h *replicaHandler) Confirm(time.Time) {}

func (h *replicaHandler) Position(_ time.Time, at tracking.Position) {
	f := &h.following
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.unsettled {
		f.unsettled = false
		return
	}
	f.delivered.Store(&at)
	(*server)(h).catchUp()
}

// Position is told by the primary's link.
func (h *linkHandler) Position(asOf time.Time, at tracking.Position) {
	h.positions.note(localcache.At(asOf), at, h.client.options.MaxStaleness/positionsPerBound)
	if r := h.replica.Load(); r != nil {
		r.following.mu.Lock()
		defer r.following.mu.Unlock()
		r.catchUp()
	}
}

// catchUp moves the as-of time of a replica to what is known. The caller holds its lock.
func (s *server) catchUp() {
	f := &s.following
	asOf, ok, same := s.primary.positions.reached(*f.delivered.Load())
	switch {
	case !same:
		s.shard.Suspend()
	case !ok || !f.up:
	case s.shard.Live():
		s.shard.Confirm(asOf)
	case !s.client.closed.Load():
		s.shard.RenewUnconfirmed() // a replica that was started anew may be behind what it had come to before
		s.shard.Confirm(asOf)
	}
}

// turnAway has nothing served any more that came from a replica, until its link is live anew, or for good. What comes next may be further behind.
func (s *server) turnAway(forGood bool) {
	f := &s.following
	f.mu.Lock()
	defer f.mu.Unlock()
	f.up = false
	f.delivered.Store(nowhereYet)
	s.shard.Suspend()
	raise(&s.primary.replicaFloor, localcache.Now())
	if forGood {
		s.shard.Close()
	}
}

// errBehind says that a replica has not applied yet what its primary had acknowledged.
var errBehind = errors.New("nearcache: the replica is behind its primary")

// fencesBehind is how many fences a replica is given to come to where its primary was. It is usually there with the first.
const fencesBehind = 2

// fenceReplica returns once a replica's as-of time is since or later, which the primary's link has been fenced for, or an error that wraps
// errBehind, or is the cause of ctx.
func (s *server) fenceReplica(ctx context.Context, since localcache.Instant) error {
	reached := func() bool { return s.shard.Live() && s.shard.AsOf() >= since }
	for tries := 0; !reached(); tries++ {
		if tries == fencesBehind {
			return errBehind
		}
		if err := s.link().Fence(ctx); ctx.Err() != nil {
			return context.Cause(ctx)
		} else if err != nil {
			return fmt.Errorf("%w: %v", errBehind, err) //nolint:errorlint // its primary's link is not down when its own is
		}
	}
	return nil
}

// doMulti sends commands together. Those to a replica have its position before them, and in a cluster the word that it may be read, which costs
// less each time than to know whether the connection is a new one.
func (s *server) doMulti(ctx context.Context, redis rueidis.Client, commands ...rueidis.Completed) []rueidis.RedisResult {
	if s.primary == nil || redis != s.redis {
		return redis.DoMulti(ctx, commands...)
	}
	at := s.following.delivered.Load() // the readers have been sent here by this position or an earlier one
	before := rueidis.Commands{redis.B().Role().Build()}
	if s.client.slotted() {
		before = append(before, redis.B().Readonly().Build())
	}
	results := redis.DoMulti(ctx, append(before, commands...)...)
	if err := stands(results[0], at); err != nil {
		for i := range results {
			results[i] = rueidis.NewErrorResult(err)
		}
	}
	return results[len(before):]
}

// stands returns an error unless a reply of ROLE is that of a replica which follows what it followed at a position, and has not gone back since.
func stands(role rueidis.RedisResult, at *tracking.Position) error {
	fields, err := role.ToArray()
	if err != nil {
		return err
	}
	if len(fields) != 5 || at == nowhereYet {
		return errBehind
	}
	host, err1 := fields[1].ToString()
	port, err2 := fields[2].AsInt64()
	offset, err3 := fields[4].AsInt64()
	if err := errors.Join(err1, err2, err3); err != nil {
		return err
	}
	if net.JoinHostPort(host, strconv.FormatInt(port, 10)) != at.Source || offset < at.Offset {
		return errBehind
	}
	return nil
}

// knows reports whether the answer of a replica is one. A replica in a cluster does not say that a key is on its way to another server, as a primary
// does, but that there is none.
func (s *server) knows(answer reply) bool {
	return answer.state != unavailable && (answer.state != missing || !s.client.slotted())
}

// fenced reports whether a fence has done for a reader what it can: what a replica did not come to in time is read at its primary.
func fenced(err error) bool { return err == nil || errors.Is(err, errBehind) }

// readerOf returns the server to ask for the key prefix+key on behalf of a reader who wants every write that was acknowledged before notBefore. What
// a primary does not own any more its replica may still answer for.
func (c *Client) readerOf(prefix, key string, notBefore localcache.Instant) *server {
	owner := c.serverOf(prefix, key)
	r := owner.replica.Load()
	if r == nil || owner.degraded() || !owner.claims(prefix, key) || !r.shard.Live() || r.shard.AsOf() < max(notBefore, localcache.Instant(owner.replicaFloor.Load()), c.floors.of(prefix, key)) {
		return owner
	}
	return r
}

// floors are the instants up to which this node has seen what is under its keys, where it has looked or written at a primary. Keys share them, by
// their hash: a floor that is too high costs a read at the primary.
type floors struct {
	seed maphash.Seed
	all  atomic.Int64
	some [1 << 16]atomic.Int64
}

func (f *floors) at(prefix, key string) *atomic.Int64 {
	var h maphash.Hash
	h.SetSeed(f.seed)
	_, _ = h.WriteString(prefix)
	_, _ = h.WriteString(key)
	return &f.some[h.Sum64()%uint64(len(f.some))]
}

func (f *floors) of(prefix, key string) localcache.Instant {
	return localcache.Instant(max(f.all.Load(), f.at(prefix, key).Load()))
}

// raise is for what was just seen or done. A nil floors has no replicas to raise them for.
func (f *floors) raise(key string) {
	if f != nil {
		raise(f.at("", key), localcache.Now())
	}
}

func (f *floors) raiseAll() {
	if f != nil {
		raise(&f.all, localcache.Now())
	}
}

func raise(floor *atomic.Int64, to localcache.Instant) {
	for before := floor.Load(); before < int64(to) && !floor.CompareAndSwap(before, int64(to)); before = floor.Load() {
	}
}

// A replicaSet is the replicas of a primary, as the topology has them, and the choice among them.
type replicaSet struct {
	mu      sync.Mutex
	nodes   []tracking.Node
	changed chan struct{} // holds a token
}

func (r *replicaSet) set(nodes []tracking.Node) {
	r.mu.Lock()
	same := slices.Equal(r.nodes, nodes)
	r.nodes = nodes
	r.mu.Unlock()
	if same {
		return
	}
	select {
	case r.changed <- struct{}{}:
	default:
	}
}

func (r *replicaSet) get() []tracking.Node {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.nodes
}

// replicaRest is how long a selector that has chosen the primary is not asked again.
const replicaRest = 10 * time.Second

// keepReplica has reads go to the replica that the selector chooses, for as long as the topology has it and it is of use. A replica that is not is
// passed over while there are others. A selector that has chosen the primary is asked again after a while, or when there are other replicas.
func (s *server) keepReplica(ctx context.Context) {
	var current *server
	defer func() { s.drop(current) }()
	zones := make(map[string]string)
	failed, reported := "", ""
	var rest time.Time // until when the primary is read, as the selector has chosen
	useful := time.Now()
	patience := s.client.options.RemoteTimeout + 4*s.client.options.heartbeat()
	tick := time.NewTicker(unrest)
	defer tick.Stop()
	for {
		nodes := s.replicas.get()
		switch {
		case current == nil:
		case !slices.Contains(nodes, current.node):
			s.drop(current)
			current = nil
		case current.shard.Live():
			useful, reported = time.Now(), ""
		case time.Since(useful) > patience && len(nodes) > 1:
			failed = current.node.Address
			s.drop(current)
			current = nil
		}
		if current == nil && !time.Now().Before(rest) {
			node, ok := s.choose(ctx, nodes, zones, failed)
			switch {
			case !ok && failed == "":
				rest = time.Now().Add(replicaRest)
			case !ok:
				failed = ""
			default:
				var err error
				if current, err = s.openReplica(ctx, node); err == nil {
					failed, useful = "", time.Now()
					s.replica.Store(current)
				} else if failed = node.Address; err.Error() != reported && ctx.Err() == nil {
					reported = err.Error()
					s.client.logger.LogAttrs(ctx, slog.LevelWarn, "nearcache: a replica cannot be read from, and its primary is; will try again",
						slog.String("server", node.Address), slog.String("error", reported))
				}
			}
		}
		select {
		case <-tick.C:
		case <-s.replicas.changed:
			rest = time.Time{}
		case <-ctx.Done():
			return
		}
	}
}

// choose asks the selector. failed is the one that could not be used before.
func (s *server) choose(ctx context.Context, replicas []tracking.Node, zones map[string]string, failed string) (node tracking.Node, ok bool) {
	candidates := []tracking.Node{s.node}
	for _, replica := range replicas {
		if replica.Address != failed || len(replicas) == 1 {
			candidates = append(candidates, replica)
		}
	}
	if len(candidates) == 1 {
		return node, false
	}
	infos := make([]rueidis.NodeInfo, len(candidates))
	for i, candidate := range candidates {
		infos[i].Addr = candidate.Address
		if !s.client.options.Redis.EnableReplicaAZInfo {
			continue
		}
		zone, known := zones[candidate.Address]
		if !known {
			var err error
			if zone, err = s.client.zoneOf(ctx, candidate.Address); err == nil {
				zones[candidate.Address] = zone
			}
		}
		infos[i].AZ = zone
	}
	slot := 0
	if slots := s.client.routing.Load().slots; slots != nil {
		slot = max(0, slices.Index(slots[:], s))
	}
	i := s.client.options.Redis.ReadNodeSelector(uint16(slot), infos) //nolint:gosec // slots fit
	if i <= 0 || i >= len(candidates) {
		return node, false
	}
	return candidates[i], true
}

// zoneOf asks a server for its availability zone, which it may not have.
func (c *Client) zoneOf(ctx context.Context, address string) (string, error) {
	redis, err := rueidis.NewClient(c.optionFor(address))
	if err != nil {
		return "", err
	}
	defer redis.Close()
	ctx, cancel := context.WithTimeout(ctx, c.options.RemoteTimeout)
	defer cancel()
	info, err := redis.Do(ctx, redis.B().Info().Section("server").Build()).ToString()
	return zoneIn(info), err
}

// zoneIn finds the zone in a reply of INFO server.
func zoneIn(info string) string {
	for line := range strings.Lines(info) {
		if zone, ok := strings.CutPrefix(line, "availability_zone:"); ok {
			return strings.TrimSpace(zone)
		}
	}
	return ""
}

func (s *server) openReplica(ctx context.Context, node tracking.Node) (*server, error) {
	r := s.client.newServer(node)
	r.primary, r.canary = s, nil
	r.following.delivered.Store(nowhereYet)
	tracker, err := tracking.Open(ctx, tracking.Options{
		Redis:     s.client.optionFor(node.Address),
		Prefixes:  s.client.options.Prefixes,
		Handler:   (*replicaHandler)(r),
		Replica:   true,
		Position:  (*replicaHandler)(r).Position,
		Heartbeat: s.client.options.heartbeat(),
		Deadline:  max(tracking.DefaultDeadline, s.client.options.RemoteTimeout),
		Logger:    s.client.logger,
	})
	if err != nil {
		r.shard.Close()
		return nil, err
	}
	r.setLink(tracker)
	r.redis, err = rueidis.NewClient(s.client.optionFor(node.Address))
	if err == nil {
		err = r.proveReplica(ctx)
	}
	if err != nil {
		s.drop(r)
		return nil, s.client.secrets.Redact(err)
	}
	return r, nil
}

// proveReplica has a write to the primary announced by the replica, as Client.prove does for the primary.
func (s *server) proveReplica(ctx context.Context) error {
	key, ok := s.primary.ownKey("probe")
	if !ok {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, max(tracking.DefaultDeadline, s.client.options.RemoteTimeout))
	defer cancel()
	p := &proof{key: key, announced: make(chan struct{})}
	s.following.proof.Store(p)
	defer s.following.proof.Store(nil)
	if err := s.client.remote.set(ctx, key, nil, probeLife); isNetworkError(err) {
		return err
	} else if err != nil {
		return nil // the user may not write
	}
	select {
	case <-p.announced:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%w: a write under %q was not announced by the replica %s in time", ErrNoTracking, s.client.options.Prefixes[0], s.node.Address)
	}
}

// probeLife is how long the key of a proof exists.
const probeLife = time.Second

// drop ends a replica. Nothing is served that came from it before a flush could miss it; requests may still be on its connections, and fail.
func (s *server) drop(r *server) {
	if r == nil {
		return
	}
	r.turnAway(false)
	s.replica.CompareAndSwap(r, nil)
	ctx, cancel := context.WithTimeout(context.Background(), s.client.options.RemoteTimeout)
	defer cancel()
	_ = r.link().Close(ctx)
	if r.redis != nil {
		r.redis.Close()
	}
	r.fetches.close()
	r.turnAway(true)
}
