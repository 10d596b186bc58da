package nearcache

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/redis/rueidis"

	"github.com/go-nearcache/nearcache/localcache"
	"github.com/go-nearcache/nearcache/telemetry"
)

// remote is L2: Redis, as the caches use it. It knows markers and lifetimes, and which server to ask, and nothing of values.
type remote struct {
	client    *Client
	timeout   time.Duration
	telemetry *telemetry.Telemetry
}

// reply is what Redis holds under a key.
type reply struct {
	state   replyState
	data    []byte        // held: the value; leased: the marker
	life    time.Duration // what is left of its life; noExpiry if it has no end
	fetched localcache.Instant
	err     error             // unavailable, refused
	shard   *localcache.Shard // of the server that answered, if it owns the key; nil otherwise: what it says must not be kept
}

type replyState int

const (
	held        replyState = iota // a value
	negative                      // the source has nothing under the key, as a loader found out
	missing                       // nothing
	leased                        // another load of the key is running
	refused                       // not a string: err says what
	unavailable                   // Redis did not answer: err says why
	nowhere                       // there is no Redis
)

const noExpiry = time.Duration(-1)

// answered returns the shard under which an answer may be kept: that of the server that gave it, unless it was another than the one that was
// asked, or it has lost the key meanwhile. Who took his token before that loses it by the end of its epoch; who took it after finds here
// that the key has gone: see primaries.route. A node of a cluster must also have said on its link that it owns the slot, since only of what it has
// said it had will its link tell that it is lost.
func (r *remote) answered(s *server, direct bool, key string) *localcache.Shard {
	if owner := r.client.serverOf("", key); !direct || owner != s && owner.replica.Load() != s || !s.claims("", key) {
		return nil
	}
	return s.shard
}

// fetchMany reads several values in one round trip to each server. It does not say how long they live, because asking for each would cost
// more than the values do: lives does, while the reader goes on. Each key is asked of its server; what a replica cannot say, its primary is asked
// for.
func (r *remote) fetchMany(ctx context.Context, keys []string, servers []*server) []reply {
	replies := make([]reply, len(keys))
	fetch := func(servers []*server) {
		_ = split(servers, func(s *server, mine []int) error {
			part := make([]string, len(mine))
			for n, i := range mine {
				part[n] = keys[i]
			}
			for n, answer := range r.fetchFrom(ctx, s, part) {
				replies[mine[n]] = answer
			}
			return nil
		})
	}
	fetch(servers)
	var again []*server // none for most
	for i, s := range servers {
		if s.primary != nil && !s.knows(replies[i]) && ctx.Err() == nil {
			if again == nil {
				again = make([]*server, len(keys))
			}
			again[i] = r.client.serverOf("", keys[i])
		}
	}
	fetch(again)
	return replies
}

// fetchFrom reads the values of keys that one server owns.
func (r *remote) fetchFrom(ctx context.Context, s *server, keys []string) []reply {
	replies := make([]reply, len(keys))
	fail := func(failure func(key string) reply) []reply {
		for i, key := range keys {
			replies[i] = failure(key)
		}
		return replies
	}
	if s.redis == nil {
		return fail(func(string) reply { return reply{state: nowhere} })
	}
	if err := r.paused(s); err != nil {
		return fail(func(string) reply { return reply{state: unavailable, err: err} })
	}
	began := localcache.Now()
	values, direct, err := r.values(ctx, s, keys)
	if err != nil {
		return fail(func(key string) reply { return r.failure(ctx, s, key, err) })
	}
	for i, key := range keys {
		if s.primary == nil {
			r.client.floors.raise(key)
		}
		if values[i] == nil {
			replies[i] = reply{state: missing, fetched: began}
		} else {
			replies[i] = classify(*values[i], unknownKey, began)
			replies[i].shard = r.answered(s, direct[i], key)
		}
	}
	return replies
}

// values returns what the keys hold, nil for nothing and for what is not a string, and which of it the server itself answered.
func (r *remote) values(ctx context.Context, s *server, keys []string) (values []*rueidis.RedisMessage, direct []bool, err error) {
	values = make([]*rueidis.RedisMessage, len(keys))
	if !r.client.slotted() {
		var messages []rueidis.RedisMessage
		err := r.try(ctx, s, "MGET", 1, func(ctx context.Context) (err error) {
			messages, err = s.doMulti(ctx, s.redis, s.redis.B().Mget().Key(keys...).Build())[0].ToArray()
			return err
		})
		if err == nil && len(messages) != len(keys) {
			err = errors.New("nearcache: MGET answered with another number of values than it was asked for")
		}
		if err != nil {
			return nil, nil, err
		}
		for i := range messages {
			if !messages[i].IsNil() {
				values[i] = &messages[i]
			}
		}
		return values, slices.Repeat([]bool{true}, len(keys)), nil
	}
	// The keys are in many slots, and a command may have keys of one slot only.
	results, direct, err := r.each(ctx, s, "PIPELINE GET", keys, func(redis rueidis.Client, key string) rueidis.Completed {
		return redis.B().Get().Key(key).Build()
	})
	if err != nil {
		return nil, nil, err
	}
	for i, result := range results {
		message, err := result.ToMessage()
		switch reply, ok := rueidis.IsRedisErr(err); {
		case err == nil:
			values[i] = &message
		case rueidis.IsRedisNil(err), ok && strings.HasPrefix(reply.Error(), "WRONGTYPE"):
		default:
			return nil, nil, err
		}
	}
	return values, direct, nil
}

// lives completes what fetchMany said of keys that hold something. What changed in between does no harm: its push ends the token.
func (r *remote) lives(ctx context.Context, keys []string, servers []*server, replies []reply) error {
	return split(servers, func(s *server, mine []int) error {
		part := make([]string, len(mine))
		for n, i := range mine {
			part[n] = keys[i]
		}
		began := localcache.Now()
		results, direct, err := r.each(ctx, s, "PIPELINE PTTL", part, func(redis rueidis.Client, key string) rueidis.Completed {
			return redis.B().Pttl().Key(key).Build()
		})
		if err != nil {
			return err
		}
		for n, i := range mine {
			pttl, err := results[n].AsInt64()
			if err != nil {
				return err
			}
			replies[i].life, replies[i].fetched = life(pttl), began
			if !direct[n] {
				replies[i].shard = nil
			}
		}
		return nil
	})
}

// refuseOtherTypes finds, among keys for which MGET answered nil, those that are there and are not strings.
func (r *remote) refuseOtherTypes(ctx context.Context, keys []string, replies []reply) error {
	return split(r.owners(keys), func(s *server, mine []int) error {
		part := make([]string, len(mine))
		for n, i := range mine {
			part[n] = keys[i]
		}
		results, _, err := r.each(ctx, s, "PIPELINE TYPE", part, func(redis rueidis.Client, key string) rueidis.Completed {
			return redis.B().Type().Key(key).Build()
		})
		if err != nil {
			return err
		}
		for n, i := range mine {
			kind, err := results[n].ToString()
			if err != nil {
				return err
			}
			if kind != "none" && kind != "string" {
				replies[i] = reply{state: refused, err: &WrongTypeError{Key: keys[i], Type: kind}}
			}
		}
		return nil
	})
}

// What PTTL answers for a key that does not exist and for one without an end, and what stands for not having asked.
const (
	absentKey  = -2
	endlessKey = -1
	unknownKey = -3
)

func life(pttl int64) time.Duration {
	switch pttl {
	case endlessKey:
		return noExpiry
	case absentKey, unknownKey:
		return 0 // expired between the two commands, or not known: good to return, not to keep
	}
	return time.Duration(min(pttl, longestLife)) * time.Millisecond
}

// longestLife is a hundred years: a time.Duration has no room for what is left until the year 9999.
const longestLife = int64(100 * 365 * 24 * time.Hour / time.Millisecond)

func classify(message rueidis.RedisMessage, pttl int64, began localcache.Instant) reply {
	data, _ := message.AsBytes()
	answer := reply{state: held, data: data, life: life(pttl), fetched: began}
	switch {
	case isLease(data):
		answer.state = leased
	case string(data) == absentMarker:
		answer.state = negative
	}
	return answer
}

// failure turns an error of a read into what the reader does about it.
func (r *remote) failure(ctx context.Context, s *server, key string, err error) reply {
	redisError, ok := rueidis.IsRedisErr(err)
	if !ok || !strings.HasPrefix(redisError.Error(), "WRONGTYPE") {
		return reply{state: unavailable, err: err}
	}
	var kind string
	_, err = r.once(ctx, s, "TYPE", func(ctx context.Context, redis rueidis.Client) (err error) {
		kind, err = redis.Do(ctx, redis.B().Type().Key(key).Build()).ToString()
		return err
	})
	if err != nil {
		kind = "value of another type"
	}
	return reply{state: refused, err: &WrongTypeError{Key: key, Type: kind}}
}

// owners returns the server that owns each key.
func (r *remote) owners(keys []string) []*server {
	servers := make([]*server, len(keys))
	for i, key := range keys {
		servers[i] = r.client.serverOf("", key)
	}
	return servers
}

// split calls do for each server, with the positions at which it is among all of them, for all at once, and returns the errors joined.
func split(servers []*server, do func(s *server, mine []int) error) error {
	byServer := make(map[*server][]int, 1)
	for i, s := range servers {
		if s != nil {
			byServer[s] = append(byServer[s], i)
		}
	}
	return inParallel(slices.Collect(maps.Keys(byServer)), func(s *server) error { return do(s, byServer[s]) })
}

// each sends one command for each key, all of which the server owns, in one round trip, and once more to whom it may concern for those keys
// that turn out to have moved. It says which answers came from the server itself.
func (r *remote) each(ctx context.Context, s *server, operation string, keys []string, command func(rueidis.Client, string) rueidis.Completed) (results []rueidis.RedisResult, direct []bool, err error) {
	send := func(ctx context.Context, redis rueidis.Client, keys []string) []rueidis.RedisResult {
		commands := make(rueidis.Commands, len(keys))
		for i, key := range keys {
			commands[i] = command(redis, key)
		}
		return r.redacted(s.doMulti(ctx, redis, commands...))
	}
	direct = slices.Repeat([]bool{true}, len(keys))
	err = r.asking(ctx, s, operation, len(keys), func(ctx context.Context) error {
		results = send(ctx, s.redis, keys)
		var moved []int
		var again []string
		for i, result := range results {
			err := result.Error()
			if isNetworkError(err) {
				return err
			}
			if s.redirects(err) {
				moved, again = append(moved, i), append(again, keys[i])
			}
		}
		if len(moved) == 0 {
			return nil
		}
		for n, result := range send(ctx, r.client.redis, again) {
			if err := result.Error(); isNetworkError(err) {
				return err
			}
			results[moved[n]], direct[moved[n]] = result, false
		}
		return nil
	})
	return results, direct, err
}

// redacted takes secrets out of the errors among results: see secret.Keeper.
func (r *remote) redacted(results []rueidis.RedisResult) []rueidis.RedisResult {
	for i, result := range results {
		if err := result.Error(); r.client.secrets.In(err) {
			results[i] = rueidis.NewErrorResult(r.client.secrets.Redact(err))
		}
	}
	return results
}

// redirects reports whether an error says that the command is to be sent to another server, and has the topology asked for if it changed.
func (s *server) redirects(err error) bool {
	reply, ok := rueidis.IsRedisErr(err)
	if !ok || s.redis == s.client.redis {
		return false
	}
	if _, moved := reply.IsMoved(); moved || strings.HasPrefix(reply.Error(), "READONLY ") {
		s.client.watch.kick()
		return true
	}
	_, asks := reply.IsAsk()
	return asks
}

// try is asking for commands that may be repeated, reads, and repeats them if the connection broke, which a server restart does to every
// idle one.
func (r *remote) try(ctx context.Context, s *server, operation string, batch int, do func(context.Context) error) error {
	return r.asking(ctx, s, operation, batch, func(ctx context.Context) error {
		err := do(ctx)
		for _, pause := range triesAfter {
			if !isNetworkError(err) || s.primary != nil { // a replica's primary is asked sooner
				break
			}
			select {
			case <-time.After(pause):
				err = do(ctx)
			case <-ctx.Done():
				return err
			}
		}
		return err
	})
}

// triesAfter are the pauses before a read is tried again. rueidis takes a moment to part with a connection that it has found broken.
var triesAfter = [...]time.Duration{0, time.Millisecond, 10 * time.Millisecond}

// once sends one command to a server, under the timeout. If the server says that another one is to be asked, which it does instead of
// carrying the command out, the client that finds it is; direct is false then.
func (r *remote) once(ctx context.Context, s *server, operation string, do func(context.Context, rueidis.Client) error) (direct bool, err error) {
	direct = true
	err = r.asking(ctx, s, operation, 1, func(ctx context.Context) error {
		err := do(ctx, s.redis)
		if s.redirects(err) {
			direct = false
			err = do(ctx, r.client.redis)
		}
		return err
	})
	return direct, err
}

// asking runs one round trip to a server under the timeout.
func (r *remote) asking(ctx context.Context, s *server, operation string, batch int, do func(context.Context) error) error {
	bounded, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	bounded, span := r.telemetry.StartRedis(bounded, operation, s.name, batch)
	err := r.client.secrets.Redact(do(bounded))
	span.End(err)
	switch {
	case !isNetworkError(err):
		s.reachable()
	case ctx.Err() == nil && s.away():
		s.downUntil.Store(int64(localcache.Now().Add(r.timeout)))
		r.client.watch.kick()
	}
	switch {
	case rueidis.IsRedisNil(err):
		return nil
	case errors.Is(err, rueidis.ErrClosing) && r.client.closed.Load():
		return ErrClosed
	}
	return err
}

var errPaused = errors.New("nearcache: Redis did not answer a moment ago")

// paused returns an error while the server need not be asked. The first to come after the pause asks; if it fails, the pause begins anew.
func (r *remote) paused(s *server) error {
	until := s.downUntil.Load()
	if until == 0 {
		return nil
	}
	now := localcache.Now()
	if int64(now) < until || !s.downUntil.CompareAndSwap(until, int64(now.Add(r.timeout))) {
		return errPaused
	}
	return nil
}

// isNetworkError reports whether err came from the way to the server and not from the server.
func isNetworkError(err error) bool {
	if err == nil || rueidis.IsRedisNil(err) {
		return false
	}
	_, ok := rueidis.IsRedisErr(err)
	return !ok
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil && !rueidis.IsRedisNil(err) {
			return err
		}
	}
	return nil
}

// set writes a value. It is not tried again: after a failure nobody can say whether it was carried out, and a second time might
// undo a later write of another node.
func (r *remote) set(ctx context.Context, key string, data []byte, ttl time.Duration) error {
	_, err := r.setOn(ctx, r.client.serverOf("", key), key, data, ttl)
	return err
}

func (r *remote) setOn(ctx context.Context, s *server, key string, data []byte, ttl time.Duration) (direct bool, err error) {
	return r.once(ctx, s, "SET", func(ctx context.Context, redis rueidis.Client) error {
		return redis.Do(ctx, redis.B().Set().Key(key).Value(rueidis.BinaryString(data)).Px(ttl).Build()).Error()
	})
}

// delete is not tried again either.
func (r *remote) delete(ctx context.Context, keys []string) error {
	if !r.client.slotted() {
		_, err := r.once(ctx, r.client.serverOf("", keys[0]), "DEL", func(ctx context.Context, redis rueidis.Client) error {
			return redis.Do(ctx, redis.B().Del().Key(keys...).Build()).Error()
		})
		return err
	}
	return errors.Join(r.deleteEach(ctx, keys)...)
}

// deleteEach deletes keys, all different, in one round trip a server, and returns an error for each, or nil.
func (r *remote) deleteEach(ctx context.Context, keys []string) []error {
	places := make(map[string]*int, len(keys))
	for i, key := range keys {
		places[key] = &i
	}
	failures := make([]error, len(keys))
	eachKey(ctx, r, "PIPELINE DEL", places, func(redis rueidis.Client, i *int) rueidis.Completed {
		return redis.B().Del().Key(keys[*i]).Build()
	}, func(i *int, result rueidis.RedisResult, err error) {
		if err == nil {
			err = result.Error()
		}
		failures[*i] = err
	})
	return failures
}
