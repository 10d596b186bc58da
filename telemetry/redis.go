package telemetry

import (
	"context"
	"net"
	"strconv"

	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
)

// Server is where a server listens.
type Server struct {
	Address string // host name, IP address or path of a Unix socket
	Port    int    // zero: none, as for a Unix socket
}

// ParseServer splits "host:port". What has no valid port (a Unix socket's path) becomes the Address as it is.
func ParseServer(address string) Server {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return Server{Address: address}
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return Server{Address: address}
	}
	return Server{Address: host, Port: int(number)}
}

// Redis is a command or pipeline under way; [Redis.End] it.
type Redis struct{ operation }

type commandKey struct {
	operation string
	server    Server
}

// StartRedis begins the span and the duration of a command or pipeline that is about to be sent to server. The operation is
// db.operation.name and the span's name: the command ("GET", "MGET"), "PIPELINE" for a pipeline of different commands, or
// "PIPELINE GET" for one of the same; it must come from the code, never from data. batch is the number of commands of a
// pipeline; it is recorded from two on, as the conventions ask, so a single command passes one (MGET too, whatever its keys).
func (t *Telemetry) StartRedis(ctx context.Context, operation string, server Server, batch int) (context.Context, Redis) {
	s := t.commands.get(commandKey{operation, server}, t.commandSeries)
	r := Redis{t.begin(ctx, s, t.instruments.operationDuration, s.spanStart)}
	if batch > 1 && r.span.IsRecording() {
		r.span.SetAttributes(semconv.DBOperationBatchSize(batch))
	}
	return r.ctx, r
}

// StartSharedRedis begins the span of a reader whose commands, batch of them, travel in a pipeline with those of others: the pipeline is an
// operation of its own, with the duration. A reader whose context carries no sampled span gets none.
func (t *Telemetry) StartSharedRedis(ctx context.Context, operation string, server Server, batch int) Redis {
	if !trace.SpanContextFromContext(ctx).IsSampled() {
		return Redis{}
	}
	s := t.commands.get(commandKey{operation, server}, t.commandSeries)
	r := Redis{t.begin(ctx, s, nil, s.spanStart)}
	if r.span.IsRecording() {
		r.span.SetAttributes(semconv.DBOperationBatchSize(batch))
	}
	return r
}

// End records the outcome. A nil reply is no error; an error that the server sent is reported by the code that it begins with.
func (r Redis) End(err error) {
	if r.span != nil {
		r.end(err, classifyRedis)
	}
}

func (t *Telemetry) commandSeries(key commandKey) *series {
	attributes := append([]attribute.KeyValue{
		t.nameAttr,
		semconv.DBSystemNameRedis,
		semconv.DBOperationName(key.operation),
	}, serverAttributes(key.server)...)
	return newSeries(key.operation, attributes, []trace.SpanStartOption{
		trace.WithSpanKind(trace.SpanKindClient),
		trace.WithAttributes(attributes...),
	})
}
