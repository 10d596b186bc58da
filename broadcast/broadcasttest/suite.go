// Package broadcasttest is the conformance suite of transports: every implementation of broadcast.Transport runs it, with
// the same scenarios and faults, so that what doc.go of package broadcast promises holds on each of them.
//
//	func TestConformance(t *testing.T) {
//		broadcasttest.Run(t, broadcasttest.Config{
//			Name:  "memory",
//			Start: func(t testing.TB) broadcasttest.Harness { return newHarness(t) },
//		})
//	}
//
// A [Harness] gives transports; the faults it can cause are optional interfaces that it implements: [Stopper],
// [Breaker], [Isolator], [BlackHoler], [Trimmer], [Disturber]. A fault that is not offered is not run, and the log says so.
// Every fault writes an accounting line: what was published, delivered and reported lost, and unreported, which must be 0. A fault that only one
// transport has is run in the same way with [RunFault].
package broadcasttest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"go.opentelemetry.io/otel/propagation"
	"go.uber.org/goleak"

	"github.com/go-nearcache/nearcache/broadcast"
	"github.com/go-nearcache/nearcache/telemetry"
)

// Config says what to test.
type Config struct {
	// Name stands in the accounting lines. Required.
	Name string
	// Start makes the harness of one scenario. It may start a broker, or share one: topics are never used twice. What it
	// starts ends with the test. Required.
	Start func(t testing.TB) Harness
	// Nodes is how many nodes the largest scenario has. Default 100.
	Nodes int
	// Topics is how many topics one bus listens on in the scenario of many topics. Default 100.
	Topics int
	// ReconnectWithin bounds the time from the end of a fault to the next delivery. Default 15 s.
	ReconnectWithin time.Duration
	// Patience bounds everything else that is waited for. Default 60 s.
	Patience time.Duration
	// Options vary the buses' options, if set; the suite has filled in Transport, Heartbeat and Telemetry.
	Options func(*broadcast.Options)
}

// Harness gives the transports under test.
type Harness interface {
	// Transport connects one more node. The suite closes it, through its bus.
	Transport(t testing.TB) broadcast.Transport
}

// Stopper is a Harness whose broker can be stopped and started again on the same address.
type Stopper interface {
	Stop(t testing.TB)
	Start(t testing.TB)
}

// Breaker is a Harness that can break all connections at once, as the broker or a firewall would.
type Breaker interface{ Break(t testing.TB) }

// Isolator is a Harness that can cut one node's transport off, so that its connections break and fail until heal.
type Isolator interface {
	Isolate(t testing.TB, node broadcast.Transport) (heal func())
}

// BlackHoler is a Harness that can make one node's packets vanish, without closing its connections, until heal.
type BlackHoler interface {
	BlackHole(t testing.TB, node broadcast.Transport) (heal func())
}

// Trimmer is a Harness whose broker stores messages and can drop all those stored on a topic.
type Trimmer interface {
	Trim(t testing.TB, topic string)
}

// Disturber is a Harness whose network can lose and duplicate frames at random. loss is a probability; 0 ends it.
type Disturber interface {
	Disturb(t testing.TB, loss float64)
}

// withDefaults returns the config with its defaults filled in.
func (c Config) withDefaults(t *testing.T) Config {
	t.Helper()
	if c.Name == "" || c.Start == nil {
		t.Fatal("broadcasttest: Config.Name and Config.Start are required")
	}
	for _, field := range []struct {
		value    *time.Duration
		standard time.Duration
	}{{&c.ReconnectWithin, 15 * time.Second}, {&c.Patience, 60 * time.Second}} {
		if *field.value == 0 {
			*field.value = field.standard
		}
	}
	for _, field := range []struct {
		value    *int
		standard int
	}{{&c.Nodes, 100}, {&c.Topics, 100}} {
		if *field.value == 0 {
			*field.value = field.standard
		}
	}
	return c
}

// Run runs every scenario as a subtest.
func Run(t *testing.T, config Config) {
	config = config.withDefaults(t)
	for _, scenario := range []struct {
		name string
		run  func(*suite)
	}{
		{"SubscribeIsLive", (*suite).subscribeIsLive},
		{"Order", (*suite).order},
		{"Packing", (*suite).packing},
		{"OwnMessages", (*suite).ownMessages},
		{"Fields", (*suite).fields},
		{"TraceContext", (*suite).traceContext},
		{"SizeLimit", (*suite).sizeLimit},
		{"BadFrames", (*suite).badFrames},
		{"ManyTopics", (*suite).manyTopics},
		{"ManyNodes", (*suite).manyNodes},
		{"Unsubscribe", (*suite).unsubscribe},
		{"SlowHandler", (*suite).slowHandler},
		{"Presence", (*suite).presence},
		{"Requests", (*suite).requests},
		{"Close", (*suite).close},
		{"BrokerRestart", (*suite).brokerRestart},
		{"Outbox", (*suite).outbox},
		{"ConnectionsBroken", (*suite).connectionsBroken},
		{"Isolation", (*suite).isolation},
		{"BlackHole", (*suite).blackHole},
		{"Trim", (*suite).trim},
		{"Loss", (*suite).loss},
	} {
		t.Run(scenario.name, func(t *testing.T) {
			s := &suite{T: t, config: config, harness: config.Start(t)}
			s.leaks = goleak.IgnoreCurrent()
			scenario.run(s)
		})
	}
}

// suite is one scenario under way.
type suite struct {
	*testing.T
	config  Config
	harness Harness
	leaks   goleak.Option
	nodes   int
}

// node is a bus and the transport below it.
type node struct {
	*broadcast.Bus
	transport broadcast.Transport
}

const heartbeat = 200 * time.Millisecond

// node connects one more node. It is closed when the test ends, if not before.
func (s *suite) node(options ...func(*broadcast.Options)) node {
	s.Helper()
	s.nodes++
	transport := s.harness.Transport(s)
	t, err := telemetry.New(telemetry.Options{
		Propagator: propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{}),
	})
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { _ = t.Close() })
	o := broadcast.Options{
		Transport: transport, Heartbeat: heartbeat, Telemetry: t,
		Origin: fmt.Sprintf("node-%d-%s", s.nodes, unique()),
	}
	if s.config.Options != nil {
		s.config.Options(&o)
	}
	for _, option := range options {
		option(&o)
	}
	bus, err := broadcast.New(o)
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { s.closeBus(bus) })
	return node{Bus: bus, transport: transport}
}

func (s *suite) closeBus(bus *broadcast.Bus) {
	s.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), s.config.Patience)
	defer cancel()
	if err := bus.Close(ctx); err != nil {
		s.Errorf("close: %v", err)
	}
}

func unique() string { return fmt.Sprintf("%08x", rand.Uint32()) }

// topic returns a name that nothing else uses.
func (s *suite) topic() string { return "conformance-" + unique() }

// patient returns a context that ends when the suite's patience does.
func (s *suite) patient() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), s.config.Patience)
	s.Cleanup(cancel)
	return ctx
}

// listen subscribes a new recorder.
func (s *suite) listen(n node, topic string, options ...broadcast.SubscribeOption) *Recorder {
	s.Helper()
	r := NewRecorder(nil)
	s.subscribe(n, topic, r, options...)
	return r
}

func (s *suite) subscribe(n node, topic string, r *Recorder, options ...broadcast.SubscribeOption) *broadcast.Subscription {
	s.Helper()
	subscription, err := n.Subscribe(s.patient(), topic, r.Handler(), options...)
	if err != nil {
		s.Fatalf("subscribe: %v", err)
	}
	return subscription
}

// publish sends one message that must be accepted.
func (s *suite) publish(n node, topic, payload string) {
	s.Helper()
	if err := n.Publish(s.patient(), broadcast.Message{Topic: topic, Payload: []byte(payload)}); err != nil {
		s.Fatalf("publish: %v", err)
	}
}

// notOffered says that the harness cannot cause a fault.
func (s *suite) notOffered(fault string) {
	s.Logf("accounting: transport=%s fault=%s not offered by the harness", s.config.Name, fault)
}

// traffic is publishers at work.
type traffic struct {
	ledger *ledger
	stop   context.CancelFunc
	ended  chan struct{}
}

// traffic publishes from every node, about one message a millisecond, until it is stopped. What is not accepted in time is
// not booked: its publisher knows.
func (s *suite) traffic(topic string, publishers ...node) *traffic {
	ctx, stop := context.WithCancel(context.Background())
	t := &traffic{ledger: newLedger(), stop: stop, ended: make(chan struct{})}
	running := make(chan struct{}, len(publishers))
	for _, p := range publishers {
		go func() {
			defer func() { running <- struct{}{} }()
			pace := time.NewTicker(time.Millisecond)
			defer pace.Stop()
			for n := uint64(1); ; n++ {
				select {
				case <-ctx.Done():
					return
				case <-pace.C:
				}
				attempt, cancel := context.WithTimeout(context.Background(), s.config.Patience)
				_ = t.ledger.publish(attempt, p.Bus, topic, n)
				cancel()
			}
		}()
	}
	go func() {
		defer close(t.ended)
		for range publishers {
			<-running
		}
	}()
	s.Cleanup(t.end)
	return t
}

// end stops the publishers and waits for them.
func (t *traffic) end() {
	t.stop()
	<-t.ended
}

// flowing waits until every recorder has had a number of further messages from every node.
func (s *suite) flowing(within time.Duration, further int, from []node, recorders ...*Recorder) {
	s.Helper()
	for _, r := range recorders {
		events, _ := r.snapshot()
		start := len(events)
		r.Await(s, within, "messages from every publisher", func() bool {
			events, _ := r.snapshot()
			counts := make(map[string]int)
			for _, e := range events[start:] {
				counts[e.message.Origin]++
			}
			for _, n := range from {
				if counts[n.Origin()] < further {
					return false
				}
			}
			return true
		})
	}
}

// underFault runs publishers and subscribers, lets fault happen (which returns when it is over), demands that messages flow again
// within the bound, and audits.
func (s *suite) underFault(fault string, cause func(topic string, publishers, subscribers []node)) account {
	s.Helper()
	topic := s.topic()
	publishers := []node{s.node(), s.node()}
	subscribers := []node{s.node(), s.node()}
	var recorders []*Recorder
	for _, n := range subscribers {
		recorders = append(recorders, s.listen(n, topic))
	}
	t := s.traffic(topic, publishers...)
	s.flowing(s.config.Patience, 20, publishers, recorders...)
	cause(topic, publishers, subscribers)
	healed := time.Now()
	s.flowing(s.config.ReconnectWithin, 20, publishers, recorders...)
	s.Logf("transport=%s fault=%s delivery resumed within %v", s.config.Name, fault, time.Since(healed).Round(time.Millisecond))
	t.end()
	return t.ledger.awaitBalance(s, s.config.Patience, s.config.Name, fault, recorders...)
}
