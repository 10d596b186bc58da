package broadcast_test

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/go-nearcache/nearcache/broadcast"
	"github.com/go-nearcache/nearcache/broadcast/broadcasttest"
	"github.com/go-nearcache/nearcache/internal/redistest"
)

const patience = time.Minute

// constructors of the Redis transports, by name.
var redisTransports = map[string]func(broadcast.RedisOptions) (broadcast.Transport, error){
	"pubsub":  broadcast.NewRedisPubSub,
	"sharded": broadcast.NewRedisSharded,
	"streams": func(o broadcast.RedisOptions) (broadcast.Transport, error) {
		return broadcast.NewRedisStreams(broadcast.RedisStreamsOptions{RedisOptions: o})
	},
}

func must1[T any](t testing.TB) func(T, error) T {
	return func(value T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
}

// TestRedisPermissions runs each transport as a user who may do what its documentation says and nothing else.
func TestRedisPermissions(t *testing.T) {
	connect := "+hello +ping +cluster|slots +cluster|shards "
	users := map[string]string{
		"pubsub":  connect + "+publish +subscribe +unsubscribe &nearcache:bus:*",
		"sharded": connect + "+spublish +ssubscribe +sunsubscribe &nearcache:bus:*",
		"streams": connect + "+xadd +xread +xinfo|stream +multi +exec +client|unblock ~{nearcache:bus:}*",
	}
	server := redistest.Start(t, redistest.Config{})
	if !server.Version().AtLeast(7, 0) { // it has neither sharded Pub/Sub nor the commands that go with it
		delete(users, "sharded")
		connect := strings.ReplaceAll(connect, "+cluster|shards ", "")
		users["pubsub"] = connect + "+publish +subscribe +unsubscribe &nearcache:bus:*"
		users["streams"] = connect + "+xadd +xread +xinfo +multi +exec +client|unblock ~{nearcache:bus:}*"
	}
	for name, rights := range users {
		t.Run(name, func(t *testing.T) {
			server.Do(t, append([]string{"ACL", "SETUSER", "bus", "reset", "on", ">secret", "resetchannels"}, strings.Fields(rights)...)...)
			option := server.ClientOption()
			option.Username, option.Password = "bus", "secret"
			node := func() *broadcast.Bus {
				return newBus(t, broadcast.Options{
					Transport: must1[broadcast.Transport](t)(redisTransports[name](broadcast.RedisOptions{Client: option})),
				})
			}
			publisher, subscriber := node(), node()
			r := broadcasttest.NewRecorder(nil)
			s := subscribe(t, subscriber, r.Handler())
			publish(t, publisher, "one")
			r.AwaitPayload(t, patience, "one")
			server.Do(t, "CLIENT", "KILL", "USER", "bus")
			r.Await(t, patience, "the link to be live again", func() bool { return len(r.Gaps()) > 0 && s.Live() })
			publish(t, publisher, "two")
			r.AwaitPayload(t, patience, "two")
			if err := s.Close(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestRedisRefusal: a user without the rights is told so at once, instead of being tried again.
func TestRedisRefusal(t *testing.T) {
	server := redistest.Start(t, redistest.Config{Users: []string{"bus on >secret resetchannels +hello +client +ping +cluster"}})
	option := server.ClientOption()
	option.Username, option.Password = "bus", "secret"
	for name, make := range redisTransports {
		t.Run(name, func(t *testing.T) {
			bus := newBus(t, broadcast.Options{
				Transport: must1[broadcast.Transport](t)(make(broadcast.RedisOptions{Client: option})),
			})
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			if err := bus.Publish(ctx, broadcast.Message{Topic: "topic"}); !errors.Is(err, broadcast.ErrRejected) {
				t.Errorf("publish gave %v, want ErrRejected", err)
			}
			_, err := bus.Subscribe(ctx, "topic", broadcasttest.NewRecorder(nil).Handler())
			if !errors.Is(err, broadcast.ErrRejected) {
				t.Errorf("subscribe gave %v, want ErrRejected", err)
			}
		})
	}
}

// TestRedisRESP2: where the server or a proxy in front of it cannot speak RESP3.
func TestRedisRESP2(t *testing.T) {
	server := redistest.Start(t, redistest.Config{})
	option := server.ClientOption()
	option.AlwaysRESP2 = true
	for name, make := range redisTransports {
		t.Run(name, func(t *testing.T) {
			node := func() *broadcast.Bus {
				return newBus(t, broadcast.Options{
					Transport: must1[broadcast.Transport](t)(make(broadcast.RedisOptions{Client: option, Prefix: name + ":"})),
				})
			}
			publisher, subscriber := node(), node()
			r := broadcasttest.NewRecorder(nil)
			s := subscribe(t, subscriber, r.Handler())
			publish(t, publisher, "one")
			r.AwaitPayload(t, patience, "one")
			server.Do(t, "CLIENT", "KILL", "TYPE", "pubsub")
			server.Do(t, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
			r.Await(t, patience, "the link to be live again", func() bool { return len(r.Gaps()) > 0 && s.Live() })
			publish(t, publisher, "two")
			r.AwaitPayload(t, patience, "two")
		})
	}
}

// TestRedisSlowConsumerKill: a node that does not read (its packets vanish) is cut off by the server when its output limit
// is exceeded, and is told when it is back.
func TestRedisSlowConsumerKill(t *testing.T) {
	server := redistest.Start(t, redistest.Config{Settings: []string{"client-output-buffer-limit pubsub 100kb 0 0"}})
	proxy := broadcasttest.NewProxy(t, server.Addr())
	option := server.ClientOption()
	option.InitAddress = []string{proxy.Addr()}
	option.ConnWriteTimeout = patience // so that it is the server that ends the connection
	subscriber := newBus(t, broadcast.Options{
		Transport: must1[broadcast.Transport](t)(broadcast.NewRedisPubSub(broadcast.RedisOptions{Client: option})),
	})
	publisher := redisBus(t, server)
	r := broadcasttest.NewRecorder(nil)
	subscribe(t, subscriber, r.Handler())
	publish(t, publisher, "before")
	r.AwaitPayload(t, patience, "before")

	heal := proxy.BlackHole()
	large := strings.Repeat("x", 900<<10)
	for range 100 { // more than the kernel's buffers take
		publish(t, publisher, large)
		if strings.Contains(server.Log(), "output buffer limits") {
			break
		}
	}
	if !strings.Contains(server.Log(), "output buffer limits") {
		t.Fatal("the server did not cut the slow subscriber off")
	}
	heal()
	r.Await(t, patience, "the link to be live again", func() bool {
		return slices.ContainsFunc(r.Gaps(), broadcast.Gap.MustFlush)
	})
	publish(t, publisher, "after")
	r.AwaitPayload(t, patience, "after")
}

// startCluster starts servers that form a cluster, all slots on the first.
func startCluster(t *testing.T, size int) []*redistest.Server {
	t.Helper()
	servers := make([]*redistest.Server, size)
	for i := range servers {
		servers[i] = redistest.Start(t, redistest.Config{Settings: []string{"cluster-enabled yes", "cluster-node-timeout 5000"}})
	}
	servers[0].Do(t, "CLUSTER", "ADDSLOTSRANGE", "0", "16383")
	for _, s := range servers[1:] {
		host, port, _ := strings.Cut(s.Addr(), ":")
		servers[0].Do(t, "CLUSTER", "MEET", host, port)
	}
	for _, s := range servers {
		eventually(t, "the cluster to form", func() bool {
			info := must1[string](t)(new(s.Do(t, "CLUSTER", "INFO")).ToString())
			nodes := must1[string](t)(new(s.Do(t, "CLUSTER", "NODES")).ToString())
			return strings.Contains(info, "cluster_state:ok") && strings.Count(nodes, " connected") == size &&
				!strings.Contains(nodes, "handshake")
		})
	}
	return servers
}

// eventually polls what gives no notice.
func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", patience, what)
		}
		<-tick.C
	}
}

// TestRedisShardedSlotMigration moves a topic's slot to another server under its subscribers.
func TestRedisShardedSlotMigration(t *testing.T) {
	servers := startCluster(t, 2)
	option := rueidis.ClientOption{InitAddress: []string{servers[0].Addr()}}
	node := func() *broadcast.Bus {
		return newBus(t, broadcast.Options{
			Transport: must1[broadcast.Transport](t)(broadcast.NewRedisSharded(broadcast.RedisOptions{Client: option})),
			Heartbeat: 200 * time.Millisecond,
		})
	}
	publisher, subscriber := node(), node()
	r := broadcasttest.NewRecorder(nil)
	s := subscribe(t, subscriber, r.Handler())
	publish(t, publisher, "before")
	r.AwaitPayload(t, patience, "before")

	slot := strconv.FormatInt(must1[int64](t)(new(servers[0].Do(t, "CLUSTER", "KEYSLOT", "nearcache:bus:topic")).AsInt64()), 10)
	target := must1[string](t)(new(servers[1].Do(t, "CLUSTER", "MYID")).ToString())
	source := must1[string](t)(new(servers[0].Do(t, "CLUSTER", "MYID")).ToString())
	servers[1].Do(t, "CLUSTER", "SETSLOT", slot, "IMPORTING", source)
	servers[0].Do(t, "CLUSTER", "SETSLOT", slot, "MIGRATING", target)
	servers[1].Do(t, "CLUSTER", "SETSLOT", slot, "NODE", target)
	servers[0].Do(t, "CLUSTER", "SETSLOT", slot, "NODE", target)

	moved := time.Now()
	r.Await(t, patience, "the move to be reported", func() bool { return len(r.Gaps()) >= 2 && s.Live() })
	t.Logf("the subscription was live on the other server %v after the move", time.Since(moved).Round(time.Millisecond))
	publish(t, publisher, "after")
	r.AwaitPayload(t, patience, "after")
}

// TestRedisCluster: every transport works on a cluster of several servers, through nodes that entered it at different ones.
func TestRedisCluster(t *testing.T) {
	servers := startCluster(t, 2)
	for name, make := range redisTransports {
		t.Run(name, func(t *testing.T) {
			var buses []*broadcast.Bus
			for _, server := range servers {
				option := rueidis.ClientOption{InitAddress: []string{server.Addr()}}
				buses = append(buses, newBus(t, broadcast.Options{
					Transport: must1[broadcast.Transport](t)(make(broadcast.RedisOptions{Client: option, Prefix: name + ":"})),
				}))
			}
			for i, bus := range buses {
				r := broadcasttest.NewRecorder(nil)
				s := subscribe(t, bus, r.Handler())
				publish(t, buses[1-i], "one")
				r.AwaitPayload(t, patience, "one")
				if err := s.Close(t.Context()); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

func TestRedisOptionsAreChecked(t *testing.T) {
	for name, make := range redisTransports {
		if _, err := make(broadcast.RedisOptions{}); err == nil || !strings.Contains(err.Error(), "InitAddress") {
			t.Errorf("%s without an address gave %v", name, err)
		}
		option := rueidis.ClientOption{InitAddress: []string{"127.0.0.1:1"}}
		if _, err := make(broadcast.RedisOptions{Client: option}); err == nil || !strings.Contains(err.Error(), "127.0.0.1:1") {
			t.Errorf("%s at an address where nothing listens gave %v", name, err)
		}
	}
	_, err := broadcast.NewRedisStreams(broadcast.RedisStreamsOptions{MaxLength: 10})
	if err == nil || !strings.Contains(err.Error(), "MaxLength") {
		t.Errorf("a short MaxLength gave %v", err)
	}
}
