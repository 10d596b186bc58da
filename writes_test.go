package nearcache_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-nearcache/nearcache"
	"github.com/go-nearcache/nearcache/internal/redistest"
)

// remaining returns what is left of a key's life in Redis.
func remaining(t testing.TB, server *redistest.Server, key string) time.Duration {
	t.Helper()
	message := server.Do(t, "PTTL", key)
	milliseconds, err := message.AsInt64()
	check(t, err)
	return time.Duration(milliseconds) * time.Millisecond
}

func TestLivesOfEntries(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{})
	options := optionsFor(server)
	options.SettleFills = true
	client := open(t, options)
	cache := newCache(t, client, nearcache.Config[string]{
		Codec: nearcache.String(), TTL: time.Hour,
		Load: func(_ context.Context, key string) (string, error) { return key, nil },
		Entry: func(_, value string) nearcache.EntryOptions {
			switch value {
			case "short":
				return nearcache.EntryOptions{TTL: time.Minute}
			case "local":
				return nearcache.EntryOptions{LocalTTL: time.Millisecond}
			case "secret":
				return nearcache.EntryOptions{NoStore: true}
			case "panic":
				panic("no options")
			case "negative":
				return nearcache.EntryOptions{TTL: -1}
			}
			return nearcache.EntryOptions{}
		},
	})
	between := func(key string, least, most time.Duration) {
		t.Helper()
		if life := remaining(t, server, prefix+key); life <= least || life > most {
			t.Errorf("%q lives for %v, want from %v to %v", key, life, least, most)
		}
	}
	want(t, cache, "short", "short")
	between("short", 0, time.Minute)
	want(t, cache, "long", "long")
	between("long", time.Minute, time.Hour)
	check(t, cache.Set(t.Context(), "set", "short"))
	between("set", 0, time.Minute)
	check(t, cache.Set(t.Context(), "set", "short", nearcache.TTL(2*time.Hour)))
	between("set", time.Hour, 2*time.Hour)

	want(t, cache, "secret", "secret")
	if value, ok := stored(t, server, prefix+"secret"); ok {
		t.Errorf("Redis holds %q", value)
	}
	check(t, cache.Set(t.Context(), "long", "secret"))
	if value, ok := stored(t, server, prefix+"long"); ok {
		t.Errorf("Redis holds %q", value)
	}
	server.Do(t, "SET", prefix+"outside", "secret")
	fence(t, client)
	for range 3 {
		want(t, cache, "outside", "secret")
	}
	if cache.Explain(t.Context(), "outside").Local.Present {
		t.Error("L1 holds what is to be kept nowhere")
	}
	server.Do(t, "SET", prefix+"local", "local")
	fence(t, client)
	want(t, cache, "local", "local")
	eventually(t, "the life in L1 is over", func() bool { return !inLocal(cache, "local") })

	_, err := cache.Get(t.Context(), "panic")
	if _, ok := errors.AsType[*nearcache.PanicError](err); !ok {
		t.Errorf("%v", err)
	}
	mentions(t, cache.Set(t.Context(), "k", "negative"), "Entry", "-1ns")
	mentions(t, cache.Set(t.Context(), "k", "v", nearcache.TTL(0)), "TTL", "0s", "1ms")
}

// Lives are spread over the share and never longer than what was asked for.
func TestJitter(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{})
	client := open(t, optionsFor(server))
	cache := newCache(t, client, nearcache.Config[string]{Codec: nearcache.String(), TTL: 1000 * time.Hour, Jitter: 0.5})
	items := make(map[string]string)
	for i := range 400 {
		items[fmt.Sprint(i)] = "v"
	}
	check(t, cache.SetMany(t.Context(), items))
	least, most := time.Duration(math.MaxInt64), time.Duration(0)
	for key := range items {
		life := remaining(t, server, prefix+key)
		least, most = min(least, life), max(most, life)
	}
	// That 400 draws all miss a tenth of their range has a probability of 0.9^400.
	if least < 499*time.Hour || least > 550*time.Hour || most > 1000*time.Hour || most < 950*time.Hour {
		t.Errorf("lives from %v to %v", least, most)
	}
	check(t, cache.Set(t.Context(), "exact", "v", nearcache.TTL(1000*time.Hour)))
	if life := remaining(t, server, prefix+"exact"); life < 999*time.Hour {
		t.Errorf("a life that was given is shortened to %v", life)
	}
	for _, jitter := range []float64{-0.1, 1, math.NaN(), math.Inf(1)} {
		_, err := nearcache.New(client, nearcache.Config[string]{Name: "bad", Prefix: prefix + "bad:", Jitter: jitter})
		mentions(t, err, "Jitter", "less than 1")
	}
}

func TestSetMany(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{})
	writer := stringCache(t, open(t, optionsFor(server)), nil)
	reader := stringCache(t, open(t, optionsFor(server)), nil)
	server.Do(t, "MSET", prefix+"a", "old", prefix+"b", "old")
	for _, cache := range []*nearcache.Cache[string]{reader, writer} {
		warm(t, cache, "a", "old")
		warm(t, cache, "b", "old")
	}
	check(t, writer.SetMany(t.Context(), map[string]string{"a": "new a", "b": "new b"}, nearcache.TTL(time.Minute)))
	want(t, writer, "a", "new a")
	want(t, writer, "b", "new b")
	want(t, reader, "a", "new a", nearcache.Fresh())
	if life := remaining(t, server, prefix+"a"); life <= 0 || life > time.Minute {
		t.Errorf("it lives for %v", life)
	}
	check(t, writer.SetMany(t.Context(), nil))
	if err := writer.SetMany(t.Context(), map[string]string{"": "v"}); !errors.Is(err, nearcache.ErrInvalidKey) {
		t.Errorf("%v", err)
	}
	server.Do(t, "CONFIG", "SET", "maxmemory", "1")
	err := writer.SetMany(t.Context(), map[string]string{"a": "too much"})
	if ofKey, ok := errors.AsType[*nearcache.KeyError](err); !ok || ofKey.Key != "a" {
		t.Errorf("%v", err)
	}
}

// Updates by many nodes at once lose nothing.
func TestUpdate(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{})
	const nodes, writers, updates = 3, 4, 20
	var loads atomic.Int64
	var working sync.WaitGroup
	var caches []*nearcache.Cache[string]
	for range nodes {
		caches = append(caches, newCache(t, open(t, optionsFor(server)), nearcache.Config[string]{
			Codec: nearcache.String(), LoadTimeout: patience,
			Load: func(context.Context, string) (string, error) { loads.Add(1); return "1000", nil },
		}))
	}
	increment := func(current string, exists bool) (string, error) {
		n, err := strconv.Atoi(current)
		if !exists || err != nil {
			return "", fmt.Errorf("%q, %v, %w", current, exists, err)
		}
		return strconv.Itoa(n + 1), nil
	}
	for _, cache := range caches {
		for range writers {
			working.Go(func() {
				for range updates {
					for {
						value, err := cache.Update(t.Context(), "n", increment)
						if errors.Is(err, nearcache.ErrConflict) {
							continue
						}
						if err != nil {
							t.Error(err)
							return
						}
						written, _ := strconv.Atoi(value)
						if read, _ := strconv.Atoi(get(t, cache, "n")); read < written {
							t.Errorf("%d is read after %d was written", read, written)
						}
						break
					}
				}
			})
		}
	}
	working.Wait()
	if value, _ := stored(t, server, prefix+"n"); value != strconv.Itoa(1000+nodes*writers*updates) {
		t.Errorf("Redis holds %q", value)
	}
	if loads.Load() != 1 {
		t.Errorf("%d loads", loads.Load())
	}

	refusal := errors.New("no")
	if _, err := caches[0].Update(t.Context(), "n", func(string, bool) (string, error) { return "", refusal }); err != refusal { //nolint:errorlint // as it is
		t.Errorf("%v", err)
	}
}

func TestUpdateOfWhatDoesNotExist(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{})
	client := open(t, optionsFor(server))
	cache := newCache(t, client, nearcache.Config[string]{Codec: nearcache.String(), NegativeTTL: time.Minute,
		Load: func(context.Context, string) (string, error) { return "", nearcache.ErrNotFound }})
	for _, key := range []string{"k", "l"} {
		if key == "l" {
			_, _ = cache.Get(t.Context(), key) // leaves the mark of an absent item
		}
		value, err := cache.Update(t.Context(), key, func(current string, exists bool) (string, error) {
			return fmt.Sprintf("%q %v", current, exists), nil
		})
		if value != `"" false` || err != nil {
			t.Errorf("%v, %v", value, err)
		}
		want(t, cache, key, `"" false`)
	}
	// Somebody who writes each time in between wins each time.
	calls := 0
	_, err := cache.Update(t.Context(), "busy", func(string, bool) (string, error) {
		calls++
		server.Do(t, "SET", prefix+"busy", strconv.Itoa(calls))
		return "mine", nil
	})
	if !errors.Is(err, nearcache.ErrConflict) || calls < 2 {
		t.Errorf("%v after %d calls", err, calls)
	}
	// A load that is under way is waited for, and a marker that nobody will take away is not for ever.
	server.Do(t, "SET", prefix+"leased", "\x00nearcache\x00lease\x00other", "PX", "100")
	if value, err := cache.Update(bounded(t), "leased", func(string, bool) (string, error) { return "after", nil }); value != "after" || err != nil {
		t.Errorf("%q, %v", value, err)
	}
}

func TestTouch(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{})
	cache := newCache(t, open(t, optionsFor(server)), nearcache.Config[string]{Codec: nearcache.String(), TTL: time.Hour})
	server.Do(t, "SET", prefix+"k", "v", "EX", "60")
	check(t, cache.Touch(t.Context(), "k"))
	if life := remaining(t, server, prefix+"k"); life <= time.Minute {
		t.Errorf("it lives for %v", life)
	}
	check(t, cache.Touch(t.Context(), "k", nearcache.TTL(time.Minute)))
	if life := remaining(t, server, prefix+"k"); life > time.Minute {
		t.Errorf("it lives for %v", life)
	}
	want(t, cache, "k", "v")
	marker := "\x00nearcache\x00lease\x00other"
	server.Do(t, "SET", prefix+"leased", marker, "EX", "60")
	for _, key := range []string{"absent", "leased"} {
		if err := cache.Touch(t.Context(), key); !errors.Is(err, nearcache.ErrNotFound) {
			t.Errorf("%q: %v", key, err)
		}
	}
	if life := remaining(t, server, prefix+"leased"); life > time.Minute {
		t.Error("a lease lives longer")
	}
}

// through is a source that is written through a cache.
type through struct {
	*source
	fail atomic.Pointer[error]
	stop *checkpoint
}

func (s *through) store(_ context.Context, key, value string) error {
	s.stop.pass()
	if fail := s.fail.Load(); fail != nil {
		return *fail
	}
	s.set(key, value)
	return nil
}

func (s *through) remove(_ context.Context, key string) error {
	if fail := s.fail.Load(); fail != nil {
		return *fail
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.items, key)
	return nil
}

func (s *through) config() nearcache.Config[string] {
	return nearcache.Config[string]{Codec: nearcache.String(), LoadTimeout: patience, Load: s.load, Store: s.store, Remove: s.remove}
}

func TestWriteThrough(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{})
	db := &through{source: newSource(map[string]string{"k": "old"}), stop: newCheckpoint(t)}
	client := open(t, optionsFor(server))
	cache := newCache(t, client, db.config())
	want(t, cache, "k", "old")
	check(t, cache.Set(t.Context(), "k", "new"))
	want(t, cache, "k", "new")
	if value, _ := stored(t, server, prefix+"k"); value != "new" || db.items["k"] != "new" || db.loads.Load() != 1 {
		t.Errorf("Redis %q, source %q, %d loads", value, db.items["k"], db.loads.Load())
	}
	check(t, cache.SetMany(t.Context(), map[string]string{"a": "1", "b": "2"}))
	if db.items["a"] != "1" || db.items["b"] != "2" {
		t.Errorf("%q", db.items)
	}
	if value, err := cache.Update(t.Context(), "k", func(current string, _ bool) (string, error) { return current + "er", nil }); value != "newer" || err != nil || db.items["k"] != "newer" {
		t.Errorf("%q, %v, %q", value, err, db.items["k"])
	}
	failure := errors.New("disk full")
	db.fail.Store(&failure)
	if err := cache.Set(t.Context(), "k", "lost"); !errors.Is(err, failure) {
		t.Errorf("%v", err)
	}
	if value, ok := stored(t, server, prefix+"k"); ok {
		t.Errorf("after a failure Redis holds %q", value)
	}
	want(t, cache, "k", "newer")
	if err := cache.Delete(t.Context(), "k"); !errors.Is(err, failure) {
		t.Errorf("%v", err)
	}
	if _, ok := stored(t, server, prefix+"k"); ok {
		t.Error("after a failure Redis holds the key")
	}
	db.fail.Store(nil)
	check(t, cache.Delete(t.Context(), "k"))
	if _, err := cache.Get(t.Context(), "k"); !errors.Is(err, nearcache.ErrNotFound) {
		t.Errorf("%v", err)
	}
}

// While the source is written, readers of all nodes wait instead of loading what is about to be replaced.
func TestWriteThroughHoldsReaders(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{})
	db := &through{source: newSource(map[string]string{"k": "old"}), stop: newCheckpoint(t)}
	writer, reader := newCache(t, open(t, optionsFor(server)), db.config()), open(t, optionsFor(server))
	readers := newCache(t, reader, db.config())
	db.stop.arm()
	written := make(chan error, 1)
	go func() { written <- writer.Set(t.Context(), "k", "new") }()
	receive(t, "the source is written", db.stop.reached)
	reading := reading(t.Context(), readers, "k")
	eventually(t, "the reader waits", func() bool { return statsOf(reader).LeaseWaits >= 1 })
	db.stop.release()
	check(t, receive(t, "Set ends", written))
	if a := receive(t, "the reader ends", reading); a.value != "new" || a.err != nil {
		t.Errorf("%+v", a)
	}
	if n := db.loads.Load(); n != 0 {
		t.Errorf("%d loads", n)
	}
}

// Of two writers the one whose write reaches the source last may reach Redis first. Then Redis must hold neither.
func TestWriteThroughInTwoOrders(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{})
	db := &through{source: newSource(map[string]string{"k": "old"}), stop: newCheckpoint(t)}
	first, second := newCache(t, open(t, optionsFor(server)), db.config()), newCache(t, open(t, optionsFor(server)), db.config())
	db.stop.arm()
	written := make(chan error, 1)
	go func() { written <- first.Set(t.Context(), "k", "first") }()
	receive(t, "the source is written", db.stop.reached)
	check(t, second.Set(t.Context(), "k", "second"))
	db.stop.release() // the source holds what was written first by now, for good
	check(t, receive(t, "Set ends", written))
	for _, cache := range []*nearcache.Cache[string]{first, second} {
		want(t, cache, "k", "first", nearcache.Fresh())
	}
}

func TestWriteThroughWhileRedisIsAway(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{})
	db := &through{source: newSource(map[string]string{"k": "old"}), stop: newCheckpoint(t)}
	client := open(t, optionsFor(server))
	cache := newCache(t, client, db.config())
	server.Kill()
	awaitDown(t, client)
	if err := cache.Set(bounded(t), "k", "new"); err == nil {
		t.Error("no error")
	}
	if db.items["k"] != "old" {
		t.Errorf("the source holds %q, of which Redis would not be told", db.items["k"])
	}
}
