package nearcache

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/redis/rueidis"

	"github.com/go-nearcache/nearcache/localcache"
)

// A wanted is a read that L1 did not answer, one of several.
type wanted struct {
	read
	index int          // among the results
	f     *replyFlight // nil: of what L1 cannot hold
}

// wants sorts the reads of one call that L1 did not answer by who asks Redis: the call itself, or another that is under way.
type wants struct {
	mine, others []wanted
}

// abandon ends the flights that have not come to an end, because the call failed before.
func (w *wants) abandon(r *rueidisClient) {
	for _, m := range w.mine {
		if m.f != nil {
			r.abandon(m.read, m.f)
		}
	}
}

// want looks for an answer once more, or else joins a flight or begins one.
func (r *rueidisClient) want(ctx context.Context, w *wants, m read, index int, q query, found *replies, result localcache.Result) (answer rueidis.RedisResult, done bool) {
	if !r.cacheable(m) {
		r.counts.unservable.Add(1)
		r.counts.uncached.Add(1)
		w.mine = append(w.mine, wanted{m, index, nil})
		return answer, false
	}
	if result == localcache.Stale { // the fence of another read of this call may have helped already
		r.counts.lookedAgain.Add(1)
		found, result = r.view.Get(m.hash, q.began, q.notBefore)
	}
	if answer, done := r.lookAgain(ctx, m, q, found, result); done {
		return answer, true
	}
	if f, leader := r.join(m, q); leader {
		w.mine = append(w.mine, wanted{m, index, f})
	} else {
		// A command that is given twice comes here the second time, and waits for the first.
		r.counts.coalesced.Add(1)
		w.others = append(w.others, wanted{m, index, f})
	}
	return answer, false
}

// follow waits for another read's flight.
func (r *rueidisClient) follow(ctx context.Context, m read, f *replyFlight, q query) rueidis.RedisResult {
	select {
	case <-f.done:
	case <-ctx.Done():
		return rueidis.NewErrorResult(ctx.Err())
	}
	if !f.abandoned {
		return rueidis.NewResult(f.message, f.err)
	}
	// Its leader went away. There may be something newer by now.
	found, result := r.view.Get(m.hash, q.began, q.notBefore)
	return r.miss(ctx, m, q, found, result)
}

// DoMultiCache answers each command from L1, or else all others from Redis in one round trip; commands with several keys take one each.
func (r *rueidisClient) DoMultiCache(ctx context.Context, multi ...rueidis.CacheableTTL) []rueidis.RedisResult {
	if len(multi) == 0 {
		return nil
	}
	results := make([]rueidis.RedisResult, len(multi))
	now := localcache.Now()
	q := query{began: now, notBefore: now.Add(-r.staleness)}
	var w wants
	defer w.abandon(r)
	var special []int
	for i := range multi {
		command := multi[i].Cmd
		parts := command.Commands()
		at := keyAt(parts)
		if at == 0 {
			special = append(special, i)
			continue
		}
		k := r.view.Key(parts[at])
		found, result := r.view.Get(k, now, q.notBefore)
		if result == localcache.Hit {
			if reply := found.find(parts, at, now); reply != nil {
				results[i] = rueidis.NewResult(reply.message, nil)
				continue
			}
		}
		if answer, done := r.want(ctx, &w, r.readOf(command, at, k, multi[i].TTL), i, q, found, result); done {
			results[i] = answer
		}
	}
	// The call's own flights are on their way before it waits for anybody else's, so two calls never wait for each other.
	if len(w.mine) > 0 {
		r.leadMulti(ctx, w.mine, results)
	}
	for _, i := range special {
		results[i] = r.doCacheSpecial(ctx, multi[i].Cmd, multi[i].TTL)
	}
	for _, m := range w.others {
		results[m.index] = r.follow(ctx, m.read, m.f, q)
	}
	return results
}

// leadMulti asks Redis for several commands at once.
func (r *rueidisClient) leadMulti(ctx context.Context, mine []wanted, results []rueidis.RedisResult) {
	began, wall := localcache.Now(), time.Now()
	spanned, span := r.client.telemetry.StartRedis(ctx, "PIPELINE", r.client.serverOf("", mine[0].key).name, len(mine))
	answers := r.ask(spanned, mine)
	span.End(firstNonRedisError(answers))
	for i, m := range mine {
		life, result := answers[2*i], answers[2*i+1]
		if m.f != nil {
			result = r.land(ctx, m.read, m.f, life, result, began, wall)
		}
		results[m.index] = result
	}
}

func firstNonRedisError(results []rueidis.RedisResult) error {
	for _, result := range results {
		if err := result.NonRedisError(); err != nil {
			return err
		}
	}
	return nil
}

// doCacheSpecial is DoCache for commands with several keys or none.
func (r *rueidisClient) doCacheSpecial(ctx context.Context, command rueidis.Cacheable, ttl time.Duration) rueidis.RedisResult {
	switch parts := command.Commands(); {
	case parts[0] == "MGET" && len(parts) > 1:
		return r.mget(ctx, parts[1:], "", ttl)
	case parts[0] == "JSON.MGET" && len(parts) > 2 && parts[len(parts)-1] != "":
		last := len(parts) - 1
		return r.mget(ctx, parts[1:last], parts[last], ttl)
	}
	return r.pass(ctx, command)
}

// mget answers MGET and, with a path that is not empty, JSON.MGET, from L1 key by key, and what is missing from Redis. The replies are those of GET and JSON.GET.
func (r *rueidisClient) mget(ctx context.Context, keys []string, path string, ttl time.Duration) rueidis.RedisResult {
	now := localcache.Now()
	q := query{began: now, notBefore: now.Add(-r.staleness)}
	var w wants
	defer w.abandon(r)
	parts := []string{"GET", ""} // whatever the key is
	if path != "" {
		parts = []string{"JSON.GET", "", path}
	}
	values := make([]rueidis.RedisMessage, len(keys))
	for i, key := range keys {
		k := r.view.Key(key)
		found, result := r.view.Get(k, now, q.notBefore)
		if result == localcache.Hit {
			if reply := found.find(parts, 1, now); reply != nil {
				values[i] = *element(&reply.message)
				continue
			}
		}
		m := read{parts: parts, at: 1, key: key, hash: k, ttl: ttl}
		if answer, done := r.want(ctx, &w, m, i, q, found, result); done && !put(answer, &values[i]) {
			return answer
		}
	}
	if len(w.mine) > 0 {
		if result, ok := r.leadMget(ctx, w.mine, path, values); !ok {
			return result
		}
	}
	for _, m := range w.others {
		m.command = r.single(m.key, path)
		m.parts = m.command.Commands()
		if result := r.follow(ctx, m.read, m.f, q); !put(result, &values[m.index]) {
			return result
		}
	}
	return rueidis.NewResult(arrayOf(values, len(w.mine)+len(w.others) == 0), nil)
}

func (r *rueidisClient) single(key, path string) rueidis.Cacheable {
	if path == "" {
		return r.B().Get().Key(key).Cache().Pin()
	}
	return r.B().JsonGet().Key(key).Path(path).Cache().Pin()
}

// put makes the reply to GET a value of the reply to MGET. It is not ok if it fails the whole command instead, as an error that is not about
// the key would on the server.
func put(result rueidis.RedisResult, value *rueidis.RedisMessage) (ok bool) {
	message, err := result.ToMessage()
	if result.NonRedisError() != nil || !keepable(err) && !lacksPath(err) {
		return false
	}
	*value = *element(&message)
	return true
}

// lacksPath reports whether JSON.GET failed because the key lacks the path, in the words of RedisJSON and of Valkey's module.
func lacksPath(err error) bool {
	failure, failed := rueidis.IsRedisErr(err)
	return failed && strings.Contains(strings.ToLower(failure.Error()), "path") && strings.HasSuffix(failure.Error(), "does not exist")
}

// element returns what MGET says where GET says message, which L1 may hold: nothing of a key of another type.
func element(message *rueidis.RedisMessage) *rueidis.RedisMessage {
	if err := message.Error(); err != nil && !rueidis.IsRedisNil(err) {
		return &nothing
	}
	return message
}

// leadMget asks Redis for the values of several keys at once. It is not ok if there is an error instead.
func (r *rueidisClient) leadMget(ctx context.Context, mine []wanted, path string, values []rueidis.RedisMessage) (failure rueidis.RedisResult, ok bool) {
	if r.client.slotted() {
		return r.leadGets(ctx, mine, path, values)
	}
	keys := make([]string, len(mine))
	for i, m := range mine {
		keys[i] = m.key
	}
	began, wall := localcache.Now(), time.Now()
	server := r.client.serverOf("", keys[0])
	spanned, span := r.client.telemetry.StartRedis(ctx, "PIPELINE", server.name, len(mine))
	var answers []rueidis.RedisResult
	err := tryAgain(spanned, func() error {
		commands := make(rueidis.Commands, 0, len(mine)+1)
		for _, key := range keys {
			commands = append(commands, r.B().Pttl().Key(key).Build())
		}
		if path == "" {
			commands = append(commands, r.B().Mget().Key(keys...).Build())
		} else {
			commands = append(commands, r.B().JsonMget().Key(keys...).Path(path).Build())
		}
		answers = server.redis.DoMulti(spanned, commands...)
		return firstNonRedisError(answers)
	})
	span.End(err)
	all := answers[len(mine)]
	elements, err := all.ToArray()
	if err == nil && len(elements) != len(mine) {
		err = errors.New("nearcache: MGET answered with another number of values than it was asked for")
		all = rueidis.NewErrorResult(err)
	}
	if err != nil {
		return all, false // and those who wait, who may have asked for GET and be answered, go on by themselves
	}
	for i, m := range mine {
		result := rueidis.NewResult(elements[i], nil)
		if m.f != nil {
			if pttl, err := answers[i].AsInt64(); elements[i].IsNil() && (err != nil || pttl != absentKey) {
				r.abandon(m.read, m.f) // it is there, and not a string: GET would say so
			} else {
				m.f.shard = r.client.remote.answered(server, true, m.key)
				result = r.land(ctx, m.read, m.f, answers[i], result, began, wall)
			}
		}
		values[m.index], _ = result.ToMessage()
	}
	return failure, true
}

// leadGets is leadMget in a cluster, where a command may have keys of one slot only.
func (r *rueidisClient) leadGets(ctx context.Context, mine []wanted, path string, values []rueidis.RedisMessage) (failure rueidis.RedisResult, ok bool) {
	for i := range mine {
		mine[i].command = r.single(mine[i].key, path)
		mine[i].parts = mine[i].command.Commands()
	}
	results := make([]rueidis.RedisResult, len(values))
	r.leadMulti(ctx, mine, results)
	for _, m := range mine {
		if !put(results[m.index], &values[m.index]) {
			return results[m.index], false
		}
	}
	return failure, true
}
