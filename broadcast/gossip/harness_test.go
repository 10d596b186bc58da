package gossip_test

import (
	"context"
	"errors"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/go-nearcache/nearcache/broadcast"
	"github.com/go-nearcache/nearcache/broadcast/gossip"
)

// harness runs members over the loopback device, and loses, repeats and stops what they send each other.
type harness struct {
	vary func(*gossip.Options)

	mu    sync.Mutex
	open  []*member
	loss  float64
	sides map[string]*side // by address; nil: the common side
}

// side is a part of a network that is divided.
type side struct {
	silent bool // connections to and from it hang instead of failing
	healed chan struct{}
}

func newHarness(vary func(*gossip.Options)) *harness {
	return &harness{vary: vary, sides: make(map[string]*side)}
}

// member is a node, which is no seed for others any more once it is closed.
type member struct {
	*gossip.Transport
	harness *harness
}

func (m *member) Close(ctx context.Context) error {
	m.harness.mu.Lock()
	for i, other := range m.harness.open {
		if other == m {
			m.harness.open = append(m.harness.open[:i:i], m.harness.open[i+1:]...)
			break
		}
	}
	m.harness.mu.Unlock()
	return m.Transport.Close(ctx)
}

// Transport connects one more node, and returns when it has joined.
func (h *harness) Transport(t testing.TB) broadcast.Transport {
	t.Helper()
	options := gossip.Options{Bind: "127.0.0.1:0", Configure: func(config *memberlist.Config) {
		inner, err := memberlist.NewNetTransport(&memberlist.NetTransportConfig{
			BindAddrs: []string{config.BindAddr}, Logger: log.New(io.Discard, "", 0),
		})
		if err != nil {
			t.Fatal(err)
		}
		config.BindPort, config.AdvertisePort = inner.GetAutoBindPort(), inner.GetAutoBindPort()
		config.Transport = &lossy{NetTransport: inner, harness: h, address: hostPort(config.BindPort)}
	}}
	h.mu.Lock()
	for _, i := range rand.Perm(len(h.open))[:min(3, len(h.open))] {
		options.Seeds = append(options.Seeds, h.open[i].Addr())
	}
	h.mu.Unlock()
	if h.vary != nil {
		h.vary(&options)
	}
	transport, err := gossip.New(options)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	listener, err := transport.Listen(ctx, "joined", ignore{})
	if err != nil {
		t.Fatal(err)
	}
	if err := listener.Close(ctx); err != nil {
		t.Fatal(err)
	}
	m := &member{Transport: transport, harness: h}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.open = append(h.open, m)
	return m
}

// ignore is a receiver that does.
type ignore struct{}

func (ignore) Frame([]byte)      {}
func (ignore) Gap(broadcast.Gap) {}

// Disturb implements [broadcasttest.Disturber].
func (h *harness) Disturb(_ testing.TB, loss float64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.loss = loss
}

// Isolate implements [broadcasttest.Isolator].
func (h *harness) Isolate(_ testing.TB, node broadcast.Transport) (heal func()) {
	return h.divide(false, node)
}

// BlackHole implements [broadcasttest.BlackHoler].
func (h *harness) BlackHole(_ testing.TB, node broadcast.Transport) (heal func()) {
	return h.divide(true, node)
}

// divide cuts some nodes off from all others.
func (h *harness) divide(silent bool, nodes ...broadcast.Transport) (heal func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	part := &side{silent: silent, healed: make(chan struct{})}
	for _, node := range nodes {
		h.sides[node.(*member).Addr()] = part
	}
	return sync.OnceFunc(func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		clear(h.sides)
		close(part.healed)
	})
}

// between returns what stands between two addresses.
func (h *harness) between(from, to string) *side {
	h.mu.Lock()
	defer h.mu.Unlock()
	a, b := h.sides[from], h.sides[to]
	switch {
	case a == b:
		return nil
	case a != nil:
		return a
	default:
		return b
	}
}

func (h *harness) happens() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.loss > 0 && rand.Float64() < h.loss
}

// lossy is a member's network.
type lossy struct {
	*memberlist.NetTransport
	harness *harness
	address string
}

var errCut = errors.New("the network is divided")

func (l *lossy) WriteTo(b []byte, address string) (time.Time, error) {
	return l.WriteToAddress(b, memberlist.Address{Addr: address})
}

func (l *lossy) WriteToAddress(b []byte, to memberlist.Address) (time.Time, error) {
	if l.harness.between(l.address, to.Addr) != nil || l.harness.happens() {
		return time.Now(), nil
	}
	if l.harness.happens() {
		_, _ = l.NetTransport.WriteToAddress(b, to)
	}
	return l.NetTransport.WriteToAddress(b, to)
}

func (l *lossy) DialTimeout(address string, timeout time.Duration) (net.Conn, error) {
	return l.DialAddressTimeout(memberlist.Address{Addr: address}, timeout)
}

func (l *lossy) DialAddressTimeout(to memberlist.Address, timeout time.Duration) (net.Conn, error) {
	if cut := l.harness.between(l.address, to.Addr); cut != nil {
		if cut.silent {
			select {
			case <-cut.healed:
			case <-time.After(timeout):
			}
		}
		return nil, errCut
	}
	if l.harness.happens() {
		return nil, errCut
	}
	return l.NetTransport.DialAddressTimeout(to, timeout)
}

func hostPort(port int) string {
	return (&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port}).String()
}
