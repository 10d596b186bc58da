package nearcache_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/go-nearcache/nearcache"
	"github.com/go-nearcache/nearcache/internal/redistest"
)

// wrapped is a node with its rueidis.Client.
func wrapped(t testing.TB, options nearcache.Options) (*nearcache.Client, rueidis.Client) {
	t.Helper()
	node := open(t, options)
	client, err := node.Rueidis()
	check(t, err)
	return node, client
}

func wrapStats(node *nearcache.Client) nearcache.CacheStats { return node.Stats().Caches["rueidis"] }

// cachedGet reads a string that has to be there.
func cachedGet(t testing.TB, client rueidis.Client, key string) (value string, hit bool) {
	t.Helper()
	result := client.DoCache(bounded(t), client.B().Get().Key(key).Cache(), time.Hour)
	value, err := result.ToString()
	check(t, err)
	return value, result.IsCacheHit()
}

// warmGet reads a string until it is a hit.
func warmGet(t testing.TB, client rueidis.Client, key, expected string) {
	t.Helper()
	warmCommand(t, client, func() rueidis.Cacheable { return client.B().Get().Key(key).Cache() }, func(result rueidis.RedisResult) {
		if value, err := result.ToString(); value != expected || err != nil {
			t.Fatalf("%q: %q, %v; want %q", key, value, err, expected)
		}
	})
}

// warmCommand sends a command until its reply is a hit; each reply has to be a good one.
func warmCommand(t testing.TB, client rueidis.Client, build func() rueidis.Cacheable, good func(rueidis.RedisResult)) rueidis.RedisResult {
	t.Helper()
	var result rueidis.RedisResult
	eventually(t, "a hit", func() bool {
		result = client.DoCache(bounded(t), build(), time.Hour)
		good(result)
		return result.IsCacheHit()
	})
	return result
}

// Every command that is kept answers from L1 what Redis answers, in a message of the same type, and an outside write to the key ends all of them.
func TestRueidisCommands(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{})
	node, client := wrapped(t, optionsFor(server))
	plain := server.Client(t)
	for _, args := range [][]string{
		{"SET", "test:s", "some text"},
		{"HSET", "test:h", "a", "1", "b", "2"},
		{"RPUSH", "test:l", "x", "y", "z"},
		{"SADD", "test:set", "m", "n"},
		{"ZADD", "test:z", "1.5", "one", "2", "two"},
		{"GEOADD", "test:g", "13.361389", "38.115556", "Palermo"},
	} {
		server.Do(t, args...)
	}
	b := client.B()
	commands := map[string]func() rueidis.Cacheable{
		"get":           func() rueidis.Cacheable { return b.Get().Key("test:s").Cache() },
		"getrange 1 23": func() rueidis.Cacheable { return b.Getrange().Key("test:s").Start(1).End(23).Cache() },
		"getrange 12 3": func() rueidis.Cacheable { return b.Getrange().Key("test:s").Start(12).End(3).Cache() },
		"strlen":        func() rueidis.Cacheable { return b.Strlen().Key("test:s").Cache() },
		"bitcount":      func() rueidis.Cacheable { return b.Bitcount().Key("test:s").Cache() },
		"getbit":        func() rueidis.Cacheable { return b.Getbit().Key("test:s").Offset(1).Cache() },
		"type":          func() rueidis.Cacheable { return b.Type().Key("test:s").Cache() },
		"hget":          func() rueidis.Cacheable { return b.Hget().Key("test:h").Field("a").Cache() },
		"hget none":     func() rueidis.Cacheable { return b.Hget().Key("test:h").Field("none").Cache() },
		"hgetall":       func() rueidis.Cacheable { return b.Hgetall().Key("test:h").Cache() },
		"hmget":         func() rueidis.Cacheable { return b.Hmget().Key("test:h").Field("a", "none", "b").Cache() },
		"hexists":       func() rueidis.Cacheable { return b.Hexists().Key("test:h").Field("a").Cache() },
		"lrange":        func() rueidis.Cacheable { return b.Lrange().Key("test:l").Start(0).Stop(-1).Cache() },
		"lindex":        func() rueidis.Cacheable { return b.Lindex().Key("test:l").Index(9).Cache() },
		"smembers":      func() rueidis.Cacheable { return b.Smembers().Key("test:set").Cache() },
		"smismember":    func() rueidis.Cacheable { return b.Smismember().Key("test:set").Member("m", "q").Cache() },
		"zscore":        func() rueidis.Cacheable { return b.Zscore().Key("test:z").Member("one").Cache() },
		"zrange":        func() rueidis.Cacheable { return b.Zrange().Key("test:z").Min("0").Max("-1").Withscores().Cache() },
		"geopos":        func() rueidis.Cacheable { return b.Geopos().Key("test:g").Member("Palermo", "none").Cache() },
		"sort_ro":       func() rueidis.Cacheable { return b.SortRo().Key("test:l").Alpha().Cache() },
		"eval_ro": func() rueidis.Cacheable {
			return b.EvalRo().Script("return redis.call('LLEN', KEYS[1])").Numkeys(1).Key("test:l").Cache()
		},
		"nothing":    func() rueidis.Cacheable { return b.Get().Key("test:none").Cache() },
		"wrong type": func() rueidis.Cacheable { return b.Get().Key("test:h").Cache() },
		"expiretime": func() rueidis.Cacheable { return b.Expiretime().Key("test:s").Cache() },
	}
	if !server.Version().AtLeast(7, 0) {
		maps.DeleteFunc(commands, func(name string, _ func() rueidis.Cacheable) bool {
			return name == "sort_ro" || name == "eval_ro" || name == "expiretime"
		})
	}
	for name, build := range commands {
		t.Run(name, func(t *testing.T) {
			expected, expectedErr := plain.Do(bounded(t), rueidis.Completed(build())).ToAny()
			warmCommand(t, client, build, func(result rueidis.RedisResult) {
				value, err := result.ToAny()
				if !reflect.DeepEqual(value, expected) || fmt.Sprint(err) != fmt.Sprint(expectedErr) {
					t.Fatalf("%v, %v; Redis says %v, %v", value, err, expected, expectedErr)
				}
				if left := result.CachePTTL(); left <= 0 || left > time.Hour.Milliseconds() {
					t.Fatalf("%d ms left of an hour", left)
				}
			})
		})
	}
	// Not one of them displaces another, although they share keys.
	for name, build := range commands {
		warmCommand(t, client, build, func(rueidis.RedisResult) {})
		if result := client.DoCache(bounded(t), build(), time.Hour); !result.IsCacheHit() {
			t.Errorf("%s is not a hit", name)
		}
	}
	for _, args := range [][]string{{"SET", "test:s", "other"}, {"HSET", "test:h", "a", "0"}, {"LPOP", "test:l"}} {
		server.Do(t, args...)
	}
	fence(t, node)
	for name, build := range commands {
		expected, expectedErr := plain.Do(bounded(t), rueidis.Completed(build())).ToAny()
		if value, err := client.DoCache(bounded(t), build(), time.Hour).ToAny(); !reflect.DeepEqual(value, expected) || fmt.Sprint(err) != fmt.Sprint(expectedErr) {
			t.Errorf("%s after the write: %v, %v; Redis says %v, %v", name, value, err, expected, expectedErr)
		}
	}
}

// What the reply does not depend on alone, or what Redis does not announce, is read from Redis every time, and counted.
func TestRueidisUncached(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{})
	node, client := wrapped(t, optionsFor(server))
	server.Do(t, "SET", "other:k", "v", "PX", "1000000")
	server.Do(t, "SET", "test:k", "v", "PX", "1000000")
	server.Do(t, "RPUSH", "test:l", "b", "a")
	b := client.B()
	commands := map[string]func() rueidis.Cacheable{
		"get of another prefix": func() rueidis.Cacheable { return b.Get().Key("other:k").Cache() },
		"ttl":                   func() rueidis.Cacheable { return b.Ttl().Key("test:k").Cache() },
		"pttl":                  func() rueidis.Cacheable { return b.Pttl().Key("test:k").Cache() },
		"sort_ro by":            func() rueidis.Cacheable { return b.SortRo().Key("test:l").By("other:*").Alpha().Cache() },
		"eval_ro of two keys": func() rueidis.Cacheable {
			return b.EvalRo().Script("return KEYS[2]").Numkeys(2).Key("test:k", "test:l").Cache()
		},
	}
	if !server.Version().AtLeast(7, 0) {
		maps.DeleteFunc(commands, func(name string, _ func() rueidis.Cacheable) bool { return strings.Contains(name, "_ro") })
	}
	for name, build := range commands {
		before := wrapStats(node)
		for range 3 {
			result := client.DoCache(bounded(t), build(), time.Hour)
			check(t, result.Error())
			if result.IsCacheHit() {
				t.Errorf("%s is a hit", name)
			}
		}
		if after := wrapStats(node); after.LocalUncached != before.LocalUncached+3 || after.LocalMisses != before.LocalMisses {
			t.Errorf("%s: from %+v to %+v", name, before, after)
		}
	}
	for range 3 { // no life at all
		if result := client.DoCache(bounded(t), b.Get().Key("test:k").Cache(), 0); result.IsCacheHit() || result.Error() != nil {
			t.Errorf("hit: %v, error: %v", result.IsCacheHit(), result.Error())
		}
	}
}

// The end of a reply is the earlier one of the caller's and the server's, and the message says so.
func TestRueidisLives(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{})
	_, client := wrapped(t, optionsFor(server))
	server.Do(t, "SET", "test:long", "v", "PX", "10000000")
	server.Do(t, "SET", "test:short", "v", "PX", "300")
	server.Do(t, "SET", "test:endless", "v")
	for key, test := range map[string]struct{ asked, most time.Duration }{
		"test:long":    {time.Minute, time.Minute},
		"test:endless": {time.Minute, time.Minute},
		"test:short":   {time.Minute, 300 * time.Millisecond},
	} {
		began := time.Now()
		result := client.DoCache(bounded(t), client.B().Get().Key(key).Cache(), test.asked)
		check(t, result.Error())
		end := time.UnixMilli(result.CachePXAT())
		if result.IsCacheHit() || end.After(time.Now().Add(test.most)) || end.Before(began) && key != "test:short" {
			t.Errorf("%s: asked for %v at %v, ends at %v", key, test.asked, began, end)
		}
	}
	elapse(300 * time.Millisecond)
	if err := client.DoCache(bounded(t), client.B().Get().Key("test:short").Cache(), time.Minute).Error(); !rueidis.IsRedisNil(err) {
		t.Errorf("after its end: %v", err)
	}
	// The caller's own end, with nothing from the server.
	hit := func() bool {
		result := client.DoCache(bounded(t), client.B().Strlen().Key("test:endless").Cache(), 300*time.Millisecond)
		check(t, result.Error())
		return result.IsCacheHit()
	}
	eventually(t, "it is held", hit)
	eventually(t, "its end has come", func() bool { return !hit() })
}

// Whatever writes a key through the client, the next read of this process sees it: L1 has forgotten it, and joins no older read.
func TestRueidisReadsItsWrites(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{})
	proxy := startProxy(t, server)
	options := optionsAt(proxy.addr())
	options.MaxStaleness = endless
	_, client := wrapped(t, options)
	b := client.B()
	const key = prefix + "k"
	script := rueidis.NewLuaScript(`redis.call('SET', KEYS[1], ARGV[1]) return 1`)
	writes := map[string]func(value string) error{
		"set": func(v string) error { return client.Do(bounded(t), b.Set().Key(key).Value(v).Build()).Error() },
		"mset": func(v string) error {
			return client.Do(bounded(t), b.Mset().KeyValue().KeyValue("x", "y").KeyValue(key, v).Build()).Error()
		},
		"spelled out": func(v string) error {
			return client.Do(bounded(t), b.Arbitrary("set", key, v).Build()).Error()
		},
		"several": func(v string) error {
			for _, r := range client.DoMulti(bounded(t), b.Get().Key(key).Build(), b.Set().Key(key).Value(v).Build()) {
				if err := r.Error(); err != nil && !rueidis.IsRedisNil(err) {
					return err
				}
			}
			return nil
		},
		"script": func(v string) error { return script.Exec(bounded(t), client, []string{key}, []string{v}).Error() },
		"transaction": func(v string) error {
			return client.Dedicated(func(d rueidis.DedicatedClient) error {
				ctx := bounded(t)
				if err := d.Do(ctx, b.Watch().Key(key).Build()).Error(); err != nil {
					return err
				}
				for _, c := range []rueidis.Completed{b.Multi().Build(), b.Set().Key(key).Value(v).Build()} {
					if err := d.Do(ctx, c).Error(); err != nil {
						return err
					}
				}
				// It is read in between, by others, and kept: it has not been written yet.
				if err := client.DoCache(ctx, b.Get().Key(key).Cache(), time.Hour).Error(); err != nil {
					return err
				}
				return d.Do(ctx, b.Exec().Build()).Error()
			})
		},
		"dedicated": func(v string) error {
			d, cancel := client.Dedicate()
			defer cancel()
			return d.DoMulti(bounded(t), b.Multi().Build(), b.Set().Key(key).Value(v).Build(), b.Exec().Build())[2].Error()
		},
		"node": func(v string) error {
			for _, node := range client.Nodes() {
				return node.Do(bounded(t), b.Set().Key(key).Value(v).Build()).Error()
			}
			return errors.New("no node")
		},
		"rename": func(v string) error {
			if err := client.Do(bounded(t), b.Set().Key("elsewhere").Value(v).Build()).Error(); err != nil {
				return err
			}
			return client.Do(bounded(t), b.Rename().Key("elsewhere").Newkey(key).Build()).Error()
		},
	}
	value := "first"
	check(t, writes["set"](value))
	for name, write := range writes {
		warmGet(t, client, key, value)
		proxy.hold(linkReplies) // no push can help
		value = name
		check(t, write(value))
		if got, _ := cachedGet(t, client, key); got != value {
			t.Errorf("after %s: %q", name, got)
		}
		proxy.release(linkReplies)
	}
	warmGet(t, client, key, value)
	proxy.hold(linkReplies)
	check(t, client.Do(bounded(t), b.Flushall().Build()).Error())
	if err := client.DoCache(bounded(t), b.Get().Key(key).Cache(), time.Hour).Error(); !rueidis.IsRedisNil(err) {
		t.Errorf("after FLUSHALL: %v", err)
	}
	proxy.release(linkReplies)
}

// Typed caches and replies share the node: a write through one is seen by the other.
func TestRueidisBesideTypedCaches(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{})
	node, client := wrapped(t, optionsFor(server))
	again, err := node.Rueidis()
	check(t, err)
	if again != client {
		t.Error("a second client")
	}
	cache := stringCache(t, node, nil)
	check(t, cache.Set(bounded(t), "k", "typed"))
	warmGet(t, client, prefix+"k", "typed")
	check(t, client.Do(bounded(t), client.B().Set().Key(prefix+"k").Value("wrapped").Build()).Error())
	want(t, cache, "k", "wrapped")
	warmGet(t, client, prefix+"k", "wrapped")
	check(t, cache.Set(bounded(t), "k", "typed again"))
	if value, _ := cachedGet(t, client, prefix+"k"); value != "typed again" {
		t.Errorf("%q", value)
	}
}

// Readers of one command share one request. One whose context ends leaves the others to go on.
func TestRueidisSharesRequests(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{})
	proxy := startProxy(t, server)
	options := optionsAt(proxy.addr())
	options.MaxStaleness = endless
	oneConnection(&options)
	node, client := wrapped(t, options)
	server.Do(t, "SET", prefix+"k", "v")
	fence(t, node)
	proxy.hold(dataReplies)
	leaving, leave := context.WithCancel(t.Context())
	left := make(chan error, 1)
	read := func(ctx context.Context) rueidis.RedisResult {
		return client.DoCache(ctx, client.B().Get().Key(prefix+"k").Cache(), time.Hour)
	}
	go func() { left <- read(leaving).Error() }()
	eventually(t, "the first has asked", func() bool { return proxy.count("GET", prefix+"k") == 1 })
	const readers = 50
	var working sync.WaitGroup
	for range readers {
		working.Go(func() {
			if value, err := read(bounded(t)).ToString(); value != "v" || err != nil {
				t.Errorf("%q, %v", value, err)
			}
		})
	}
	eventually(t, "the others wait", func() bool { return wrapStats(node).Coalesced == readers })
	leave()
	if err := receive(t, "the first has left", left); !errors.Is(err, context.Canceled) {
		t.Errorf("the first: %v", err)
	}
	proxy.release(dataReplies)
	working.Wait()
	if n := proxy.count("GET", prefix+"k"); n != 2 {
		t.Errorf("%d requests, want one of the first and one of all others", n)
	}
}

// A reply that was on its way when the key was written, and its push came, is not kept.
func TestRueidisKeepsNothingOvertaken(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{})
	proxy := startProxy(t, server)
	options := optionsAt(proxy.addr())
	options.MaxStaleness = endless
	oneConnection(&options)
	node, client := wrapped(t, options)
	const key = prefix + "k"
	server.Do(t, "SET", key, "old")
	fence(t, node)
	warmCommand(t, client, func() rueidis.Cacheable { return client.B().Strlen().Key(key).Cache() }, func(r rueidis.RedisResult) { check(t, r.Error()) })
	proxy.hold(dataReplies)
	overtaken := make(chan string, 1)
	go func() {
		value, _ := cachedGet(t, client, key)
		overtaken <- value
	}()
	eventually(t, "the request has been answered", func() bool { return calls(t, server, "get") == 1 })
	server.Do(t, "SET", key, "newer")
	fence(t, node)
	proxy.release(dataReplies)
	if value := receive(t, "the overtaken reply", overtaken); value != "old" {
		t.Errorf("%q", value)
	}
	if value, hit := cachedGet(t, client, key); value != "newer" || hit {
		t.Errorf("%q, hit %v", value, hit)
	}
	if n, err := client.DoCache(bounded(t), client.B().Strlen().Key(key).Cache(), time.Hour).AsInt64(); n != 5 || err != nil {
		t.Errorf("the other command: %d, %v", n, err)
	}
}

// Without the link, the policy decides as it does for typed caches.
func TestRueidisWithoutTheLink(t *testing.T) {
	t.Parallel()
	for _, policy := range []nearcache.DisconnectPolicy{nearcache.BypassLocal, nearcache.ServeStale, nearcache.FailReads} {
		t.Run(policy.String(), func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t, redistest.Config{})
			proxy := startProxy(t, server)
			options := optionsAt(proxy.addr())
			options.OnDisconnect = policy
			if policy == nearcache.ServeStale {
				options.StaleLimit = time.Hour
			}
			node, client := wrapped(t, options)
			const key = prefix + "k"
			server.Do(t, "SET", key, "old")
			fence(t, node)
			warmGet(t, client, key, "old")
			proxy.refuseLinks(true)
			proxy.cut(isLink)
			awaitDown(t, node)
			server.Do(t, "SET", key, "newer")
			elapse(nearcache.DefaultMaxStaleness)
			result := client.DoCache(bounded(t), client.B().Get().Key(key).Cache(), time.Hour)
			value, err := result.ToString()
			switch {
			case policy == nearcache.FailReads && !errors.Is(err, nearcache.ErrDisconnected),
				policy == nearcache.BypassLocal && (value != "newer" || result.IsCacheHit()),
				policy == nearcache.ServeStale && (value != "old" || !result.IsCacheHit() || wrapStats(node).LocalStale != 1):
				t.Errorf("%q, %v, hit %v, %+v", value, err, result.IsCacheHit(), wrapStats(node))
			}
			proxy.refuseLinks(false)
			awaitReady(t, node)
			warmGet(t, client, key, "newer")
		})
	}
}

func TestRueidisClosed(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{})
	client, err := nearcache.NewRueidis(rueidis.ClientOption{InitAddress: []string{server.Addr()}}, prefix)
	check(t, err)
	check(t, client.Do(t.Context(), client.B().Set().Key(prefix+"k").Value("v").Build()).Error())
	warmGet(t, client, prefix+"k", "v")
	client.Close()
	client.Close()
	for what, err := range map[string]error{
		"cached": client.DoCache(t.Context(), client.B().Get().Key(prefix+"k").Cache(), time.Hour).Error(),
		"read":   client.Do(t.Context(), client.B().Get().Key(prefix+"k").Build()).Error(),
		"write":  client.Do(t.Context(), client.B().Del().Key(prefix+"k").Build()).Error(),
	} {
		if !errors.Is(err, rueidis.ErrClosing) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := nearcache.NewRueidis(rueidis.ClientOption{InitAddress: []string{server.Addr()}}); err == nil || !strings.Contains(err.Error(), "Prefixes") {
		t.Errorf("without a prefix: %v", err)
	}
}

// A command that is pinned may be sent by several goroutines at a time: nothing writes to it.
func TestRueidisSharesPinnedCommands(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{})
	node, client := wrapped(t, optionsFor(server))
	server.Do(t, "SET", prefix+"k", "v")
	fence(t, node)
	b := client.B()
	kept, passed := b.Get().Key(prefix+"k").Cache().Pin(), b.Get().Key("other:k").Cache().Pin()
	plain := []rueidis.Completed{b.Get().Key(prefix + "k").Build().Pin(), b.Strlen().Key(prefix + "k").Build().Pin()}
	var working sync.WaitGroup
	for range 4 {
		working.Go(func() {
			for range 20 {
				results := client.DoMultiCache(bounded(t), rueidis.CT(kept, time.Hour), rueidis.CT(passed, time.Hour))
				results = append(results, client.DoCache(bounded(t), kept, time.Hour), client.DoCache(bounded(t), passed, time.Hour))
				results = append(results, client.Do(bounded(t), plain[0]))
				results = append(results, client.DoMulti(bounded(t), plain...)...)
				for _, result := range results {
					check(t, result.NonRedisError())
				}
			}
		})
	}
	working.Wait()
}

// A key that ends in thousands of years is kept as one that does not.
func TestRueidisKeepsWhatEndsLate(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{})
	node, client := wrapped(t, optionsFor(server))
	server.Do(t, "SET", prefix+"k", "v", "PXAT", "253402300799000") // the end of 9999
	fence(t, node)
	warmGet(t, client, prefix+"k", "v")
	result := client.DoCache(bounded(t), client.B().Get().Key(prefix+"k").Cache(), time.Hour)
	if left := result.CachePTTL(); left <= 0 || left > time.Hour.Milliseconds() {
		t.Errorf("%d ms left of an hour", left)
	}
}

// ToStaticTTL, which has rueidis's connections look for a cache of their own, changes nothing.
func TestRueidisStaticTTL(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{})
	options := optionsFor(server)
	oneConnection(&options)
	options.Redis.AlwaysPipelining = true
	node, client := wrapped(t, options)
	server.Do(t, "MSET", prefix+"k", "v", "other:k", "w")
	fence(t, node)
	get := func(key string) rueidis.Cacheable { return client.B().Get().Key(key).Cache().ToStaticTTL() }
	for key, value := range map[string]string{prefix + "k": "v", "other:k": "w"} {
		for range 2 {
			if got, err := client.DoCache(bounded(t), get(key), time.Hour).ToString(); got != value || err != nil {
				t.Errorf("%q: %q, %v", key, got, err)
			}
			for _, result := range client.DoMultiCache(bounded(t), rueidis.CT(get(key), time.Hour), rueidis.CT(get(key), time.Hour)) {
				if got, err := result.ToString(); got != value || err != nil {
					t.Errorf("%q: %q, %v", key, got, err)
				}
			}
		}
	}
	mget := client.B().Mget().Key(prefix+"k", "other:k").Cache().ToStaticTTL()
	if got := texts(t, client.DoCache(bounded(t), mget, time.Hour)); got[0] != "v" || got[1] != "w" {
		t.Errorf("%v", got)
	}
	if left, err := client.DoCache(bounded(t), client.B().Pttl().Key(prefix+"k").Cache().ToStaticTTL(), time.Hour).AsInt64(); left != -1 || err != nil {
		t.Errorf("%d, %v", left, err)
	}
}
