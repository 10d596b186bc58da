package nearcache_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/go-nearcache/nearcache"
	"github.com/go-nearcache/nearcache/internal/redistest"
)

func TestUseAfterClose(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{})
	client := open(t, optionsFor(server))
	cache := stringCache(t, client, func(context.Context, string) (string, error) { return "loaded", nil })
	warm(t, cache, "k", "loaded")
	closeNode(t, client)
	closeNode(t, client) // twice

	closed := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, nearcache.ErrClosed) {
			t.Errorf("%s: %v", what, err)
		}
		mentions(t, err, "open a new one")
	}
	_, err := cache.Get(t.Context(), "k") // L1 held it
	closed("Get", err)
	_, err = cache.Get(t.Context(), "other", nearcache.Fresh())
	closed("Get", err)
	items, err := cache.GetMany(t.Context(), []string{"k", "l"})
	closed("GetMany", err)
	if len(items) != 0 {
		t.Errorf("GetMany: %v", items)
	}
	closed("Set", cache.Set(t.Context(), "k", "v"))
	closed("Delete", cache.Delete(t.Context(), "k"))
	closed("DeleteMany", cache.DeleteMany(t.Context(), []string{"k"}))
	closed("Fence", client.Fence(t.Context()))
	closed("Explain", cache.Explain(t.Context(), "k").Remote.Err)
	_, err = nearcache.New(client, nearcache.Config[string]{Name: "late", Prefix: prefix + "late:"})
	closed("New", err)
	if stats := client.Stats(); stats.Caches["test"].Loads != 1 || stats.Link.Live || stats.Link.Epoch != 0 {
		t.Errorf("%+v", stats)
	}
}

func TestCloseWaitsForLoads(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{})
	stop := newCheckpoint(t)
	stop.arm()
	defer stop.release()
	client, cache, _ := loaded(t, server, stop)
	first := reading(t.Context(), cache, "k")
	receive(t, "the loader runs", stop.reached)
	ended := make(chan error, 2)
	for range 2 {
		go func() { ended <- client.Close(t.Context()) }()
	}
	eventually(t, "the client is closed", func() bool {
		_, err := cache.Get(t.Context(), "other")
		return errors.Is(err, nearcache.ErrClosed)
	})
	select {
	case err := <-ended:
		t.Errorf("Close did not wait for the load: %v", err)
	default:
	}
	stop.release()
	for range 2 {
		check(t, receive(t, "Close ends", ended))
	}
	if a := receive(t, "the read ends", first); a.value != "loaded k" || a.err != nil {
		t.Errorf("a read that began before Close: %+v", a)
	}
	if value, _ := stored(t, server, prefix+"k"); value != "loaded k" {
		t.Errorf("Redis holds %q", value)
	}
}

// The end of its context cuts Close short: loads are cancelled, and give their leases back.
func TestCloseIsBounded(t *testing.T) {
	t.Parallel()

	t.Run("loader that obeys", func(t *testing.T) {
		t.Parallel()
		server := redistest.Start(t, redistest.Config{})
		client := open(t, optionsFor(server))
		running := make(chan struct{})
		cache := newCache(t, client, nearcache.Config[string]{
			Codec: nearcache.String(), LoadTimeout: time.Hour,
			Load: func(ctx context.Context, _ string) (string, error) {
				close(running)
				<-ctx.Done()
				return "", context.Cause(ctx)
			},
		})
		first := reading(t.Context(), cache, "k")
		receive(t, "the loader runs", running)
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if err := client.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Close: %v", err)
		} else {
			mentions(t, err, "loads were still running", "cancelled")
		}
		if a := receive(t, "the read ends", first); !errors.Is(a.err, nearcache.ErrClosed) {
			t.Errorf("%+v", a)
		}
		eventually(t, "the lease is given back", func() bool {
			_, ok := stored(t, server, prefix+"k")
			return !ok
		})
	})

	t.Run("loader that does not", func(t *testing.T) {
		t.Parallel()
		stop := newCheckpoint(t)
		stop.arm()
		defer stop.release()
		client, cache, _ := loaded(t, redistest.Start(t, redistest.Config{}), stop)
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		first := reading(ctx, cache, "k")
		receive(t, "the loader runs", stop.reached)
		ended := make(chan error, 1)
		go func() { ended <- client.Close(ctx) }()
		if err := receive(t, "Close ends", ended); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Close: %v", err)
		}
		receive(t, "the read ends with its context", first)
		stop.release()
	})

	t.Run("frozen server", func(t *testing.T) {
		t.Parallel()
		server := redistest.Start(t, redistest.Config{})
		client, cache, _ := loaded(t, server, newCheckpoint(t))
		warm(t, cache, "k", "loaded k")
		check(t, server.Pause())
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		ended := make(chan error, 1)
		go func() { ended <- client.Close(ctx) }()
		_ = receive(t, "Close ends", ended) // with or without an error: nothing had to be cancelled
	})

	t.Run("context that has ended", func(t *testing.T) {
		t.Parallel()
		client, cache, _ := loaded(t, redistest.Start(t, redistest.Config{}), newCheckpoint(t))
		warm(t, cache, "k", "loaded k")
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := client.Close(ctx); err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("Close: %v", err)
		}
		if _, err := cache.Get(t.Context(), "k"); !errors.Is(err, nearcache.ErrClosed) {
			t.Errorf("%v", err)
		}
	})
}

// Everything at once while the client closes: each call ends, with a value or with ErrClosed.
func TestCloseDuringUse(t *testing.T) {
	t.Parallel()
	for range 5 {
		server := redistest.Start(t, redistest.Config{})
		client, cache, _ := loaded(t, server, newCheckpoint(t))
		began := make(chan struct{}, 64)
		var working sync.WaitGroup
		for worker := range 8 {
			working.Go(func() {
				for i := 0; ; i++ {
					key := string(rune('a' + i%7))
					var err error
					switch worker % 4 {
					case 0:
						_, err = cache.Get(t.Context(), key)
					case 1:
						_, err = cache.GetMany(t.Context(), []string{key, "x", "y"}, nearcache.Fresh())
					case 2:
						err = cache.Set(t.Context(), key, "v")
					case 3:
						cache.Explain(t.Context(), key)
						err = client.Fence(t.Context())
					}
					select {
					case began <- struct{}{}:
					default:
					}
					if errors.Is(err, nearcache.ErrClosed) {
						return
					}
					if err != nil {
						t.Errorf("worker %d: %v", worker, err)
						return
					}
				}
			})
		}
		for range cap(began) {
			receive(t, "work is under way", began)
		}
		closeNode(t, client)
		working.Wait()
	}
}
