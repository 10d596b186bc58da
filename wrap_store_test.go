package nearcache_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/go-nearcache/nearcache"
	"github.com/go-nearcache/nearcache/internal/redistest"
)

// textMessage makes a message with a text and, if it is not 0, an end, as rueidis's own tests do.
func textMessage(text string, pxat int64) (message rueidis.RedisMessage) {
	form := binary.LittleEndian.AppendUint64(nil, uint64(max(pxat, 0)))[:7]
	form = binary.BigEndian.AppendUint64(append(form, '+'), uint64(len(text)))
	if err := message.CacheUnmarshalView(append(form, text...)); err != nil {
		panic(err)
	}
	return message
}

func newStores(t testing.TB) *nearcache.CacheStores {
	t.Helper()
	stores, err := nearcache.NewCacheStores(0)
	check(t, err)
	t.Cleanup(stores.Close)
	return stores
}

// missed says whether Flight told its caller to ask Redis, joined whether it told it to wait.
func missed(message rueidis.RedisMessage, entry rueidis.CacheEntry) bool {
	return message == rueidis.RedisMessage{} && entry == nil
}

func joined(message rueidis.RedisMessage, entry rueidis.CacheEntry) bool {
	return message == rueidis.RedisMessage{} && entry != nil
}

// The scenarios of rueidis's cache_test.go, which documents what it wants of a store.
func TestCacheStoreContract(t *testing.T) {
	t.Parallel()
	stores := newStores(t)
	newStore := func() rueidis.CacheStore { return stores.NewStore(rueidis.CacheStoreOption{}) }
	key := []rueidis.RedisMessage{textMessage("key", 0)}
	const life = time.Minute

	pending := func(t *testing.T, store rueidis.CacheStore, now time.Time) rueidis.CacheEntry {
		t.Helper()
		if !missed(store.Flight("key", "cmd", life, now)) {
			t.Fatal("the first flight is not a miss")
		}
		message, entry := store.Flight("key", "cmd", life, now)
		if !joined(message, entry) {
			t.Fatal("the second flight does not wait")
		}
		store.Delete(key)
		if _, again := store.Flight("key", "cmd", life, now); again != entry {
			t.Fatal("Delete has ended a flight under way")
		}
		return entry
	}
	t.Run("Flight and Update", func(t *testing.T) {
		store, now := newStore(), time.Now()
		entry := pending(t, store, now)
		end := now.Add(life).UnixMilli()
		if pxat := store.Update("key", "cmd", textMessage("val", now.Add(time.Hour).UnixMilli())); pxat != end {
			t.Errorf("ends at %d, want %d", pxat, end)
		}
		waited, err := entry.Wait(t.Context())
		check(t, err)
		found, _ := store.Flight("key", "cmd", life, now)
		for what, message := range map[string]rueidis.RedisMessage{"who waited": waited, "who came later": found} {
			if text, err := message.ToString(); text != "val" || err != nil || message.CachePXAT() != end || !message.IsCacheHit() {
				t.Errorf("%s: %q, %v, ends at %d", what, text, err, message.CachePXAT())
			}
		}
		store.Delete(key)
		if !missed(store.Flight("key", "cmd", life, now)) {
			t.Error("it outlives Delete")
		}
	})
	t.Run("Flight and Cancel", func(t *testing.T) {
		store, now := newStore(), time.Now()
		entry := pending(t, store, now)
		failure := errors.New("failure")
		store.Cancel("key", "cmd", failure)
		if _, err := entry.Wait(t.Context()); !errors.Is(err, failure) {
			t.Errorf("%v", err)
		}
		if !missed(store.Flight("key", "cmd", life, now)) {
			t.Error("it outlives Cancel")
		}
	})
	t.Run("Flight and Delete", func(t *testing.T) {
		store, now := newStore(), time.Now()
		for _, deleted := range [][]rueidis.RedisMessage{key, nil} {
			for _, command := range []string{"cmd1", "cmd2"} {
				store.Flight("key", command, life, now)
				store.Update("key", command, textMessage("val", 0))
			}
			store.Delete(deleted)
			for _, command := range []string{"cmd1", "cmd2"} {
				if !missed(store.Flight("key", command, life, now)) {
					t.Errorf("%s outlives Delete(%v)", command, deleted)
				}
				store.Cancel("key", command, errors.New("not sent"))
			}
		}
	})
	t.Run("Flight and TTL", func(t *testing.T) {
		store, now := newStore(), time.Now()
		store.Flight("key", "cmd", time.Hour, now)
		store.Update("key", "cmd", textMessage("val", now.Add(life).UnixMilli()))
		if message, _ := store.Flight("key", "cmd", time.Hour, now); message.CachePXAT() != now.Add(life).UnixMilli() {
			t.Errorf("ends at %d", message.CachePXAT())
		}
		if !missed(store.Flight("key", "cmd", time.Hour, now.Add(life))) {
			t.Error("it outlives its end")
		}
	})
	t.Run("Flight and Close", func(t *testing.T) {
		store, now := newStore(), time.Now()
		store.Flight("held", "cmd", life, now)
		store.Update("held", "cmd", textMessage("val", 0))
		entry := pending(t, store, now)
		failure := errors.New("failure")
		store.Close(failure)
		if _, err := entry.Wait(t.Context()); !errors.Is(err, failure) {
			t.Errorf("%v", err)
		}
		for _, name := range []string{"key", "held"} {
			if !missed(store.Flight(name, "cmd", life, now)) {
				t.Errorf("%q outlives Close", name)
			}
		}
		store.Update("key", "cmd", textMessage("late", 0))
		store.Delete(nil)
		store.Close(failure)
	})
	t.Run("Wait ends with its context", func(t *testing.T) {
		store := newStore()
		entry := pending(t, store, time.Now())
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := entry.Wait(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("%v", err)
		}
	})
	t.Run("stores are apart", func(t *testing.T) {
		one, other, now := newStore(), newStore(), time.Now()
		one.Flight("key", "cmd", life, now)
		one.Update("key", "cmd", textMessage("of one server", 0))
		if !missed(other.Flight("key", "cmd", life, now)) {
			t.Error("another connection's reply is served")
		}
		other.Close(errors.New("broken"))
		if message, _ := one.Flight("key", "cmd", life, now); !message.IsCacheHit() {
			t.Error("another connection's end has ended it")
		}
	})
}

// More replies than the store remembers by itself, from many goroutines.
func TestCacheStoreUnderLoad(t *testing.T) {
	t.Parallel()
	store := newStores(t).NewStore(rueidis.CacheStoreOption{})
	var working sync.WaitGroup
	for worker := range 4 {
		working.Go(func() {
			for i := range 5000 {
				key, now := fmt.Sprint(i%500), time.Now()
				switch message, entry := store.Flight(key, "GET", time.Minute, now); {
				case message.IsCacheHit():
					if text, err := message.ToString(); text != key || err != nil {
						t.Errorf("%q holds %q", key, text)
					}
				case entry != nil:
					if _, err := entry.Wait(t.Context()); err != nil {
						t.Error(err)
					}
				default:
					store.Update(key, "GET", textMessage(key, 0))
				}
				if worker == 0 && i%7 == 0 {
					store.Delete([]rueidis.RedisMessage{textMessage(key, 0)})
				}
			}
		})
	}
	working.Wait()
	store.Close(errors.New("the end"))
}

// rueidis itself on the stores: its hits, its invalidations, and the loss of its connection.
func TestCacheStoresUnderRueidis(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{})
	proxy := startProxy(t, server)
	stores := newStores(t)
	client, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{proxy.addr()}, NewCacheStoreFn: stores.NewStore})
	check(t, err)
	defer client.Close()
	for i := range 200 {
		key := fmt.Sprint(prefix, i)
		server.Do(t, "SET", key, "old")
		warmGet(t, client, key, "old")
	}
	if n := stores.Stats().Items; n < 200 {
		t.Errorf("%d replies of all connections in one L1", n)
	}
	key := prefix + "7"
	server.Do(t, "SET", key, "newer")
	eventually(t, "the push has come", func() bool { value, _ := cachedGet(t, client, key); return value == "newer" })
	warmGet(t, client, key, "newer")
	proxy.cut(func(bool) bool { return true })
	server.Do(t, "SET", key, "newest")
	eventually(t, "the connections are new", func() bool {
		value, err := client.DoCache(bounded(t), client.B().Get().Key(key).Cache(), time.Hour).ToString()
		return err == nil && value == "newest"
	})
}
