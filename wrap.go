package nearcache

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"

	"github.com/go-nearcache/nearcache/localcache"
	"github.com/go-nearcache/nearcache/tracking"
)

// rueidisName is the name of the replies to DoCache in statistics and telemetry.
const rueidisName = "rueidis"

// NewRueidis is rueidis.NewClient with L1 in place of rueidis's own cache: see [Client.Rueidis]. The prefixes are Options.Prefixes.
// Everything else has its default; who wants to choose calls Open and Rueidis.
func NewRueidis(option rueidis.ClientOption, prefixes ...string) (rueidis.Client, error) {
	if option.ConnWriteTimeout == 0 {
		// As rueidis has it: its users' commands may be slow.
		option.ConnWriteTimeout = 10 * max(option.Dialer.KeepAlive, rueidis.DefaultTCPKeepAlive)
	}
	ctx := context.Background()
	client, err := Open(ctx, Options{Redis: option, Prefixes: prefixes})
	if err != nil {
		return nil, err
	}
	wrapped, err := client.Rueidis()
	if err != nil {
		return nil, errors.Join(err, client.Close(ctx))
	}
	return wrapped, nil
}

// Rueidis returns a rueidis.Client on the connections of this client, for code that already calls one. Its DoCache and DoMultiCache are served
// from L1, within the same bound, from the same budget and under the same protection as the typed caches; all else passes through.
//
//   - Every command that rueidis lets be cached is, if its reply depends on its key alone and the key begins with one of
//     Options.Prefixes. What is not is read from Redis: other keys, TTL and PTTL, whose replies change by themselves, SORT_RO with BY
//     or GET, scripts with other than one key, and the commands of RedisAI. CacheStats.LocalUncached counts those reads.
//   - MGET and JSON.MGET fill and hit key by key, together with GET and JSON.GET. DoMultiCache takes them too.
//   - The ttl and what is left of the key's life on the server bound how long a reply is served: IsCacheHit, CacheTTL, CachePTTL and
//     CachePXAT say what they say in rueidis. Cacheable.ToStaticTTL changes nothing. A missing key is remembered like any reply; of errors only
//     WRONGTYPE is.
//   - A read that comes while the same command is under way waits for its reply. It has a context of its own: the end of another
//     caller's does not fail it.
//   - Whatever is written through the returned client is forgotten by L1 before it is sent and again when it is answered, so this
//     process reads its own writes. That includes transactions in Dedicated and scripts, as far as they are given the keys they
//     write; what they find out by themselves is evicted by its push. It does not include DoStream, whose end nobody sees.
//   - Receive, blocking commands, Dedicated, streams and Nodes are rueidis's own.
//
// Read-only commands are tried again when their connection broke, whatever ClientOption.DisableRetry says; no other command is.
// After Close, calls fail with rueidis.ErrClosing; Close closes this client, too. Options.Verify does not look at these replies.
// Values are shared with all other readers: do not change the bytes of a reply.
//
// All calls return the same rueidis.Client. It is an error if the client has no Redis, or has a cache named "rueidis".
func (c *Client) Rueidis() (rueidis.Client, error) {
	switch {
	case c.redis == nil:
		return nil, errors.New("nearcache: Rueidis: the client has no Redis: leave Options.Bus out and set Options.Redis")
	case !layoutKnown():
		return nil, errLayout
	case c.closed.Load():
		return nil, ErrClosed
	}
	c.wrapping.Lock()
	defer c.wrapping.Unlock()
	if c.wrapped == nil {
		wrapped := &rueidisClient{
			writeThrough: writeThrough{Client: c.redis, client: c},
			view:         localcache.NewView[replies](c.local, rueidisName),
			staleness:    c.options.MaxStaleness,
		}
		if err := c.caches.add(wrapped); err != nil {
			return nil, err
		}
		c.wrapped = wrapped
	}
	return c.wrapped, nil
}

// wrapper is the part of a Client that Rueidis needs.
type wrapper struct {
	wrapping sync.Mutex
	wrapped  *rueidisClient
}

// rueidisClient is what Rueidis returns.
type rueidisClient struct {
	writeThrough // what is not answered from L1
	view         *localcache.View[replies]
	flights      replyFlights
	counts       replyCounts
	staleness    time.Duration
}

// replyCounts are counted off the path of a hit.
type replyCounts struct {
	otherCommand         atomic.Uint64 // looked up, and L1 held replies to other commands only
	lookedAgain, stale   atomic.Uint64
	bypassed, coalesced  atomic.Uint64
	fetched, absent      atomic.Uint64
	uncached, unservable atomic.Uint64
}

// DoCache answers from L1, or else from Redis.
func (r *rueidisClient) DoCache(ctx context.Context, command rueidis.Cacheable, ttl time.Duration) rueidis.RedisResult {
	parts := command.Commands()
	at := keyAt(parts)
	if at == 0 {
		return r.doCacheSpecial(ctx, command, ttl)
	}
	k := r.view.Key(parts[at])
	now := localcache.Now()
	q := query{began: now, notBefore: now.Add(-r.staleness)}
	found, result := r.view.Get(k, now, q.notBefore)
	if result == localcache.Hit {
		if reply := found.find(parts, at, now); reply != nil {
			return rueidis.NewResult(reply.message, nil)
		}
	}
	return r.miss(ctx, r.readOf(command, at, k, ttl), q, found, result)
}

// keyAt returns where the key of a command with one key is, or 0.
func keyAt(parts []string) int {
	if len(parts) < 2 {
		return 0
	}
	switch parts[0] {
	case "MGET", "JSON.MGET":
		return 0
	case "EVAL_RO", "EVALSHA_RO", "FCALL_RO":
		if len(parts) < 4 || parts[2] != "1" {
			return 0
		}
		return 3
	}
	return 1
}

// pass asks Redis and keeps nothing.
func (r *rueidisClient) pass(ctx context.Context, command rueidis.Cacheable) rueidis.RedisResult {
	r.counts.uncached.Add(1)
	return r.again(ctx, rueidis.Completed(command))
}

// tryAgain tries what may be repeated once more, twice more, …, after a failure of the network.
func tryAgain(ctx context.Context, do func() error) error {
	err := do()
	for _, pause := range triesAfter {
		if err == nil || errors.Is(err, rueidis.ErrClosing) || ended(ctx) {
			break
		}
		select {
		case <-time.After(pause):
			err = do()
		case <-ctx.Done():
			return err
		}
	}
	return err
}

// ended reports whether a context has ended. A connection may notice its deadline before the context does.
func ended(ctx context.Context) bool {
	deadline, limited := ctx.Deadline()
	return ctx.Err() != nil || limited && !time.Now().Before(deadline)
}

// A read is a command with one key, and how long its reply may be kept.
type read struct {
	command rueidis.Cacheable // this package's own, pinned
	parts   []string
	at      int // of the key
	key     string
	hash    localcache.Key
	ttl     time.Duration
}

func (r *rueidisClient) readOf(command rueidis.Cacheable, at int, hash localcache.Key, ttl time.Duration) read {
	// A copy, because the caller's may be in use elsewhere, where it is pinned already: even that must not be written a second time. And one of
	// ToStaticTTL, sent among others, crashes a connection that has no cache.
	given := command.Commands()
	own := rueidis.Cacheable(r.B().Arbitrary(given[:at]...).Keys(given[at]).Args(given[at+1:]...).ReadOnly().Pin())
	parts := own.Commands()
	return read{command: own, parts: parts, at: at, key: parts[at], hash: hash, ttl: ttl}
}

// miss goes on where L1 did not answer.
func (r *rueidisClient) miss(ctx context.Context, m read, q query, found *replies, result localcache.Result) rueidis.RedisResult {
	if !r.cacheable(m) {
		r.counts.unservable.Add(1)
		return r.pass(ctx, m.command)
	}
	if answer, done := r.lookAgain(ctx, m, q, found, result); done {
		return answer
	}
	f, leader := r.join(m, q)
	if leader {
		return r.lead(ctx, m, f)
	}
	r.counts.coalesced.Add(1)
	return r.follow(ctx, m, f, q)
}

// lookAgain answers from L1 after all, or refuses, as the method of Cache does; or, not done, it sends the reader on to Redis.
func (r *rueidisClient) lookAgain(ctx context.Context, m read, q query, found *replies, result localcache.Result) (answer rueidis.RedisResult, done bool) {
	if r.client.closed.Load() {
		return rueidis.NewErrorResult(rueidis.ErrClosing), true
	}
	var unfenced error
	s := r.client.serverOf("", m.key)
	degraded := s.degraded()
	if result == localcache.Stale && !degraded {
		if unfenced = r.client.fenceShortly(ctx, "", m.key); fenced(unfenced) {
			r.counts.lookedAgain.Add(1)
			found, result = r.view.Get(m.hash, localcache.Now(), q.notBefore)
		}
	}
	frozen := false
	if !degraded && (!s.shard.Live() || errors.Is(unfenced, tracking.ErrLinkDown)) {
		switch r.client.options.OnDisconnect {
		case BypassLocal:
			if result != localcache.Hit {
				r.counts.bypassed.Add(1)
			}
		case FailReads:
			return rueidis.NewErrorResult(ErrDisconnected), true
		case ServeStale:
			if result == localcache.Stale {
				now := localcache.Now()
				r.counts.lookedAgain.Add(1)
				found, result = r.view.Get(m.hash, now, now.Add(-r.client.options.StaleLimit))
				frozen = true
			}
		}
	}
	if result == localcache.Hit {
		if reply := found.find(m.parts, m.at, localcache.Now()); reply != nil {
			if frozen {
				r.counts.stale.Add(1)
			}
			return rueidis.NewResult(reply.message, nil), true
		}
		r.counts.otherCommand.Add(1)
	}
	if err := ctx.Err(); err != nil {
		return rueidis.NewErrorResult(err), true
	}
	return answer, false
}

// lead asks Redis for what others may wait for, too.
func (r *rueidisClient) lead(ctx context.Context, m read, f *replyFlight) rueidis.RedisResult {
	defer r.abandon(m, f) // should rueidis panic
	began, wall := localcache.Now(), time.Now()
	spanned, span := r.client.telemetry.StartRedis(ctx, m.parts[0], r.client.serverOf("", m.key).name, 1)
	answers := r.ask(spanned, []wanted{{m, 0, f}})
	life, result := answers[0], answers[1]
	span.End(result.Error())
	return r.land(ctx, m, f, life, result, began, wall)
}

// ask returns what is left of the life of each key, and the reply to each command, in turn: from the servers that own the keys, all at once,
// each of them in one round trip, and in another from whoever owns a key that turns out to have moved. It notes in each flight who
// answered.
func (r *rueidisClient) ask(ctx context.Context, mine []wanted) []rueidis.RedisResult {
	answers := make([]rueidis.RedisResult, 2*len(mine))
	keys := make([]string, len(mine))
	for i, m := range mine {
		keys[i] = m.key
	}
	send := func(redis rueidis.Client, some []int) {
		_ = tryAgain(ctx, func() error {
			// The life first: what it says of a key that is not there is true of the reply, or a push of the key is on its way and ends the
			// token. And it is counted from before the request, so it ends no later here than there.
			commands := make(rueidis.Commands, 0, 2*len(some))
			for _, i := range some {
				commands = append(commands, r.B().Pttl().Key(keys[i]).Build(), rueidis.Completed(mine[i].command))
			}
			results := redis.DoMulti(ctx, commands...)
			for n, i := range some {
				answers[2*i], answers[2*i+1] = results[2*n], results[2*n+1]
			}
			return firstNonRedisError(results)
		})
	}
	_ = split(r.client.remote.owners(keys), func(s *server, some []int) error {
		send(s.redis, some)
		var moved []int
		for _, i := range some {
			direct := !s.redirects(answers[2*i].Error()) && !s.redirects(answers[2*i+1].Error())
			if !direct {
				moved = append(moved, i)
			}
			if f := mine[i].f; f != nil {
				f.shard = r.client.remote.answered(s, direct, keys[i])
			}
		}
		if len(moved) > 0 {
			send(r.Client, moved)
		}
		return nil
	})
	return answers
}

// land ends a flight with what Redis answered, and stores it if it may.
func (r *rueidisClient) land(ctx context.Context, m read, f *replyFlight, lifeLeft, result rueidis.RedisResult, began localcache.Instant, wall time.Time) rueidis.RedisResult {
	defer r.end(m, f)
	if err := result.NonRedisError(); err != nil {
		f.err, f.abandoned = err, ended(ctx)
		return result
	}
	message, err := result.ToMessage()
	r.count(err)
	left := m.ttl
	pttl, lifeErr := lifeLeft.AsInt64()
	if pttl >= 0 {
		left = min(left, life(pttl))
	}
	pxat := wall.Add(left).UnixMilli()
	setExpiry(&message, pxat)
	f.message = message
	if lifeErr == nil && keepable(err) && int64(message.CacheSize()) < r.client.options.MaxBytes/4 {
		if kept, err := cached(&message, pxat); err == nil {
			f.message = kept
			if left > 0 && f.token.Of(f.shard) {
				r.keep(m, f.token, kept, began.Add(left))
			}
		}
	}
	return rueidis.NewResult(message, nil)
}

func (r *rueidisClient) count(err error) {
	if rueidis.IsRedisNil(err) {
		r.counts.absent.Add(1)
	} else {
		r.counts.fetched.Add(1)
	}
}

// keepable reports whether a reply says something of its key: other errors are about the command or the server.
func keepable(err error) bool {
	failure, failed := rueidis.IsRedisErr(err)
	return !failed || strings.HasPrefix(failure.Error(), "WRONGTYPE")
}

// keep stores a reply, together with those to other commands that L1 holds for the key.
func (r *rueidisClient) keep(m read, token localcache.Token, message rueidis.RedisMessage, deadline localcache.Instant) {
	if r.client.serverOf("", m.key).degraded() {
		return
	}
	added := cachedReply{command: commandOf(m.parts, m.at), message: message, deadline: deadline}
	all := replies{first: added}
	if old := r.view.Carry(m.hash, token); old != nil {
		all = old.with(added, localcache.Now())
	}
	r.view.Fill(m.hash, token, all, all.deadline(), all.cost())
	if r.client.options.SettleFills {
		r.client.local.Wait()
	}
}

// cacheable reports whether L1 may hold the reply.
func (r *rueidisClient) cacheable(m read) bool {
	return m.ttl > 0 && underOneOf(m.key, r.client.options.Prefixes) && readsItsKeyAlone(m.parts)
}

// readsItsKeyAlone reports whether the reply to a command changes with its key and with nothing else. It knows the commands for which
// rueidis has a Cache method; any other may depend on what no push tells of.
func readsItsKeyAlone(parts []string) bool {
	switch name := parts[0]; name {
	case "SORT_RO":
		for _, part := range parts[2:] {
			if strings.EqualFold(part, "BY") || strings.EqualFold(part, "GET") {
				return false
			}
		}
		return true
	default:
		return keyAloneCommands[name]
	}
}

var keyAloneCommands = commandSet(`
	BF.EXISTS BF.INFO BITCOUNT BITFIELD_RO BITPOS CF.COUNT CF.EXISTS CF.INFO CMS.INFO CMS.QUERY EVALSHA_RO EVAL_RO EXPIRETIME
	FCALL_RO GEODIST GEOHASH GEOPOS GEORADIUSBYMEMBER_RO GEORADIUS_RO GEOSEARCH GET GETBIT GETRANGE GRAPH.RO_QUERY HEXISTS HGET
	HGETALL HKEYS HLEN HMGET HSTRLEN HVALS JSON.ARRINDEX JSON.ARRLEN JSON.GET JSON.OBJKEYS JSON.OBJLEN JSON.RESP
	JSON.STRLEN JSON.TYPE LINDEX LLEN LPOS LRANGE PEXPIRETIME SCARD SISMEMBER SMEMBERS SMISMEMBER STRLEN TOPK.INFO TOPK.LIST
	TOPK.QUERY TYPE ZCARD ZCOUNT ZLEXCOUNT ZMSCORE ZRANGE ZRANGEBYLEX ZRANGEBYSCORE ZRANK ZREVRANGE ZREVRANGEBYLEX
	ZREVRANGEBYSCORE ZREVRANK ZSCORE`)

func commandSet(names string) map[string]bool {
	set := make(map[string]bool)
	for name := range strings.FieldsSeq(names) {
		set[name] = true
	}
	return set
}

// Close closes the client that this one was made of.
func (r *rueidisClient) Close() { _ = r.client.Close(context.Background()) }

// The methods of registered.

func (r *rueidisClient) invalidate(full string, cause localcache.Cause) {
	r.view.Invalidate(r.view.Key(full), cause)
}

func (r *rueidisClient) wakeAll() {}

func (r *rueidisClient) forgetGood(string) {}

func (r *rueidisClient) describe() (name, prefix string) { return rueidisName, "" }

func (r *rueidisClient) stats() CacheStats {
	n := &r.counts
	other, stale, again, bypassed := n.otherCommand.Load(), n.stale.Load(), n.lookedAgain.Load(), n.bypassed.Load()
	lookups := r.view.Lookups()
	misses := lookups.Misses + other + max(lookups.Stale, again) - again
	elsewhere := bypassed + n.unservable.Load()
	return CacheStats{
		LocalHits:     max(lookups.Hits, other+stale) - other - stale,
		LocalStale:    stale,
		LocalMisses:   max(misses, elsewhere) - elsewhere,
		LocalBypasses: bypassed,
		LocalUncached: n.uncached.Load(),
		Coalesced:     n.coalesced.Load(),
		RemoteHits:    n.fetched.Load(),
		RemoteMisses:  n.absent.Load(),
	}
}
