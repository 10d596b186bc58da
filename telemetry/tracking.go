package telemetry

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
)

// Fence records how long a caller waited for a fence. It has no span: it is two round trips on a link that many callers share.
func (t *Telemetry) Fence(ctx context.Context, took time.Duration, err error) {
	if h := t.instruments.fenceDuration; h.Enabled(ctx) {
		h.Record(ctx, took.Seconds(), t.fences.outcome(classify(err)).record...)
	}
}

// InvalidationLag records the time from a canary write to its push on the link to server.
func (t *Telemetry) InvalidationLag(ctx context.Context, server Server, lag time.Duration) {
	if h := t.instruments.invalidationLag; h.Enabled(ctx) {
		h.Record(ctx, lag.Seconds(), t.lags.get(server, t.lagSeries).success.record...)
	}
}

func (t *Telemetry) lagSeries(server Server) *series {
	return newSeries("", append([]attribute.KeyValue{t.nameAttr}, serverAttributes(server)...), nil)
}
