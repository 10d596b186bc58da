package telemetry

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
)

// VerificationAge records for how long the local tier of a cache had held what was found to be wrong.
func (t *Telemetry) VerificationAge(ctx context.Context, cache string, age time.Duration) {
	if h := t.instruments.verificationAge; h.Enabled(ctx) {
		h.Record(ctx, age.Seconds(), t.ages.get(cache, t.ageSeries).success.record...)
	}
}

func (t *Telemetry) ageSeries(cache string) *series {
	return newSeries("", []attribute.KeyValue{t.nameAttr, cacheKey.String(cache)}, nil)
}
