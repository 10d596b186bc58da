package nearcache

import (
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"time"
)

// EntryOptions are what Config.Entry decides for one item. The zero value means the config's.
type EntryOptions struct {
	TTL      time.Duration // in Redis; 0: Config.TTL; from 1 ms, with Config.Jitter
	LocalTTL time.Duration // in L1, where what is left of the life in Redis bounds it, too; 0: Config.LocalTTL
	NoStore  bool          // a loaded value goes to those who wait for it and is kept nowhere; Set deletes what Redis holds
}

// entry asks Config.Entry.
func (c *Cache[V]) entry(key string, value V) (entry EntryOptions, err error) {
	if c.config.Entry == nil {
		return entry, nil
	}
	defer func() {
		if r := recover(); r != nil {
			err = &PanicError{Value: r, Stack: debug.Stack()}
		}
	}()
	entry = c.config.Entry(key, value)
	if entry.TTL < 0 || entry.LocalTTL < 0 || entry.TTL > longest || entry.LocalTTL > longest {
		return EntryOptions{}, fmt.Errorf("nearcache: cache %q: Config.Entry returned %+v for %q: lives must be from 0 to %v", c.config.Name, entry, key, longest)
	}
	return entry, nil
}

// encodeFor encodes a value and says how long Redis is to keep it: for explicit if that is not 0, else as Entry and the config have it, and
// not at all if the answer is 0.
func (c *Cache[V]) encodeFor(key string, value V, explicit time.Duration) (data []byte, ttl time.Duration, err error) {
	entry, err := c.entry(key, value)
	if err != nil {
		return nil, 0, err
	}
	if data, err = c.encode(key, value); err != nil {
		return nil, 0, err
	}
	switch {
	case entry.NoStore:
		return nil, 0, nil
	case explicit != 0:
		return data, explicit + c.config.StaleWhileRevalidate, nil
	case entry.TTL != 0:
		return data, c.jittered(entry.TTL) + c.config.StaleWhileRevalidate, nil
	}
	return data, c.jittered(c.config.TTL) + c.config.StaleWhileRevalidate, nil
}

// jittered shortens a life by a random share.
func (c *Cache[V]) jittered(ttl time.Duration) time.Duration {
	if c.config.Jitter == 0 {
		return ttl
	}
	return max(ttl-time.Duration(rand.Float64()*c.config.Jitter*float64(ttl)), time.Millisecond)
}
