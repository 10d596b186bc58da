package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	prometheusclient "github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetrichttp"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/propagation"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
)

// providers are OpenTelemetry's SDK, set up once in a program. A client is handed them in its Options; or set them as the globals, with
// otel.SetMeterProvider and so on, and leave the Options empty.
type providers struct {
	meter      *sdkmetric.MeterProvider
	tracer     *sdktrace.TracerProvider
	propagator propagation.TextMapPropagator
	registry   *prometheusclient.Registry
	spans      *recentSpans
}

// newProviders exports metrics for Prometheus to fetch, and metrics and traces over OTLP if there is a collector.
func newProviders(ctx context.Context, otlp string) (*providers, error) {
	p := &providers{registry: prometheusclient.NewRegistry(), propagator: propagation.TraceContext{}, spans: new(recentSpans)}
	about := resource.NewSchemaless(semconv.ServiceName("nearcache-observability"))
	exporter, err := prometheus.New(prometheus.WithRegisterer(p.registry), prometheus.WithoutScopeInfo())
	if err != nil {
		return nil, fmt.Errorf("the exporter for Prometheus: %w", err)
	}
	metrics := []sdkmetric.Option{sdkmetric.WithResource(about), sdkmetric.WithReader(exporter)}
	// Every trace is kept here. A service under load would keep a share: sdktrace.ParentBased(sdktrace.TraceIDRatioBased(0.01)).
	traces := []sdktrace.TracerProviderOption{sdktrace.WithResource(about), sdktrace.WithSpanProcessor(p.spans)}
	if otlp != "" {
		base := strings.TrimSuffix(otlp, "/")
		metricExporter, err := otlpmetrichttp.New(ctx, otlpmetrichttp.WithEndpointURL(base+"/v1/metrics"))
		if err != nil {
			return nil, fmt.Errorf("-otlp: metrics: %w", err)
		}
		traceExporter, err := otlptracehttp.New(ctx, otlptracehttp.WithEndpointURL(base+"/v1/traces"))
		if err != nil {
			return nil, fmt.Errorf("-otlp: traces: %w", err)
		}
		metrics = append(metrics, sdkmetric.WithReader(sdkmetric.NewPeriodicReader(metricExporter)))
		traces = append(traces, sdktrace.WithBatcher(traceExporter))
	}
	p.meter, p.tracer = sdkmetric.NewMeterProvider(metrics...), sdktrace.NewTracerProvider(traces...)
	return p, nil
}

// metricsHandler speaks OpenMetrics, because the older format has no exemplars, which lead from a slow load to its trace.
func (p *providers) metricsHandler() http.Handler {
	return promhttp.HandlerFor(p.registry, promhttp.HandlerOpts{EnableOpenMetrics: true})
}

func (p *providers) shutdown(ctx context.Context) error {
	return errors.Join(p.tracer.Shutdown(ctx), p.meter.Shutdown(ctx))
}
