package main

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/redis/rueidis"

	"github.com/go-nearcache/nearcache"
	"github.com/go-nearcache/nearcache/internal/oracle"
)

// longAgo is before any read.
const longAgo oracle.Instant = math.MinInt64

// commandLife is the client's own life of a reply: longer than any value's, so that what ends is the value.
const commandLife = time.Hour

// readByCommands reads commanded keys as code that calls rueidis does: one or several, and in between another command of the same key,
// whose reply L1 keeps in the same place.
func (n *node) readByCommands(ctx context.Context, pick *picker, w witness) {
	key := pick.hot(commanded)
	switch b := n.redis.B(); pick.rng.IntN(16) {
	case 0, 1:
		n.redis.DoCache(ctx, b.Strlen().Key(fullNames[key]).Cache(), commandLife)
	case 2, 3:
		keys := distinctHot(pick, commanded, 12)
		var commands []rueidis.CacheableTTL
		for _, key := range keys {
			commands = append(commands, rueidis.CT(b.Get().Key(fullNames[key]).Cache(), commandLife))
		}
		began := oracle.Now()
		results := n.redis.DoMultiCache(ctx, commands...)
		ended := oracle.Now()
		for i, key := range keys {
			value, err := itemOf(results[i])
			n.testify(w, key, value, err, began, ended)
		}
	case 4, 5:
		began := oracle.Now()
		for _, a := range n.mget(ctx, distinctHot(pick, commanded, 24)) {
			n.testify(w, a.key, a.value, a.err, began, oracle.Now())
		}
	default:
		began := oracle.Now()
		value, err := itemOf(n.redis.DoCache(ctx, b.Get().Key(fullNames[key]).Cache(), commandLife))
		n.testify(w, key, value, err, began, oracle.Now())
	}
}

// mget is getMany for commanded keys.
func (n *node) mget(ctx context.Context, keys []int) []answer {
	names := make([]string, len(keys))
	for i, key := range keys {
		names[i] = fullNames[key]
	}
	values, err := n.redis.DoCache(ctx, n.redis.B().Mget().Key(names...).Cache(), commandLife).ToArray()
	answers := make([]answer, len(keys))
	for i, key := range keys {
		answers[i] = answer{key: key, err: err}
		if err == nil {
			answers[i].value, answers[i].err = itemOf(rueidis.NewResult(values[i], nil))
		}
	}
	return answers
}

// itemOf decodes a reply.
func itemOf(result rueidis.RedisResult) (*item, error) {
	text, err := result.ToString()
	switch {
	case rueidis.IsRedisNil(err):
		return nil, nearcache.ErrNotFound
	case err != nil:
		return nil, err
	}
	value, err := decode([]byte(text))
	if err == nil && result.IsCacheHit() {
		value.made = longAgo // it was there before
	}
	return value, err
}

// writeByCommand writes as such code does: plainly, spelled out, with a script, or in a transaction.
func (n *node) writeByCommand(ctx context.Context, pick *picker, key int, version uint64, life time.Duration) error {
	b, name, value := n.redis.B(), fullNames[key], string(encode(key, version))
	milliseconds := fmt.Sprint(max(life, time.Millisecond).Milliseconds())
	if life == 0 {
		milliseconds = fmt.Sprint(longLife.Milliseconds())
	}
	set := b.Arbitrary("SET").Keys(name).Args(value, "PX", milliseconds).Build()
	switch pick.rng.IntN(4) {
	case 0:
		return setByScript.Exec(ctx, n.redis, []string{name}, []string{value, milliseconds}).Error()
	case 1:
		// Closed, and not given back: rueidis gives back with UNSUBSCRIBE, and takes the -BUSY of a server that runs a script for one reply too many.
		d, _ := n.redis.Dedicate()
		defer d.Close()
		return d.DoMulti(ctx, b.Multi().Build(), set, b.Exec().Build())[2].Error()
	}
	return n.redis.Do(ctx, set).Error()
}

var setByScript = rueidis.NewLuaScript(`return redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])`)
