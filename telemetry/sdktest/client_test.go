package sdktest

import (
	"context"
	"errors"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/rueidis"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/go-nearcache/nearcache"
	"github.com/go-nearcache/nearcache/broadcast"
	"github.com/go-nearcache/nearcache/internal/redistest"
	"github.com/go-nearcache/nearcache/nearcachetest"
	"github.com/go-nearcache/nearcache/telemetry"
)

// The tests here run real clients on a real server, and look at them through the SDK alone.

// patience ends the wait for what has to happen. It is long because the machine may be busy; no test passes by its end.
const patience = time.Minute

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !condition() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", patience, what)
		}
		<-time.After(2 * time.Millisecond)
	}
}

// fleet is a server and the providers that all its nodes share.
type fleet struct {
	*sdk
	t      *testing.T
	server *redistest.Server
}

func newFleet(t *testing.T) *fleet {
	t.Helper()
	return &fleet{sdk: newSDK(t, telemetry.Options{Name: "unused"}), t: t, server: redistest.Start(t, redistest.Config{})}
}

// node is a client with one cache, "users".
type node struct {
	*nearcache.Client
	users  *nearcache.Cache[string]
	faults *nearcachetest.Faults
	fleet  *fleet
	name   string
}

var errSource = errors.New("the database is on fire")

func (f *fleet) node(name string, change func(*nearcache.Options, *nearcache.Config[string])) *node {
	f.t.Helper()
	n := &node{faults: nearcachetest.NewFaults(f.t), fleet: f, name: name}
	options := nearcache.Options{
		// One connection for all data, so that what a fault holds back is an answer and not the handshake of another connection.
		Redis:          rueidis.ClientOption{InitAddress: []string{f.server.Addr()}, DialCtxFn: n.faults.Dial, PipelineMultiplex: -1},
		Prefixes:       []string{"user:"},
		RemoteTimeout:  10 * time.Second,
		Name:           name,
		MeterProvider:  f.options.MeterProvider,
		TracerProvider: f.options.TracerProvider,
		Propagator:     f.options.Propagator,
		SettleFills:    true,
	}
	config := nearcache.Config[string]{
		Name: "users", Prefix: "user:", Codec: nearcache.String(), NegativeTTL: time.Hour,
		Load: func(_ context.Context, key string) (string, error) {
			switch key {
			case "absent":
				return "", nearcache.ErrNotFound
			case "failing":
				return "", errSource
			}
			return "value of " + key, nil
		},
	}
	if change != nil {
		change(&options, &config)
	}
	var err error
	n.Client, err = nearcache.Open(f.t.Context(), options)
	check(f.t, err)
	f.t.Cleanup(func() { n.close() })
	n.users, err = nearcache.New(n.Client, config)
	check(f.t, err)
	return n
}

func (n *node) close() {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := n.Close(ctx); err != nil {
		n.fleet.t.Errorf("close: %v", err)
	}
}

func (n *node) get(key string, options ...nearcache.ReadOption) {
	n.fleet.t.Helper()
	_, err := n.users.Get(n.fleet.t.Context(), key, options...)
	check(n.fleet.t, err)
}

// warm reads until L1 answers: it may have been busy when it was to store.
func (n *node) warm(key string) {
	n.fleet.t.Helper()
	eventually(n.fleet.t, "L1 holds "+key, func() bool {
		before := n.value("nearcache.requests", "nearcache.tier=local", "nearcache.result=hit")
		n.get(key)
		return n.value("nearcache.requests", "nearcache.tier=local", "nearcache.result=hit") > before
	})
}

// seriesLine takes a line of series apart: name, attributes and value.
var seriesLine = regexp.MustCompile(`^(\S+) \S+ \S+ \{(.*)\} (\S+)$`)

// value is the sum of the node's series of a metric that have these attributes; -1 if there is none.
func (n *node) value(metric string, attributes ...string) float64 {
	n.fleet.t.Helper()
	sum, found := 0.0, false
	for _, line := range n.fleet.series(n.fleet.t) {
		parts := seriesLine.FindStringSubmatch(line)
		has := strings.Fields(parts[2])
		if parts[1] != metric || !slices.Contains(has, "nearcache.name="+n.name) ||
			slices.ContainsFunc(attributes, func(a string) bool { return !slices.Contains(has, a) }) {
			continue
		}
		v, err := strconv.ParseFloat(parts[3], 64)
		check(n.fleet.t, err)
		sum, found = sum+v, true
	}
	if !found {
		return -1
	}
	return sum
}

// grows runs an event and checks by how much a series has grown.
func (n *node) grows(by float64, metric string, attributes ...string) func(event func()) {
	return func(event func()) {
		n.fleet.t.Helper()
		before := max(n.value(metric, attributes...), 0)
		event()
		if got := n.value(metric, attributes...); got != before+by {
			n.fleet.t.Errorf("%s %v has grown from %v to %v, want by %v", metric, attributes, before, got, by)
		}
	}
}

// requests is grows for what a tier said.
func (n *node) requests(by float64, tier, result string) func(func()) {
	return n.grows(by, "nearcache.requests", "nearcache.cache=users", "nearcache.tier="+tier, "nearcache.result="+result)
}

// TestEventsOfReads makes each thing happen that a read can meet, and looks for it in the metrics.
func TestEventsOfReads(t *testing.T) {
	f := newFleet(t)
	a, b := f.node("a", nil), f.node("b", nil)

	a.requests(1, "local", "miss")(func() {
		a.requests(1, "remote", "miss")(func() {
			a.requests(1, "source", "hit")(func() {
				a.grows(1, "nearcache.load.duration", "nearcache.cache=users")(func() { a.get("1") })
			})
		})
	})
	b.requests(1, "remote", "hit")(func() { b.get("1") })
	b.warm("1")
	b.requests(1, "local", "hit")(func() { b.get("1") })
	b.requests(0, "local", "miss")(func() { b.get("1") })

	absent := func(n *node) {
		if _, err := n.users.Get(t.Context(), "absent"); !errors.Is(err, nearcache.ErrNotFound) {
			t.Errorf("absent: %v", err)
		}
	}
	a.requests(1, "source", "negative")(func() { absent(a) })
	b.requests(1, "remote", "negative")(func() { absent(b) })
	eventually(t, "L1 knows that there is none", func() bool {
		absent(b)
		return b.value("nearcache.requests", "nearcache.tier=local", "nearcache.result=negative") > 0
	})

	a.grows(1, "nearcache.load.duration", "error.type=_OTHER")(func() {
		if _, err := a.users.Get(t.Context(), "failing"); !errors.Is(err, errSource) {
			t.Errorf("failing: %v", err)
		}
	})

	a.grows(1, "nearcache.tracking.fence.duration")(func() { check(t, a.Fence(t.Context())) })
	ended, end := context.WithCancel(t.Context())
	end()
	a.grows(1, "nearcache.tracking.fence.duration", "error.type=canceled")(func() {
		if err := a.Fence(ended); err == nil {
			t.Error("a fence without time has succeeded")
		}
	})

	a.warm("1")
	a.grows(1, "nearcache.invalidations", "nearcache.source=local", "nearcache.effect=evicted")(func() {
		b.grows(1, "nearcache.invalidations", "nearcache.source=tracking", "nearcache.effect=evicted")(func() {
			check(t, a.users.Set(t.Context(), "1", "another"))
			check(t, b.Fence(t.Context()))
		})
	})
	b.grows(1, "nearcache.invalidations", "nearcache.source=tracking", "nearcache.effect=absent")(func() {
		f.server.Do(t, "SET", "user:2", "by another program")
		check(t, b.Fence(t.Context()))
	})
	b.grows(1, "nearcache.flushes", "nearcache.reason=flushall")(func() {
		f.server.Do(t, "FLUSHALL")
		check(t, b.Fence(t.Context()))
	})

	// The value is on its way to the node when it is overwritten.
	f.server.Do(t, "SET", "user:3", "old")
	check(t, b.Fence(t.Context()))
	b.grows(1, "nearcache.fills.rejected", "nearcache.reason=invalidated")(func() {
		f.server.Do(t, "CONFIG", "RESETSTAT")
		b.faults.Stall(nearcachetest.Data, nearcachetest.ToClient)
		var reading sync.WaitGroup
		reading.Go(func() { b.get("3") })
		eventually(t, "the server has answered the read", func() bool {
			info := f.server.Do(t, "INFO", "commandstats")
			text, err := info.ToString()
			return err == nil && strings.Contains(text, "cmdstat_get:calls=1,")
		})
		f.server.Do(t, "SET", "user:3", "new")
		check(t, b.Fence(t.Context()))
		b.faults.Resume(nearcachetest.Data, nearcachetest.ToClient)
		reading.Wait()
	})
}

// TestEventsOfWaits has readers wait for each other, in a process and in the fleet, and looks at their traces: each leads to the one that
// it waited for.
func TestEventsOfWaits(t *testing.T) {
	f := newFleet(t)
	loading, release := make(chan struct{}), make(chan struct{})
	a := f.node("a", func(_ *nearcache.Options, c *nearcache.Config[string]) {
		c.LoadTimeout = patience
		c.Load = func(context.Context, string) (string, error) {
			close(loading)
			<-release
			return "v", nil
		}
	})
	b := f.node("b", nil)

	read := func(n *node) (trace.SpanContext, func()) {
		ctx, span := f.options.TracerProvider.Tracer("program").Start(t.Context(), "request")
		return span.SpanContext(), func() {
			defer span.End()
			if _, err := n.users.Get(ctx, "1"); err != nil {
				t.Error(err)
			}
		}
	}
	var reading sync.WaitGroup
	leader, lead := read(a)
	reading.Go(lead)
	<-loading
	inProcess, follow := read(a)
	reading.Go(follow)
	inFleet, await := read(b)
	reading.Go(await)
	eventually(t, "both wait", func() bool {
		return a.value("nearcache.load.coalesced", "nearcache.scope=process") == 1 && b.value("nearcache.load.coalesced", "nearcache.scope=fleet") == 1
	})
	close(release)
	reading.Wait()

	requests := map[trace.TraceID]map[string]sdktrace.ReadOnlySpan{}
	eventually(t, "every span has ended", func() bool {
		clear(requests)
		for _, span := range f.recorder.Ended() {
			id := span.SpanContext().TraceID()
			if requests[id] == nil {
				requests[id] = map[string]sdktrace.ReadOnlySpan{}
			}
			requests[id][span.Name()] = span
		}
		return requests[leader.TraceID()]["EVALSHA"] != nil && requests[inFleet.TraceID()]["wait users"] != nil
	})
	of := func(request trace.SpanContext, name string) sdktrace.ReadOnlySpan {
		t.Helper()
		span := requests[request.TraceID()][name]
		if span == nil {
			t.Fatalf("no span %q in the trace: %v", name, requests[request.TraceID()])
		}
		return span
	}

	// What was asked of Redis, the lease, the load and the storing of its result, one after another, in the read.
	get := of(leader, "get users")
	if get.Parent().SpanID() != leader.SpanID() {
		t.Error("the read is not a child of the request")
	}
	var last time.Time
	for _, name := range []string{"PIPELINE", "SET", "load users", "EVALSHA"} {
		span := of(leader, name)
		if span.Parent().SpanID() != get.SpanContext().SpanID() || span.StartTime().Before(last) {
			t.Errorf("%s is not in the read, or not in its turn", name)
		}
		last = span.EndTime()
	}
	for scope, request := range map[string]trace.SpanContext{"process": inProcess, "fleet": inFleet} {
		wait := of(request, "wait users")
		if !strings.Contains(describe(wait.Attributes()), "nearcache.scope="+scope) {
			t.Errorf("%s: %s", scope, describe(wait.Attributes()))
		}
		if links := wait.Links(); len(links) != 1 || links[0].SpanContext.TraceID() != leader.TraceID() || links[0].SpanContext.SpanID() != get.SpanContext().SpanID() {
			t.Errorf("%s: links %+v, want one to the leader's read", scope, links)
		}
		if wait.Parent().SpanID() != of(request, "get users").SpanContext().SpanID() {
			t.Errorf("%s: the wait is not in its own read", scope)
		}
		if requests[request.TraceID()]["load users"] != nil {
			t.Errorf("%s: a follower has loaded", scope)
		}
	}

	// From the histogram of loads to the trace of the slow one.
	traceID, spanID := leader.TraceID(), of(leader, "load users").SpanContext().SpanID()
	if exemplars := f.histogram(t, "nearcache.load.duration").Exemplars; len(exemplars) != 1 ||
		!slices.Equal(exemplars[0].TraceID, traceID[:]) || !slices.Equal(exemplars[0].SpanID, spanID[:]) {
		t.Errorf("exemplars %+v, want the load of %v", exemplars, traceID)
	}
}

// TestKeysAreSeenOnlyIfAskedFor looks for the keys in every span and every series.
func TestKeysAreSeenOnlyIfAskedFor(t *testing.T) {
	for _, asked := range []bool{false, true} {
		f := newFleet(t)
		n := f.node("a", func(o *nearcache.Options, _ *nearcache.Config[string]) { o.TraceKeys = asked })
		n.get("secret-1")
		_, _ = n.users.Get(t.Context(), "failing")
		check(t, n.users.Set(t.Context(), "secret-1", "secret-2"))
		_, err := n.users.GetMany(t.Context(), []string{"secret-3", "secret-4"})
		check(t, err)
		seen := 0
		for _, span := range f.recorder.Ended() {
			text := span.Name() + describe(span.Attributes()) + span.Status().Description
			if strings.Contains(text, "nearcache.key=user:secret-1") {
				seen++
			} else if strings.Contains(text, "secret") {
				t.Errorf("asked %v: %s", asked, text)
			}
			if span.Name() == "get users" && strings.Contains(text, "nearcache.key.count") && !strings.Contains(text, "nearcache.key.count=2") {
				t.Errorf("two keys were missing: %s", text)
			}
		}
		if asked != (seen > 0) {
			t.Errorf("asked %v, seen in %d spans", asked, seen)
		}
		if all := strings.Join(f.series(t), "\n"); strings.Contains(all, "secret") {
			t.Error("a key is in the metrics")
		}
	}
}

// TestEventsOfTheLink has the link lost, refused, and live again.
func TestEventsOfTheLink(t *testing.T) {
	f := newFleet(t)
	const bound = 50 * time.Millisecond
	bypassing := f.node("bypassing", nil)
	serving := f.node("serving", func(o *nearcache.Options, _ *nearcache.Config[string]) {
		o.MaxStaleness, o.OnDisconnect, o.StaleLimit = bound, nearcache.ServeStale, time.Hour
	})
	for _, n := range []*node{bypassing, serving} {
		n.warm("1")
		if got := n.value("nearcache.tracking.staleness"); got < 0 {
			t.Errorf("staleness of %s: %v", n.name, got)
		}
		if got := n.value("nearcache.tracking.mode", "nearcache.mode=tracking"); got != 1 {
			t.Errorf("mode of %s: %v", n.name, got)
		}
		flushes, reconnects := n.value("nearcache.flushes", "nearcache.reason=reconnect"), n.value("nearcache.tracking.reconnects")
		n.faults.RefuseLinks()
		n.faults.Cut(nearcachetest.Links)
		eventually(t, "the link is lost", func() bool { return !n.Health().Ready })
		if n.Fence(t.Context()) == nil {
			t.Error("a fence without a link has succeeded")
		}
		// How the end of the link was told depends on who noticed it.
		if n.value("nearcache.tracking.fence.duration", "error.type=eof") != 1 && n.value("nearcache.tracking.fence.duration", "error.type=*tracking.LinkError") != 1 {
			t.Errorf("%s: the failed fence has no type", n.name)
		}
		if got := n.value("nearcache.flushes", "nearcache.reason=reconnect"); got != flushes+1 {
			t.Errorf("%s: flushes grew from %v to %v", n.name, flushes, got)
		}
		if n == bypassing {
			n.requests(1, "local", "bypass")(func() {
				n.requests(0, "local", "miss")(func() { n.get("1") })
			})
		} else {
			eventually(t, "what L1 held is past the bound and is served", func() bool {
				n.get("1")
				return n.value("nearcache.requests", "nearcache.tier=local", "nearcache.result=stale") > 0
			})
		}
		n.faults.AcceptConnections()
		eventually(t, "the link is live again", func() bool { return n.value("nearcache.tracking.reconnects") > reconnects })
	}

	// Without the server: what is asked of it fails, and its class is told.
	f.server.Kill()
	eventually(t, "the loss is seen", func() bool { return !bypassing.Health().Ready })
	bypassing.get("1") // from the source
	failed := func(errorType string) float64 {
		return max(bypassing.value("db.client.operation.duration", "db.operation.name=PIPELINE", "error.type="+errorType), 0)
	}
	// The connection that was there is closed, or a new one is refused: whichever the client finds out first.
	if failed("eof")+failed("*net.OpError")+failed("*os.SyscallError") == 0 {
		t.Errorf("no failed read of Redis in\n%s", strings.Join(f.series(t), "\n"))
	}

	bypassing.close()
	serving.close()
	for _, line := range f.series(t) {
		if kind := strings.Fields(line)[1]; kind != "histogram" { // what was recorded stays; what is observed has ended
			t.Errorf("after Close: %s", line)
		}
	}
}

// TestEventsOfTheStore fills L1 beyond its budget, and lets what it holds expire.
func TestEventsOfTheStore(t *testing.T) {
	f := newFleet(t)
	small := f.node("small", func(o *nearcache.Options, _ *nearcache.Config[string]) { o.MaxBytes = 1 << 20 })
	if usage, limit := small.value("nearcache.memory.usage"), small.value("nearcache.memory.limit"); limit != 1<<20 || usage <= 0 {
		t.Errorf("%v of %v bytes", usage, limit)
	}
	large := strings.Repeat("x", 32<<10)
	i := 0
	eventually(t, "something has to go", func() bool {
		for range 20 {
			i++
			f.server.Do(t, "SET", "user:"+strconv.Itoa(i), large)
			small.get(strconv.Itoa(i))
		}
		return small.value("nearcache.evictions", "nearcache.reason=capacity") > 0 || small.value("nearcache.evictions", "nearcache.reason=rejected") > 0
	})

	brief := f.node("brief", func(_ *nearcache.Options, c *nearcache.Config[string]) { c.LocalTTL = 10 * time.Millisecond })
	eventually(t, "something expires", func() bool {
		brief.get("1")
		return brief.value("nearcache.evictions", "nearcache.reason=expired") > 0
	})

	fresh := f.node("fresh", nil)
	if got := fresh.value("nearcache.item.count"); got != 0 {
		t.Errorf("a new node holds %v items", got)
	}
	fresh.warm("1")
	if got := fresh.value("nearcache.item.count"); got < 1 {
		t.Errorf("a node that has read holds %v items", got)
	}
}

// TestEventsOfVerification has a lie told to a node, and found by it.
func TestEventsOfVerification(t *testing.T) {
	f := newFleet(t)
	n := f.node("a", func(o *nearcache.Options, _ *nearcache.Config[string]) {
		o.Verify = nearcache.Verify{SampleRate: 1, MaxPerSecond: 1000}
		o.Canary = 10 * time.Millisecond
	})
	eventually(t, "a canary has been heard", func() bool { return n.value("nearcache.invalidation.lag") > 0 })
	n.warm("1")
	eventually(t, "what is served is coherent", func() bool {
		n.get("1")
		return n.value("nearcache.verifications", "nearcache.cache=users", "nearcache.result=coherent") > 0
	})
	n.faults.DropPushes(1, "user:1")
	f.server.Do(t, "SET", "user:1", "another")
	eventually(t, "the lost push is found", func() bool {
		n.get("1")
		return n.value("nearcache.verifications", "nearcache.result=wrong") > 0
	})
	if n.value("nearcache.verification.age", "nearcache.cache=users") < 1 {
		t.Error("for how long it was wrong is not told")
	}
	if share := n.value("nearcache.verification.consistency"); share <= 0 || share >= 1 {
		t.Errorf("consistency is %v", share)
	}
}

// busNode is a client without Redis.
func (f *fleet) busNode(network *broadcast.Network, name string) *node {
	t := f.t
	t.Helper()
	options := f.options
	options.Name = name + "-bus"
	instruments, err := telemetry.New(options)
	check(t, err)
	t.Cleanup(func() { check(t, instruments.Close()) })
	bus, err := broadcast.New(broadcast.Options{Transport: network.Transport(), Telemetry: instruments})
	check(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		check(t, bus.Close(ctx))
	})
	n := &node{fleet: f, name: name}
	n.Client, err = nearcache.Open(t.Context(), nearcache.Options{
		Bus: bus, Name: name, SettleFills: true,
		MeterProvider: f.options.MeterProvider, TracerProvider: f.options.TracerProvider, Propagator: f.options.Propagator,
	})
	check(t, err)
	t.Cleanup(n.close)
	n.users, err = nearcache.New(n.Client, nearcache.Config[string]{
		Name: "users", Prefix: "user:", Codec: nearcache.String(),
		Load: func(context.Context, string) (string, error) { return "v", nil },
	})
	check(t, err)
	return n
}

// TestEventsOfTheBus has two nodes without Redis tell each other of a write.
func TestEventsOfTheBus(t *testing.T) {
	f := &fleet{sdk: newSDK(t, telemetry.Options{Name: "unused"}), t: t}
	network := broadcast.NewNetwork(broadcast.NetworkOptions{})
	a, b := f.busNode(network, "a"), f.busNode(network, "b")
	// A first contact between the two may have b forget everything before it hears of the write.
	eventually(t, "b evicts what a has written", func() bool {
		b.warm("1")
		check(t, a.users.Set(t.Context(), "1", "w"))
		eventually(t, "b has forgotten it", func() bool { return !b.users.Explain(t.Context(), "1").Local.Servable })
		return b.value("nearcache.invalidations", "nearcache.source=broadcast", "nearcache.effect=evicted") > 0
	})
	ctx, request := f.request(t)
	check(t, a.users.Set(ctx, "1", "w"))
	messages := func(of, metric string) float64 {
		return (&node{fleet: f, name: of + "-bus"}).value(metric, "messaging.destination.name="+nearcache.BusTopic)
	}
	eventually(t, "the message is counted", func() bool {
		return messages("a", "messaging.client.sent.messages") > 0 && messages("b", "messaging.client.consumed.messages") > 0 &&
			messages("a", "messaging.client.operation.duration") > 0 && messages("b", "messaging.process.duration") > 0
	})

	// The publish is in the trace of the write, and the handling on the other node, a trace of its own, leads to it.
	var publish sdktrace.ReadOnlySpan
	for _, span := range f.recorder.Ended() {
		if span.Name() == "publish "+nearcache.BusTopic && span.SpanContext().TraceID() == request.TraceID() {
			publish = span
		}
	}
	if publish == nil {
		t.Fatal("no publish is in the trace of the write")
	}
	eventually(t, "the handling on the other node leads to the publish", func() bool {
		return slices.ContainsFunc(f.recorder.Ended(), func(span sdktrace.ReadOnlySpan) bool {
			return span.Name() == "process "+nearcache.BusTopic && strings.Contains(describe(span.Attributes()), "nearcache.name=b-bus") &&
				len(span.Links()) == 1 && span.Links()[0].SpanContext.SpanID() == publish.SpanContext().SpanID()
		})
	})
}

// TestFlushesOfTheBus: what cannot be known to be current is forgotten, and why is counted.
func TestFlushesOfTheBus(t *testing.T) {
	f := &fleet{sdk: newSDK(t, telemetry.Options{Name: "unused"}), t: t}
	network := broadcast.NewNetwork(broadcast.NetworkOptions{})
	a, b := f.busNode(network, "a"), f.busNode(network, "b")
	forgets := func(n *node, reason string, do func()) {
		t.Helper()
		n.warm("1")
		before := n.value("nearcache.flushes", "nearcache.reason="+reason)
		do()
		eventually(t, n.name+" forgets for the reason "+reason, func() bool {
			return n.value("nearcache.flushes", "nearcache.reason="+reason) > before && !n.users.Explain(t.Context(), "1").Local.Servable
		})
	}
	forgets(a, "manual", func() { check(t, a.Flush(t.Context())) })
	forgets(b, "manual", func() { check(t, a.Flush(t.Context())) })
	forgets(b, "gap", func() {
		network.SetFaults(broadcast.Faults{Loss: 1})
		check(t, a.users.Set(t.Context(), "2", "lost"))
		network.SetFaults(broadcast.Faults{})
		check(t, a.users.Set(t.Context(), "3", "heard"))
	})
}

// TestFlushesOfACluster: a slot that changes hands is announced by nobody, and takes all that its server was asked for with it.
func TestFlushesOfACluster(t *testing.T) {
	f := &fleet{sdk: newSDK(t, telemetry.Options{Name: "unused"}), t: t}
	cluster := redistest.StartCluster(t, redistest.ClusterConfig{Replicas: -1})
	primaries, err := cluster.Primaries(t.Context())
	check(t, err)
	f.server = primaries[0]
	n := f.node("clustered", func(o *nearcache.Options, _ *nearcache.Config[string]) { o.Redis.InitAddress = cluster.Addresses() })
	slot, err := cluster.Slot(t.Context(), "user:1")
	check(t, err)
	owner, err := cluster.Owner(t.Context(), slot)
	check(t, err)
	to := primaries[0]
	if to == owner {
		to = primaries[1]
	}
	n.warm("1")
	check(t, cluster.StealSlot(t.Context(), slot, to))
	eventually(t, "the flush is counted", func() bool { return n.value("nearcache.flushes", "nearcache.reason=topology") > 0 })
}

// TestEveryDocumentedMetricIsRecorded holds the list in the package's documentation against what is recorded by the tests here, and against what
// the guide explains.
func TestEveryDocumentedMetricIsRecorded(t *testing.T) {
	documentation, err := os.ReadFile("../doc.go")
	check(t, err)
	tests, err := os.ReadFile("client_test.go")
	check(t, err)
	guide, err := os.ReadFile("../../docs/observability.md")
	check(t, err)
	names := regexp.MustCompile(`(?m)^//\t([a-z.]+)\*?\s+(?:counter|updowncounter|gauge|histogram)`).FindAllStringSubmatch(string(documentation), -1)
	if len(names) < 20 {
		t.Fatalf("the documentation lists %d metrics", len(names))
	}
	for _, name := range names {
		if !strings.Contains(string(tests), `"`+name[1]+`"`) {
			t.Errorf("%s is documented, and no real client is seen to record it", name[1])
		}
		if !strings.Contains(string(guide), "`"+name[1]+"`") {
			t.Errorf("docs/observability.md does not say what %s means", name[1])
		}
	}
}
