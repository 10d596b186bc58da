// Package telemetry is what a nearcache client shows of itself to OpenTelemetry: its metrics, its spans and the context that
// travels with its messages. The other packages call it; a program that uses the library only hands its providers over, or sets
// the global ones.
//
// # Guarantees
//
//   - It uses the OpenTelemetry API only. Without an SDK nothing is recorded, no goroutine runs and nothing is kept; a program
//     that installs one with otel.SetTracerProvider, otel.SetMeterProvider or otel.SetTextMapPropagator after the client was
//     opened gets everything from then on, because the global providers delegate.
//   - A cache hit is not seen here at all. What happens on that path is counted by the client in its own atomics, and read
//     once a collection by the callback that [Telemetry.Observe] registers.
//   - Every series of metrics carries nearcache.name, which no two open clients of a process share ([New] sees to that), and
//     every series that belongs to one cache carries nearcache.cache too. So clients and caches never add up into one line.
//   - No key, no value and no text of an error is recorded: an error is reported by its class (error.type). Keys appear only
//     where a caller asks for them with [Get.SetKey].
//   - Every method may be called from any goroutine, none blocks, and none fails: what cannot be recorded is dropped by the SDK.
//
// # Metrics
//
// The instruments marked with an asterisk are observable: their values come from [Telemetry.Observe]. All durations are in
// seconds. The attributes listed are those besides nearcache.name; a name in parentheses is present on failure only.
//
//	nearcache.requests*                  counter {request}        nearcache.cache, nearcache.tier=local|remote|source,
//	                                                              nearcache.result=hit|miss|stale|negative|bypass
//	nearcache.item.count*                updowncounter {item}
//	nearcache.memory.usage*              updowncounter By
//	nearcache.memory.limit*              updowncounter By
//	nearcache.evictions*                 counter {eviction}       nearcache.reason=capacity|expired|rejected
//	nearcache.invalidations*             counter {invalidation}   nearcache.source=tracking|broadcast|local,
//	                                                              nearcache.effect=evicted|absent
//	nearcache.flushes*                   counter {flush}          nearcache.reason=reconnect|overflow|flushall|topology|manual|gap
//	nearcache.fills.rejected*            counter {fill}           nearcache.reason=invalidated|epoch|capacity
//	nearcache.load.coalesced*            counter {request}        nearcache.cache, nearcache.scope=process|fleet
//	nearcache.load.duration              histogram s              nearcache.cache, (error.type)
//	nearcache.verifications*             counter {verification}   nearcache.cache, nearcache.result=coherent|wrong|unresolved|skipped
//	nearcache.verification.consistency*  gauge 1                  nearcache.cache
//	nearcache.verification.age           histogram s              nearcache.cache
//	nearcache.tracking.reconnects*       counter {reconnect}      server.address, server.port, nearcache.role=primary|replica
//	nearcache.tracking.staleness*        gauge s                  server.address, server.port, nearcache.role=primary|replica
//	nearcache.tracking.mode*             updowncounter {server}   server.address, server.port, nearcache.role=primary|replica,
//	                                                              nearcache.mode=tracking|broadcast|ttl|off
//	nearcache.tracking.fence.duration    histogram s              (error.type)
//	nearcache.invalidation.lag           histogram s              server.address, server.port
//	db.client.operation.duration         histogram s              db.system.name=redis, db.operation.name, server.address,
//	                                                              server.port, (error.type, db.response.status_code)
//	messaging.client.sent.messages       counter {message}        messaging.system, messaging.operation.name,
//	messaging.client.consumed.messages   counter {message}        messaging.destination.name, (error.type)
//	messaging.client.operation.duration  histogram s
//	messaging.process.duration           histogram s
//
// # Spans
//
//	get {cache}       INTERNAL  a read that the local tier did not answer; (nearcache.key.count) of several keys
//	wait {cache}      INTERNAL  in it: the wait for what another reader of the process or another node fetches or loads
//	                            (nearcache.scope), with a link to that one's span
//	load {cache}      INTERNAL  in it: a call of the loader
//	{operation}       CLIENT    a Redis command or pipeline, named by db.operation.name
//	publish {topic}   PRODUCER  a message sent to the bus
//	process {topic}   CONSUMER  a message handled: a new trace with a link to its publisher, or a child of it
//	                            ([Options.ProcessAsChild])
//
// A failed span has the status Error, with the error's class as its description and in error.type; a span that succeeded keeps
// the status Unset. Names and meanings of db.*, messaging.*, server.* and error.type are those of OpenTelemetry's semantic
// conventions 1.43.0.
package telemetry
