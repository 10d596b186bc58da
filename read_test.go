package nearcache_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"github.com/go-nearcache/nearcache"
	"github.com/go-nearcache/nearcache/internal/redistest"
)

func TestReadThrough(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{})
	database := newSource(map[string]string{"k": "v"})
	client := open(t, optionsFor(server))
	cache := stringCache(t, client, database.load)
	want(t, cache, "k", "v") // from the source
	if value, _ := stored(t, server, prefix+"k"); value != "v" {
		t.Errorf("Redis holds %q", value)
	}
	warm(t, cache, "k", "v") // from Redis
	before := statsOf(client)
	want(t, cache, "k", "v") // from L1
	after := statsOf(client)
	if after.LocalHits != before.LocalHits+1 || after.LocalMisses != before.LocalMisses {
		t.Errorf("from %+v to %+v", before, after)
	}
	if after.Loads != 1 || after.RemoteHits == 0 {
		t.Errorf("%+v", after)
	}
	other := stringCache(t, open(t, optionsFor(server)), database.load)
	want(t, other, "k", "v") // from Redis, on another node
	if n := database.loads.Load(); n != 1 {
		t.Errorf("%d loads", n)
	}
}

// Values in Redis are what the codec wrote and nothing else.
func TestPlainValues(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{})
	client := open(t, optionsFor(server))
	type item struct {
		ID   int    `json:"id"`
		Name string `json:"name,omitempty"`
	}
	numbers := nearcache.Codec[uint64]{
		Encode: func(n uint64) ([]byte, error) { return binary.BigEndian.AppendUint64(nil, n), nil },
		Decode: func(data []byte) (uint64, error) {
			if len(data) != 8 {
				return 0, fmt.Errorf("%d bytes", len(data))
			}
			return binary.BigEndian.Uint64(data), nil
		},
	}
	everyByte := make([]byte, 256)
	for i := range everyByte {
		everyByte[i] = byte(i)
	}
	roundTrip(t, server, newCache(t, client, nearcache.Config[item]{Name: "json", Prefix: prefix + "j:"}), item{7, "x"}, `{"id":7,"name":"x"}`)
	roundTrip(t, server, newCache(t, client, nearcache.Config[item]{Name: "json explicitly", Prefix: prefix + "e:", Codec: nearcache.JSON[item]()}), item{}, `{"id":0}`)
	roundTrip(t, server, newCache(t, client, nearcache.Config[string]{Name: "string", Prefix: prefix + "s:", Codec: nearcache.String()}), "a\x00b\r\n", "a\x00b\r\n")
	roundTrip(t, server, newCache(t, client, nearcache.Config[string]{Name: "empty", Prefix: prefix + "0:", Codec: nearcache.String()}), "", "")
	roundTrip(t, server, newCache(t, client, nearcache.Config[uint64]{Name: "own", Prefix: prefix + "o:", Codec: numbers}), 258, "\x00\x00\x00\x00\x00\x00\x01\x02")

	binaries := newCache(t, client, nearcache.Config[[]byte]{Name: "bytes", Prefix: prefix + "b:", Codec: nearcache.Bytes()})
	check(t, binaries.Set(t.Context(), "k", everyByte))
	if value := get(t, binaries, "k"); !bytes.Equal(value, everyByte) {
		t.Errorf("%q", value)
	}
	if value, _ := stored(t, server, prefix+"b:k"); value != string(everyByte) {
		t.Errorf("Redis holds %q", value)
	}
}

func roundTrip[V comparable](t *testing.T, server *redistest.Server, cache *nearcache.Cache[V], value V, encoded string) {
	t.Helper()
	check(t, cache.Set(t.Context(), "k", value))
	key := cache.Explain(t.Context(), "k").Key
	if got, ok := stored(t, server, key); !ok || got != encoded {
		t.Errorf("%s: Redis holds %q, want %q", cache.Name(), got, encoded)
	}
	warm(t, cache, "k", value)
	server.Do(t, "DEL", key)
	server.Do(t, "SET", key, encoded) // as another program would
	want(t, cache, "k", value, nearcache.Fresh())
}

func TestKeysWithAnyBytes(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{})
	client := open(t, optionsFor(server))
	cache := stringCache(t, client, func(_ context.Context, key string) (string, error) { return "of " + key, nil })
	var keys []string
	for i := range 256 {
		keys = append(keys, string([]byte{byte(i)}))
	}
	keys = append(keys, "\xff\xfe\x00", "\r\n", "a b", "*?[x]", "{tag}", strings.Repeat("long", 10_000), prefix)
	items, err := cache.GetMany(t.Context(), keys)
	check(t, err)
	for _, key := range keys {
		if items[key] != "of "+key {
			t.Errorf("GetMany: %q under %q", items[key], key)
		}
		want(t, cache, key, "of "+key)
		if value, ok := stored(t, server, prefix+key); !ok || value != "of "+key {
			t.Errorf("Redis holds %q under %q", value, key)
		}
		server.Do(t, "SET", prefix+key, "new of "+key)
	}
	fence(t, client)
	for _, key := range keys {
		want(t, cache, key, "new of "+key)
		check(t, cache.Delete(t.Context(), key))
		want(t, cache, key, "of "+key)
	}
}

func TestKeysThatAreRefused(t *testing.T) {
	t.Parallel()
	cache := stringCache(t, open(t, optionsFor(redistest.Start(t, redistest.Config{}))), nil)
	for _, test := range []struct {
		key   string
		words []string
	}{
		{"", []string{"empty", `"test:"`, `"test"`}},
		{tooLong(), []string{"512 MB", "536870913"}},
	} {
		refused := func(what string, err error) {
			t.Helper()
			if !errors.Is(err, nearcache.ErrInvalidKey) {
				t.Errorf("%s: %v", what, err)
			}
			mentions(t, err, test.words...)
		}
		_, err := cache.Get(t.Context(), test.key)
		refused("Get", err)
		items, err := cache.GetMany(t.Context(), []string{test.key})
		refused("GetMany", err)
		if len(items) != 0 {
			t.Errorf("GetMany: %d items", len(items))
		}
		refused("Set", cache.Set(t.Context(), test.key, "v"))
		refused("Delete", cache.Delete(t.Context(), test.key))
		refused("DeleteMany", cache.DeleteMany(t.Context(), []string{"k", test.key}))
		refused("Explain", cache.Explain(t.Context(), test.key).Remote.Err)
	}
}

// tooLong returns a text of 512 MB and one byte that occupies no memory: nobody writes to it.
func tooLong() string {
	data := make([]byte, 512<<20+1)
	return unsafe.String(&data[0], len(data))
}

func TestWrongType(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{})
	client := open(t, optionsFor(server))
	for _, load := range []func(context.Context, string) (string, error){
		nil,
		func(context.Context, string) (string, error) { return "loaded", nil },
	} {
		name := fmt.Sprint("loader ", load != nil)
		cache := newCache(t, client, nearcache.Config[string]{Name: name, Prefix: prefix + name, Codec: nearcache.String(), Load: load})
		for kind, command := range map[string][]string{
			"hash": {"HSET", "", "f", "v"}, "list": {"LPUSH", "", "v"}, "set": {"SADD", "", "v"},
			"zset": {"ZADD", "", "1", "v"}, "stream": {"XADD", "", "*", "f", "v"},
		} {
			key := prefix + name + kind
			command[1] = key
			server.Do(t, command...)
			_, err := cache.Get(t.Context(), kind)
			var wrong *nearcache.WrongTypeError
			if !errors.As(err, &wrong) || wrong.Key != key || wrong.Type != kind {
				t.Errorf("%s, %s: %v", name, kind, err)
				continue
			}
			mentions(t, err, key, kind, "delete it", "prefix of its own")
			if e := cache.Explain(t.Context(), kind); !errors.As(e.Remote.Err, &wrong) {
				t.Errorf("Explain: %v", e)
			}
		}

		// Set replaces whatever is there, as SET does.
		check(t, cache.Set(t.Context(), "hash", "v"))
		want(t, cache, "hash", "v")
	}
}

// logs collects what a client logs.
type logs struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logs) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(line)
}

func (l *logs) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func TestValueThatDoesNotDecode(t *testing.T) {
	t.Parallel()
	type item struct{ N int }

	t.Run("is loaded again", func(t *testing.T) {
		t.Parallel()
		server := redistest.Start(t, redistest.Config{})
		logged := new(logs)
		options := optionsFor(server)
		options.Logger = logged.logger()
		client := open(t, options)
		cache := newCache(t, client, nearcache.Config[item]{Load: func(context.Context, string) (item, error) { return item{7}, nil }})
		server.Do(t, "SET", prefix+"k", "this is a secret and no JSON")
		want(t, cache, "k", item{7})
		if value, _ := stored(t, server, prefix+"k"); value != `{"N":7}` {
			t.Errorf("Redis holds %q", value)
		}
		stats := statsOf(client)
		if stats.Undecodable == 0 || stats.Loads != 1 || stats.RemoteHits != 0 {
			t.Errorf("%+v", stats)
		}
		if text := logged.String(); !strings.Contains(text, "does not decode") || !strings.Contains(text, "cache=test") {
			t.Errorf("the log: %s", text)
		} else if strings.Contains(text, "secret") {
			t.Errorf("the log has the value: %s", text)
		}

		server.Do(t, "SET", prefix+"many", "neither")
		items, err := cache.GetMany(t.Context(), []string{"k", "many"})
		if err != nil || items["many"] != (item{7}) || items["k"] != (item{7}) {
			t.Errorf("GetMany: %v, %v", items, err)
		}
	})

	t.Run("is never put over a newer one", func(t *testing.T) {
		t.Parallel()
		server := redistest.Start(t, redistest.Config{})
		stop := newCheckpoint(t)
		stop.arm()
		cache := newCache(t, open(t, optionsFor(server)), nearcache.Config[item]{Load: func(context.Context, string) (item, error) {
			stop.pass()
			return item{7}, nil
		}})
		server.Do(t, "SET", prefix+"k", "no JSON")
		first := make(chan error, 1)
		go func() {
			_, err := cache.Get(t.Context(), "k")
			first <- err
		}()
		receive(t, "the loader runs", stop.reached)
		server.Do(t, "SET", prefix+"k", `{"N":8}`)
		stop.release()
		check(t, receive(t, "the read ends", first))
		want(t, cache, "k", item{8}, nearcache.Fresh())
	})

	t.Run("without a loader is an error", func(t *testing.T) {
		t.Parallel()
		server := redistest.Start(t, redistest.Config{})
		client := open(t, optionsFor(server))
		cache := newCache(t, client, nearcache.Config[item]{})
		server.Do(t, "SET", prefix+"k", "no JSON")
		_, err := cache.Get(t.Context(), "k")
		mentions(t, err, `"test"`, "decode", `"test:k"`, "invalid character")
		items, err := cache.GetMany(t.Context(), []string{"k"})
		mentions(t, err, `"k"`, "decode")
		if len(items) != 0 {
			t.Errorf("%v", items)
		}
		if value, _ := stored(t, server, prefix+"k"); value != "no JSON" {
			t.Errorf("Redis holds %q: a read has no business to change it", value)
		}
		server.Do(t, "SET", prefix+"k", `{"N":8}`)
		want(t, cache, "k", item{8}, nearcache.Fresh())
	})

	t.Run("codec that panics", func(t *testing.T) {
		t.Parallel()
		server := redistest.Start(t, redistest.Config{})
		cache := newCache(t, open(t, optionsFor(server)), nearcache.Config[string]{Codec: nearcache.Codec[string]{
			Encode: func(string) ([]byte, error) { panic("no ink") },
			Decode: func([]byte) (string, error) { panic("no glasses") },
		}})
		server.Do(t, "SET", prefix+"k", "v")
		_, err := cache.Get(t.Context(), "k")
		mentions(t, err, "Decode panicked", "no glasses")
		mentions(t, cache.Set(t.Context(), "k", "v"), "Encode panicked", "no ink")
	})
}

func TestSetAndDelete(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{})
	client := open(t, optionsFor(server))
	const life = time.Hour
	cache := newCache(t, client, nearcache.Config[string]{Codec: nearcache.String(), TTL: life})

	check(t, cache.Set(t.Context(), "k", "v"))
	if e := cache.Explain(t.Context(), "k"); e.Remote.TTL > life || e.Remote.TTL < life-patience {
		t.Errorf("Set gave the key a life of %v", e.Remote.TTL)
	}
	want(t, cache, "k", "v")
	check(t, cache.Delete(t.Context(), "k"))
	check(t, cache.Delete(t.Context(), "k")) // what is not there is no error
	if _, err := cache.Get(t.Context(), "k"); !errors.Is(err, nearcache.ErrNotFound) {
		t.Errorf("%v", err)
	}

	other := stringCache(t, open(t, optionsFor(server)), nil)
	keys := []string{"a", "b", "c"}
	for _, key := range keys {
		check(t, cache.Set(t.Context(), key, "v"))
		warm(t, other, key, "v")
	}
	dels := calls(t, server, "del")
	check(t, cache.DeleteMany(t.Context(), append(keys, "absent", "a")))
	if n := calls(t, server, "del") - dels; n != 1 {
		t.Errorf("DeleteMany took %d commands", n)
	}
	for _, key := range keys {
		for _, c := range []*nearcache.Cache[string]{cache, other} {
			if _, err := c.Get(t.Context(), key, nearcache.Fresh()); !errors.Is(err, nearcache.ErrNotFound) {
				t.Errorf("%q: %v", key, err)
			}
		}
	}
	check(t, cache.DeleteMany(t.Context(), nil))
}

func TestValuesThatAreRefused(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{})
	client := open(t, optionsFor(server))
	cache := stringCache(t, client, nil)
	for _, test := range []struct {
		value string
		words []string
	}{
		{"\x00nearcache\x00", []string{`"k"`, "leases"}},
		{"\x00nearcache\x00lease\x00x", []string{`"k"`, "leases"}},
		{"\x00nearcache\x00absent", []string{`"k"`, "leases"}},
	} {
		err := cache.Set(t.Context(), "k", test.value)
		if !errors.Is(err, nearcache.ErrInvalidValue) {
			t.Errorf("%q: %v", test.value, err)
		}
		mentions(t, err, test.words...)
	}
	check(t, cache.Set(t.Context(), "k", "\x00nearcache"))

	large := newCache(t, client, nearcache.Config[string]{Name: "large", Prefix: prefix + "l:", Codec: nearcache.Codec[string]{
		Encode: func(value string) ([]byte, error) { return unsafe.Slice(unsafe.StringData(value), len(value)), nil },
		Decode: func(data []byte) (string, error) { return string(data), nil },
	}})
	err := large.Set(t.Context(), "k", tooLong())
	if !errors.Is(err, nearcache.ErrInvalidValue) {
		t.Errorf("%v", err)
	}
	mentions(t, err, "512 MB", "536870913")

	functions := newCache(t, client, nearcache.Config[any]{Name: "functions", Prefix: prefix + "f:"})
	mentions(t, functions.Set(t.Context(), "k", func() {}), `"functions"`, "encode", `"k"`, "unsupported type")
}

func TestContextOfAWrite(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{})
	proxy := startProxy(t, server)
	options := optionsAt(proxy.addr())
	oneConnection(&options)
	client := open(t, options)
	cache := stringCache(t, client, nil)
	proxy.hold(dataReplies)
	for name, write := range map[string]func(context.Context) error{
		"Set":    func(ctx context.Context) error { return cache.Set(ctx, "k", "w") },
		"Delete": func(ctx context.Context) error { return cache.Delete(ctx, "k") },
	} {
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- write(ctx) }()
		cancel()
		if err := receive(t, name+" ends with its context", ended); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", name, err)
		} else {
			mentions(t, err, `"test"`)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := client.Fence(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Fence: %v", err)
	}
}
