package broadcast_test

import (
	"context"
	"crypto/tls"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/go-nearcache/nearcache/broadcast"
	"github.com/go-nearcache/nearcache/broadcast/broadcasttest"
	"github.com/go-nearcache/nearcache/internal/redistest"
)

// redisHarness runs the suite on a real server. Each node reaches it through a proxy of its own, which causes the faults.
type redisHarness struct {
	server *redistest.Server
	make   func(broadcast.RedisOptions) (broadcast.Transport, error)

	mu      sync.Mutex
	proxies map[broadcast.Transport]*broadcasttest.Proxy
}

func newRedisHarness(
	t testing.TB, config redistest.Config, make_ func(broadcast.RedisOptions) (broadcast.Transport, error),
) *redisHarness {
	return &redisHarness{
		server: redistest.Start(t, config), make: make_, proxies: make(map[broadcast.Transport]*broadcasttest.Proxy),
	}
}

func (h *redisHarness) Transport(t testing.TB) broadcast.Transport {
	t.Helper()
	proxy := broadcasttest.NewProxy(t, h.server.Addr())
	option := h.server.ClientOption()
	option.Dialer.Timeout = 30 * time.Second // a hundred nodes on a loaded machine
	// A cluster's clients learn the server's own address, so the proxy is put below the dialling.
	option.DialCtxFn = func(ctx context.Context, _ string, dialer *net.Dialer, _ *tls.Config) (net.Conn, error) {
		return proxy.Dial(ctx, dialer)
	}
	transport, err := h.make(broadcast.RedisOptions{Client: option})
	if err != nil {
		t.Fatal(err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.proxies[transport] = proxy
	return transport
}

func (h *redisHarness) proxy(node broadcast.Transport) *broadcasttest.Proxy {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.proxies[node]
}

func (h *redisHarness) Stop(testing.TB) { h.server.Kill() }

func (h *redisHarness) Start(t testing.TB) {
	t.Helper()
	if err := h.server.Restart(context.Background()); err != nil {
		t.Fatal(err)
	}
}

// Break kills every connection on the server.
func (h *redisHarness) Break(t testing.TB) {
	t.Helper()
	for _, kind := range []string{"normal", "pubsub"} {
		h.server.Do(t, "CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
	}
}

func (h *redisHarness) Isolate(_ testing.TB, node broadcast.Transport) (heal func()) {
	return h.proxy(node).Refuse()
}

func (h *redisHarness) BlackHole(_ testing.TB, node broadcast.Transport) (heal func()) {
	return h.proxy(node).BlackHole()
}

func TestConformanceRedisPubSub(t *testing.T) {
	broadcasttest.Run(t, broadcasttest.Config{
		Name: "redis-pubsub",
		Start: func(t testing.TB) broadcasttest.Harness {
			return newRedisHarness(t, redistest.Config{}, broadcast.NewRedisPubSub)
		},
	})
}

// startSharded starts a cluster of one server that owns every slot.
func startSharded(t testing.TB) *redisHarness {
	t.Helper()
	h := newRedisHarness(t, redistest.Config{
		Persistent: true,
		Settings:   []string{"cluster-enabled yes", "cluster-require-full-coverage no"},
	}, broadcast.NewRedisSharded)
	h.server.Do(t, "CLUSTER", "ADDSLOTSRANGE", "0", "16383")
	return h
}

func TestConformanceRedisSharded(t *testing.T) {
	broadcasttest.Run(t, broadcasttest.Config{
		Name:  "redis-sharded",
		Start: func(t testing.TB) broadcasttest.Harness { return startSharded(t) },
	})
}

// streamsHarness adds trimming.
type streamsHarness struct{ *redisHarness }

func (h streamsHarness) Trim(t testing.TB, topic string) {
	t.Helper()
	h.server.Do(t, "XTRIM", "{nearcache:bus:}stream:"+topic, "MAXLEN", "0")
}

func TestConformanceRedisStreams(t *testing.T) {
	for name, config := range map[string]redistest.Config{
		"redis-streams":            {Persistent: true},
		"redis-streams-forgetting": {}, // loses its streams in a restart
	} {
		t.Run(name, func(t *testing.T) {
			broadcasttest.Run(t, broadcasttest.Config{
				Name: name,
				Start: func(t testing.TB) broadcasttest.Harness {
					return streamsHarness{newRedisHarness(t, config, func(o broadcast.RedisOptions) (broadcast.Transport, error) {
						return broadcast.NewRedisStreams(broadcast.RedisStreamsOptions{RedisOptions: o})
					})}
				},
			})
		})
	}
}
