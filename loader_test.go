package nearcache_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-nearcache/nearcache"
	"github.com/go-nearcache/nearcache/internal/redistest"
)

func TestLoaderThatMisbehaves(t *testing.T) {
	t.Parallel()
	failure := errors.New("the database is on fire")
	start := func(t *testing.T, config nearcache.Config[string]) (*redistest.Server, *nearcache.Client, *nearcache.Cache[string]) {
		t.Helper()
		server := redistest.Start(t, redistest.Config{})
		client := open(t, optionsFor(server))
		config.Codec = nearcache.String()
		return server, client, newCache(t, client, config)
	}
	// again checks that a failure is kept nowhere: not as a value, not as a lease that others would wait for.
	again := func(t *testing.T, server *redistest.Server, cache *nearcache.Cache[string]) {
		t.Helper()
		if value, ok := stored(t, server, prefix+"k"); ok {
			t.Errorf("Redis holds %q", value)
		}
		want(t, cache, "k", "second time")
	}
	var once sync.Map
	first := func(t *testing.T) bool {
		_, loaded := once.LoadOrStore(t.Name(), true)
		return !loaded
	}

	t.Run("error", func(t *testing.T) {
		t.Parallel()
		server, client, cache := start(t, nearcache.Config[string]{Load: func(context.Context, string) (string, error) {
			if first(t) {
				return "", failure
			}
			return "second time", nil
		}})
		if _, err := cache.Get(t.Context(), "k"); err != failure { //nolint:errorlint // it is promised as it is
			t.Errorf("the loader's error arrives as %v", err)
		}
		again(t, server, cache)
		if stats := statsOf(client); stats.LoadErrors != 1 || stats.Loads != 2 {
			t.Errorf("%+v", stats)
		}
	})

	t.Run("panic", func(t *testing.T) {
		t.Parallel()
		server, _, cache := start(t, nearcache.Config[string]{Load: func(context.Context, string) (string, error) {
			if first(t) {
				panic(failure)
			}
			return "second time", nil
		}})
		_, err := cache.Get(t.Context(), "k")
		var panicked *nearcache.PanicError
		if !errors.As(err, &panicked) || panicked.Value != any(failure) || !errors.Is(err, failure) {
			t.Fatalf("%#v", err)
		}
		mentions(t, err, "panicked", failure.Error())
		if !strings.Contains(string(panicked.Stack), "TestLoaderThatMisbehaves") {
			t.Errorf("the stack does not show the loader:\n%s", panicked.Stack)
		}
		again(t, server, cache)
	})

	t.Run("panic with something else", func(t *testing.T) {
		t.Parallel()
		server, _, cache := start(t, nearcache.Config[string]{Load: func(context.Context, string) (string, error) {
			if first(t) {
				panic("a text")
			}
			return "second time", nil
		}})
		_, err := cache.Get(t.Context(), "k")
		mentions(t, err, "a text")
		if errors.Unwrap(err) != nil {
			t.Errorf("it unwraps to %v", errors.Unwrap(err))
		}
		again(t, server, cache)
	})

	t.Run("Goexit", func(t *testing.T) {
		t.Parallel()
		server, _, cache := start(t, nearcache.Config[string]{Load: func(context.Context, string) (string, error) {
			if first(t) {
				runtime.Goexit()
			}
			return "second time", nil
		}})
		_, err := cache.Get(t.Context(), "k")
		var panicked *nearcache.PanicError
		if !errors.As(err, &panicked) || panicked.Value != nil {
			t.Fatalf("%#v", err)
		}
		mentions(t, err, "Goexit")
		again(t, server, cache)
	})

	t.Run("longer than LoadTimeout", func(t *testing.T) {
		t.Parallel()
		server, _, cache := start(t, nearcache.Config[string]{
			LoadTimeout: 50 * time.Millisecond,
			Load: func(ctx context.Context, _ string) (string, error) {
				if first(t) {
					<-ctx.Done()
					return "", fmt.Errorf("the database: %w", ctx.Err())
				}
				return "second time", nil
			},
		})
		if _, err := cache.Get(t.Context(), "k"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v", err)
		}
		again(t, server, cache)
	})

	t.Run("deaf to its context", func(t *testing.T) {
		t.Parallel()
		stop := newCheckpoint(t)
		stop.arm()
		defer stop.release()
		_, _, cache := start(t, nearcache.Config[string]{
			LoadTimeout: 10 * time.Millisecond,
			Load: func(context.Context, string) (string, error) {
				stop.pass()
				return "late", nil
			},
		})
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if _, err := cache.Get(ctx, "k"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("its caller is not let go: %v", err)
		}
	})

	t.Run("value that cannot be encoded", func(t *testing.T) {
		t.Parallel()
		server := redistest.Start(t, redistest.Config{})
		cache := newCache(t, open(t, optionsFor(server)), nearcache.Config[any]{
			Load: func(context.Context, string) (any, error) { return func() {}, nil },
		})
		_, err := cache.Get(t.Context(), "k")
		mentions(t, err, `"test"`, "encode", `"k"`)
		if value, ok := stored(t, server, prefix+"k"); ok {
			t.Errorf("Redis holds %q", value)
		}
	})

	t.Run("value that is reserved", func(t *testing.T) {
		t.Parallel()
		_, _, cache := start(t, nearcache.Config[string]{Load: func(context.Context, string) (string, error) {
			return "\x00nearcache\x00lease\x00mine", nil
		}})
		if _, err := cache.Get(t.Context(), "k"); !errors.Is(err, nearcache.ErrInvalidValue) {
			t.Errorf("%v", err)
		}
	})
}

func TestLoaderThatReturnsNil(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{})
	client := open(t, optionsFor(server))
	type item struct{ Name string }
	refused := func(t *testing.T, err error) {
		t.Helper()
		if !errors.Is(err, nearcache.ErrInvalidValue) {
			t.Fatalf("%v", err)
		}
		mentions(t, err, "nil", "ErrNotFound")
	}

	pointers := newCache(t, client, nearcache.Config[*item]{Name: "pointers", Prefix: prefix + "p:",
		Load: func(context.Context, string) (*item, error) { return nil, nil }})
	_, err := pointers.Get(t.Context(), "k")
	refused(t, err)

	interfaces := newCache(t, client, nearcache.Config[fmt.Stringer]{Name: "interfaces", Prefix: prefix + "i:",
		Load: func(context.Context, string) (fmt.Stringer, error) { return nil, nil }})
	_, err = interfaces.Get(t.Context(), "k")
	refused(t, err)

	typed := newCache(t, client, nearcache.Config[fmt.Stringer]{Name: "typed", Prefix: prefix + "t:",
		Load: func(context.Context, string) (fmt.Stringer, error) { return (*time.Location)(nil), nil }})
	_, err = typed.Get(t.Context(), "k")
	refused(t, err)

	// An empty slice or map is a value, also a nil one.
	slices := newCache(t, client, nearcache.Config[[]string]{Name: "slices", Prefix: prefix + "s:",
		Load: func(context.Context, string) ([]string, error) { return nil, nil }})
	if value := get(t, slices, "k"); len(value) != 0 {
		t.Errorf("%q", value)
	}
}

func TestNoLoader(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{})
	client := open(t, optionsFor(server))
	cache := stringCache(t, client, nil)
	if _, err := cache.Get(t.Context(), "k"); !errors.Is(err, nearcache.ErrNotFound) {
		t.Errorf("%v", err)
	}
	items, err := cache.GetMany(t.Context(), []string{"k", "l"})
	if err != nil || len(items) != 0 {
		t.Errorf("GetMany: %q, %v", items, err)
	}
	server.Do(t, "SET", prefix+"k", "v")
	fence(t, client)
	want(t, cache, "k", "v")
}

func TestNegativeTTL(t *testing.T) {
	t.Parallel()

	t.Run("none", func(t *testing.T) {
		t.Parallel()
		server := redistest.Start(t, redistest.Config{})
		database := newSource(map[string]string{})
		cache := stringCache(t, open(t, optionsFor(server)), database.load)
		for range 3 {
			if _, err := cache.Get(t.Context(), "k"); !errors.Is(err, nearcache.ErrNotFound) {
				t.Errorf("%v", err)
			}
		}
		if n := database.loads.Load(); n != 3 {
			t.Errorf("%d loads for 3 reads", n)
		}
		if value, ok := stored(t, server, prefix+"k"); ok {
			t.Errorf("Redis holds %q", value)
		}
	})

	t.Run("remembered by all nodes", func(t *testing.T) {
		t.Parallel()
		server := redistest.Start(t, redistest.Config{})
		database := newSource(map[string]string{})
		var clients []*nearcache.Client
		var caches []*nearcache.Cache[string]
		for range 2 {
			client := open(t, optionsFor(server))
			clients = append(clients, client)
			caches = append(caches, newCache(t, client, nearcache.Config[string]{
				Codec: nearcache.String(), Load: database.load, NegativeTTL: time.Hour,
			}))
		}
		for i, cache := range caches {
			eventually(t, "L1 knows", func() bool {
				if _, err := cache.Get(t.Context(), "k"); !errors.Is(err, nearcache.ErrNotFound) {
					t.Fatalf("%v", err)
				}
				return statsOf(clients[i]).LocalNegatives > 0
			})
			items, err := cache.GetMany(t.Context(), []string{"k"})
			if err != nil || len(items) != 0 {
				t.Errorf("GetMany: %q, %v", items, err)
			}
		}
		if n := database.loads.Load(); n != 1 {
			t.Errorf("%d loads", n)
		}

		// Whoever writes the item ends that.
		server.Do(t, "SET", prefix+"k", "born")
		for i, cache := range caches {
			fence(t, clients[i])
			want(t, cache, "k", "born")
		}
	})

	t.Run("for its time", func(t *testing.T) {
		t.Parallel()
		const life = 200 * time.Millisecond
		database := newSource(map[string]string{})
		cache := newCache(t, open(t, optionsFor(redistest.Start(t, redistest.Config{}))), nearcache.Config[string]{
			Codec: nearcache.String(), Load: database.load, NegativeTTL: life,
		})
		if _, err := cache.Get(t.Context(), "k"); !errors.Is(err, nearcache.ErrNotFound) {
			t.Errorf("%v", err)
		}
		database.set("k", "born") // without a word to the cache
		elapse(life + 2*time.Millisecond)
		want(t, cache, "k", "born")
	})
}
