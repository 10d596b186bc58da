package telemetry

import (
	"context"
	"slices"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// Get is a read that the local tier did not answer; [Get.End] it.
type Get struct{ operation }

// StartGet begins the span "get {cache}" of a read that the local tier did not answer. Pass the returned context to
// everything that the read does: the commands to Redis, the lease and the load are its children.
func (t *Telemetry) StartGet(ctx context.Context, cache string) (context.Context, Get) {
	s := t.gets.get(cache, t.getSeries)
	g := Get{t.begin(ctx, s, nil, s.spanStart)}
	return g.ctx, g
}

// SpanContext identifies the read's span, for the followers that will link to it.
func (g Get) SpanContext() trace.SpanContext { return g.span.SpanContext() }

// SetKey notes the key on the span, as nearcache.key. Call it only where the user asked for keys in traces.
func (g Get) SetKey(key string) {
	if g.span.IsRecording() {
		g.span.SetAttributes(keyKey.String(key))
	}
}

// SetKeyCount notes on the span of a read of several keys how many of them the local tier did not answer, as nearcache.key.count.
func (g Get) SetKeyCount(keys int) {
	if g.span.IsRecording() {
		g.span.SetAttributes(keyCountKey.Int(keys))
	}
}

// End records the outcome. That there is no such item is not an error: pass nil.
func (g Get) End(err error) { g.end(err, classify) }

// Load is a load under way; [Load.End] it.
type Load struct{ operation }

// StartLoad begins the span "load {cache}" and the load's duration. Pass the returned context to everything that the load does.
func (t *Telemetry) StartLoad(ctx context.Context, cache string) (context.Context, Load) {
	s := t.loads.get(cache, t.loadSeries)
	l := Load{t.begin(ctx, s, t.instruments.loadDuration, s.spanStart)}
	return l.ctx, l
}

// End records the outcome. A source that has no such value is not an error: pass nil.
func (l Load) End(err error) { l.end(err, classify) }

// Scope says how far away the read is that a follower waits for.
type Scope string

const (
	// ScopeProcess: another goroutine of this process reads.
	ScopeProcess Scope = "process"
	// ScopeFleet: another node of the fleet holds the lease.
	ScopeFleet Scope = "fleet"
)

// Follow is a wait for another's read or load; [Follow.End] it.
type Follow struct{ operation }

type followKey struct {
	cache string
	scope Scope
}

// StartFollow begins the span "wait {cache}" of a reader that waits for what another is fetching or loading instead of doing so
// itself. It has nearcache.scope, and links to the spans of those that it waits for, where they are known (a zero one is not linked
// to). It has no duration in the metrics: nearcache.load.duration tells how long the source takes, and a wait says nothing of that.
func (t *Telemetry) StartFollow(ctx context.Context, cache string, scope Scope, leaders ...trace.SpanContext) (context.Context, Follow) {
	s := t.follows.get(followKey{cache, scope}, t.followSeries)
	f := Follow{t.begin(ctx, s, nil, withLinks(s.spanStart, leaders))}
	return f.ctx, f
}

// End records the outcome of the wait.
func (f Follow) End(err error) { f.end(err, classify) }

// TraceParent is the span of ctx as the W3C's traceparent header, for whoever on another node waits for what is done under it; empty
// if there is none or nobody keeps it.
func (t *Telemetry) TraceParent(ctx context.Context) string {
	if !trace.SpanContextFromContext(ctx).IsSampled() {
		return ""
	}
	header := make(propagation.MapCarrier, 2)
	propagation.TraceContext{}.Inject(ctx, header)
	return header["traceparent"]
}

// Leader is the span that another node's [Telemetry.TraceParent] told of; the zero one if it told of none.
func Leader(traceParent string) trace.SpanContext {
	if traceParent == "" {
		return trace.SpanContext{}
	}
	header := propagation.MapCarrier{"traceparent": traceParent}
	return trace.SpanContextFromContext(propagation.TraceContext{}.Extract(context.Background(), header))
}

func (t *Telemetry) getSeries(cache string) *series {
	return newSeries("get "+cache, nil, internalSpan(t.nameAttr, cacheKey.String(cache)))
}

func (t *Telemetry) loadSeries(cache string) *series {
	attributes := []attribute.KeyValue{t.nameAttr, cacheKey.String(cache)}
	return newSeries("load "+cache, attributes, internalSpan(attributes...))
}

func (t *Telemetry) followSeries(key followKey) *series {
	return newSeries("wait "+key.cache, nil, internalSpan(t.nameAttr, cacheKey.String(key.cache), scopeKey.String(string(key.scope))))
}

func internalSpan(attributes ...attribute.KeyValue) []trace.SpanStartOption {
	return []trace.SpanStartOption{trace.WithSpanKind(trace.SpanKindInternal), trace.WithAttributes(attributes...)}
}

// withLinks is options and a link to each valid span, leaving options, which are shared, as they are.
func withLinks(options []trace.SpanStartOption, to []trace.SpanContext) []trace.SpanStartOption {
	var links []trace.Link
	for _, span := range to {
		if span.IsValid() {
			links = append(links, trace.Link{SpanContext: span})
		}
	}
	if links == nil {
		return options
	}
	return append(slices.Clip(options), trace.WithLinks(links...))
}
