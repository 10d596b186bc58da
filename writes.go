package nearcache

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"time"

	"github.com/redis/rueidis"

	"github.com/go-nearcache/nearcache/localcache"
)

// A WriteOption changes one write.
type WriteOption interface {
	applyWrite(writeOptions) writeOptions
}

type writeOptions struct{ ttl time.Duration }

type ttlOption time.Duration

func (d ttlOption) applyWrite(o writeOptions) writeOptions {
	o.ttl = time.Duration(d)
	return o
}

// TTL has a write give the item this life in Redis, in place of what Config.TTL, Entry and Jitter say. It must be from 1 ms to 10 years.
func TTL(d time.Duration) WriteOption { return ttlOption(d) }

func (c *Cache[V]) writeOptions(options []WriteOption) (writeOptions, error) {
	var o writeOptions
	for _, option := range options {
		o = option.applyWrite(o)
	}
	if len(options) > 0 {
		return o, checkRange(fmt.Sprintf("cache %q: TTL", c.config.Name), o.ttl, time.Millisecond, longest)
	}
	return o, nil
}

// Set writes a value to Redis, for Config.TTL unless an option says otherwise, and so ends what any node holds or is loading; with
// Config.Store, to the source first. After it returns, with or without an error, no read on this node returns an older value than Redis does.
// If the error is not from validation or encoding, nobody knows whether Redis carried the write out.
func (c *Cache[V]) Set(ctx context.Context, key string, value V, options ...WriteOption) error {
	o, err := c.writeOptions(options)
	if err != nil {
		return err
	}
	if err := c.writable(key); err != nil {
		return err
	}
	data, ttl, err := c.encodeFor(key, value, o.ttl)
	if err != nil {
		return err
	}
	return c.write(ctx, "set", []string{key}, func(full []string) error {
		switch {
		case c.client.bus != nil && c.config.Store == nil:
			return nil
		case c.client.bus != nil:
			return c.callSource(ctx, func(ctx context.Context) error { return c.config.Store(ctx, key, value) })
		case c.config.Store != nil:
			_, err := c.storeThrough(ctx, key, value, data, ttl, func(marker string) (bool, error) {
				return true, c.client.remote.set(ctx, full[0], []byte(marker), c.leaseLife())
			})
			return err
		case ttl == 0:
			return c.client.remote.delete(ctx, full)
		}
		return c.client.remote.set(ctx, full[0], data, ttl)
	})
}

// SetMany is Set for several items, in one round trip a server; with Config.Store, several at a time. If some fail, the error joins a
// KeyError for each.
func (c *Cache[V]) SetMany(ctx context.Context, items map[string]V, options ...WriteOption) error {
	if len(items) == 0 {
		return nil
	}
	if c.config.Store != nil {
		return c.eachKey(items, func(key string, value V) error { return c.Set(ctx, key, value, options...) })
	}
	o, err := c.writeOptions(options)
	if err != nil {
		return err
	}
	keys := make([]string, 0, len(items))
	writes := make([]setting, 0, len(items))
	for key, value := range items {
		if err := c.writable(key); err != nil {
			return err
		}
		data, ttl, err := c.encodeFor(key, value, o.ttl)
		if err != nil {
			return err
		}
		keys = append(keys, key)
		writes = append(writes, setting{data: data, ttl: ttl})
	}
	return c.write(ctx, "set", keys, func(full []string) error {
		if c.client.bus != nil {
			return nil
		}
		var failures []error
		for i, err := range c.client.remote.setMany(ctx, full, writes) {
			if err != nil {
				failures = append(failures, &KeyError{Key: keys[i], Err: err})
			}
		}
		return errors.Join(failures...)
	})
}

// eachKey does something for each item, several at a time, and joins a KeyError for each that fails.
func (c *Cache[V]) eachKey(items map[string]V, do func(string, V) error) error {
	var running sync.WaitGroup
	var mu sync.Mutex
	var failures []error
	slots := make(chan struct{}, loadsAtOnce)
	for key, value := range items {
		slots <- struct{}{}
		running.Go(func() {
			defer func() { <-slots }()
			if err := do(key, value); err != nil {
				mu.Lock()
				defer mu.Unlock()
				failures = append(failures, &KeyError{Key: key, Err: err})
			}
		})
	}
	running.Wait()
	return errors.Join(failures...)
}

// Delete removes the item from Redis and from every node, and ends a load of it that is under way; with Config.Remove, it removes it from the
// source first. What Set says of reads and errors holds. An item that is not there is no error.
func (c *Cache[V]) Delete(ctx context.Context, key string) error {
	return c.DeleteMany(ctx, []string{key})
}

// DeleteMany is Delete for several items in one round trip a server. In a cluster some servers may fail and others not: then the error joins a
// KeyError for each key that may still be there.
func (c *Cache[V]) DeleteMany(ctx context.Context, keys []string) error {
	if len(keys) == 0 {
		return nil
	}
	for _, key := range keys {
		if err := c.writable(key); err != nil {
			return err
		}
	}
	return c.write(ctx, "delete", keys, func(full []string) error {
		var failures []error
		if c.config.Remove != nil {
			for _, key := range keys {
				if err := c.callSource(ctx, func(ctx context.Context) error { return c.config.Remove(ctx, key) }); err != nil {
					failures = append(failures, &KeyError{Key: key, Err: err})
				}
			}
			ctx = context.WithoutCancel(ctx) // what the source has lost must go, even if the caller has no time any more
		}
		if c.client.bus == nil {
			failures = append(failures, c.removeFromRedis(ctx, keys, full)...)
		}
		if len(failures) == 1 {
			return failures[0]
		}
		return errors.Join(failures...)
	})
}

// removeFromRedis deletes keys and returns what went wrong: of several keys in a cluster a KeyError for each.
func (c *Cache[V]) removeFromRedis(ctx context.Context, keys, full []string) (failures []error) {
	if len(keys) == 1 || !c.client.slotted() {
		if err := c.client.remote.delete(ctx, full); err != nil {
			failures = append(failures, err)
		}
		return failures
	}
	for i, err := range c.client.remote.deleteEach(ctx, full) {
		if err != nil {
			failures = append(failures, &KeyError{Key: keys[i], Err: err})
		}
	}
	return failures
}

// callSource runs Store or Remove.
func (c *Cache[V]) callSource(ctx context.Context, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, c.config.LoadTimeout)
	defer cancel()
	return survive(func() error { return do(ctx) })
}

// storeThrough writes to the source and then to Redis. mark puts a marker into the key, which a load would take for the lease of another
// one. If it still stands when the source has been written, nobody else has written in between, and the value may take its place.
// Otherwise two writers may have reached the source in one order and Redis in the other; so the key is deleted, and the next reader asks the
// source. It reports false if mark does.
func (c *Cache[V]) storeThrough(ctx context.Context, key string, value V, data []byte, ttl time.Duration, mark func(string) (bool, error)) (bool, error) {
	full := c.config.Prefix + key
	marker := newLease(c.client.telemetry.TraceParent(ctx))
	if marked, err := mark(marker); err != nil || !marked {
		return marked, err
	}
	err := c.callSource(ctx, func(ctx context.Context) error { return c.config.Store(ctx, key, value) })
	lasting := context.WithoutCancel(ctx)
	if err == nil {
		replaced, redisErr := c.client.remote.replace(lasting, full, marker, data, ttl)
		if replaced {
			return true, nil
		}
		if redisErr != nil {
			err = fmt.Errorf("the source was written, and Redis may not hold the value: %w", redisErr)
		}
	}
	if redisErr := c.client.remote.delete(lasting, []string{full}); redisErr != nil {
		return true, errors.Join(err, redisErr)
	}
	return true, err
}

// updateTries is how often Update begins again because another writer was faster.
const updateTries = 64

// Update changes an item by what it holds now: change gets the value, or exists false if there is none, and returns the new one, which takes the
// place of the old one only if nobody has written the key meanwhile; otherwise it is called again with what is there then. So it may be called
// several times, on the caller's goroutine, and must do nothing but compute. Its error ends the update and is returned as it is.
//
// What Redis does not hold is loaded first, if there is a loader. With Config.Store the new value goes to the source while the key is held
// against other updates. The life is as for Set. Update returns the new value, ErrConflict after 64 tries, or an error of Redis, without which
// it does not work.
func (c *Cache[V]) Update(ctx context.Context, key string, change func(current V, exists bool) (V, error), options ...WriteOption) (V, error) {
	var none V
	o, err := c.writeOptions(options)
	if err != nil {
		return none, err
	}
	if err := c.writable(key); err != nil {
		return none, err
	}
	if c.client.bus != nil {
		return none, fmt.Errorf("nearcache: cache %q: Update needs Redis, to compare with what it holds", c.config.Name)
	}
	var value V
	asked := false
	for range updateTries {
		answer, err := c.forUpdate(ctx, key)
		if err != nil {
			return none, err
		}
		var current V
		exists := answer.state == held
		if exists {
			current, err = c.decode(ctx, c.config.Prefix+key, answer.data)
			exists = err == nil
		}
		if !exists && answer.state != negative && c.loads() && !asked {
			asked = true // what the loader does not have, or cannot say, is not asked for again
			if _, err := c.Get(ctx, key, Fresh(), stored{}); err != nil && !errors.Is(err, ErrNotFound) {
				return none, err
			}
			continue
		}
		if value, err = change(current, exists); err != nil {
			return none, err
		}
		data, ttl, err := c.encodeFor(key, value, o.ttl)
		if err != nil {
			return none, err
		}
		updated := false
		err = c.write(ctx, "update", []string{key}, func([]string) (err error) {
			updated, err = c.swap(ctx, key, answer, value, data, ttl)
			return err
		})
		switch {
		case err != nil:
			return none, err
		case updated:
			return value, nil
		}
		select {
		case <-time.After(rand.N(2 * time.Millisecond)): // so that many who update one key do not keep in step
		case <-ctx.Done():
			return none, context.Cause(ctx)
		}
	}
	return none, fmt.Errorf("cache %q: update: %w", c.config.Name, ErrConflict)
}

// forUpdate returns what Redis holds, once no load or write of the key is under way.
func (c *Cache[V]) forUpdate(ctx context.Context, key string) (reply, error) {
	k, full := c.view.Key(key), c.config.Prefix+key
	began := localcache.Now()
	for {
		answer, err := c.fetchOrWait(ctx, k, full)
		if answer.state != leased || err != nil {
			return answer, err
		}
		if answer.life == noExpiry && localcache.Now().Sub(began) > c.leaseLife() {
			_, _ = c.client.remote.replace(ctx, full, string(answer.data), nil, 0) // see awaitLease
		}
	}
}

func (c *Cache[V]) fetchOrWait(ctx context.Context, k localcache.Key, full string) (reply, error) {
	pushed, release := c.wakes.await(k)
	defer release()
	answer := c.client.remote.fetch(ctx, full)
	switch answer.state {
	case refused:
		return answer, answer.err
	case unavailable:
		if ctx.Err() != nil {
			return answer, context.Cause(ctx)
		}
		return answer, c.unavailableError(answer.err)
	case leased:
		timer := time.NewTimer(unpushedPoll)
		defer timer.Stop()
		select {
		case <-pushed:
		case <-timer.C:
		case <-ctx.Done():
			return answer, context.Cause(ctx)
		}
	}
	return answer, nil
}

// swap puts a new value in place of what the key held, if it still does.
func (c *Cache[V]) swap(ctx context.Context, key string, old reply, value V, data []byte, ttl time.Duration) (bool, error) {
	full := c.config.Prefix + key
	replaceOld := func(data []byte, ttl time.Duration) (bool, error) {
		if old.state == missing {
			if ttl == 0 {
				return true, nil
			}
			return c.client.remote.acquire(ctx, full, rueidis.BinaryString(data), ttl)
		}
		return c.client.remote.replace(ctx, full, string(old.data), data, ttl)
	}
	if c.config.Store == nil {
		return replaceOld(data, ttl)
	}
	return c.storeThrough(ctx, key, value, data, ttl, func(marker string) (bool, error) {
		return replaceOld([]byte(marker), c.leaseLife())
	})
}

// Touch gives an item that Redis holds a new life, of Config.TTL unless an option says otherwise, without moving the value. It returns
// ErrNotFound if Redis holds none: neither a load that is under way nor the mark of an absent item counts as one.
func (c *Cache[V]) Touch(ctx context.Context, key string, options ...WriteOption) error {
	o, err := c.writeOptions(options)
	if err != nil {
		return err
	}
	if err := c.writable(key); err != nil {
		return err
	}
	if c.client.bus != nil {
		return fmt.Errorf("nearcache: cache %q: Touch needs Redis: nothing has a life in it without", c.config.Name)
	}
	ttl := o.ttl
	if ttl == 0 {
		ttl = c.jittered(c.config.TTL)
	}
	ttl += c.config.StaleWhileRevalidate
	return c.write(ctx, "touch", []string{key}, func(full []string) error {
		touched, err := c.client.remote.touch(ctx, full[0], ttl)
		if err == nil && !touched {
			err = ErrNotFound
		}
		return err
	})
}

// setting is what setMany is to store; a ttl of 0 deletes the key.
type setting struct {
	data []byte
	ttl  time.Duration
}

// setMany writes several keys, all different, in one round trip a server, and returns an error for each, or nil.
func (r *remote) setMany(ctx context.Context, keys []string, values []setting) []error {
	places := make(map[string]*int, len(keys))
	for i, key := range keys {
		places[key] = &i
	}
	failures := make([]error, len(keys))
	eachKey(ctx, r, "PIPELINE SET", places, func(redis rueidis.Client, i *int) rueidis.Completed {
		if v := values[*i]; v.ttl != 0 {
			return redis.B().Set().Key(keys[*i]).Value(rueidis.BinaryString(v.data)).Px(v.ttl).Build()
		}
		return redis.B().Del().Key(keys[*i]).Build()
	}, func(i *int, result rueidis.RedisResult, err error) {
		if err == nil {
			err = result.Error()
		}
		failures[*i] = err
	})
	return failures
}

// touchScript gives a key that holds a value ARGV[2] milliseconds more. ARGV[1] is what markers begin with: a lease must not live longer than
// its holder.
var touchScript = rueidis.NewLuaScript(`
if redis.call('GETRANGE', KEYS[1], 0, #ARGV[1] - 1) == ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])`)

func (r *remote) touch(ctx context.Context, key string, ttl time.Duration) (touched bool, err error) {
	_, err = r.once(ctx, r.client.serverOf("", key), "EVALSHA", func(ctx context.Context, redis rueidis.Client) error {
		n, err := touchScript.Exec(ctx, redis, []string{key}, []string{reservedPrefix, strconv.FormatInt(replaceMilliseconds(ttl), 10)}).AsInt64()
		touched = n == 1
		return scriptError(err, "+getrange +pexpire")
	})
	return touched, err
}
