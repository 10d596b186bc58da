package nearcache_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-nearcache/nearcache"
	"github.com/go-nearcache/nearcache/internal/redistest"
	"github.com/go-nearcache/nearcache/tracking"
)

// patience ends the wait for what has to happen. It is long because the machine may be busy; no test passes by its end.
const patience = 2 * time.Minute

// slow is the RemoteTimeout of the nodes here, and with it the deadline of their links: a busy machine must not look like a server
// that is away. Where a server is away without a sign, a test waits that long for the node to find out.
const slow = 6 * time.Second

// prefix is that of every cache here that does not say otherwise, and what every node here tracks.
const prefix = "test:"

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// eventually polls a condition that no event announces.
func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	for !condition() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

// elapse lets time pass, where the passing of time is what the test is about: the end of a bound, a life, a deadline. It never
// stands for the end of some work.
func elapse(d time.Duration) { <-time.After(d) }

// receive waits for a value that has to come.
func receive[T any](t testing.TB, what string, from <-chan T) T {
	t.Helper()
	select {
	case value := <-from:
		return value
	case <-time.After(patience):
		t.Fatalf("not within %v: %s", patience, what)
		panic("unreachable")
	}
}

// mentions reports each of the words that an error should say and does not.
func mentions(t testing.TB, err error, words ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error; want one that says %q", words)
	}
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("the error does not say %q: %v", word, err)
		}
	}
}

// optionsFor returns the options of a node on a server.
func optionsFor(server *redistest.Server) nearcache.Options {
	return optionsAt(server.ClientOption().InitAddress[0])
}

func optionsAt(address string) nearcache.Options {
	options := nearcache.Options{Prefixes: []string{prefix}, RemoteTimeout: slow}
	options.Redis.InitAddress = []string{address}
	// The default buffers are for throughput, and some tests have dozens of nodes.
	options.Redis.ReadBufferEachConn = 16 << 10
	options.Redis.WriteBufferEachConn = 16 << 10
	return options
}

// oneConnection makes a node send all data over one connection, which exists once the node is open: with several, the one that a
// command takes may have to be made first, and its handshake be what a proxy holds.
func oneConnection(options *nearcache.Options) { options.Redis.PipelineMultiplex = -1 }

// open opens a node that is closed with the test.
func open(t testing.TB, options nearcache.Options) *nearcache.Client {
	t.Helper()
	if options.Logger == nil {
		options.Logger = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	client, err := nearcache.Open(t.Context(), options)
	for errors.Is(err, tracking.ErrLinkDown) { // no answer in time: the machine is busy
		client, err = nearcache.Open(t.Context(), options)
	}
	check(t, err)
	t.Cleanup(func() { closeNode(t, client) })
	return client
}

func closeNode(t testing.TB, client *nearcache.Client) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := client.Close(ctx); err != nil {
		t.Errorf("close: %v", err)
	}
}

// newCache makes a cache with defaults for what a test does not care about.
func newCache[V any](t testing.TB, client *nearcache.Client, config nearcache.Config[V]) *nearcache.Cache[V] {
	t.Helper()
	if config.Name == "" {
		config.Name = "test"
	}
	if config.Prefix == "" {
		config.Prefix = prefix
	}
	cache, err := nearcache.New(client, config)
	check(t, err)
	return cache
}

// stringCache makes a cache of strings with a loader that may be nil.
func stringCache(t testing.TB, client *nearcache.Client, load func(context.Context, string) (string, error)) *nearcache.Cache[string] {
	t.Helper()
	return newCache(t, client, nearcache.Config[string]{Codec: nearcache.String(), Load: load})
}

// bounded returns a context for calls that a defect might keep waiting for ever.
func bounded(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// get reads a value that has to be there.
func get[V any](t testing.TB, cache *nearcache.Cache[V], key string, options ...nearcache.ReadOption) V {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	value, err := cache.Get(ctx, key, options...)
	if err != nil {
		t.Fatalf("get %q: %v", key, err)
	}
	return value
}

// want reads a value and compares.
func want[V comparable](t testing.TB, cache *nearcache.Cache[V], key string, expected V, options ...nearcache.ReadOption) {
	t.Helper()
	if value := get(t, cache, key, options...); value != expected {
		t.Fatalf("get %q: %v, want %v", key, value, expected)
	}
}

// inLocal reports whether a read would be served from L1 now.
func inLocal[V any](cache *nearcache.Cache[V], key string) bool {
	return cache.Explain(context.Background(), key).Local.Servable
}

// warm reads a key until L1 serves it: the echo of an own write may evict it once or twice before.
func warm[V comparable](t testing.TB, cache *nearcache.Cache[V], key string, expected V) {
	t.Helper()
	eventually(t, fmt.Sprintf("L1 holds %q", key), func() bool {
		switch value, err := cache.Get(t.Context(), key); {
		case errors.Is(err, nearcache.ErrUnavailable):
			return false
		case err != nil:
			t.Fatalf("get %q: %v", key, err)
		case value != expected:
			t.Fatalf("get %q: %v, want %v", key, value, expected)
		}
		return inLocal(cache, key)
	})
}

// answer is what a read returned.
type answer struct {
	value string
	err   error
}

// reading reads in the background.
func reading(ctx context.Context, cache *nearcache.Cache[string], key string, options ...nearcache.ReadOption) <-chan answer {
	answers := make(chan answer, 1)
	go func() {
		value, err := cache.Get(ctx, key, options...)
		answers <- answer{value, err}
	}()
	return answers
}

func fence(t testing.TB, client *nearcache.Client) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	check(t, client.Fence(ctx))
}

func awaitReady(t testing.TB, client *nearcache.Client) {
	t.Helper()
	eventually(t, "the link is live", func() bool { return client.Health().Ready })
}

func awaitDown(t testing.TB, client *nearcache.Client) {
	t.Helper()
	eventually(t, "the link is down", func() bool { return !client.Health().Ready })
}

func statsOf(client *nearcache.Client) nearcache.CacheStats { return client.Stats().Caches["test"] }

// A checkpoint stops whoever passes it while it is armed, once, until it is released. It makes a step out of a callback of the user:
// Decode lies between the answer of Redis and the fill, the loader in the load, Encode between the load and the storing.
type checkpoint struct {
	armed   atomic.Bool
	reached chan struct{}
	resume  chan struct{}
	release func()
}

func newCheckpoint(t testing.TB) *checkpoint {
	c := &checkpoint{reached: make(chan struct{}), resume: make(chan struct{})}
	c.release = sync.OnceFunc(func() { close(c.resume) })
	t.Cleanup(c.release)
	return c
}

func (c *checkpoint) arm() { c.armed.Store(true) }

func (c *checkpoint) pass() {
	if c.armed.CompareAndSwap(true, false) {
		close(c.reached)
		<-c.resume
	}
}

// source is the database behind a cache.
type source struct {
	mu    sync.Mutex
	items map[string]string
	loads atomic.Int64
}

func newSource(items map[string]string) *source { return &source{items: items} }

func (s *source) set(key, value string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.items[key] = value
}

func (s *source) load(_ context.Context, key string) (string, error) {
	s.loads.Add(1)
	s.mu.Lock()
	defer s.mu.Unlock()
	value, ok := s.items[key]
	if !ok {
		return "", fmt.Errorf("source: no %q: %w", key, nearcache.ErrNotFound)
	}
	return value, nil
}

// calls returns how often the server has carried out a command, given in lower case.
func calls(t testing.TB, server *redistest.Server, command string) int {
	t.Helper()
	line := redistest.InfoField(text(t, server, "INFO", "commandstats"), "cmdstat_"+command)
	number, _, _ := strings.Cut(strings.TrimPrefix(line, "calls="), ",")
	if number == "" {
		return 0
	}
	n, err := strconv.Atoi(number)
	check(t, err)
	return n
}

// stored returns what the server holds under a full key; ok is false if nothing.
func stored(t testing.TB, server *redistest.Server, key string) (value string, ok bool) {
	t.Helper()
	message := server.Do(t, "GET", key)
	if message.IsNil() {
		return "", false
	}
	value, err := message.ToString()
	check(t, err)
	return value, true
}

// text carries out a command of the administrator that is answered with a text.
func text(t testing.TB, server *redistest.Server, args ...string) string {
	t.Helper()
	message := server.Do(t, args...)
	if message.IsNil() {
		return ""
	}
	value, err := message.ToString()
	check(t, err)
	return value
}
