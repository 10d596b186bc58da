package rabbitmq_test

import (
	"net"
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/go-nearcache/nearcache/broadcast"
	"github.com/go-nearcache/nearcache/broadcast/broadcasttest"
	"github.com/go-nearcache/nearcache/broadcast/rabbitmq"
	"github.com/go-nearcache/nearcache/internal/rabbittest"
)

// harness runs the suite on the real broker. Each node reaches it through a proxy of its own, which causes the faults of the
// network.
type harness struct {
	make func(rabbitmq.Options) (broadcast.Transport, error)

	mu      sync.Mutex
	proxies map[broadcast.Transport]*broadcasttest.Proxy
}

func newHarness(make_ func(rabbitmq.Options) (broadcast.Transport, error)) *harness {
	return &harness{make: make_, proxies: make(map[broadcast.Transport]*broadcasttest.Proxy)}
}

func (h *harness) Transport(t testing.TB) broadcast.Transport {
	t.Helper()
	proxy := broadcasttest.NewProxy(t, broker().Addr())
	transport, err := h.make(rabbitmq.Options{
		URLs:   []string{rabbittest.URL(proxy.Addr())},
		Config: amqp.Config{Heartbeat: 2 * time.Second},
	})
	if err != nil {
		t.Fatal(err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.proxies[transport] = proxy
	return transport
}

func (h *harness) proxy(node broadcast.Transport) *broadcasttest.Proxy {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.proxies[node]
}

func (h *harness) Stop(t testing.TB) {
	t.Helper()
	if err := broker().StopBroker(); err != nil {
		t.Fatal(err)
	}
}

func (h *harness) Start(t testing.TB) {
	t.Helper()
	if err := broker().StartBroker(); err != nil {
		t.Fatal(err)
	}
}

// Break makes the broker close every connection.
func (h *harness) Break(t testing.TB) {
	t.Helper()
	if err := broker().CloseConnections(); err != nil {
		t.Fatal(err)
	}
}

func (h *harness) Isolate(_ testing.TB, node broadcast.Transport) (heal func()) {
	return h.proxy(node).Refuse()
}

func (h *harness) BlackHole(_ testing.TB, node broadcast.Transport) (heal func()) {
	return h.proxy(node).BlackHole()
}

// administer does something on a channel of its own, as an operator would.
func administer(t testing.TB, do func(*amqp.Channel) error) {
	t.Helper()
	conn, err := amqp.DialConfig(broker().URL(), amqp.Config{
		Dial: func(network, address string) (net.Conn, error) {
			return net.DialTimeout(network, address, 10*time.Second)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	channel, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	if err := do(channel); err != nil {
		t.Fatal(err)
	}
}
