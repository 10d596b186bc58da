package kafka_test

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/go-nearcache/nearcache/broadcast"
	"github.com/go-nearcache/nearcache/broadcast/broadcasttest"
	"github.com/go-nearcache/nearcache/broadcast/kafka"
)

// cluster is one broker, real or fake.
type cluster interface {
	Addr() string
	Stop(t testing.TB)
	Start(t testing.TB)
}

// harness runs the suite on a cluster. Each node reaches it through a proxy of its own, which causes the faults of the
// network.
type harness struct {
	cluster
	vary func(*kafka.Options)

	mu      sync.Mutex
	proxies map[broadcast.Transport]*broadcasttest.Proxy
}

func newHarness(c cluster, vary func(*kafka.Options)) *harness {
	return &harness{cluster: c, vary: vary, proxies: make(map[broadcast.Transport]*broadcasttest.Proxy)}
}

func (h *harness) Transport(t testing.TB) broadcast.Transport {
	t.Helper()
	proxy := broadcasttest.NewProxy(t, h.Addr())
	options := kafka.Options{
		Brokers: []string{h.Addr()},
		// A client learns the brokers' own addresses, so the proxy is put below the dialling.
		Client: []kgo.Opt{kgo.Dialer(func(ctx context.Context, _, _ string) (net.Conn, error) {
			return proxy.Dial(ctx, &net.Dialer{Timeout: time.Second})
		})},
	}
	if h.vary != nil {
		h.vary(&options)
	}
	transport, err := kafka.New(options)
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

func (h *harness) Break(testing.TB) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, proxy := range h.proxies {
		proxy.Break()
	}
}

func (h *harness) Isolate(_ testing.TB, node broadcast.Transport) (heal func()) {
	return h.proxy(node).Refuse()
}

func (h *harness) BlackHole(_ testing.TB, node broadcast.Transport) (heal func()) {
	return h.proxy(node).BlackHole()
}

const prefix = "nearcache.bus." // the default one

// Trim drops what is stored, as retention does.
func (h *harness) Trim(t testing.TB, topic string) {
	t.Helper()
	request := kmsg.NewPtrDeleteRecordsRequest()
	request.TimeoutMillis = 10_000
	part := kmsg.NewDeleteRecordsRequestTopicPartition()
	part.Offset = -1 // all
	about := kmsg.NewDeleteRecordsRequestTopic()
	about.Topic = prefix + topic
	about.Partitions = append(about.Partitions, part)
	request.Topics = append(request.Topics, about)
	h.administer(t, func(ctx context.Context, client *kgo.Client) error {
		response, err := request.RequestWith(ctx, client)
		if err != nil {
			return err
		}
		return kerr.ErrorForCode(response.Topics[0].Partitions[0].ErrorCode)
	})
}

// deleteTopic does what an operator might.
func (h *harness) deleteTopic(t testing.TB, topic string) {
	t.Helper()
	request := kmsg.NewPtrDeleteTopicsRequest()
	request.TimeoutMillis = 10_000
	request.TopicNames = []string{prefix + topic}
	about := kmsg.NewDeleteTopicsRequestTopic()
	about.Topic = new(prefix + topic)
	request.Topics = append(request.Topics, about)
	h.administer(t, func(ctx context.Context, client *kgo.Client) error {
		response, err := request.RequestWith(ctx, client)
		if err != nil {
			return err
		}
		return kerr.ErrorForCode(response.Topics[0].ErrorCode)
	})
}

func (h *harness) administer(t testing.TB, do func(context.Context, *kgo.Client) error) {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(h.Addr()))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := do(ctx, client); err != nil {
		t.Fatal(err)
	}
}
