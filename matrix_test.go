package nearcache_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-nearcache/nearcache"
	"github.com/go-nearcache/nearcache/internal/redistest"
)

// Each option may be combined with each other one, and what a cache promises holds with all combinations.
func TestMatrixOfOptions(t *testing.T) {
	t.Parallel()
	options := []struct {
		name string
		set  func(*nearcache.Config[string], *through)
	}{
		{"batch", func(c *nearcache.Config[string], db *through) {
			load := c.Load
			c.Load, c.LoadMany = nil, func(ctx context.Context, keys []string) (map[string]string, error) {
				values := map[string]string{"stranger": "v"}
				for _, key := range keys {
					switch value, err := load(ctx, key); {
					case err == nil:
						values[key] = value
					case !errors.Is(err, nearcache.ErrNotFound):
						return nil, err
					}
				}
				return values, nil
			}
		}},
		{"negative", func(c *nearcache.Config[string], _ *through) { c.NegativeTTL = time.Minute }},
		{"jitter", func(c *nearcache.Config[string], _ *through) { c.Jitter = 0.5 }},
		{"entry", func(c *nearcache.Config[string], _ *through) {
			c.Entry = func(string, string) nearcache.EntryOptions {
				return nearcache.EntryOptions{TTL: time.Hour, LocalTTL: time.Minute}
			}
		}},
		{"refresh", func(c *nearcache.Config[string], _ *through) { c.RefreshAhead = 0.99 }},
		{"revalidate", func(c *nearcache.Config[string], _ *through) { c.RefreshAhead, c.StaleWhileRevalidate = 0, time.Hour }},
		{"failsafe", func(c *nearcache.Config[string], _ *through) { c.FailSafe.MaxAge = time.Hour }},
		{"clone", func(c *nearcache.Config[string], _ *through) { c.Clone = strings.Clone }},
		{"through", func(c *nearcache.Config[string], db *through) { c.Store, c.Remove = db.store, db.remove }},
		{"limit, reheat, shadow", func(c *nearcache.Config[string], _ *through) {
			c.MaxValueBytes, c.RefreshInvalidated, c.Shadow = 100, 100, nearcache.Shadow{SampleRate: 1}
		}},
	}
	server := redistest.Start(t, redistest.Config{})
	clientOptions := optionsFor(server)
	clientOptions.SettleFills = true
	client := open(t, clientOptions)
	ctx := bounded(t)
	failure := errors.New("the database is on fire")
	for combination := range 1 << len(options) {
		name := fmt.Sprintf("%03x", combination)
		db := &through{source: newSource(map[string]string{"a": "1", "b": "2"}), stop: newCheckpoint(t)}
		var broken atomic.Bool
		config := nearcache.Config[string]{
			Name: name, Prefix: prefix + name + ":", Codec: nearcache.String(), LoadTimeout: patience,
			Load: func(ctx context.Context, key string) (string, error) {
				if broken.Load() {
					return "", failure
				}
				return db.load(ctx, key)
			},
		}
		for i, option := range options {
			if combination&(1<<i) != 0 {
				option.set(&config, db)
				name += " " + option.name
			}
		}
		cache := newCache(t, client, config)
		expect := func(step, key, value string, options ...nearcache.ReadOption) {
			t.Helper()
			if got, err := cache.Get(ctx, key, options...); got != value || err != nil {
				t.Errorf("%s: %s: %q, %v, want %q", name, step, got, err, value)
			}
		}
		expect("load", "a", "1")
		for range 2 {
			items, err := cache.GetMany(ctx, []string{"a", "b", "absent"})
			if err != nil || len(items) != 2 || items["a"] != "1" || items["b"] != "2" {
				t.Errorf("%s: GetMany: %q, %v", name, items, err)
			}
		}
		db.set("a", "3")
		server.Do(t, "DEL", config.Prefix+"a")
		expect("deleted by another", "a", "3", nearcache.Fresh())
		db.set("a", "4")
		check(t, cache.Set(ctx, "a", "4"))
		expect("set", "a", "4")
		if value, err := cache.Update(ctx, "a", func(current string, _ bool) (string, error) { db.set("a", "4+"); return current + "+", nil }); value != "4+" || err != nil {
			t.Errorf("%s: update: %q, %v", name, value, err)
		}
		expect("updated", "a", "4+")
		db.set("a", "5")
		server.Do(t, "SET", config.Prefix+"a", "5", "EX", "600")
		expect("set by another", "a", "5", nearcache.Fresh())
		expect("set by another, in L1", "a", "5")

		broken.Store(true)
		server.Do(t, "DEL", config.Prefix+"a")
		if value, err := cache.Get(ctx, "a", nearcache.Fresh()); !errors.Is(err, failure) {
			t.Errorf("%s: a fresh read while the loader fails: %q, %v", name, value, err)
		}
		value, err := cache.Get(ctx, "a")
		if config.FailSafe.MaxAge > 0 && (value != "5" || err != nil) || config.FailSafe.MaxAge == 0 && !errors.Is(err, failure) {
			t.Errorf("%s: while the loader fails: %q, %v", name, value, err)
		}
		broken.Store(false)
		check(t, cache.Delete(ctx, "a"))
		if config.Remove == nil {
			expect("deleted", "a", "5")
		} else if _, err := cache.Get(ctx, "a"); !errors.Is(err, nearcache.ErrNotFound) {
			t.Errorf("%s: deleted: %v", name, err)
		}
	}
	// No combination leaves a lease behind, in the key itself.
	eventually(t, "loads in the background have ended", func() bool {
		for combination := range 1 << len(options) {
			for _, key := range []string{"a", "b"} {
				if value, _ := stored(t, server, fmt.Sprintf("%s%03x:%s", prefix, combination, key)); strings.HasPrefix(value, "\x00nearcache\x00lease") {
					return false
				}
			}
		}
		return true
	})
}
