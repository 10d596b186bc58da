package nearcachetest_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/go-nearcache/nearcache"
	"github.com/go-nearcache/nearcache/internal/redistest"
	"github.com/go-nearcache/nearcache/nearcachetest"
	"github.com/go-nearcache/nearcache/tracking"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience ends the wait for what has to happen. It is long because the machine may be busy; no test passes by its end.
const patience = 30 * time.Second

// slow is the RemoteTimeout of the nodes here: a busy machine must not look like a server that is away.
const slow = 4 * time.Second

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

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

// optionsThrough returns the options of a node on a server with faults between them.
func optionsThrough(server *redistest.Server, faults *nearcachetest.Faults) nearcache.Options {
	options := nearcache.Options{Prefixes: []string{"k:"}, RemoteTimeout: slow, MaxStaleness: time.Second, SettleFills: true}
	options.Redis.InitAddress = server.ClientOption().InitAddress
	options.Redis.DialCtxFn = faults.Dial
	options.Redis.ReadBufferEachConn, options.Redis.WriteBufferEachConn = 16<<10, 16<<10
	return options
}

// openNode opens a node with a cache of strings without a loader.
func openNode(t testing.TB, options nearcache.Options) (*nearcache.Client, *nearcache.Cache[string]) {
	t.Helper()
	client, err := nearcache.Open(t.Context(), options)
	for errors.Is(err, tracking.ErrLinkDown) && t.Context().Err() == nil { // no answer in time: the machine is busy
		client, err = nearcache.Open(t.Context(), options)
	}
	check(t, err)
	t.Cleanup(func() { check(t, client.Close(context.Background())) })
	cache, err := nearcache.New(client, nearcache.Config[string]{Name: "strings", Prefix: "k:", Codec: nearcache.String()})
	check(t, err)
	return client, cache
}

// warm reads until L1 serves the value.
func warm(t testing.TB, cache *nearcache.Cache[string], key, want string) {
	t.Helper()
	eventually(t, "L1 holds the value", func() bool {
		value, err := cache.Get(t.Context(), key)
		check(t, err)
		if value != want {
			t.Fatalf("read %q, want %q", value, want)
		}
		return cache.Explain(t.Context(), key).Local.Servable
	})
}

func awaitReady(t testing.TB, client *nearcache.Client, ready bool) {
	t.Helper()
	eventually(t, fmt.Sprintf("Ready is %v", ready), func() bool { return client.Health().Ready == ready })
}

// recorder is a test that may fail without failing the one it runs in.
type recorder struct {
	testing.TB // nil: what is not overridden is not called
	ctx        context.Context
	cancel     context.CancelFunc
	mu         sync.Mutex
	failures   []string
	cleanups   []func()
}

// record runs do as a test of its own and returns what it reported.
func record(t testing.TB, do func(testing.TB)) string {
	t.Helper()
	return recordIn(t.Context(), do)
}

func recordIn(ctx context.Context, do func(testing.TB)) string {
	r := new(recorder)
	r.ctx, r.cancel = context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer r.finish()
		do(r)
	}()
	<-done
	return strings.Join(r.failures, "\n")
}

func (r *recorder) finish() {
	r.cancel()
	for _, f := range slices.Backward(r.cleanups) {
		f()
	}
}

func (r *recorder) Helper()                  {}
func (r *recorder) Context() context.Context { return r.ctx }
func (r *recorder) Cleanup(f func())         { r.cleanups = append(r.cleanups, f) }

func (r *recorder) Failed() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.failures) > 0
}

func (r *recorder) Errorf(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failures = append(r.failures, fmt.Sprintf(format, args...))
}

func (r *recorder) Error(args ...any)   { r.Errorf("%s", fmt.Sprint(args...)) }
func (r *recorder) Fatal(args ...any)   { r.Fatalf("%s", fmt.Sprint(args...)) }
func (r *recorder) Logf(string, ...any) {}
func (r *recorder) Log(...any)          {}

func (r *recorder) Fatalf(format string, args ...any) {
	r.Errorf(format, args...)
	runtime.Goexit()
}

// inTest is what go test does with a test function, for examples.
func inTest(do func(t testing.TB)) {
	if report := recordIn(context.Background(), do); report != "" {
		fmt.Println("FAIL:", report)
	}
}

// mentions fails unless a report says all of the words.
func mentions(t testing.TB, report string, words ...string) {
	t.Helper()
	for _, word := range words {
		if !strings.Contains(report, word) {
			t.Errorf("the report does not say %q:\n%s", word, report)
		}
	}
}
