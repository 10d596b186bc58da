package nearcache_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/go-nearcache/nearcache"
	"github.com/go-nearcache/nearcache/internal/redistest"
)

// Each error names the field, its value and the rule.
func TestOptionsThatAreRefused(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		change func(*nearcache.Options)
		words  []string
	}{
		{"no address", func(o *nearcache.Options) { o.Redis.InitAddress = nil }, []string{"Redis.InitAddress", "127.0.0.1:6379"}},
		{"replicas only", func(o *nearcache.Options) { o.Redis.ReplicaOnly = true }, []string{"Redis.ReplicaOnly", "ReadNodeSelector"}},
		{"commands to replicas", func(o *nearcache.Options) {
			o.Redis.SendToReplicas = func(rueidis.Completed) bool { return true }
		}, []string{"Redis.SendToReplicas", "ReadNodeSelector"}},
		{"replicas without a choice", func(o *nearcache.Options) {
			o.Redis.Standalone.ReplicaAddress = []string{"127.0.0.1:6380"}
		}, []string{"Redis.Standalone.ReplicaAddress", "127.0.0.1:6380", "ReadNodeSelector"}},
		{"redirections of one server", func(o *nearcache.Options) { o.Redis.Standalone.EnableRedirect = true }, []string{"Redis.Standalone.EnableRedirect", "primary"}},
		{"sentinels as one server", func(o *nearcache.Options) { o.Redis.Sentinel.MasterSet, o.Redis.ForceSingleClient = "main", true }, []string{"Redis.ForceSingleClient", "Sentinel.MasterSet"}},
		{"no prefixes", func(o *nearcache.Options) { o.Prefixes = nil }, []string{"Prefixes", "no prefixes"}},
		{"empty list of prefixes", func(o *nearcache.Options) { o.Prefixes = []string{} }, []string{"Prefixes", "no prefixes"}},
		{"empty prefix", func(o *nearcache.Options) { o.Prefixes = []string{"a:", ""} }, []string{"Prefixes", "empty"}},
		{"overlapping prefixes", func(o *nearcache.Options) { o.Prefixes = []string{"user:admin:", "b:", "user:"} },
			[]string{"Prefixes", `"user:admin:"`, `"user:"`}},
		{"prefix twice", func(o *nearcache.Options) { o.Prefixes = []string{"a:", "a:"} }, []string{"Prefixes", `"a:"`, "twice"}},
		{"negative MaxStaleness", func(o *nearcache.Options) { o.MaxStaleness = -time.Second }, []string{"MaxStaleness", "-1s", "5ms", "10m"}},
		{"tiny MaxStaleness", func(o *nearcache.Options) { o.MaxStaleness = time.Millisecond }, []string{"MaxStaleness", "1ms", "5ms"}},
		{"absurd MaxStaleness", func(o *nearcache.Options) { o.MaxStaleness = 1 << 62 }, []string{"MaxStaleness", "10m"}},
		{"negative MaxBytes", func(o *nearcache.Options) { o.MaxBytes = -1 }, []string{"MaxBytes", "-1"}},
		{"tiny MaxBytes", func(o *nearcache.Options) { o.MaxBytes = 1 }, []string{"MaxBytes", "1"}},
		{"absurd MaxBytes", func(o *nearcache.Options) { o.MaxBytes = 1 << 62 }, []string{"MaxBytes"}},
		{"negative RemoteTimeout", func(o *nearcache.Options) { o.RemoteTimeout = -1 }, []string{"RemoteTimeout", "-1ns", "1ms", "1m"}},
		{"absurd RemoteTimeout", func(o *nearcache.Options) { o.RemoteTimeout = time.Hour }, []string{"RemoteTimeout", "1h"}},
		{"unknown policy", func(o *nearcache.Options) { o.OnDisconnect = 7 }, []string{"OnDisconnect", "7", "BypassLocal", "ServeStale", "FailReads"}},
		{"ServeStale without a limit", func(o *nearcache.Options) { o.OnDisconnect = nearcache.ServeStale }, []string{"StaleLimit", "0s"}},
		{"StaleLimit under MaxStaleness", func(o *nearcache.Options) {
			o.OnDisconnect, o.MaxStaleness, o.StaleLimit = nearcache.ServeStale, time.Minute, time.Second
		}, []string{"StaleLimit", "1s", "1m0s"}},
		{"absurd StaleLimit", func(o *nearcache.Options) {
			o.OnDisconnect, o.StaleLimit = nearcache.ServeStale, 1000*time.Hour
		}, []string{"StaleLimit", "24h"}},
		{"StaleLimit without ServeStale", func(o *nearcache.Options) { o.StaleLimit = time.Minute }, []string{"StaleLimit", "ServeStale", "BypassLocal"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			options := optionsAt("127.0.0.1:1")
			test.change(&options)
			client, err := nearcache.Open(t.Context(), options)
			if client != nil {
				t.Error("a client was returned")
			}
			mentions(t, err, append(test.words, "nearcache")...)
		})
	}
}

func TestConfigsThatAreRefused(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{})
	client := open(t, optionsFor(server))
	taken := newCache(t, client, nearcache.Config[string]{Name: "taken", Prefix: prefix + "taken:"})
	if taken.Name() != "taken" {
		t.Errorf("Name: %q", taken.Name())
	}
	for _, test := range []struct {
		name   string
		config nearcache.Config[string]
		words  []string
	}{
		{"no name", nearcache.Config[string]{Prefix: prefix}, []string{"Name", "required"}},
		{"no prefix", nearcache.Config[string]{Name: "c"}, []string{`"c"`, "Prefix", "required"}},
		{"prefix that is not tracked", nearcache.Config[string]{Name: "c", Prefix: "other:"}, []string{`"c"`, "Prefix", `"other:"`, "Options.Prefixes", `"test:"`}},
		{"prefix shorter than the tracked one", nearcache.Config[string]{Name: "c", Prefix: "test"}, []string{`"test"`, "Options.Prefixes"}},
		{"name twice", nearcache.Config[string]{Name: "taken", Prefix: prefix + "c:"}, []string{"Name", `"taken"`, "another"}},
		{"prefix twice", nearcache.Config[string]{Name: "c", Prefix: prefix + "taken:"}, []string{`"c"`, "Prefix", `"test:taken:"`, `"taken"`}},
		{"negative TTL", nearcache.Config[string]{Name: "c", Prefix: prefix, TTL: -1}, []string{`"c"`, "TTL", "-1ns", "1ms"}},
		{"tiny TTL", nearcache.Config[string]{Name: "c", Prefix: prefix, TTL: 1}, []string{`"c"`, "TTL", "1ns", "1ms"}},
		{"absurd TTL", nearcache.Config[string]{Name: "c", Prefix: prefix, TTL: 1 << 62}, []string{`"c"`, "TTL"}},
		{"negative LocalTTL", nearcache.Config[string]{Name: "c", Prefix: prefix, LocalTTL: -1}, []string{`"c"`, "LocalTTL", "-1ns"}},
		{"negative NegativeTTL", nearcache.Config[string]{Name: "c", Prefix: prefix, NegativeTTL: -1}, []string{`"c"`, "NegativeTTL", "-1ns"}},
		{"tiny NegativeTTL", nearcache.Config[string]{Name: "c", Prefix: prefix, NegativeTTL: 1}, []string{`"c"`, "NegativeTTL", "1ns", "1ms"}},
		{"negative LoadTimeout", nearcache.Config[string]{Name: "c", Prefix: prefix, LoadTimeout: -1}, []string{`"c"`, "LoadTimeout", "-1ns"}},
		{"Encode alone", nearcache.Config[string]{Name: "c", Prefix: prefix,
			Codec: nearcache.Codec[string]{Encode: nearcache.String().Encode}}, []string{`"c"`, "Codec", "both"}},
		{"Decode alone", nearcache.Config[string]{Name: "c", Prefix: prefix,
			Codec: nearcache.Codec[string]{Decode: nearcache.String().Decode}}, []string{`"c"`, "Codec", "both"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			cache, err := nearcache.New(client, test.config)
			if cache != nil {
				t.Error("a cache was returned")
			}
			mentions(t, err, append(test.words, "nearcache")...)
		})
	}

	// What was refused has left nothing behind.
	newCache(t, client, nearcache.Config[string]{Name: "c", Prefix: prefix})
}

func TestOpenThatFails(t *testing.T) {
	t.Parallel()

	refused := func(t *testing.T, options nearcache.Options, words ...string) error {
		t.Helper()
		client, err := nearcache.Open(t.Context(), options)
		if client != nil {
			t.Error("a client was returned")
			closeNode(t, client)
		}
		mentions(t, err, words...)
		return err
	}

	t.Run("no server", func(t *testing.T) {
		t.Parallel()
		_ = refused(t, optionsAt("127.0.0.1:1"), "127.0.0.1:1", "refused", "start a server", "correct the address")
	})

	t.Run("wrong password", func(t *testing.T) {
		t.Parallel()
		server := redistest.Start(t, redistest.Config{Password: "right"})
		options := optionsFor(server)
		options.Redis.Password = "wrong-secret"
		err := refused(t, options, server.Addr(), "WRONGPASS", "Options.Redis")
		if errors.Is(err, nearcache.ErrNoTracking) {
			t.Error("a wrong password is taken for a server that cannot track")
		}
		if strings.Contains(err.Error(), "wrong-secret") {
			t.Error("the error reveals the password")
		}
	})

	t.Run("no password", func(t *testing.T) {
		t.Parallel()
		server := redistest.Start(t, redistest.Config{Password: "right"})
		_ = refused(t, optionsFor(server), server.Addr(), "NOAUTH", "Options.Redis")
	})

	t.Run("several servers", func(t *testing.T) {
		t.Parallel()
		server := redistest.Start(t, redistest.Config{})
		options := optionsFor(server)
		options.Redis.InitAddress = append(options.Redis.InitAddress, server.Addr())
		_ = refused(t, options, "Options.Redis")
	})

	t.Run("a cluster", func(t *testing.T) {
		t.Parallel()
		server := redistest.Start(t, redistest.Config{Settings: []string{"cluster-enabled yes"}})
		_ = refused(t, optionsFor(server), "cluster", "owns slots", "redis-cli")
	})

	t.Run("a server that does not answer", func(t *testing.T) {
		t.Parallel()
		server := redistest.Start(t, redistest.Config{})
		check(t, server.Pause())
		options := optionsFor(server)
		options.RemoteTimeout = time.Minute
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		ended := make(chan error, 1)
		go func() {
			client, err := nearcache.Open(ctx, options)
			if client != nil {
				closeNode(t, client)
			}
			ended <- err
		}()
		if err := receive(t, "Open ends with its context", ended); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v", err)
		}
	})

	t.Run("context that has ended", func(t *testing.T) {
		t.Parallel()
		server := redistest.Start(t, redistest.Config{})
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := nearcache.Open(ctx, optionsFor(server)); !errors.Is(err, context.Canceled) {
			t.Errorf("%v", err)
		}
	})
}
