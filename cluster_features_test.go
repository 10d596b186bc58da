package nearcache_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-nearcache/nearcache"
	"github.com/go-nearcache/nearcache/internal/redistest"
)

// keyErrors are the errors by key that a call joined.
func keyErrors(t *testing.T, err error) map[string]error {
	t.Helper()
	found := make(map[string]error)
	for err != nil {
		if joined, ok := err.(interface{ Unwrap() []error }); ok {
			for _, e := range joined.Unwrap() {
				maps.Copy(found, keyErrors(t, e))
			}
			return found
		}
		if one, ok := err.(*nearcache.KeyError); ok { //nolint:errorlint // each level is looked at by itself
			found[one.Key] = one.Err
			return found
		}
		err = errors.Unwrap(err)
	}
	return found
}

// spread returns keys of every primary, and some that a hash tag holds together.
func (n *clusterNode) spread(t *testing.T) (keys []string, byOwner map[*redistest.Server][]string) {
	t.Helper()
	byOwner = make(map[*redistest.Server][]string)
	for i := range 30 {
		keys = append(keys, fmt.Sprint("key", i))
	}
	for i := range 6 {
		keys = append(keys, fmt.Sprintf("{tag}%d", i), fmt.Sprintf("x{tag %d}y", i))
	}
	for _, key := range keys {
		owner := n.ownerOf(t, key)
		byOwner[owner] = append(byOwner[owner], key)
	}
	if primaries, err := n.Primaries(t.Context()); err != nil || len(byOwner) != len(primaries) {
		t.Fatalf("keys of %d of %d primaries, %v", len(byOwner), len(primaries), err)
	}
	return keys, byOwner
}

// held returns what the cluster holds.
func (n *clusterNode) held(t *testing.T, full string) (string, bool) {
	t.Helper()
	value, err := n.outsider.Do(t.Context(), n.outsider.B().Get().Key(full).Build()).ToString()
	return value, err == nil
}

// Each feature works on keys of all shards at once, on two nodes.
func TestClusterFeatures(t *testing.T) {
	t.Parallel()
	n := startCluster(t, redistest.ClusterConfig{Replicas: -1}, func(o *nearcache.Options) { o.RemoteTimeout, o.SettleFills = slow, true })
	options := optionsAt("")
	options.Redis.InitAddress = n.Addresses()
	other := open(t, options)
	keys, byOwner := n.spread(t)

	// A cache of each node under a prefix of the test's own.
	pair := func(t *testing.T, config nearcache.Config[string]) (mine, theirs *nearcache.Cache[string]) {
		t.Helper()
		config.Name, config.Prefix = t.Name(), prefix+t.Name()+":"
		config.Codec = nearcache.String()
		return newCache(t, n.client, config), newCache(t, other, config)
	}
	same := func(t *testing.T, what string, got map[string]string, value func(key string) string) {
		t.Helper()
		if len(got) != len(keys) {
			t.Errorf("%s: %d items of %d", what, len(got), len(keys))
		}
		for key, v := range got {
			if v != value(key) {
				t.Errorf("%s: %q is %q, want %q", what, key, v, value(key))
			}
		}
	}
	of := func(text string) func(string) string { return func(key string) string { return text + key } }
	all := func(text string) map[string]string {
		items := make(map[string]string)
		for _, key := range keys {
			items[key] = text + key
		}
		return items
	}

	t.Run("GetMany", func(t *testing.T) {
		var loads atomic.Int64
		load := func(_ context.Context, key string) (string, error) { loads.Add(1); return "loaded " + key, nil }
		mine, theirs := pair(t, nearcache.Config[string]{Load: load})
		var reading sync.WaitGroup
		for _, cache := range []*nearcache.Cache[string]{mine, theirs} {
			reading.Go(func() {
				items, err := cache.GetMany(bounded(t), keys)
				if err != nil {
					t.Error(err)
				}
				same(t, "GetMany", items, of("loaded "))
			})
		}
		reading.Wait()
		if loads.Load() != int64(len(keys)) {
			t.Errorf("%d items were loaded %d times by two nodes", len(keys), loads.Load())
		}
		eventually(t, "L1 holds keys of all shards", func() bool {
			_, err := mine.GetMany(t.Context(), keys)
			check(t, err)
			return !slices.ContainsFunc(keys, func(key string) bool { return !inLocal(mine, key) })
		})
	})

	t.Run("LoadMany", func(t *testing.T) {
		var asked atomic.Int64
		mine, theirs := pair(t, nearcache.Config[string]{LoadMany: func(_ context.Context, keys []string) (map[string]string, error) {
			asked.Add(1)
			items := make(map[string]string)
			for _, key := range keys {
				items[key] = "loaded " + key
			}
			return items, nil
		}})
		items, err := mine.GetMany(bounded(t), keys)
		check(t, err)
		same(t, "the node that loads", items, of("loaded "))
		items, err = theirs.GetMany(bounded(t), keys)
		check(t, err)
		same(t, "the node that does not", items, of("loaded "))
		if asked.Load() != 1 {
			t.Errorf("the source was asked %d times", asked.Load())
		}
	})

	t.Run("SetMany and DeleteMany", func(t *testing.T) {
		mine, theirs := pair(t, nearcache.Config[string]{})
		for _, text := range []string{"one ", "two "} {
			check(t, mine.SetMany(bounded(t), all(text)))
			for _, cache := range []*nearcache.Cache[string]{mine, theirs} {
				items, err := cache.GetMany(bounded(t), keys, nearcache.Fresh())
				check(t, err)
				same(t, text, items, of(text))
			}
		}
		check(t, theirs.DeleteMany(bounded(t), keys))
		items, err := mine.GetMany(bounded(t), keys, nearcache.Fresh())
		check(t, err)
		if len(items) != 0 {
			t.Errorf("left after DeleteMany: %v", items)
		}
	})

	t.Run("Update", func(t *testing.T) {
		mine, theirs := pair(t, nearcache.Config[string]{})
		const each = 5
		var updating sync.WaitGroup
		for _, cache := range []*nearcache.Cache[string]{mine, theirs} {
			updating.Go(func() {
				for _, key := range keys {
					for range each {
						_, err := cache.Update(bounded(t), key, func(current string, exists bool) (string, error) {
							count, err := strconv.Atoi(current)
							if err != nil && exists {
								return "", err
							}
							return strconv.Itoa(count + 1), nil
						})
						if err != nil {
							t.Errorf("update %q: %v", key, err)
						}
					}
				}
			})
		}
		updating.Wait()
		items, err := mine.GetMany(bounded(t), keys, nearcache.Fresh())
		check(t, err)
		same(t, "Update", items, func(string) string { return strconv.Itoa(2 * each) })
	})

	t.Run("Touch", func(t *testing.T) {
		mine, _ := pair(t, nearcache.Config[string]{TTL: time.Minute})
		check(t, mine.SetMany(bounded(t), all("")))
		for _, key := range keys {
			check(t, mine.Touch(bounded(t), key, nearcache.TTL(time.Hour)))
			if left := mine.Explain(t.Context(), key).Remote.TTL; left <= 2*time.Minute {
				t.Errorf("%q has %v left", key, left)
			}
		}
		if err := mine.Touch(bounded(t), "absent"); !errors.Is(err, nearcache.ErrNotFound) {
			t.Errorf("of nothing: %v", err)
		}
	})

	t.Run("RefreshAhead", func(t *testing.T) {
		var version atomic.Int64
		version.Store(1)
		load := func(_ context.Context, key string) (string, error) {
			return fmt.Sprintf("%d %s", version.Load(), key), nil
		}
		mine, theirs := pair(t, nearcache.Config[string]{Load: load, TTL: time.Hour, RefreshAhead: 0.5})
		items, err := mine.GetMany(bounded(t), keys)
		check(t, err)
		same(t, "loaded", items, of("1 "))
		version.Store(2)
		for _, key := range keys { // into the last half of their lives
			full := prefix + t.Name() + ":" + key
			check(t, n.outsider.Do(t.Context(), n.outsider.B().Pexpire().Key(full).Milliseconds(time.Minute.Milliseconds()).Build()).Error())
		}
		for _, cache := range []*nearcache.Cache[string]{mine, theirs} {
			eventually(t, "every key is refreshed", func() bool {
				items, err := cache.GetMany(t.Context(), keys)
				check(t, err)
				return !slices.ContainsFunc(keys, func(key string) bool { return items[key] != "2 "+key })
			})
		}
	})

	t.Run("FailSafe", func(t *testing.T) {
		var failing atomic.Bool
		load := func(_ context.Context, key string) (string, error) {
			if failing.Load() {
				return "", errors.New("the source is away")
			}
			return "good " + key, nil
		}
		mine, _ := pair(t, nearcache.Config[string]{Load: load, FailSafe: nearcache.FailSafe{MaxAge: time.Hour}})
		eventually(t, "the last good values are served", func() bool { // L1 may have had no room for one
			failing.Store(false)
			items, err := mine.GetMany(bounded(t), keys)
			check(t, err)
			same(t, "loaded", items, of("good "))
			failing.Store(true)
			for _, key := range keys {
				full := prefix + t.Name() + ":" + key
				check(t, n.outsider.Do(t.Context(), n.outsider.B().Del().Key(full).Build()).Error())
			}
			fence(t, n.client)
			items, err = mine.GetMany(bounded(t), keys)
			if err == nil {
				same(t, "the last good values", items, of("good "))
			}
			return err == nil
		})
	})

	t.Run("Warm and Clear", func(t *testing.T) {
		load := func(_ context.Context, key string) (string, error) { return "warm " + key, nil }
		mine, theirs := pair(t, nearcache.Config[string]{Load: load})
		check(t, mine.Warm(bounded(t), slices.Values(keys), nearcache.BulkOptions{}))
		for _, key := range keys {
			warm(t, mine, key, "warm "+key)
		}
		removed, err := theirs.Clear(bounded(t), nearcache.BulkOptions{})
		check(t, err)
		if removed != int64(len(keys)) {
			t.Errorf("Clear removed %d of %d keys", removed, len(keys))
		}
		fence(t, n.client)
		for _, key := range keys {
			if _, there := n.held(t, prefix+t.Name()+":"+key); there || inLocal(mine, key) {
				t.Errorf("%q is left", key)
			}
		}
	})

	t.Run("leases", func(t *testing.T) {
		var running, loads atomic.Int64
		gate := make(chan struct{})
		load := func(_ context.Context, key string) (string, error) {
			loads.Add(1)
			running.Add(1)
			defer running.Add(-1)
			<-gate
			return "leased " + key, nil
		}
		mine, theirs := pair(t, nearcache.Config[string]{Load: load, LoadTimeout: patience})
		some := n.keyOfEach(t)
		var reading sync.WaitGroup
		for _, cache := range []*nearcache.Cache[string]{mine, theirs} {
			for _, key := range some {
				reading.Go(func() {
					if value, err := cache.Get(bounded(t), key); err != nil || value != "leased "+key {
						t.Errorf("%q: %q, %v", key, value, err)
					}
				})
			}
		}
		eventually(t, "one load a key runs, and the other node waits", func() bool { // and looks again, and waits again, when it is pushed
			return running.Load() == int64(len(some)) &&
				n.client.Stats().Caches[t.Name()].LeaseWaits+other.Stats().Caches[t.Name()].LeaseWaits >= uint64(len(some))
		})
		close(gate)
		reading.Wait()
		if loads.Load() != int64(len(some)) {
			t.Errorf("%d keys were loaded %d times", len(some), loads.Load())
		}
	})

	// One server is away: what the others own is done, and what that one owns is named.
	t.Run("part of the cluster is away", func(t *testing.T) {
		options := optionsAt("")
		options.Redis.InitAddress = n.Addresses()
		options.RemoteTimeout = 500 * time.Millisecond
		client := open(t, options)
		cache := newCache(t, client, nearcache.Config[string]{Name: "away", Prefix: prefix + "away:", Codec: nearcache.String()})
		check(t, cache.SetMany(bounded(t), all("old ")))
		away := n.ownerOf(t, "away:"+keys[0])
		owned := make(map[string]bool)
		for _, key := range keys {
			owned[key] = n.ownerOf(t, "away:"+key) == away
		}
		check(t, away.Pause())
		resume := sync.OnceFunc(func() { check(t, away.Resume()) })
		defer resume()
		named := func(what string, failures map[string]error) {
			t.Helper()
			for _, key := range keys {
				if (failures[key] != nil) != owned[key] {
					t.Errorf("%s: %q, of the server that is away: %v: %v", what, key, owned[key], failures[key])
				}
			}
		}
		err := cache.SetMany(bounded(t), all("new "))
		named("SetMany", keyErrors(t, err))
		items, err := cache.GetMany(bounded(t), keys, nearcache.Fresh())
		named("GetMany", keyErrors(t, err))
		for key, value := range items {
			if owned[key] || value != "new "+key {
				t.Errorf("%q is %q", key, value)
			}
		}
		err = cache.DeleteMany(bounded(t), keys)
		named("DeleteMany", keyErrors(t, err))
		mentions(t, err, "away", "delete")
		resume()
		check(t, n.AwaitStable(t.Context()))
		check(t, cache.DeleteMany(bounded(t), keys))
		for _, key := range keys {
			if value, there := n.held(t, prefix+"away:"+key); there {
				t.Errorf("%q is left: %q", key, value)
			}
		}
	})

	// One server stops allowing tracking: its part of L1 is degraded, and no other.
	t.Run("degraded in part", func(t *testing.T) {
		poor := slices.Collect(maps.Keys(byOwner))[0]
		for _, node := range n.Nodes() {
			node.Do(t, "ACL", "SETUSER", "node", "on", ">secret", "~*", "+@all")
		}
		poor.Do(t, "ACL", "SETUSER", "node", "-client")
		options := optionsAt("")
		options.Redis.InitAddress = n.Addresses()
		options.Redis.Username, options.Redis.Password = "node", "secret"
		_, err := nearcache.Open(bounded(t), options)
		if !errors.Is(err, nearcache.ErrNoTracking) {
			t.Errorf("RequireTracking: %v", err)
		}
		degrading(&options, time.Minute)
		client := open(t, options)
		cache := newCache(t, client, nearcache.Config[string]{Name: "part", Prefix: prefix, Codec: nearcache.String()})
		for _, link := range client.Health().Links {
			if degraded := link.Mode == nearcache.ModeTTL; degraded != (link.Server == poor.Addr()) {
				t.Errorf("%+v", link)
			}
		}
		for owner, keys := range byOwner {
			key := keys[0]
			n.write(t, key, "old")
			want(t, cache, key, "old", nearcache.Fresh())
			eventually(t, "L1 holds the key", func() bool {
				_, err := cache.Get(t.Context(), key)
				return err == nil && inLocal(cache, key)
			})
			n.write(t, key, "new")
			want(t, cache, key, "new", nearcache.Fresh())
			if mode := cache.Explain(t.Context(), key).Link.Mode; (mode == nearcache.ModeTTL) != (owner == poor) {
				t.Errorf("%q: %v", key, mode)
			}
		}
		poor.Do(t, "ACL", "SETUSER", "node", "+client")
		awaitMode(t, client, nearcache.ModeTracking)
	})
}
