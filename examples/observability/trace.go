package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// recentSpans is a span processor that keeps the last spans, as a tracing backend keeps them all.
type recentSpans struct {
	mu    sync.Mutex
	spans []sdktrace.ReadOnlySpan
}

const keptSpans = 4096

func (r *recentSpans) OnStart(context.Context, sdktrace.ReadWriteSpan) {}

func (r *recentSpans) OnEnd(span sdktrace.ReadOnlySpan) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.spans) == keptSpans {
		r.spans = slices.Delete(r.spans, 0, keptSpans/2)
	}
	r.spans = append(r.spans, span)
}

func (r *recentSpans) Shutdown(context.Context) error   { return nil }
func (r *recentSpans) ForceFlush(context.Context) error { return nil }

// of returns the spans of a trace, as they began.
func (r *recentSpans) of(id trace.TraceID) []sdktrace.ReadOnlySpan {
	r.mu.Lock()
	defer r.mu.Unlock()
	var spans []sdktrace.ReadOnlySpan
	for _, span := range r.spans {
		if span.SpanContext().TraceID() == id {
			spans = append(spans, span)
		}
	}
	slices.SortFunc(spans, func(a, b sdktrace.ReadOnlySpan) int { return a.StartTime().Compare(b.StartTime()) })
	return spans
}

// showTrace has both nodes read an airport that nobody has in memory, at once, as two requests to a service do: one loads it and the other waits
// for that, wherever it runs.
func (f fleet) showTrace(ctx context.Context, p *providers, out io.Writer) error {
	const code = "VIE"
	if err := f[0].airports.Delete(ctx, code); err != nil {
		return err
	}
	for _, n := range f {
		if err := n.client.Fence(ctx); err != nil {
			return err
		}
	}
	tracer := p.tracer.Tracer("program")
	var requests sync.WaitGroup
	traces := make([]trace.TraceID, len(f))
	for i, n := range f {
		requests.Go(func() {
			ctx, span := tracer.Start(ctx, "GET /airports/"+code, trace.WithSpanKind(trace.SpanKindServer))
			defer span.End()
			traces[i] = span.SpanContext().TraceID()
			if _, err := n.airports.Get(ctx, code); err != nil {
				span.SetStatus(codes.Error, err.Error())
			}
		})
	}
	requests.Wait()

	fmt.Fprintln(out, "\nTwo nodes read what neither has in memory, and what Redis does not hold. One trace of each:")
	slices.SortStableFunc(traces, func(a, b trace.TraceID) int { return cmp.Compare(waits(p.spans.of(a)), waits(p.spans.of(b))) })
	for _, id := range traces {
		fmt.Fprintf(out, "\ntrace %v\n", id)
		writeTrace(out, p.spans.of(id))
	}
	return nil
}

// waits is how many of the spans are waits for another node: none in the trace of the one that loads.
func waits(spans []sdktrace.ReadOnlySpan) (n int) {
	for _, span := range spans {
		if strings.HasPrefix(span.Name(), "wait ") {
			n++
		}
	}
	return n
}

// writeTrace draws a trace as a tree: when each span began, how long it took, and what it says of itself.
func writeTrace(out io.Writer, spans []sdktrace.ReadOnlySpan) {
	children := make(map[trace.SpanID][]sdktrace.ReadOnlySpan)
	for _, span := range spans {
		children[span.Parent().SpanID()] = append(children[span.Parent().SpanID()], span)
	}
	var draw func(span sdktrace.ReadOnlySpan, lead, branch, rest string)
	draw = func(span sdktrace.ReadOnlySpan, lead, branch, rest string) {
		began, took := span.StartTime().Sub(spans[0].StartTime()), span.EndTime().Sub(span.StartTime())
		fmt.Fprintf(out, "  %-32s %8s %8s   %s\n", lead+branch+span.Name(), milliseconds(began), milliseconds(took), about(span))
		below := children[span.SpanContext().SpanID()]
		for i, child := range below {
			if i == len(below)-1 {
				draw(child, lead+rest, "└─ ", "   ")
			} else {
				draw(child, lead+rest, "├─ ", "│  ")
			}
		}
	}
	fmt.Fprintf(out, "  %-32s %8s %8s\n", "", "began", "took ms")
	for _, root := range children[trace.SpanID{}] {
		draw(root, "", "", "")
	}
}

func milliseconds(d time.Duration) string { return fmt.Sprintf("%.2f", d.Seconds()*1000) }

// about says what a reader of the trace wants to know of a span.
func about(span sdktrace.ReadOnlySpan) string {
	var words []string
	for _, a := range span.Attributes() {
		switch a.Key {
		case "nearcache.name", "nearcache.scope", "db.operation.batch.size", "error.type":
			words = append(words, string(a.Key)+"="+a.Value.String())
		}
	}
	for _, link := range span.Links() {
		words = append(words, "→ span "+link.SpanContext.SpanID().String()+" of trace "+link.SpanContext.TraceID().String())
	}
	if strings.HasPrefix(span.Name(), "get ") {
		words = append(words, "span "+span.SpanContext().SpanID().String())
	}
	return strings.Join(words, " ")
}
