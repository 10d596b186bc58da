package telemetry

import (
	"testing"

	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
)

// provider is a global provider as far as silence is concerned: something that can be told from another.
type provider struct {
	noop.TracerProvider
	id *int
}

type identified struct{ noop.Span }

func (identified) SpanContext() trace.SpanContext {
	return trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{1}})
}

// held reports whether silence held for any of many operations, and whether for all of them.
func held(s *silence, p trace.TracerProvider) (some, all bool) {
	all = true
	for range 100 * retrySilence {
		if s.holds(p) {
			some = true
		} else {
			all = false
		}
	}
	return some, all
}

func TestSilence(t *testing.T) {
	t.Parallel()
	var s silence
	first, second := provider{id: new(int)}, provider{id: new(int)}
	if some, _ := held(&s, first); some {
		t.Error("it holds before anything is known")
	}
	s.learn(first, noop.Span{})
	if some, all := held(&s, first); !some || all {
		t.Errorf("after a span without an identity: held for any %v, for all %v; one in %d should try again", some, all, retrySilence)
	}
	if some, _ := held(&s, second); some {
		t.Error("it holds for a provider that was set since")
	}
	s.learn(second, identified{})
	if some, _ := held(&s, second); some {
		t.Error("it holds although spans are made")
	}
	if some, _ := held(&s, first); some {
		t.Error("it holds for what was known before")
	}
	s.learn(second, noop.Span{})
	s.learn(first, noop.Span{}) // slower than the change of providers
	if some, _ := held(&s, second); some {
		t.Error("it holds for another provider than the one it was observed under")
	}
}
