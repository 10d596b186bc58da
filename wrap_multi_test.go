package nearcache_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/go-nearcache/nearcache/internal/redistest"
)

// texts reads an array in which an absent element is "-".
func texts(t testing.TB, result rueidis.RedisResult) []string {
	t.Helper()
	values, err := result.ToArray()
	check(t, err)
	all := make([]string, len(values))
	for i, value := range values {
		if all[i], err = value.ToString(); rueidis.IsRedisNil(err) {
			all[i] = "-"
		} else if err != nil {
			t.Fatal(err)
		}
	}
	return all
}

// MGET sends what L1 lacks and nothing else, and shares it with GET.
func TestRueidisMGet(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{})
	proxy := startProxy(t, server)
	options := optionsAt(proxy.addr())
	options.SettleFills = true
	options.MaxStaleness = endless
	node, client := wrapped(t, options)
	var keys, expected []string
	for i := range 100 {
		key, value := fmt.Sprintf("%s%d", prefix, i), fmt.Sprint("v", i)
		server.Do(t, "SET", key, value)
		keys, expected = append(keys, key), append(expected, value)
	}
	fence(t, node)
	mget := func(keys ...string) rueidis.RedisResult {
		return client.DoCache(bounded(t), client.B().Mget().Key(keys...).Cache(), time.Hour)
	}
	if got := mget(keys[:97]...); !slices.Equal(texts(t, got), expected[:97]) || got.IsCacheHit() {
		t.Fatalf("%v, hit %v", got, got.IsCacheHit())
	}
	result := mget(keys...)
	if got := texts(t, result); !slices.Equal(got, expected) {
		t.Errorf("%v", got)
	}
	elements, err := result.ToArray()
	check(t, err)
	for i := range elements {
		if hit, left := elements[i].IsCacheHit(), elements[i].CachePTTL(); hit != (i < 97) || left <= 0 || left > time.Hour.Milliseconds() {
			t.Errorf("element %d: hit %v, %d ms left", i, hit, left)
		}
	}
	sent := proxy.requests(func(r request) bool { return r.is("MGET") })
	if len(sent) != 2 || !slices.Equal(sent[1].args[1:], keys[97:]) {
		t.Errorf("sent %v", sent)
	}
	if got := mget(keys...); !got.IsCacheHit() || !slices.Equal(texts(t, got), expected) {
		t.Errorf("all are there: hit %v", got.IsCacheHit())
	}
	for i, key := range keys {
		if value, hit := cachedGet(t, client, key); value != expected[i] || !hit {
			t.Fatalf("GET of %q: %q, hit %v", key, value, hit)
		}
	}
	server.Do(t, "SET", keys[5], "new")
	fence(t, node)
	expected[5] = "new"
	if got := mget(keys...); !slices.Equal(texts(t, got), expected) || got.IsCacheHit() {
		t.Errorf("after a write: %v", got)
	}
}

// What may be among the keys of one MGET: a key twice, one that L1 cannot hold, one that is not there, one of another type.
func TestRueidisMGetOfAllKinds(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{})
	options := optionsFor(server)
	options.SettleFills = true
	options.MaxStaleness = endless
	node, client := wrapped(t, options)
	server.Do(t, "SET", prefix+"a", "1")
	server.Do(t, "SET", "other:b", "2")
	server.Do(t, "HSET", prefix+"hash", "f", "v")
	fence(t, node)
	keys := []string{prefix + "a", "other:b", prefix + "none", prefix + "hash", prefix + "a"}
	expected := []string{"1", "2", "-", "-", "1"}
	get := func(key string) rueidis.RedisResult {
		return client.DoCache(bounded(t), client.B().Get().Key(key).Cache(), time.Hour)
	}
	for range 3 {
		result := client.DoCache(bounded(t), client.B().Mget().Key(keys...).Cache(), time.Hour)
		if got := texts(t, result); !slices.Equal(got, expected) || result.IsCacheHit() {
			t.Errorf("%v, hit %v", got, result.IsCacheHit())
		}
	}
	if _, failed := rueidis.IsRedisErr(get(prefix + "hash").Error()); !failed {
		t.Error("GET of a hash takes over the null that MGET has for it")
	}
	if err := get(prefix + "none").Error(); !rueidis.IsRedisNil(err) || !get(prefix+"none").IsCacheHit() {
		t.Errorf("GET of what is not there: %v", err)
	}
	if got := texts(t, client.DoCache(bounded(t), client.B().Mget().Key(keys...).Cache(), time.Hour)); !slices.Equal(got, expected) {
		t.Errorf("after the error of GET: %v", got)
	}
	server.Do(t, "DEL", prefix+"hash")
	server.Do(t, "SET", prefix+"hash", "text")
	fence(t, node)
	if got := texts(t, client.DoCache(bounded(t), client.B().Mget().Key(keys...).Cache(), time.Hour)); got[3] != "text" {
		t.Errorf("after it became a text: %v", got)
	}
}

func TestRueidisDoMultiCache(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{})
	proxy := startProxy(t, server)
	options := optionsAt(proxy.addr())
	options.SettleFills = true
	options.MaxStaleness = endless
	node, client := wrapped(t, options)
	server.Do(t, "SET", prefix+"a", "1")
	server.Do(t, "SET", prefix+"b", "2", "PX", "100000000")
	server.Do(t, "SET", "other:c", "3")
	server.Do(t, "HSET", prefix+"hash", "f", "4")
	fence(t, node)
	b := client.B()
	all := func() []rueidis.CacheableTTL {
		return []rueidis.CacheableTTL{
			rueidis.CT(b.Get().Key(prefix+"a").Cache(), time.Hour),
			rueidis.CT(b.Hget().Key(prefix+"hash").Field("f").Cache(), time.Minute),
			rueidis.CT(b.Get().Key("other:c").Cache(), time.Hour),
			rueidis.CT(b.Get().Key(prefix+"a").Cache(), time.Hour),
			rueidis.CT(b.Mget().Key(prefix+"a", prefix+"b").Cache(), time.Hour),
			rueidis.CT(b.Get().Key(prefix+"none").Cache(), time.Hour),
			rueidis.CT(b.Get().Key(prefix+"hash").Cache(), time.Hour),
		}
	}
	const expected = `["1" "4" "3" "1" ["1" "2"] "redis nil message" "WRONGTYPE`
	for round := range 2 {
		results := client.DoMultiCache(bounded(t), all()...)
		var got []any
		for _, result := range results {
			value, err := result.ToAny()
			if err != nil {
				value = err.Error()
			}
			got = append(got, value)
		}
		if text := fmt.Sprintf("%q", got); !strings.HasPrefix(text, expected) {
			t.Errorf("round %d: %s", round, text)
		}
		for i, result := range results {
			if hit := result.IsCacheHit(); hit != (round == 1 && i != 2 || i == 3) && i != 4 {
				t.Errorf("round %d: result %d: hit %v", round, i, hit)
			}
		}
	}
	if n := proxy.count("GET", prefix+"a"); n != 1 {
		t.Errorf("%d requests for one key", n)
	}
	if results := client.DoMultiCache(bounded(t)); len(results) != 0 {
		t.Errorf("%v", results)
	}
	values, err := rueidis.MGetCache(client, bounded(t), time.Hour, []string{prefix + "a", prefix + "b", prefix + "none"})
	check(t, err)
	a, b2, none := values[prefix+"a"], values[prefix+"b"], values[prefix+"none"]
	if !a.IsCacheHit() || !b2.IsCacheHit() || !none.IsNil() {
		t.Errorf("MGetCache: %v", values)
	}
}

// JSON.MGET shares its replies with JSON.GET of the same path. The server has no JSON: the proxy asks it for plain values instead.
func TestRueidisJSONMGet(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{})
	proxy := startProxy(t, server)
	proxy.setIntercept(func(args []string) ([]string, bool) {
		switch args[0] {
		case "JSON.MGET":
			return append([]string{"MGET"}, args[1:len(args)-1]...), true
		case "JSON.GET":
			return []string{"GET", args[1]}, true
		}
		return args, true
	})
	options := optionsAt(proxy.addr())
	options.SettleFills = true
	options.MaxStaleness = endless
	node, client := wrapped(t, options)
	server.Do(t, "MSET", prefix+"a", "[1]", prefix+"b", "[2]")
	fence(t, node)
	b := client.B()
	for range 2 {
		if got := texts(t, client.DoCache(bounded(t), b.JsonMget().Key(prefix+"a", prefix+"b").Path("$.x").Cache(), time.Hour)); !slices.Equal(got, []string{"[1]", "[2]"}) {
			t.Errorf("%v", got)
		}
	}
	if !client.DoCache(bounded(t), b.JsonGet().Key(prefix+"a").Path("$.x").Cache(), time.Hour).IsCacheHit() {
		t.Error("JSON.GET of the same path is not a hit")
	}
	if client.DoCache(bounded(t), b.JsonGet().Key(prefix+"a").Path("$.y").Cache(), time.Hour).IsCacheHit() {
		t.Error("JSON.GET of another path is a hit")
	}
	values, err := rueidis.JsonMGetCache(client, bounded(t), time.Hour, []string{prefix + "a", prefix + "b"}, "$.x")
	check(t, err)
	if a := values[prefix+"a"]; !a.IsCacheHit() {
		t.Error("JsonMGetCache is not a hit")
	}
	if n := proxy.count("JSON.MGET"); n != 1 {
		t.Errorf("%d requests", n)
	}
}

// Two calls that want the same keys in opposite orders wait for each other's requests without a deadlock.
func TestRueidisMGetsThatMeet(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{})
	node, client := wrapped(t, optionsFor(server))
	var keys []string
	for i := range 20 {
		keys = append(keys, fmt.Sprintf("%s%d", prefix, i))
		server.Do(t, "SET", keys[i], "0")
	}
	fence(t, node)
	backwards := slices.Clone(keys)
	slices.Reverse(backwards)
	var working sync.WaitGroup
	for worker := range 8 {
		working.Go(func() {
			for round := range 50 {
				mine := keys
				if worker%2 == 1 {
					mine = backwards
				}
				if round%10 == worker {
					check(t, client.Do(bounded(t), client.B().Set().Key(keys[round%20]).Value(fmt.Sprint(round)).Build()).Error())
				}
				if worker%4 < 2 {
					texts(t, client.DoCache(bounded(t), client.B().Mget().Key(mine...).Cache(), time.Hour))
				} else if _, err := rueidis.MGetCache(client, bounded(t), time.Hour, mine); err != nil {
					t.Error(err)
				}
			}
		})
	}
	working.Wait()
}

// An error that says nothing of the key is not "nothing": an MGET that waits for a GET fails with it.
func TestRueidisMGetFailsWithWhatItWaitsFor(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{})
	proxy := startProxy(t, server)
	proxy.setIntercept(func(args []string) ([]string, bool) {
		if args[0] == "GET" {
			return []string{"NOSUCHCOMMAND"}, true
		}
		return args, true
	})
	options := optionsAt(proxy.addr())
	options.MaxStaleness = endless
	oneConnection(&options)
	node, client := wrapped(t, options)
	server.Do(t, "SET", prefix+"a", "1")
	fence(t, node)
	proxy.hold(dataReplies)
	read := func(command rueidis.Cacheable) <-chan error {
		done := make(chan error, 1)
		go func() { done <- client.DoCache(bounded(t), command, time.Hour).Error() }()
		return done
	}
	get := read(client.B().Get().Key(prefix + "a").Cache())
	eventually(t, "GET is on its way", func() bool { return proxy.count("GET") == 1 })
	mget := read(client.B().Mget().Key(prefix + "a").Cache())
	eventually(t, "MGET waits for it", func() bool { return wrapStats(node).Coalesced == 1 })
	proxy.release(dataReplies)
	mentions(t, receive(t, "GET", get), "unknown command")
	mentions(t, receive(t, "MGET", mget), "unknown command")
	proxy.setIntercept(nil)
	if got := texts(t, client.DoCache(bounded(t), client.B().Mget().Key(prefix+"a").Cache(), time.Hour)); !slices.Equal(got, []string{"1"}) {
		t.Errorf("afterwards: %v", got)
	}
}

// JSON.GET of a path that a key lacks is an error. JSON.MGET, which may wait for it, has nothing for that key, and the values of the others.
func TestRueidisJSONMGetOfWhatLacksThePath(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{})
	proxy := startProxy(t, server)
	proxy.setIntercept(func(args []string) ([]string, bool) {
		switch args[0] {
		case "JSON.MGET":
			return append([]string{"MGET"}, args[1:len(args)-1]...), true
		case "JSON.GET": // in the words of RedisJSON
			return []string{"EVAL", `return redis.error_reply("ERR Path '.x' does not exist")`, "0"}, true
		}
		return args, true
	})
	options := optionsAt(proxy.addr())
	options.MaxStaleness = endless
	oneConnection(&options)
	node, client := wrapped(t, options)
	server.Do(t, "MSET", prefix+"a", "[1]", prefix+"b", "[2]")
	fence(t, node)
	proxy.hold(dataReplies)
	b := client.B()
	get, mget := make(chan error, 1), make(chan rueidis.RedisResult, 1)
	go func() {
		get <- client.DoCache(bounded(t), b.JsonGet().Key(prefix+"a").Path(".x").Cache(), time.Hour).Error()
	}()
	eventually(t, "JSON.GET is on its way", func() bool { return proxy.count("JSON.GET") == 1 })
	go func() {
		mget <- client.DoCache(bounded(t), b.JsonMget().Key(prefix+"a", prefix+"b").Path(".x").Cache(), time.Hour)
	}()
	eventually(t, "JSON.MGET waits for it", func() bool { return wrapStats(node).Coalesced == 1 })
	proxy.release(dataReplies)
	mentions(t, receive(t, "JSON.GET", get), "does not exist")
	if got := texts(t, receive(t, "JSON.MGET", mget)); !slices.Equal(got, []string{"-", "[2]"}) {
		t.Errorf("%v", got)
	}
}

// A server without JSON shows what was sent: JSON.MGET whatever its path is.
func TestRueidisJSONMGetWithAnEmptyPath(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{})
	_, client := wrapped(t, optionsFor(server))
	server.Do(t, "SET", prefix+"k", "text")
	result := client.DoCache(bounded(t), client.B().JsonMget().Key(prefix+"k").Path("").Cache(), time.Hour)
	if err := result.Error(); err == nil || !strings.Contains(err.Error(), "JSON.MGET") {
		t.Errorf("%v, %v", result, err)
	}
}

// rueidis's own helpers treat this client as they treat a cluster's: a command for each key that is written.
func TestRueidisHelpersThatWrite(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{})
	_, client := wrapped(t, optionsFor(server))
	server.Do(t, "SET", prefix+"old", "text")
	failures := rueidis.MSetNX(client, bounded(t), map[string]string{prefix + "old": "other", prefix + "new": "text"})
	if !rueidis.IsRedisNil(failures[prefix+"old"]) || failures[prefix+"new"] != nil {
		t.Errorf("%v", failures)
	}
	for _, key := range []string{"old", "new"} {
		if value, ok := stored(t, server, prefix+key); !ok || value != "text" {
			t.Errorf("%s is %q, %t", key, value, ok)
		}
	}
}
