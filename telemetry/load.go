package telemetry

import (
	"context"
	"slices"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
)

// Load is a load under way; [Load.End] it.
type Load struct{ operation }

// StartLoad begins the span "load {cache}" and the load's duration. Pass the returned context to everything that the load does.
func (t *Telemetry) StartLoad(ctx context.Context, cache string) (context.Context, Load) {
	s := t.loads.get(cache, t.loadSeries)
	l := Load{t.begin(ctx, s, t.instruments.loadDuration, s.spanStart)}
	return l.ctx, l
}

// SpanContext identifies the load's span, for the followers that will link to it.
func (l Load) SpanContext() trace.SpanContext { return l.span.SpanContext() }

// SetKey notes the key on the span, as nearcache.key. Call it only where the user asked for keys in traces.
func (l Load) SetKey(key string) {
	if l.span.IsRecording() {
		l.span.SetAttributes(keyKey.String(key))
	}
}

// End records the outcome. A source that has no such value is not an error: pass nil.
func (l Load) End(err error) { l.end(err, classify) }

// Scope says how far away the load is that a follower waits for.
type Scope string

const (
	// ScopeProcess: another goroutine of this process loads.
	ScopeProcess Scope = "process"
	// ScopeFleet: another node of the fleet holds the lease.
	ScopeFleet Scope = "fleet"
)

// Follow is a wait for another's load; [Follow.End] it.
type Follow struct{ operation }

type followKey struct {
	cache string
	scope Scope
}

// StartFollow begins the span of a caller that waits for another's load instead of starting one. It is named like the load that
// it waits for, has nearcache.scope, and links to the leader's span where that is known (a zero leader is not linked to). It
// has no duration in the metrics: nearcache.load.duration tells how long the source takes, and a wait says nothing of that.
func (t *Telemetry) StartFollow(
	ctx context.Context, cache string, scope Scope, leader trace.SpanContext,
) (context.Context, Follow) {
	s := t.follows.get(followKey{cache, scope}, t.followSeries)
	options := s.spanStart
	if leader.IsValid() {
		options = withLink(options, leader)
	}
	f := Follow{t.begin(ctx, s, nil, options)}
	return f.ctx, f
}

// End records the outcome of the wait.
func (f Follow) End(err error) { f.end(err, classify) }

func (t *Telemetry) loadSeries(cache string) *series {
	attributes := []attribute.KeyValue{t.nameAttr, cacheKey.String(cache)}
	return newSeries("load "+cache, attributes, []trace.SpanStartOption{
		trace.WithSpanKind(trace.SpanKindInternal),
		trace.WithAttributes(attributes...),
	})
}

func (t *Telemetry) followSeries(key followKey) *series {
	attributes := []attribute.KeyValue{t.nameAttr, cacheKey.String(key.cache), scopeKey.String(string(key.scope))}
	return newSeries("load "+key.cache, attributes, []trace.SpanStartOption{
		trace.WithSpanKind(trace.SpanKindInternal),
		trace.WithAttributes(attributes...),
	})
}

// withLink is options and a link, leaving options, which are shared, as they are.
func withLink(options []trace.SpanStartOption, to trace.SpanContext) []trace.SpanStartOption {
	return append(slices.Clip(options), trace.WithLinks(trace.Link{SpanContext: to}))
}
