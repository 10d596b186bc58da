package telemetry

import (
	"math/rand/v2"
	"reflect"
	"sync/atomic"

	"go.opentelemetry.io/otel/trace"
)

// silence is the knowledge that nobody makes spans: a program without an SDK. Then a span costs three allocations and half a microsecond
// for nothing, which is a tenth of a read that many others accompany.
//
// It ends with the first span after the program has set another global provider, and one operation in retrySilence finds out whether
// something else has begun to make spans, as an agent that attaches to the process does.
type silence struct {
	under atomic.Pointer[trace.TracerProvider] // the global provider with which it was observed; nil: it does not hold
}

const retrySilence = 64

// holds reports whether the operation that begins, under the global provider of now, needs no span.
func (s *silence) holds(provider trace.TracerProvider) bool {
	under := s.under.Load()
	return under != nil && *under == provider && rand.Uint32N(retrySilence) != 0
}

// learn takes note of a span that was started, and of the global provider from before that. Every SDK gives its spans an identity, also
// those that are not sampled; one that has none itself, and no parent with one to inherit it from, comes from no SDK.
func (s *silence) learn(provider trace.TracerProvider, span trace.Span) {
	switch silent, under := !span.SpanContext().IsValid(), s.under.Load(); {
	case !silent && under != nil:
		s.under.Store(nil)
	case silent && (under == nil || *under != provider) && reflect.TypeOf(provider).Comparable():
		s.under.Store(&provider)
	}
}
