package nearcache_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-nearcache/nearcache"
	"github.com/go-nearcache/nearcache/internal/redistest"
)

// A source that was changed without a word is found out, and served as before.
func TestShadow(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{})
	options := optionsFor(server)
	options.SettleFills = true
	client := open(t, options)
	source := newSource(map[string]string{"a": "1"})
	var broken atomic.Bool
	cache := newCache(t, client, nearcache.Config[string]{
		Name: "test", Prefix: prefix, Codec: nearcache.String(), Shadow: nearcache.Shadow{SampleRate: 1, MaxPerSecond: 1000},
		Load: func(ctx context.Context, key string) (string, error) {
			if broken.Load() {
				return "", errors.New("the database is away")
			}
			return source.load(ctx, key)
		},
	})
	warm(t, cache, "a", "1")
	read := func(what string, enough func(nearcache.ShadowStats) bool) {
		t.Helper()
		eventually(t, what, func() bool {
			want(t, cache, "a", "1")
			return enough(statsOf(client).Shadow)
		})
	}
	read("the same", func(n nearcache.ShadowStats) bool { return n.Same > 0 && n.Different == 0 })
	source.set("a", "2")
	read("another", func(n nearcache.ShadowStats) bool { return n.Different > 0 })
	broken.Store(true)
	before := statsOf(client).Shadow.Unresolved
	read("not known", func(n nearcache.ShadowStats) bool { return n.Unresolved > before })
	broken.Store(false)
	cache.SetBypass(nearcache.BypassStores)
	loads := source.loads.Load()
	want(t, cache, "a", "1")
	cache.SetBypass(0)
	// One that ran before the switch may have ended after it.
	if n := source.loads.Load() - loads; n > 1 {
		t.Errorf("%d loads for a read that leaves no trace", n)
	}
}

func TestShadowIsValidated(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{})
	client := open(t, optionsFor(server))
	load := newSource(nil).load
	for _, bad := range []struct {
		config nearcache.Config[string]
		words  []string
	}{
		{nearcache.Config[string]{Shadow: nearcache.Shadow{SampleRate: 2}, Load: load}, []string{"Shadow.SampleRate", "from 0 to 1"}},
		{nearcache.Config[string]{Shadow: nearcache.Shadow{SampleRate: 1}}, []string{"Shadow.SampleRate", "needs Config.Load"}},
		{nearcache.Config[string]{Shadow: nearcache.Shadow{MaxPerSecond: 1}, Load: load}, []string{"must be positive"}},
		{nearcache.Config[string]{Shadow: nearcache.Shadow{SampleRate: 1, MaxPerSecond: -1}, Load: load}, []string{"Shadow.MaxPerSecond", "from 1 to 1000"}},
		{nearcache.Config[string]{StaleWhileRevalidate: time.Second}, []string{"StaleWhileRevalidate", "needs Config.Load"}},
		{nearcache.Config[string]{StaleWhileRevalidate: time.Second, RefreshAhead: 0.5, Load: load}, []string{"StaleWhileRevalidate", "RefreshAhead"}},
		{nearcache.Config[string]{StaleWhileRevalidate: -1, Load: load}, []string{"StaleWhileRevalidate", "from 1ms"}},
	} {
		bad.config.Name, bad.config.Prefix = "bad", prefix+"bad:"
		_, err := nearcache.New(client, bad.config)
		mentions(t, err, bad.words...)
	}
}
