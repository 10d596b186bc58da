package nearcache

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"

	"github.com/go-nearcache/nearcache/localcache"
	"github.com/go-nearcache/nearcache/telemetry"
)

// remote is L2: Redis, as the caches use it. It knows markers and lifetimes, and nothing of values.
type remote struct {
	redis     rueidis.Client
	timeout   time.Duration
	telemetry *telemetry.Telemetry
	server    telemetry.Server
	linkLive  func() bool
	fetches   combiner

	// downUntil ends a pause in which Redis is not asked: without it every read would wait for its own timeout before it goes to its
	// loader, for as long as Redis is away.
	downUntil atomic.Int64
}

// reply is what Redis holds under a key.
type reply struct {
	state   replyState
	data    []byte        // held: the value; leased: the marker
	life    time.Duration // what is left of its life; noExpiry if it has no end
	fetched localcache.Instant
	err     error // unavailable, refused
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

// fetchMany reads several values in one round trip. It does not say how long they live, because asking for each would cost more than
// the values do: lives does, while the reader goes on.
func (r *remote) fetchMany(ctx context.Context, keys []string) []reply {
	replies := make([]reply, len(keys))
	fail := func(failure func(key string) reply) []reply {
		for i, key := range keys {
			replies[i] = failure(key)
		}
		return replies
	}
	if r.redis == nil {
		return fail(func(string) reply { return reply{state: nowhere} })
	}
	if err := r.paused(); err != nil {
		return fail(func(string) reply { return reply{state: unavailable, err: err} })
	}
	began := localcache.Now()
	var values []rueidis.RedisMessage
	err := r.try(ctx, "MGET", 1, func(ctx context.Context) (err error) {
		values, err = r.redis.Do(ctx, r.redis.B().Mget().Key(keys...).Build()).ToArray()
		return err
	})
	if err == nil && len(values) != len(keys) {
		err = errors.New("nearcache: MGET answered with another number of values than it was asked for")
	}
	if err != nil {
		return fail(func(key string) reply { return r.failure(ctx, key, err) })
	}
	for i := range keys {
		if values[i].IsNil() {
			replies[i] = reply{state: missing, fetched: began}
		} else {
			replies[i] = classify(values[i], unknownKey, began)
		}
	}
	return replies
}

// lives completes what fetchMany said of keys that hold something. What changed in between does no harm: its push ends the token.
func (r *remote) lives(ctx context.Context, keys []string, replies []reply) error {
	commands := make(rueidis.Commands, len(keys))
	for i, key := range keys {
		commands[i] = r.redis.B().Pttl().Key(key).Build()
	}
	began := localcache.Now()
	return r.once(ctx, "PIPELINE PTTL", len(keys), func(ctx context.Context) error {
		for i, result := range r.redis.DoMulti(ctx, commands...) {
			pttl, err := result.AsInt64()
			if err != nil {
				return err
			}
			replies[i].life, replies[i].fetched = life(pttl), began
		}
		return nil
	})
}

// refuseOtherTypes finds, among keys for which MGET answered nil, those that are there and are not strings.
func (r *remote) refuseOtherTypes(ctx context.Context, keys []string, replies []reply) error {
	commands := make(rueidis.Commands, len(keys))
	for i, key := range keys {
		commands[i] = r.redis.B().Type().Key(key).Build()
	}
	return r.once(ctx, "PIPELINE TYPE", len(keys), func(ctx context.Context) error {
		for i, result := range r.redis.DoMulti(ctx, commands...) {
			kind, err := result.ToString()
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
	return time.Duration(pttl) * time.Millisecond
}

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
func (r *remote) failure(ctx context.Context, key string, err error) reply {
	redisError, ok := rueidis.IsRedisErr(err)
	if !ok || !strings.HasPrefix(redisError.Error(), "WRONGTYPE") {
		return reply{state: unavailable, err: err}
	}
	kind, err := r.redis.Do(ctx, r.redis.B().Type().Key(key).Build()).ToString()
	if err != nil {
		kind = "value of another type"
	}
	return reply{state: refused, err: &WrongTypeError{Key: key, Type: kind}}
}

// try is once for commands that may be repeated, reads, and repeats them if the connection broke, which a server restart does to every
// idle one.
func (r *remote) try(ctx context.Context, operation string, batch int, do func(context.Context) error) error {
	return r.once(ctx, operation, batch, func(ctx context.Context) error {
		err := do(ctx)
		for _, pause := range triesAfter {
			if !isNetworkError(err) {
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

// once runs one round trip under the timeout.
func (r *remote) once(ctx context.Context, operation string, batch int, do func(context.Context) error) error {
	bounded, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	bounded, span := r.telemetry.StartRedis(bounded, operation, r.server, batch)
	err := do(bounded)
	span.End(err)
	switch {
	case !isNetworkError(err):
		r.reachable()
	case ctx.Err() == nil && !r.linkLive():
		r.downUntil.Store(int64(localcache.Now().Add(r.timeout)))
	}
	switch {
	case rueidis.IsRedisNil(err):
		return nil
	case errors.Is(err, rueidis.ErrClosing):
		return ErrClosed
	}
	return err
}

func (r *remote) reachable() {
	if r.downUntil.Load() != 0 {
		r.downUntil.Store(0)
	}
}

var errPaused = errors.New("nearcache: Redis did not answer a moment ago")

// paused returns an error while Redis need not be asked. The first to come after the pause asks; if it fails, the pause begins anew.
func (r *remote) paused() error {
	until := r.downUntil.Load()
	if until == 0 {
		return nil
	}
	now := localcache.Now()
	if int64(now) < until || !r.downUntil.CompareAndSwap(until, int64(now.Add(r.timeout))) {
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
	return r.once(ctx, "SET", 1, func(ctx context.Context) error {
		return r.redis.Do(ctx, r.redis.B().Set().Key(key).Value(rueidis.BinaryString(data)).Px(ttl).Build()).Error()
	})
}

func (r *remote) delete(ctx context.Context, keys []string) error {
	return r.once(ctx, "DEL", 1, func(ctx context.Context) error {
		return r.redis.Do(ctx, r.redis.B().Del().Key(keys...).Build()).Error()
	})
}
