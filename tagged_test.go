package nearcache_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-nearcache/nearcache"
	"github.com/go-nearcache/nearcache/broadcast"
	"github.com/go-nearcache/nearcache/internal/redistest"
)

// tenants are the tags of keys such as "7/42": the tenant, and for some a second one.
func tenants(key string) []string {
	tenant, item, _ := strings.Cut(key, "/")
	tags := []string{"tenant:" + tenant}
	if strings.HasSuffix(item, "!") {
		tags = append(tags, "*", "urgent\x00\xff", "tenant:"+tenant)
	}
	return tags
}

func newTagged[V any](t testing.TB, client *nearcache.Client, config nearcache.Config[V]) *nearcache.Tagged[V] {
	t.Helper()
	if config.Name == "" {
		config.Name = "tagged"
	}
	config.Prefix = prefix
	tagged, err := nearcache.NewTagged(client, config, tenants)
	check(t, err)
	return tagged
}

// versions is a source whose items all change at once.
type versions struct {
	now   atomic.Int64
	loads atomic.Int64
}

func (v *versions) load(_ context.Context, key string) (string, error) {
	v.loads.Add(1)
	return fmt.Sprint(v.now.Load(), " ", key), nil
}

func wantTagged(t testing.TB, tagged *nearcache.Tagged[string], key, value string, options ...nearcache.ReadOption) {
	t.Helper()
	if got, err := tagged.Get(t.Context(), key, options...); err != nil || got != value {
		t.Errorf("%q is %q, %v; want %q", key, got, err, value)
	}
}

// warmTagged reads until L1 serves.
func warmTagged(t testing.TB, tagged *nearcache.Tagged[string], key, value string) {
	t.Helper()
	eventually(t, fmt.Sprintf("L1 serves %q", key), func() bool {
		got, err := tagged.Get(t.Context(), key)
		return err == nil && got == value && tagged.Explain(t.Context(), key).Local.Servable
	})
}

func TestTagsAcrossNodes(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{})
	source := new(versions)
	config := nearcache.Config[string]{Load: source.load, NegativeTTL: time.Minute}
	client, other := open(t, optionsFor(server)), open(t, optionsFor(server))
	mine, theirs := newTagged(t, client, config), newTagged(t, other, config)
	keys := []string{"7/1", "7/2", "7/3!", "8/1", "8/2!"}
	all := func(of func(key string) string) {
		t.Helper()
		for _, key := range keys {
			for _, tagged := range []*nearcache.Tagged[string]{mine, theirs} {
				wantTagged(t, tagged, key, of(key)+" "+key, nearcache.Fresh())
			}
		}
		for _, tagged := range []*nearcache.Tagged[string]{mine, theirs} {
			items, err := tagged.GetMany(t.Context(), keys, nearcache.Fresh())
			check(t, err)
			for _, key := range keys {
				if items[key] != of(key)+" "+key {
					t.Errorf("%q is %q of several", key, items[key])
				}
			}
		}
	}
	all(func(string) string { return "0" })
	if loads := source.loads.Load(); loads != int64(len(keys)) {
		t.Errorf("%d loads of %d keys by two nodes", loads, len(keys))
	}
	for _, key := range keys {
		warmTagged(t, theirs, key, "0 "+key)
	}

	source.now.Store(1)
	check(t, mine.InvalidateTag(t.Context(), "tenant:7"))
	all(func(key string) string {
		if strings.HasPrefix(key, "7/") {
			return "1"
		}
		return "0"
	})
	source.now.Store(2)
	check(t, theirs.InvalidateTag(t.Context(), "urgent\x00\xff", "nobody has this one"))
	all(func(key string) string {
		switch {
		case strings.HasSuffix(key, "!"):
			return "2"
		case strings.HasPrefix(key, "7/"):
			return "1"
		}
		return "0"
	})
	source.now.Store(3)
	check(t, mine.InvalidateTag(t.Context(), "*")) // one like any other
	if got, err := theirs.Get(t.Context(), "7/3!", nearcache.Fresh()); err != nil || got != "3 7/3!" {
		t.Errorf("got %q, %v", got, err)
	}
	wantTagged(t, theirs, "8/1", "0 8/1", nearcache.Fresh())
	source.now.Store(4)
	check(t, mine.InvalidateAll(t.Context()))
	all(func(string) string { return "4" })

	before, err := server.Command(t.Context(), "DBSIZE").AsInt64()
	check(t, err)
	removed, err := theirs.Clear(t.Context(), nearcache.BulkOptions{})
	check(t, err)
	after, err := server.Command(t.Context(), "DBSIZE").AsInt64()
	check(t, err)
	if removed < int64(len(keys)) || after != before-removed {
		t.Errorf("Clear removed %d of %d keys, and %d are left", removed, before, after)
	}
	source.now.Store(5)
	all(func(string) string { return "5" })
}

// A read within its bound may be as old as that, and no older.
func TestTagsKeepTheBound(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{})
	source := new(versions)
	config := nearcache.Config[string]{Load: source.load}
	mine, theirs := newTagged(t, open(t, optionsFor(server)), config), newTagged(t, open(t, optionsFor(server)), config)
	for i := range int64(20) {
		warmTagged(t, theirs, "7/1", fmt.Sprint(i, " 7/1"))
		source.now.Store(i + 1)
		check(t, mine.InvalidateTag(t.Context(), "tenant:7"))
		invalidated := time.Now()
		eventually(t, "the other node has heard of it", func() bool {
			began := time.Now()
			got, err := theirs.Get(t.Context(), "7/1")
			check(t, err)
			if got != fmt.Sprint(i+1, " 7/1") && began.Sub(invalidated) > nearcache.DefaultMaxStaleness {
				t.Fatalf("%v after the tag was invalidated: %q", began.Sub(invalidated), got)
			}
			return got == fmt.Sprint(i+1, " 7/1")
		})
	}
}

// A load that was under way when its tag was invalidated serves those who waited for it, and nobody after.
func TestTagInvalidatedDuringALoad(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{})
	client := open(t, optionsFor(server))
	loading, goOn := make(chan struct{}), make(chan struct{})
	var loads atomic.Int64
	load := func(context.Context, string) (string, error) {
		if loads.Add(1) == 1 {
			close(loading)
			<-goOn
			return "old", nil
		}
		return "new", nil
	}
	tagged := newTagged(t, client, nearcache.Config[string]{Load: load})
	first := make(chan string, 1)
	go func() {
		value, _ := tagged.Get(t.Context(), "7/1")
		first <- value
	}()
	<-loading
	check(t, tagged.InvalidateTag(t.Context(), "tenant:7"))
	wantTagged(t, tagged, "7/1", "new") // without waiting for the other
	close(goOn)
	if value := <-first; value != "old" {
		t.Errorf("who waited got %q", value)
	}
	wantTagged(t, tagged, "7/1", "new")
	wantTagged(t, tagged, "7/1", "new", nearcache.Fresh(), nearcache.SkipLocal())
}

// Whatever Redis has lost of a tag, what was invalidated does not come back.
func TestLostGenerationsBringNothingBack(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{})
	source := new(versions)
	tagged := newTagged(t, open(t, optionsFor(server)), nearcache.Config[string]{Load: source.load})
	wantTagged(t, tagged, "7/1", "0 7/1")
	source.now.Store(1)
	check(t, tagged.InvalidateTag(t.Context(), "tenant:7"))
	server.Do(t, "DEL", prefix+"tag:tenant:7")
	wantTagged(t, tagged, "7/1", "1 7/1", nearcache.Fresh())
	source.now.Store(2)
	server.Do(t, "SET", prefix+"tag:tenant:7", "forged")
	if got, err := tagged.Get(t.Context(), "7/1", nearcache.Fresh()); err == nil {
		t.Errorf("with a generation that is none: %q", got)
	}
	wantTagged(t, tagged, "8/1", "2 8/1")
	onlyOne := func(err error) {
		t.Helper()
		if failures := keyErrors(t, err); len(failures) != 1 || failures["7/1"] == nil {
			t.Errorf("of two keys, one with a generation that is none: %v", err)
		}
	}
	items, err := tagged.GetMany(t.Context(), []string{"7/1", "8/1"}, nearcache.Fresh())
	onlyOne(err)
	if !maps.Equal(items, map[string]string{"8/1": "2 8/1"}) {
		t.Errorf("got %v", items)
	}
	onlyOne(tagged.SetMany(t.Context(), map[string]string{"7/1": "set", "8/1": "set"}))
	wantTagged(t, tagged, "8/1", "set")
	onlyOne(tagged.DeleteMany(t.Context(), []string{"7/1", "8/1"}))
	wantTagged(t, tagged, "8/1", "2 8/1")
	if err := tagged.SetMany(t.Context(), map[string]string{"": "set", "8/1": "set"}); !errors.Is(err, nearcache.ErrInvalidKey) {
		t.Errorf("with a key that is none: %v", err)
	}
	wantTagged(t, tagged, "8/1", "2 8/1")
	check(t, tagged.InvalidateTag(t.Context(), "tenant:7"))
	wantTagged(t, tagged, "7/1", "2 7/1", nearcache.Fresh())
}

func TestWritesOfTaggedItems(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{})
	mine, theirs := newTagged(t, open(t, optionsFor(server)), nearcache.Config[string]{}), newTagged(t, open(t, optionsFor(server)), nearcache.Config[string]{})
	absent := func(key string) {
		t.Helper()
		for _, tagged := range []*nearcache.Tagged[string]{mine, theirs} {
			if got, err := tagged.Get(t.Context(), key, nearcache.Fresh()); !errors.Is(err, nearcache.ErrNotFound) {
				t.Errorf("%q is %q, %v", key, got, err)
			}
		}
	}
	check(t, mine.Set(t.Context(), "7/1", "set"))
	wantTagged(t, mine, "7/1", "set")
	wantTagged(t, theirs, "7/1", "set", nearcache.Fresh())
	check(t, theirs.Touch(t.Context(), "7/1", nearcache.TTL(time.Hour)))
	if left := mine.Explain(t.Context(), "7/1").Remote.TTL; left <= nearcache.DefaultTTL {
		t.Errorf("%v are left after Touch", left)
	}
	if _, err := theirs.Update(t.Context(), "7/1", func(now string, _ bool) (string, error) { return now + ", updated", nil }); err != nil {
		t.Error(err)
	}
	wantTagged(t, mine, "7/1", "set, updated", nearcache.Fresh())
	check(t, mine.SetMany(t.Context(), map[string]string{"7/2": "b", "8/1": "c"}))
	items, err := theirs.GetMany(t.Context(), []string{"7/1", "7/2", "8/1", "8/2"}, nearcache.Fresh())
	check(t, err)
	if !maps.Equal(items, map[string]string{"7/1": "set, updated", "7/2": "b", "8/1": "c"}) {
		t.Errorf("got %v", items)
	}
	// The writer goes by the generation of now, whatever its L1 holds: a write after the invalidation is not lost.
	check(t, theirs.InvalidateTag(t.Context(), "tenant:7"))
	check(t, mine.Set(t.Context(), "7/1", "written after"))
	wantTagged(t, theirs, "7/1", "written after", nearcache.Fresh())
	absent("7/2")
	check(t, theirs.Delete(t.Context(), "7/1"))
	absent("7/1")
	check(t, theirs.DeleteMany(t.Context(), []string{"8/1", "8/3"}))
	absent("8/1")
}

func TestTaggedLoaders(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{})
	client := open(t, optionsFor(server))
	tagged := newTagged(t, client, nearcache.Config[string]{
		NegativeTTL: time.Minute,
		LoadMany: func(_ context.Context, keys []string) (map[string]string, error) {
			values := map[string]string{"9/9": "not asked for"}
			var failures error
			for _, key := range keys {
				switch {
				case strings.HasSuffix(key, "failing"):
					failures = errors.Join(failures, &nearcache.KeyError{Key: key, Err: errors.New("out of order")})
				case !strings.HasSuffix(key, "absent"):
					values[key] = "loaded " + key
				}
			}
			return values, failures
		},
		Entry: func(key, _ string) nearcache.EntryOptions {
			if key == "7/short" {
				return nearcache.EntryOptions{TTL: time.Minute}
			}
			return nearcache.EntryOptions{}
		},
	})
	items, err := tagged.GetMany(t.Context(), []string{"7/1", "8/1", "7/absent", "8/failing", "7/short"})
	if want := map[string]string{"7/1": "loaded 7/1", "8/1": "loaded 8/1", "7/short": "loaded 7/short"}; !maps.Equal(items, want) {
		t.Errorf("got %v, want %v", items, want)
	}
	if failures := keyErrors(t, err); len(failures) != 1 || failures["8/failing"] == nil {
		t.Errorf("%v", err)
	}
	if left := tagged.Explain(t.Context(), "7/short").Remote.TTL; left > time.Minute {
		t.Errorf("%v are left of an item that lives for a minute", left)
	}
	if e := tagged.Explain(t.Context(), "7/1"); !slices.Equal(e.Tags, []string{"tenant:7"}) || !strings.Contains(e.String(), "tenant:7") {
		t.Errorf("%v", e)
	}
	check(t, tagged.Warm(t.Context(), slices.Values([]string{"7/1", "7/w"}), nearcache.BulkOptions{}))
	warmTagged(t, tagged, "7/w", "loaded 7/w")
}

// The loader serves while Redis is away, and readers who come together share its loads.
func TestTagsWhileRedisIsAway(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{})
	source := new(versions)
	options := optionsFor(server)
	options.MaxStaleness = 10 * time.Minute // readers share loads for half of that
	tagged := newTagged(t, open(t, options), nearcache.Config[string]{Load: source.load})
	wantTagged(t, tagged, "7/1", "0 7/1")
	server.Kill()
	source.now.Store(1)
	eventually(t, "the loader serves", func() bool {
		got, err := tagged.Get(t.Context(), "7/1")
		return err == nil && got == "1 7/1"
	})
	items, err := tagged.GetMany(t.Context(), []string{"7/1", "8/1"})
	check(t, err)
	if items["7/1"] != "1 7/1" || items["8/1"] != "1 8/1" {
		t.Errorf("got %v", items)
	}
	if err := tagged.Set(t.Context(), "7/1", "v"); err == nil {
		t.Error("a write has succeeded")
	}
	if err := tagged.InvalidateTag(t.Context(), "tenant:7"); err == nil {
		t.Error("an invalidation has succeeded")
	}
}

// Nodes without Redis tell each other which tags, and which items, are to be forgotten.
func TestTagsWithoutRedis(t *testing.T) {
	t.Parallel()
	network := broadcast.NewNetwork(broadcast.NetworkOptions{})
	source := new(versions)
	newNode := func() *nearcache.Tagged[string] {
		bus, err := broadcast.New(broadcast.Options{Transport: network.Transport()})
		check(t, err)
		t.Cleanup(func() { check(t, bus.Close(context.Background())) })
		client := open(t, nearcache.Options{Bus: bus, SettleFills: true, MaxStaleness: 10 * time.Minute}) // readers share loads for half of that while the bus is down
		return newTagged(t, client, nearcache.Config[string]{Load: source.load})
	}
	mine, theirs := newNode(), newNode()
	both := []*nearcache.Tagged[string]{mine, theirs}
	keys := []string{"7/1", "7/2", "8/1", "8/2!", "*=7/1"}
	reads := func(of func(key string) string) {
		t.Helper()
		for _, tagged := range both {
			for _, key := range keys {
				want := of(key) + " " + key
				eventually(t, fmt.Sprintf("%q is %q", key, want), func() bool {
					got, err := tagged.Get(t.Context(), key)
					return err == nil && got == want
				})
			}
			items, err := tagged.GetMany(t.Context(), keys)
			check(t, err)
			for _, key := range keys {
				if items[key] != of(key)+" "+key {
					t.Errorf("%q is %q of several", key, items[key])
				}
			}
		}
	}
	always := func(now string) func(string) string { return func(string) string { return now } }
	change := func(now int64, announce func() error) {
		t.Helper()
		source.now.Store(now)
		check(t, announce())
	}
	// The first message of a node makes the others forget everything, since they cannot know what it has said before.
	source.now.Store(-2)
	reads(always("-2"))
	change(-1, func() error { return mine.InvalidateAll(t.Context()) })
	reads(always("-1"))
	change(0, func() error { return theirs.InvalidateAll(t.Context()) })
	reads(always("0"))
	if loads := source.loads.Load(); loads < int64(6*len(keys)) || loads > int64(8*len(keys)) {
		t.Errorf("%d loads of %d items by two nodes, all forgotten twice", loads, len(keys))
	}
	change(1, func() error { return mine.InvalidateTag(t.Context(), "tenant:7") })
	wantTagged(t, mine, "7/1", "1 7/1") // at once
	now := map[string]string{"7/1": "1", "7/2": "1", "8/1": "0", "8/2!": "0", "*=7/1": "0"}
	current := func(key string) string { return now[key] }
	reads(current)
	change(2, func() error { return theirs.InvalidateTag(t.Context(), "urgent\x00\xff", "nobody has this one") })
	now["8/2!"] = "2"
	reads(current)
	change(3, func() error { return mine.Delete(t.Context(), "7/1") })
	now["7/1"] = "3"
	reads(current)
	change(4, func() error { return mine.Set(t.Context(), "7/2", "as the source has it") })
	now["7/2"] = "4"
	reads(current)
	change(5, func() error { return mine.SetMany(t.Context(), map[string]string{"7/1": "v", "8/1": "v"}) })
	now["7/1"], now["8/1"] = "5", "5"
	reads(current)
	change(6, func() error { return theirs.DeleteMany(t.Context(), []string{"*=7/1", "8/1"}) })
	now["*=7/1"], now["8/1"] = "6", "6"
	reads(current)
	wantTagged(t, mine, "7/1", "6 7/1", nearcache.Fresh()) // by the loader
	change(7, func() error { return mine.InvalidateAll(t.Context()) })
	reads(always("7"))
	change(8, func() error { _, err := theirs.Clear(t.Context(), nearcache.BulkOptions{}); return err })
	reads(always("8"))

	for name, err := range map[string]error{
		"Delete":     mine.Delete(t.Context(), ""),
		"DeleteMany": mine.DeleteMany(t.Context(), []string{"7/1", ""}),
		"Set":        mine.Set(t.Context(), "", "v"),
	} {
		if !errors.Is(err, nearcache.ErrInvalidKey) {
			t.Errorf("%s of a key that is none: %v", name, err)
		}
	}
	_, err := mine.Update(t.Context(), "7/1", func(now string, _ bool) (string, error) { return now, nil })
	mentions(t, err, "Update needs Redis")

	network.Disconnect()
	source.now.Store(9)
	reads(always("9"))
	network.Connect()
	reads(always("9"))
}

// A tag and the items that have it are on different servers of a cluster.
func TestTagsInACluster(t *testing.T) {
	t.Parallel()
	n := startCluster(t, redistest.ClusterConfig{Replicas: -1}, nil)
	options := optionsAt("")
	options.Redis.InitAddress = n.Addresses()
	source := new(versions)
	config := nearcache.Config[string]{Load: source.load}
	mine, theirs := newTagged(t, n.client, nearcache.Config[string]{Name: "tagged", Load: source.load}), newTagged(t, open(t, options), config)
	var keys []string
	for i := range 12 {
		keys = append(keys, fmt.Sprint("7/", i))
	}
	for round := range int64(5) {
		source.now.Store(round)
		check(t, mine.InvalidateTag(t.Context(), "tenant:7"))
		for _, tagged := range []*nearcache.Tagged[string]{theirs, mine} {
			items, err := tagged.GetMany(t.Context(), keys, nearcache.Fresh())
			check(t, err)
			for _, key := range keys {
				if want := fmt.Sprint(round, " ", key); items[key] != want {
					t.Fatalf("%q is %q, want %q", key, items[key], want)
				}
			}
		}
	}
}

func TestTaggedChecksItsInput(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{})
	client := open(t, optionsFor(server))
	load := func(context.Context, string) (string, error) { return "v", nil }
	for name, test := range map[string]struct {
		config nearcache.Config[string]
		tags   func(string) []string
		words  []string
	}{
		"no tags":  {nearcache.Config[string]{Name: "a", Prefix: prefix}, nil, []string{"tags", `"a"`}},
		"prefix":   {nearcache.Config[string]{Name: "a"}, tenants, []string{"Prefix"}},
		"FailSafe": {nearcache.Config[string]{Name: "a", Prefix: prefix, Load: load, FailSafe: nearcache.FailSafe{MaxAge: time.Hour}}, tenants, []string{"FailSafe", "tags"}},
		"Store": {nearcache.Config[string]{Name: "a", Prefix: prefix, Store: func(context.Context, string, string) error { return nil }}, tenants,
			[]string{"Store", "tags"}},
	} {
		if _, err := nearcache.NewTagged(client, test.config, test.tags); err == nil {
			t.Errorf("%s: no error", name)
		} else {
			mentions(t, err, test.words...)
		}
	}
	many := make([]string, 65)
	for i := range many {
		many[i] = fmt.Sprint(i)
	}
	tags := map[string][]string{"none": nil, "empty": {"a", ""}, "many": many}
	tagged, err := nearcache.NewTagged(client, nearcache.Config[string]{Name: "a", Prefix: prefix, Load: load}, func(key string) []string { return tags[key] })
	check(t, err)
	wantTagged(t, tagged, "none", "v")
	for _, key := range []string{"", "empty", "many"} {
		if _, err := tagged.Get(t.Context(), key); !errors.Is(err, nearcache.ErrInvalidKey) {
			t.Errorf("%q: %v", key, err)
		}
		if err := tagged.Set(t.Context(), key, "v"); !errors.Is(err, nearcache.ErrInvalidKey) {
			t.Errorf("%q: %v", key, err)
		}
		if _, err := tagged.GetMany(t.Context(), []string{"none", key}); !errors.Is(err, nearcache.ErrInvalidKey) {
			t.Errorf("%q: %v", key, err)
		}
	}
	if err := tagged.InvalidateTag(t.Context(), "a", ""); !errors.Is(err, nearcache.ErrInvalidKey) {
		t.Error(err)
	}
	check(t, tagged.InvalidateTag(t.Context()))
}
