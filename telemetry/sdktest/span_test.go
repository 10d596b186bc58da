package sdktest

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/go-nearcache/nearcache/telemetry"
	"go.opentelemetry.io/otel/baggage"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

var server = telemetry.Server{Address: "127.0.0.1", Port: 6379}

// request starts a span of the program's own, for the library's to hang under.
func (s *sdk) request(t testing.TB) (context.Context, trace.SpanContext) {
	ctx, span := s.options.TracerProvider.Tracer("program").Start(t.Context(), "request")
	return ctx, span.SpanContext()
}

func TestLoad(t *testing.T) {
	s := newSDK(t, telemetry.Options{Name: "orders"})
	ctx, parent := s.request(t)

	loading, load := s.StartLoad(ctx, "users")
	load.End(nil)
	span := s.only(t)
	compareSpan(t, span, described{"load users", "internal", "{nearcache.cache=users nearcache.name=orders}", "Unset"})
	if trace.SpanContextFromContext(loading).SpanID() != span.SpanContext().SpanID() {
		t.Error("the context does not carry the load's span")
	}
	if span.Parent().SpanID() != parent.SpanID() {
		t.Error("the load is not a child of the request")
	}
	if len(span.Links()) != 0 {
		t.Errorf("links = %v, want none", span.Links())
	}

	compare(t, s.series(t), []string{
		"nearcache.load.duration histogram s {nearcache.cache=users nearcache.name=orders} 1",
	})
}

func TestGet(t *testing.T) {
	s := newSDK(t, telemetry.Options{Name: "orders"})
	ctx, parent := s.request(t)
	reading, get := s.StartGet(ctx, "users")
	if !trace.SpanContextFromContext(reading).Equal(get.SpanContext()) {
		t.Error("the context does not carry the read's span")
	}
	get.End(nil)
	span := s.only(t)
	compareSpan(t, span, described{"get users", "internal", "{nearcache.cache=users nearcache.name=orders}", "Unset"})
	if span.Parent().SpanID() != parent.SpanID() {
		t.Error("the read is not a child of the request")
	}

	_, get = s.StartGet(ctx, "users")
	get.SetKey("user:42")
	get.End(context.Canceled)
	compareSpan(t, s.only(t), described{
		"get users", "internal", "{error.type=canceled nearcache.cache=users nearcache.key=user:42 nearcache.name=orders}", "Error canceled",
	})
	_, get = s.StartGet(ctx, "users")
	get.SetKeyCount(3)
	get.End(nil)
	compareSpan(t, s.only(t), described{
		"get users", "internal", "{nearcache.cache=users nearcache.key.count=3 nearcache.name=orders}", "Unset",
	})
	compare(t, s.series(t), nil) // a read has no duration of its own
}

// TestLeaderOnAnotherNode is what travels in a lease.
func TestLeaderOnAnotherNode(t *testing.T) {
	s := newSDK(t, telemetry.Options{})
	ctx, leader := s.request(t)
	if got := telemetry.Leader(s.TraceParent(ctx)); got.TraceID() != leader.TraceID() || got.SpanID() != leader.SpanID() || !got.IsRemote() {
		t.Errorf("the leader is %v, want %v", got, leader)
	}
	if got := s.TraceParent(t.Context()); got != "" {
		t.Errorf("without a span: %q", got)
	}
	unsampled := trace.ContextWithSpanContext(t.Context(), leader.WithTraceFlags(0))
	if got := s.TraceParent(unsampled); got != "" {
		t.Errorf("of a trace that nobody keeps: %q", got)
	}
	for _, text := range []string{"", "x", "00-zz", "00-00000000000000000000000000000000-0000000000000000-01"} {
		if got := telemetry.Leader(text); got.IsValid() {
			t.Errorf("%q names %v", text, got)
		}
	}
}

func TestFailedLoads(t *testing.T) {
	for name, failure := range failures {
		t.Run(name, func(t *testing.T) {
			s := newSDK(t, telemetry.Options{Name: "failed"})
			for range 2 { // the second time from the memo
				_, load := s.StartLoad(t.Context(), "users")
				load.End(failure.err)
				compareSpan(t, s.only(t), described{
					"load users", "internal",
					"{error.type=" + failure.kind + " nearcache.cache=users nearcache.name=failed}", "Error " + failure.kind,
				})
			}
			compare(t, s.series(t), []string{
				"nearcache.load.duration histogram s {error.type=" + failure.kind +
					" nearcache.cache=users nearcache.name=failed} 2",
			})
		})
	}
}

func TestFollowersLinkToTheirLeader(t *testing.T) {
	s := newSDK(t, telemetry.Options{Name: "orders"})
	_, get := s.StartGet(t.Context(), "users")

	ctx, parent := s.request(t)
	_, follow := s.StartFollow(ctx, "users", telemetry.ScopeProcess, get.SpanContext())
	follow.End(nil)
	span := s.only(t)
	compareSpan(t, span, described{
		"wait users", "internal", "{nearcache.cache=users nearcache.name=orders nearcache.scope=process}", "Unset",
	})
	if span.Parent().SpanID() != parent.SpanID() {
		t.Error("the wait is not a child of its own request")
	}
	if links := span.Links(); len(links) != 1 || links[0].SpanContext.SpanID() != get.SpanContext().SpanID() {
		t.Errorf("links = %v, want one to the leader", links)
	}

	// A leader on another node is not known, and the next follower must not find the last one's link.
	_, follow = s.StartFollow(ctx, "users", telemetry.ScopeFleet, trace.SpanContext{})
	follow.End(context.DeadlineExceeded)
	span = s.only(t)
	compareSpan(t, span, described{
		"wait users", "internal",
		"{error.type=timeout nearcache.cache=users nearcache.name=orders nearcache.scope=fleet}", "Error timeout",
	})
	if links := span.Links(); len(links) != 0 {
		t.Errorf("links = %v, want none", links)
	}

	compare(t, s.series(t), nil) // a wait has no duration
	get.End(nil)
}

func TestRedis(t *testing.T) {
	for name, c := range map[string]struct {
		operation string
		server    telemetry.Server
		batch     int
		err       error
		both      []string // attributes of span and series beyond the command's and the server's
		span      []string // attributes of the span alone
		status    string
	}{
		"command":     {operation: "GET", server: server, batch: 1, status: "Unset"},
		"unix socket": {operation: "SET", server: telemetry.Server{Address: "/run/redis.sock"}, batch: 1, status: "Unset"},
		"pipeline": {
			operation: "PIPELINE", server: server, batch: 3,
			span: []string{"db.operation.batch.size=3"}, status: "Unset",
		},
		"nil reply": {
			operation: "GET", server: server, batch: 1,
			err: fmt.Errorf("wrapped: %w", &reply{message: "redis nil message", null: true}), status: "Unset",
		},
		"error reply": {
			operation: "GET", server: server, batch: 1,
			err:  fmt.Errorf("key user:42: %w", &reply{message: "WRONGTYPE Operation against a key holding the wrong kind of value"}),
			both: []string{"db.response.status_code=WRONGTYPE", "error.type=WRONGTYPE"}, status: "Error WRONGTYPE",
		},
		"error reply with the generic code": {
			operation: "GET", server: server, batch: 1,
			err:  &reply{message: "unknown command 'user:42'"},
			both: []string{"db.response.status_code=ERR", "error.type=ERR"}, status: "Error ERR",
		},
		"empty error reply": {
			operation: "GET", server: server, batch: 1,
			err:  &reply{},
			both: []string{"db.response.status_code=ERR", "error.type=ERR"}, status: "Error ERR",
		},
		"no answer": {
			operation: "GET", server: server, batch: 1,
			err:  context.DeadlineExceeded,
			both: []string{"error.type=timeout"}, status: "Error timeout",
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSDK(t, telemetry.Options{Name: "orders"})
			ctx, parent := s.request(t)
			commanding, command := s.StartRedis(ctx, c.operation, c.server, c.batch)
			if trace.SpanContextFromContext(commanding).Equal(parent) {
				t.Error("the context does not carry the command's span")
			}
			command.End(c.err)

			attributes := append([]string{
				"db.operation.name=" + c.operation, "db.system.name=redis", "nearcache.name=orders",
				"server.address=" + c.server.Address,
			}, c.both...)
			if c.server.Port != 0 {
				attributes = append(attributes, fmt.Sprint("server.port=", c.server.Port))
			}
			span := s.only(t)
			compareSpan(t, span, described{c.operation, "client", set(append(attributes, c.span...)...), c.status})
			if span.Parent().SpanID() != parent.SpanID() {
				t.Error("the command is not a child of the request")
			}
			compare(t, s.series(t), []string{"db.client.operation.duration histogram s " + set(attributes...) + " 1"})
		})
	}
}

// TestRequestTrace is the trace of a miss: the request, in it the read, in it what was asked of Redis and the load.
func TestRequestTrace(t *testing.T) {
	s := newSDK(t, telemetry.Options{})
	ctx, root := s.request(t)
	ctx, get := s.StartGet(ctx, "users")
	for _, operation := range []string{"PIPELINE", "SET"} {
		_, command := s.StartRedis(ctx, operation, server, 1)
		command.End(nil)
	}
	_, load := s.StartLoad(ctx, "users")
	load.End(nil)
	get.End(nil)

	parents := make(map[string]trace.SpanID)
	for _, span := range s.recorder.Ended() {
		parents[span.Name()] = span.Parent().SpanID()
		if span.SpanContext().TraceID() != root.TraceID() {
			t.Errorf("%s is in another trace", span.Name())
		}
	}
	if parents["get users"] != root.SpanID() {
		t.Errorf("parents = %v", parents)
	}
	for _, child := range []string{"PIPELINE", "SET", "load users"} {
		if parents[child] != get.SpanContext().SpanID() {
			t.Errorf("%s is not in the read: %v", child, parents)
		}
	}
}

func TestLinkMeasurements(t *testing.T) {
	s := newSDK(t, telemetry.Options{Name: "orders"})
	s.Fence(t.Context(), time.Millisecond, nil)
	s.Fence(t.Context(), time.Millisecond, nil)
	s.Fence(t.Context(), time.Millisecond, context.DeadlineExceeded)
	s.InvalidationLag(t.Context(), server, time.Millisecond)
	compare(t, s.series(t), []string{
		"nearcache.tracking.fence.duration histogram s {nearcache.name=orders} 2",
		"nearcache.tracking.fence.duration histogram s {error.type=timeout nearcache.name=orders} 1",
		"nearcache.invalidation.lag histogram s {nearcache.name=orders server.address=127.0.0.1 server.port=6379} 1",
	})
	if spans := s.recorder.Ended(); len(spans) != 0 {
		t.Errorf("spans = %v, want none", spans)
	}
}

var topic = telemetry.Destination{System: "redis", Topic: "flags"}

// messageAttributes are those of spans and series of one operation on the topic.
func messageAttributes(operation string, more ...string) string {
	return set(append(more, "messaging.destination.name=flags", "messaging.operation.name="+operation,
		"messaging.system=redis", "nearcache.name=orders")...)
}

func TestPublish(t *testing.T) {
	s := newSDK(t, telemetry.Options{Name: "orders"})
	ctx, parent := s.request(t)
	_, publish := s.StartPublish(ctx, topic, 1)
	publish.SetMessage("node-a/7/1", 12)
	publish.End(nil)
	span := s.only(t)
	compareSpan(t, span, described{
		"publish flags", "producer",
		messageAttributes("publish", "messaging.operation.type=send",
			"messaging.message.id=node-a/7/1", "messaging.message.body.size=12"),
		"Unset",
	})
	if span.Parent().SpanID() != parent.SpanID() {
		t.Error("the publish is not a child of the request")
	}

	_, publish = s.StartPublish(ctx, topic, 100)
	publish.End(fmt.Errorf("outbox: %w", named{}))
	compareSpan(t, s.only(t), described{
		"publish flags", "producer",
		messageAttributes("publish", "messaging.operation.type=send", "messaging.batch.message_count=100", "error.type=locked"),
		"Error locked",
	})

	sent, failed := messageAttributes("publish"), messageAttributes("publish", "error.type=locked")
	compare(t, s.series(t), []string{
		"messaging.client.sent.messages counter {message} " + sent + " 1",
		"messaging.client.sent.messages counter {message} " + failed + " 100",
		"messaging.client.operation.duration histogram s " + sent + " 1",
		"messaging.client.operation.duration histogram s " + failed + " 1",
	})
}

// deliver publishes from one client and starts the handling in another, with the baggage of a member on the way.
func deliver(t *testing.T, s *sdk) (publisher trace.SpanContext, process telemetry.Process, handling context.Context) {
	t.Helper()
	member, err := baggage.NewMember("tenant", "7")
	if err != nil {
		t.Fatal(err)
	}
	carried, err := baggage.New(member)
	if err != nil {
		t.Fatal(err)
	}

	headers := make(map[string]string)
	publishing, publish := s.StartPublish(baggage.ContextWithBaggage(t.Context(), carried), topic, 1)
	publish.Inject(headers)
	publish.End(nil)
	s.recorder.Reset()
	if headers["traceparent"] == "" || headers["baggage"] != "tenant=7" {
		t.Fatalf("headers = %v, want traceparent and baggage", headers)
	}

	handling, process = s.StartProcess(t.Context(), topic, headers)
	return trace.SpanContextFromContext(publishing), process, handling
}

func TestProcessLinksToItsPublisher(t *testing.T) {
	s := newSDK(t, telemetry.Options{Name: "orders"})
	publisher, process, handling := deliver(t, s)
	if got := baggage.FromContext(handling).Member("tenant").Value(); got != "7" {
		t.Errorf("baggage tenant = %q, want 7", got)
	}
	process.SetMessage("node-a/7/1", 12)
	process.End(nil)
	span := s.only(t)
	compareSpan(t, span, described{
		"process flags", "consumer",
		messageAttributes("process", "messaging.operation.type=process",
			"messaging.message.id=node-a/7/1", "messaging.message.body.size=12"),
		"Unset",
	})
	if span.Parent().IsValid() || span.SpanContext().TraceID() == publisher.TraceID() {
		t.Error("the handling is not a trace of its own")
	}
	if links := span.Links(); len(links) != 1 || links[0].SpanContext.SpanID() != publisher.SpanID() {
		t.Errorf("links = %v, want one to the publisher", links)
	}

	processed, failed := messageAttributes("process"), messageAttributes("process", "error.type=_OTHER")
	published := messageAttributes("publish")
	want := []string{
		"messaging.client.consumed.messages counter {message} " + processed + " 1",
		"messaging.process.duration histogram s " + processed + " 1",
		"messaging.client.sent.messages counter {message} " + published + " 1",
		"messaging.client.operation.duration histogram s " + published + " 1",
	}
	compare(t, s.series(t), want)

	// A message without headers has nothing to link to, and stays a trace of its own even inside another span.
	ctx, _ := s.request(t)
	_, process = s.StartProcess(ctx, topic, nil)
	process.End(errPlain)
	span = s.only(t)
	compareSpan(t, span, described{
		"process flags", "consumer",
		messageAttributes("process", "messaging.operation.type=process", "error.type=_OTHER"), "Error _OTHER",
	})
	if span.Parent().IsValid() || len(span.Links()) != 0 {
		t.Errorf("parent %v and links %v, want none", span.Parent(), span.Links())
	}
	compare(t, s.series(t), append(want,
		"messaging.client.consumed.messages counter {message} "+failed+" 1",
		"messaging.process.duration histogram s "+failed+" 1",
	))
}

// TestForeignHeaders handles messages whose headers are not what this library writes. A span in the handler's own context is
// no publisher: it must not be linked to, whatever the headers hold.
func TestForeignHeaders(t *testing.T) {
	for name, headers := range map[string]map[string]string{
		"none of ours": {"content-type": "text/plain"},
		"broken":       {"traceparent": "00-zz"},
		"all zero":     {"traceparent": "00-00000000000000000000000000000000-0000000000000000-00"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSDK(t, telemetry.Options{})
			ctx, _ := s.request(t)
			_, process := s.StartProcess(ctx, topic, headers)
			process.End(nil)
			if links := s.only(t).Links(); len(links) != 0 {
				t.Errorf("links = %v, want none", links)
			}
		})
	}
}

func TestProcessAsChild(t *testing.T) {
	s := newSDK(t, telemetry.Options{ProcessAsChild: true})
	publisher, process, _ := deliver(t, s)
	process.End(nil)
	span := s.only(t)
	if span.Parent().SpanID() != publisher.SpanID() || span.SpanContext().TraceID() != publisher.TraceID() {
		t.Errorf("parent = %v, want the publisher %v", span.Parent(), publisher)
	}
	if len(span.Links()) != 0 {
		t.Errorf("links = %v, want none", span.Links())
	}
}

// TestUnsampled shows that attributes are spared where the sampler said no, and that durations are recorded all the same.
func TestUnsampled(t *testing.T) {
	s := newSDK(t, telemetry.Options{Name: "orders"})
	s.options.TracerProvider = sdktrace.NewTracerProvider(
		sdktrace.WithSampler(sdktrace.NeverSample()), sdktrace.WithSpanProcessor(s.recorder))
	client := s.another(t, "unsampled")
	_, load := client.StartLoad(t.Context(), "users")
	load.End(errPlain)
	_, get := client.StartGet(t.Context(), "users")
	get.SetKey("user:42")
	get.SetKeyCount(2)
	get.End(errPlain)
	if spans := s.recorder.Ended(); len(spans) != 0 {
		t.Errorf("spans = %v, want none", spans)
	}
	compare(t, s.series(t), []string{
		"nearcache.load.duration histogram s {error.type=_OTHER nearcache.cache=users nearcache.name=unsampled} 1",
	})
}
