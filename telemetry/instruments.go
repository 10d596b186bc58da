package telemetry

import (
	"errors"
	"fmt"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/semconv/v1.43.0/dbconv"
	"go.opentelemetry.io/otel/semconv/v1.43.0/messagingconv"
)

// The library's own attributes.
const (
	nameKey   = attribute.Key("nearcache.name")
	cacheKey  = attribute.Key("nearcache.cache")
	tierKey   = attribute.Key("nearcache.tier")
	resultKey = attribute.Key("nearcache.result")
	reasonKey = attribute.Key("nearcache.reason")
	roleKey   = attribute.Key("nearcache.role")
	modeKey   = attribute.Key("nearcache.mode")
	sourceKey = attribute.Key("nearcache.source")
	effectKey = attribute.Key("nearcache.effect")
	scopeKey  = attribute.Key("nearcache.scope")
	keyKey    = attribute.Key("nearcache.key")

	keyCountKey = attribute.Key("nearcache.key.count")
)

// Bucket boundaries, in seconds. Those of database and messaging operations are the ones that the semantic conventions advise.
var (
	databaseBounds  = []float64{.001, .005, .01, .05, .1, .5, 1, 5, 10}
	messagingBounds = []float64{.005, .01, .025, .05, .075, .1, .25, .5, .75, 1, 2.5, 5, 7.5, 10}
	loadBounds      = []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}
	ageBounds       = []float64{.01, .1, 1, 5, 10, 30, 60, 300, 900, 3600, 14400, 86400}
	linkBounds      = []float64{.00005, .0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5}
)

type instruments struct {
	requests      metric.Int64ObservableCounter
	itemCount     metric.Int64ObservableUpDownCounter
	memoryUsage   metric.Int64ObservableUpDownCounter
	memoryLimit   metric.Int64ObservableUpDownCounter
	evictions     metric.Int64ObservableCounter
	invalidations metric.Int64ObservableCounter
	flushes       metric.Int64ObservableCounter
	fillsRejected metric.Int64ObservableCounter
	loadCoalesced metric.Int64ObservableCounter
	verifications metric.Int64ObservableCounter
	consistency   metric.Float64ObservableGauge
	reconnects    metric.Int64ObservableCounter
	staleness     metric.Float64ObservableGauge
	mode          metric.Int64ObservableUpDownCounter

	loadDuration      metric.Float64Histogram
	verificationAge   metric.Float64Histogram
	fenceDuration     metric.Float64Histogram
	invalidationLag   metric.Float64Histogram
	operationDuration metric.Float64Histogram
	sentMessages      metric.Int64Counter
	consumedMessages  metric.Int64Counter
	publishDuration   metric.Float64Histogram
	processDuration   metric.Float64Histogram
}

func (i *instruments) create(meter metric.Meter) error {
	m := maker{meter: meter}

	i.requests = m.observableCounter("nearcache.requests", "{request}",
		"Requests by the tier that they reached and what they found there.")
	i.itemCount = m.observableUpDownCounter("nearcache.item.count", "{item}",
		"Entries held in the local tier.")
	i.memoryUsage = m.observableUpDownCounter("nearcache.memory.usage", "By",
		"Bytes that the local tier accounts for.")
	i.memoryLimit = m.observableUpDownCounter("nearcache.memory.limit", "By",
		"Bytes that the local tier may hold.")
	i.evictions = m.observableCounter("nearcache.evictions", "{eviction}",
		"Entries that left the local tier, or were refused by it, without an invalidation.")
	i.invalidations = m.observableCounter("nearcache.invalidations", "{invalidation}",
		"Invalidations of single keys, by where they came from and whether an entry was there.")
	i.flushes = m.observableCounter("nearcache.flushes", "{flush}",
		"Times that everything a link or a topic covered became unservable at once.")
	i.fillsRejected = m.observableCounter("nearcache.fills.rejected", "{fill}",
		"Fetched values that were returned to their caller but not stored.")
	i.loadCoalesced = m.observableCounter("nearcache.load.coalesced", "{request}",
		"Requests that waited for another's load instead of starting one.")
	i.verifications = m.observableCounter("nearcache.verifications", "{verification}",
		"Sampled answers of the local tier by what a comparison with Redis found.")
	i.consistency = m.observableGauge("nearcache.verification.consistency", "1",
		"Share of the compared answers of the local tier that were coherent with Redis, since the client's start.")
	i.reconnects = m.observableCounter("nearcache.tracking.reconnects", "{reconnect}",
		"Times that a tracking link was established again.")
	i.staleness = m.observableGauge("nearcache.tracking.staleness", "s",
		"Age of the instant up to which every acknowledged write is known to be applied to the local tier.")

	i.mode = m.observableUpDownCounter("nearcache.tracking.mode", "{server}",
		"Servers by what keeps the local tier coherent with them.")

	i.loadDuration = m.histogram("nearcache.load.duration", "s",
		"Duration of loads from the source.", loadBounds)
	i.verificationAge = m.histogram("nearcache.verification.age", "s",
		"Time that what was found wrong had been in the local tier, and so the most that it had been wrong for.", ageBounds)
	i.fenceDuration = m.histogram("nearcache.tracking.fence.duration", "s",
		"Duration of fences: waits until every write acknowledged before them is applied.", linkBounds)
	i.invalidationLag = m.histogram("nearcache.invalidation.lag", "s",
		"Time from a canary write to its push, both seen by this process.", linkBounds)
	i.operationDuration = m.histogram(
		dbconv.ClientOperationDuration{}.Name(), dbconv.ClientOperationDuration{}.Unit(),
		dbconv.ClientOperationDuration{}.Description(), databaseBounds)
	i.sentMessages = m.counter(
		messagingconv.ClientSentMessages{}.Name(), messagingconv.ClientSentMessages{}.Unit(),
		messagingconv.ClientSentMessages{}.Description())
	i.consumedMessages = m.counter(
		messagingconv.ClientConsumedMessages{}.Name(), messagingconv.ClientConsumedMessages{}.Unit(),
		messagingconv.ClientConsumedMessages{}.Description())
	i.publishDuration = m.histogram(
		messagingconv.ClientOperationDuration{}.Name(), messagingconv.ClientOperationDuration{}.Unit(),
		messagingconv.ClientOperationDuration{}.Description(), messagingBounds)
	i.processDuration = m.histogram(
		messagingconv.ProcessDuration{}.Name(), messagingconv.ProcessDuration{}.Unit(),
		messagingconv.ProcessDuration{}.Description(), messagingBounds)

	return errors.Join(m.errs...)
}

// observable lists what a callback may observe; the SDK drops observations of any other instrument.
func (i *instruments) observable() []metric.Observable {
	return []metric.Observable{
		i.requests, i.itemCount, i.memoryUsage, i.memoryLimit, i.evictions, i.invalidations, i.flushes, i.fillsRejected,
		i.loadCoalesced, i.verifications, i.consistency, i.reconnects, i.staleness, i.mode,
	}
}

// maker collects the errors of a row of instruments, so that the row reads as the table that it is.
type maker struct {
	meter metric.Meter
	errs  []error
}

func (m *maker) check(name string, err error) {
	if err != nil {
		m.errs = append(m.errs, fmt.Errorf("%s: %w", name, err))
	}
}

func (m *maker) counter(name, unit, description string) metric.Int64Counter {
	c, err := m.meter.Int64Counter(name, metric.WithUnit(unit), metric.WithDescription(description))
	m.check(name, err)
	return c
}

func (m *maker) histogram(name, unit, description string, bounds []float64) metric.Float64Histogram {
	h, err := m.meter.Float64Histogram(name, metric.WithUnit(unit), metric.WithDescription(description),
		metric.WithExplicitBucketBoundaries(bounds...))
	m.check(name, err)
	return h
}

func (m *maker) observableCounter(name, unit, description string) metric.Int64ObservableCounter {
	c, err := m.meter.Int64ObservableCounter(name, metric.WithUnit(unit), metric.WithDescription(description))
	m.check(name, err)
	return c
}

func (m *maker) observableUpDownCounter(name, unit, description string) metric.Int64ObservableUpDownCounter {
	c, err := m.meter.Int64ObservableUpDownCounter(name, metric.WithUnit(unit), metric.WithDescription(description))
	m.check(name, err)
	return c
}

func (m *maker) observableGauge(name, unit, description string) metric.Float64ObservableGauge {
	g, err := m.meter.Float64ObservableGauge(name, metric.WithUnit(unit), metric.WithDescription(description))
	m.check(name, err)
	return g
}

// serverAttributes say where a server is; a port of zero (a Unix socket) is left out, as the conventions ask.
func serverAttributes(server Server) []attribute.KeyValue {
	attributes := []attribute.KeyValue{semconv.ServerAddress(server.Address)}
	if server.Port != 0 {
		attributes = append(attributes, semconv.ServerPort(server.Port))
	}
	return attributes
}
