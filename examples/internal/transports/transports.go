// Package transports gives an example each transport of the bus by its name, with a broker that the user names or else one that is
// started for the example.
package transports

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/redis/rueidis"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/go-nearcache/nearcache/broadcast"
	"github.com/go-nearcache/nearcache/broadcast/gossip"
	"github.com/go-nearcache/nearcache/broadcast/kafka"
	"github.com/go-nearcache/nearcache/broadcast/rabbitmq"
	"github.com/go-nearcache/nearcache/examples/internal/demoserver"
	"github.com/go-nearcache/nearcache/internal/rabbittest"
	"github.com/go-nearcache/nearcache/internal/redistest"
)

// Names are the names that [Open] knows.
var Names = []string{"memory", "pubsub", "sharded", "streams", "kafka", "rabbitmq", "gossip"}

// Brokers are addresses of brokers that run already. For what is empty one is started.
type Brokers struct {
	Redis    string   // host:port, or a URL
	Kafka    []string // host:port
	RabbitMQ string   // an AMQP URL
}

// A System is one transport with its broker. Its methods may be called from any goroutine, except Close.
type System struct {
	Name   string
	Where  string // the broker, for people
	Broker Broker // nil if there is none, or if it is the user's

	connect func(*Wire) (broadcast.Transport, error)
	close   func() error
}

// A Broker belongs to the example alone.
type Broker interface {
	Stop(ctx context.Context) error  // as a crash would
	Start(ctx context.Context) error // again, on the same address, with what it has stored
	// CPU is how much of a processor it has used; false means that nobody can tell.
	CPU(ctx context.Context) (time.Duration, bool)
}

// Open makes a system by its name.
func Open(ctx context.Context, name string, brokers Brokers) (*System, error) {
	switch name {
	case "memory":
		network := broadcast.NewNetwork(broadcast.NetworkOptions{})
		return &System{
			Name: name, Where: "within this process", close: func() error { return nil },
			connect: func(*Wire) (broadcast.Transport, error) { return network.Transport(), nil },
		}, nil
	case "pubsub":
		return openRedis(ctx, name, brokers.Redis, broadcast.NewRedisPubSub)
	case "sharded":
		return openRedis(ctx, name, brokers.Redis, broadcast.NewRedisSharded)
	case "streams":
		return openRedis(ctx, name, brokers.Redis, func(options broadcast.RedisOptions) (broadcast.Transport, error) {
			return broadcast.NewRedisStreams(broadcast.RedisStreamsOptions{RedisOptions: options})
		})
	case "kafka":
		return openKafka(name, brokers.Kafka)
	case "rabbitmq":
		return openRabbitMQ(ctx, name, brokers.RabbitMQ)
	case "gossip":
		return openGossip(name), nil
	}
	return nil, fmt.Errorf("there is no transport %q: it must be one of %s", name, strings.Join(Names, ", "))
}

// Transport connects one more node, by way of a wire.
func (s *System) Transport(wire *Wire) (broadcast.Transport, error) { return s.connect(wire) }

// Close ends what Open started. Transports must be closed before.
func (s *System) Close() error { return s.close() }

func openRedis(
	ctx context.Context, name, address string, connect func(broadcast.RedisOptions) (broadcast.Transport, error),
) (*System, error) {
	system := &System{Name: name}
	var option rueidis.ClientOption
	if address != "" {
		server, err := demoserver.Open(ctx, address)
		if err != nil {
			return nil, err
		}
		system.Where, option, system.close = server.String(), server.Option, server.Close
	} else {
		server, err := redistest.Run(ctx, redistest.Config{Persistent: name == "streams"})
		if err != nil {
			return nil, fmt.Errorf("no address of a Redis is given, and none can be started: %w", err)
		}
		system.Where, option, system.close = server.Addr()+", started for this program", server.ClientOption(), server.Close
		system.Broker = redisBroker{server}
	}
	system.connect = func(wire *Wire) (broadcast.Transport, error) {
		return connect(broadcast.RedisOptions{Client: through(option, wire)})
	}
	return system, nil
}

func through(option rueidis.ClientOption, wire *Wire) rueidis.ClientOption {
	option.DialCtxFn = func(ctx context.Context, address string, dialer *net.Dialer, config *tls.Config) (net.Conn, error) {
		conn, err := wire.Dial(ctx, dialer, address)
		if err == nil && config != nil {
			conn = tls.Client(conn, config)
		}
		return conn, err
	}
	return option
}

// OpenTracking starts a Redis for clients that keep their data there, and says how to connect to it by way of a wire.
func OpenTracking(ctx context.Context) (*System, func(*Wire) rueidis.ClientOption, error) {
	server, err := redistest.Run(ctx, redistest.Config{Persistent: true})
	if err != nil {
		return nil, nil, err
	}
	system := &System{
		Name: "tracking", Where: server.Addr() + ", started for this program", Broker: redisBroker{server}, close: server.Close,
		connect: func(*Wire) (broadcast.Transport, error) {
			return nil, errors.New("tracking is no transport: the server itself announces what changes")
		},
	}
	return system, func(wire *Wire) rueidis.ClientOption { return through(server.ClientOption(), wire) }, nil
}

type redisBroker struct{ server *redistest.Server }

func (b redisBroker) Stop(context.Context) error      { b.server.Kill(); return nil }
func (b redisBroker) Start(ctx context.Context) error { return b.server.Restart(ctx) }

func (b redisBroker) CPU(ctx context.Context) (time.Duration, bool) {
	info, err := b.server.Command(ctx, "INFO", "cpu").ToString()
	if err != nil {
		return 0, false
	}
	var total time.Duration
	for _, field := range []string{"used_cpu_sys", "used_cpu_user"} {
		seconds, err := strconv.ParseFloat(redistest.InfoField(info, field), 64)
		if err != nil {
			return 0, false
		}
		total += time.Duration(seconds * float64(time.Second))
	}
	return total, true
}

func openKafka(name string, addresses []string) (*System, error) {
	system := &System{Name: name, Where: strings.Join(addresses, ", "), close: func() error { return nil }}
	if len(addresses) == 0 {
		broker := &kafkaBroker{}
		var err error
		if broker.dir, err = os.MkdirTemp("", "nearcache-kafka-"); err != nil {
			return nil, err
		}
		system.close = broker.Close
		if err := broker.Start(context.Background()); err != nil {
			return nil, errors.Join(err, broker.Close())
		}
		addresses = broker.live.ListenAddrs()
		system.Broker, system.Where = broker, addresses[0]+", kfake in this process: Kafka's protocol without Kafka's work"
	}
	system.connect = func(wire *Wire) (broadcast.Transport, error) {
		return kafka.New(kafka.Options{Brokers: addresses, Client: []kgo.Opt{
			kgo.Dialer(func(ctx context.Context, _, address string) (net.Conn, error) {
				return wire.Dial(ctx, &net.Dialer{Timeout: dialTimeout}, address)
			}),
		}})
	}
	return system, nil
}

const dialTimeout = 2 * time.Second

// kafkaBroker speaks Kafka's protocol within this process, and keeps its data over a restart.
type kafkaBroker struct {
	dir  string
	port int
	live *kfake.Cluster
}

func (b *kafkaBroker) Stop(context.Context) error {
	b.live.Close()
	b.live = nil
	return nil
}

func (b *kafkaBroker) Start(context.Context) error {
	live, err := kfake.NewCluster(kfake.Ports(b.port), kfake.DataDir(b.dir), kfake.DefaultNumPartitions(1))
	if err != nil {
		return err
	}
	b.live = live
	_, port, err := net.SplitHostPort(live.ListenAddrs()[0])
	if err == nil {
		b.port, err = strconv.Atoi(port)
	}
	return err
}

func (b *kafkaBroker) CPU(context.Context) (time.Duration, bool) { return 0, false }

func (b *kafkaBroker) Close() error {
	if b.live != nil {
		b.live.Close()
	}
	return os.RemoveAll(b.dir)
}

func openRabbitMQ(ctx context.Context, name, url string) (*System, error) {
	system := &System{Name: name, Where: "the broker of the user", close: func() error { return nil }}
	if url == "" {
		server, err := rabbittest.Run(ctx)
		if err != nil {
			return nil, fmt.Errorf("no URL of a RabbitMQ is given, and none can be started: %w", err)
		}
		url = server.URL()
		system.Where, system.Broker = server.Addr()+", started for this program", rabbitBroker{server}
		system.close = func() error { server.Close(); return nil }
	}
	system.connect = func(wire *Wire) (broadcast.Transport, error) {
		return rabbitmq.NewFanout(rabbitmq.FanoutOptions{Options: rabbitmq.Options{
			URLs: []string{url},
			Config: amqp.Config{Dial: func(_, address string) (net.Conn, error) {
				conn, err := wire.Dial(context.Background(), &net.Dialer{Timeout: dialTimeout}, address)
				if err != nil {
					return nil, err
				}
				// Until the connection is open the client leaves deadlines to whoever dials.
				return conn, conn.SetDeadline(time.Now().Add(30 * time.Second))
			}},
		}})
	}
	return system, nil
}

type rabbitBroker struct{ server *rabbittest.Server }

func (b rabbitBroker) Stop(context.Context) error      { b.server.Crash(); return nil }
func (b rabbitBroker) Start(ctx context.Context) error { return b.server.Restart(ctx) }

func (b rabbitBroker) CPU(context.Context) (time.Duration, bool) {
	used, err := b.server.Eval("element(1, erlang:statistics(runtime))")
	if err != nil {
		return 0, false
	}
	milliseconds, err := strconv.Atoi(used)
	return time.Duration(milliseconds) * time.Millisecond, err == nil
}

// openGossip makes a system whose nodes find each other by those that were there before.
func openGossip(name string) *System {
	var mu sync.Mutex
	var seeds []string
	return &System{
		Name: name, Where: "no broker", close: func() error { return nil },
		connect: func(wire *Wire) (broadcast.Transport, error) {
			mu.Lock()
			defer mu.Unlock()
			var listening error
			transport, err := gossip.New(gossip.Options{
				Bind: "127.0.0.1:0", Seeds: slices.Clone(seeds),
				Configure: func(config *memberlist.Config) {
					inner, err := memberlist.NewNetTransport(&memberlist.NetTransportConfig{
						BindAddrs: []string{config.BindAddr}, Logger: log.New(io.Discard, "", 0),
					})
					if err != nil {
						listening = err
						return
					}
					config.BindPort, config.AdvertisePort = inner.GetAutoBindPort(), inner.GetAutoBindPort()
					config.Transport = newMembers(inner, wire)
				},
			})
			if err = errors.Join(listening, err); err != nil {
				return nil, err
			}
			seeds = append(seeds, transport.Addr())
			return transport, nil
		},
	}
}
