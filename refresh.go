package nearcache

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"time"

	"github.com/redis/rueidis"
	"go.opentelemetry.io/otel/trace"

	"github.com/go-nearcache/nearcache/localcache"
)

// refreshPrefix comes, after a cache's own prefix, before the key whose refresh a node has been elected for. The right to refresh cannot be a
// marker in the key itself, as the right to load is: the value has to stay.
const refreshPrefix = reservedPrefix + "refresh\x00"

// refreshes keeps the reads of a key that is due from all asking for its refresh.
type refreshes struct {
	mu   sync.Mutex
	next map[localcache.Key]localcache.Instant // no attempt before
}

// mostRefreshes bounds the keys that are remembered; what comes on top is refreshed by a later read, or loaded at its end.
const mostRefreshes = 4096

// begin reports whether the caller is to try, and keeps others from it for a while.
func (r *refreshes) begin(k localcache.Key, while time.Duration) bool {
	now := localcache.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	if next, ok := r.next[k]; ok && now < next {
		return false
	}
	if len(r.next) >= mostRefreshes {
		for other, next := range r.next {
			if now >= next {
				delete(r.next, other)
			}
		}
		if len(r.next) >= mostRefreshes {
			return false
		}
	}
	if r.next == nil {
		r.next = make(map[localcache.Key]localcache.Instant)
	}
	r.next[k] = now.Add(while)
	return true
}

// refreshAt is when a value should be loaded anew; 0 is never.
func (c *Cache[V]) refreshAt(entry EntryOptions, r reply) localcache.Instant {
	if c.config.RefreshAhead == 0 && c.config.StaleWhileRevalidate == 0 || r.life == noExpiry || r.life == 0 {
		return 0
	}
	return r.fetched.Add(r.life - c.refreshLeft(entry))
}

// refreshLeft is the part of its life in Redis in which an item is due.
func (c *Cache[V]) refreshLeft(entry EntryOptions) time.Duration {
	if c.config.StaleWhileRevalidate > 0 {
		return c.config.StaleWhileRevalidate
	}
	ttl := c.config.TTL
	if entry.TTL > 0 {
		ttl = entry.TTL
	}
	return time.Duration(c.config.RefreshAhead * float64(ttl))
}

// revalidate refreshes what was found in Redis past its TTL, and is now in nobody's L1 for a hit to notice.
func (c *Cache[V]) revalidate(ctx context.Context, key string, k localcache.Key, answer reply, value record[V]) {
	if c.config.StaleWhileRevalidate == 0 || answer.state != held || answer.life == noExpiry || answer.life == 0 {
		return
	}
	if entry, err := c.entry(key, value.value); err == nil && answer.life <= c.refreshLeft(entry) {
		c.refresh(ctx, key, k)
	}
}

// refresh starts a load in the background for a reader who has been served.
func (c *Cache[V]) refresh(ctx context.Context, key string, k localcache.Key) {
	if c.ahead.begin(k, c.leaseLife()) {
		c.detach(ctx, func(ctx context.Context) { c.loadAhead(ctx, key, k) })
	}
}

// loadAhead replaces what Redis holds by what the loader says, if this node is elected and the value is still the one that was due. Two values with
// the same bytes are told apart by their ends: without that, a value that was written and set back during the load would be taken for the old
// one, and be replaced by what the source held in between.
func (c *Cache[V]) loadAhead(ctx context.Context, key string, k localcache.Key) {
	full := c.config.Prefix + key
	if _, _, due := c.dueItem(ctx, key, full); !due {
		return
	}
	right, elected := c.config.Prefix+refreshPrefix+key, newLease("")
	acquired, err := c.client.remote.acquire(ctx, right, elected, c.leaseLife())
	if err != nil || !acquired {
		return
	}
	answer, previous, due := c.dueItem(ctx, key, full) // another node may have been elected, and be done, since the first look
	seen := localcache.Now()
	if !due {
		_, _ = c.client.remote.replace(context.WithoutCancel(ctx), right, elected, nil, 0)
		return
	}
	if c.flights.claim(k, trace.SpanContextFromContext(ctx)) != nil {
		_, _ = c.client.remote.replace(context.WithoutCancel(ctx), right, elected, nil, 0)
		return
	}
	defer c.flights.unclaim(k)
	c.counts.refreshes.Add(1)
	good := c.good.token(k)
	began := localcache.Now()
	loaded, loadErr := c.callLoader(ctx, key, &previous)
	c.remember(key, k, &flight[V]{good: good}, reply{life: noExpiry, fetched: began}, loaded, loadErr)
	if loadErr != nil && !errors.Is(loadErr, ErrNotFound) {
		return // the right ends with its time, so that a source in trouble is not asked all the time
	}
	data, ttl, err := c.storable(key, loaded, loadErr)
	if err != nil && !loaded.absent {
		return
	}
	lasting := context.WithoutCancel(ctx)
	left := answer.life - localcache.Now().Sub(seen)
	replaced, _ := c.client.remote.replaceDue(lasting, full, rueidis.BinaryString(answer.data), data, ttl, left)
	if replaced {
		c.client.invalidate(full, localcache.Local)
	} else {
		c.counts.unstored.Add(1)
	}
	_, _ = c.client.remote.replace(lasting, right, elected, nil, 0)
}

// dueItem returns what Redis holds, and whether it is due: it has not been refreshed or written since a reader's copy was made.
func (c *Cache[V]) dueItem(ctx context.Context, key, full string) (answer reply, value V, due bool) {
	answer = c.client.remote.fetch(ctx, full)
	if answer.state != held || answer.life == noExpiry {
		return answer, value, false
	}
	value, err := c.decode(ctx, full, answer.data)
	if err != nil {
		return answer, value, false
	}
	entry, err := c.entry(key, value)
	return answer, value, err == nil && answer.life <= c.refreshLeft(entry)
}

// replaceDueScript is replaceScript for a value that must also not live longer than ARGV[4] milliseconds.
var replaceDueScript = rueidis.NewLuaScript(`
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
local left = redis.call('PTTL', KEYS[1])
if left < 0 or left > tonumber(ARGV[4]) then return 0 end
if ARGV[3] == '0' then redis.call('DEL', KEYS[1]) else redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) end
return 1`)

// replaceDue is replace for a value of whose life no more than left, and a few milliseconds of rounding, must remain: if more does, it was
// written anew.
func (r *remote) replaceDue(ctx context.Context, key, expected string, data []byte, ttl, left time.Duration) (replaced bool, err error) {
	const rounding = 5
	arguments := []string{
		expected, rueidis.BinaryString(data),
		strconv.FormatInt(replaceMilliseconds(ttl), 10), strconv.FormatInt(left.Milliseconds()+rounding, 10),
	}
	_, err = r.once(ctx, r.client.serverOf("", key), "EVALSHA", func(ctx context.Context, redis rueidis.Client) error {
		n, err := replaceDueScript.Exec(ctx, redis, []string{key}, arguments).AsInt64()
		replaced = n == 1
		return scriptError(err, "+get +pttl +set +del")
	})
	return replaced, err
}
