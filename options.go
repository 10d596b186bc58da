package nearcache

import (
	"context"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"time"

	"github.com/redis/rueidis"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/go-nearcache/nearcache/broadcast"
	"github.com/go-nearcache/nearcache/tracking"
)

// Defaults of Options and Config.
const (
	DefaultMaxStaleness  = time.Second
	DefaultMaxBytes      = 64 << 20
	DefaultRemoteTimeout = time.Second
	DefaultTTL           = 10 * time.Minute
	DefaultLoadTimeout   = 5 * time.Second
)

// A DisconnectPolicy says what a read does while the invalidation link is down, when nothing tells this node what changed.
type DisconnectPolicy int

const (
	// BypassLocal reads from Redis and stores nothing in L1. It is the default: slower, never stale.
	BypassLocal DisconnectPolicy = iota
	// ServeStale goes on serving what L1 held when the link was lost, until Options.StaleLimit has passed since the last instant
	// of which all writes are known. After that, and for what L1 does not hold, it reads as BypassLocal does.
	ServeStale
	// FailReads returns ErrDisconnected.
	FailReads
)

func (p DisconnectPolicy) String() string {
	switch p {
	case BypassLocal:
		return "BypassLocal"
	case ServeStale:
		return "ServeStale"
	case FailReads:
		return "FailReads"
	}
	return fmt.Sprintf("DisconnectPolicy(%d)", int(p))
}

// Options configure a Client. The zero value of each field but Redis and Prefixes, or Bus, means its default.
type Options struct {
	// Redis says how to connect, as for rueidis.NewClient: InitAddress is required. The data connections and the invalidation link
	// are both made from it. The client sets DisableCache and DisableRetry itself (it has its own cache, and bounds its own
	// tries), Dialer.Timeout, Sentinel.Dialer.Timeout and ConnWriteTimeout only where they are zero (2 × RemoteTimeout), and so
	// Sentinel.TopologyRefreshInterval (5 s). One address is a server on its own or, like several, a node of a Redis Cluster. With
	// Sentinel.MasterSet the addresses are those of sentinels, the client follows the primary that they name, and finds the other sentinels
	// through them.
	//
	// Reads go to primaries, unless ReadNodeSelector is set: then it chooses, of a primary (the first) and its replicas, the one that this client
	// reads what L1 does not hold from: once, again when that one is gone or of no use, and every ten seconds while it is the primary. With EnableReplicaAZInfo it is
	// told the availability zones. MaxStaleness, Fresh and a node's own writes hold as ever: what a replica has not applied yet is read at its
	// primary. Replicas are those of the cluster, those that the sentinels know, or, of one server, Standalone.ReplicaAddress. The commands
	// of Client.Rueidis go to primaries. The user needs the right to INFO.
	Redis rueidis.ClientOption

	// Prefixes are what Redis announces to this node: a change of any key that starts with one of them. Required; fixed for the
	// client's life. None may be empty or begin with another. Every distinct prefix in a fleet costs the server a little on every
	// write, so prefer few and short ones.
	Prefixes []string

	// Bus keeps the caches of a client without Redis coherent: leave Redis empty. (With Redis, see Tracking.) Such a cache is L1 and the loader; Set and Delete
	// announce the key on BusTopic to all other nodes, whose next read loads. After a gap in the messages everything is loaded
	// anew. What is promised is weaker than with Redis: a change is seen when its message comes, which nothing bounds, and a read with
	// Fresh or MaxStaleness goes to the loader. Prefixes may be left out. The caller closes the bus, after the client.
	Bus *broadcast.Bus

	// MaxStaleness bounds how old a read from L1 may be: it never returns a value that had been overwritten for longer than this
	// when the read began. Default 1 s; from 5 ms to 10 minutes. A quarter of it is the heartbeat of the link, or an eighth if replicas are read.
	MaxStaleness time.Duration

	// MaxBytes is the budget of L1 for all caches of the client together: values, keys and bookkeeping. Default 64 MiB.
	MaxBytes int64

	// RemoteTimeout bounds one round trip to Redis. When it passes, the read goes on to the loader. Default 1 s.
	RemoteTimeout time.Duration

	// Tracking says what to do with a server that does not announce changes. Default RequireTracking: Open fails. With Degrade the client goes on
	// in the best Mode that there is: ModeBroadcast if a Bus is given, on which then all nodes, degraded or not, announce the keys that they write;
	// else ModeTTL, else, with NoLocal, ModeOff. The mode is in Health, Stats, telemetry (nearcache.tracking.mode) and one line of the log.
	// Tracking is tried again all the time, and used again after a write was seen to be announced.
	Tracking TrackingPolicy

	// DegradedTTL bounds how long L1 keeps a value in ModeBroadcast and ModeTTL. In ModeTTL that is the staleness, too. Default MaxStaleness;
	// NoLocal turns L1 off; otherwise from 1 ms to 10 minutes. Only with Degrade.
	DegradedTTL time.Duration

	// OnDisconnect is the policy while the invalidation link is down. Default BypassLocal.
	OnDisconnect DisconnectPolicy

	// StaleLimit bounds the staleness that ServeStale accepts; required with it, and at least MaxStaleness.
	StaleLimit time.Duration

	// Verify compares a sample of what L1 serves with Redis, off the path of the reads, to see what the promise is worth in this very
	// fleet. What is wrong is evicted, counted in CacheStats.Verify and in telemetry (nearcache.verifications, and its age in
	// nearcache.verification.age), and logged. Default: nothing is compared, nothing runs, and a hit pays for no more than to see that.
	Verify Verify

	// Canary is how often this client writes a key of its own, the first prefix followed by "nearcache:canary:" and a random name, to
	// see its push on the link. The time between is recorded (nearcache.invalidation.lag, LinkStats.CanaryLag). If the push has not
	// come within MaxStaleness, nor by the end of a fence after that, the link is given up as if it had failed, and the reason is in
	// Health until a new one is live. Each push goes to all nodes, so a fleet of n gets n² of them an interval. Default 0: never; from
	// 10 ms to 1 hour. The user needs the right to write the key.
	Canary time.Duration

	// Name tells this client from others of the process in telemetry, as nearcache.name. Default "default".
	Name string

	// TracerProvider, MeterProvider and Propagator are used for telemetry. Default: the globals of OpenTelemetry.
	TracerProvider trace.TracerProvider
	MeterProvider  metric.MeterProvider
	Propagator     propagation.TextMapPropagator

	// TraceKeys notes the key of each Get that L1 did not answer on its span, as nearcache.key. Default: no key leaves the process.
	TraceKeys bool

	// SettleFills makes each read wait until what it stored in L1 is visible to the next, so that tests can count on it: L1 applies what is
	// stored a moment later otherwise, or, if it is busy, not at all. It makes misses slower. Default false.
	SettleFills bool

	// Logger gets one line for each change of state: the link lost and live again, values that do not decode, what Verify finds. It never
	// gets a value or a secret. Default: nothing is logged.
	Logger *slog.Logger
}

func (o Options) withDefaults() Options {
	if o.MaxStaleness == 0 {
		o.MaxStaleness = DefaultMaxStaleness
	}
	if o.MaxBytes == 0 {
		o.MaxBytes = DefaultMaxBytes
	}
	if o.RemoteTimeout == 0 {
		o.RemoteTimeout = DefaultRemoteTimeout
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Tracking == Degrade && o.DegradedTTL == 0 {
		o.DegradedTTL = o.MaxStaleness
	}
	o.Verify = o.Verify.withDefaults()
	if o.withoutRedis() {
		return o
	}
	if o.Redis.Dialer.Timeout == 0 {
		o.Redis.Dialer.Timeout = 2 * o.RemoteTimeout
	}
	if o.Redis.ConnWriteTimeout == 0 {
		o.Redis.ConnWriteTimeout = 2 * o.RemoteTimeout
	}
	if o.Redis.Sentinel.Dialer.Timeout == 0 {
		o.Redis.Sentinel.Dialer.Timeout = 2 * o.RemoteTimeout
	}
	if o.Redis.Sentinel.TopologyRefreshInterval == 0 {
		o.Redis.Sentinel.TopologyRefreshInterval = 5 * time.Second
	}
	o.Redis.DisableCache = true
	o.Redis.DisableRetry = true
	return o
}

// withoutRedis reports whether L1 and the loader are all there is.
func (o Options) withoutRedis() bool { return o.Bus != nil && len(o.Redis.InitAddress) == 0 }

// readsReplicas reports whether somebody chooses servers to read from.
func (o Options) readsReplicas() bool { return o.Redis.ReadNodeSelector != nil }

// heartbeat is short enough that a missed one still leaves time to notice before reads have to wait for a fence. What comes from a replica is known to
// hold two heartbeats later.
func (o Options) heartbeat() time.Duration {
	if o.readsReplicas() {
		return max(min(o.MaxStaleness/8, time.Second), time.Millisecond)
	}
	return min(o.MaxStaleness/4, time.Second)
}

func (o Options) validate() error {
	switch {
	case o.Bus != nil && len(o.Redis.InitAddress) > 0 && o.Tracking != Degrade:
		return optionError("Bus", "set together with Redis", "is for a client without Redis, whose own announcements serve otherwise: leave one of the two out, or set Tracking to Degrade")
	case len(o.Redis.InitAddress) == 0 && o.Bus == nil:
		return optionError("Redis.InitAddress", "empty", `must name a server, such as []string{"127.0.0.1:6379"}`)
	case o.Redis.Sentinel.MasterSet != "" && o.Redis.ForceSingleClient:
		return optionError("Redis.ForceSingleClient", true, "must be false with Sentinel.MasterSet: the addresses are those of sentinels")
	case o.Redis.ReplicaOnly:
		return optionError("Redis.ReplicaOnly", true, "must be false, since a primary is needed to know how far replicas are behind: set Redis.ReadNodeSelector, such as rueidis.PreferReplicaNodeSelector()")
	case o.Redis.SendToReplicas != nil || o.Redis.ReplicaSelector != nil: //nolint:staticcheck // it is deprecated, and set by some
		return optionError("Redis.SendToReplicas or ReplicaSelector", "set", "must be nil: the reads of caches go to replicas if Redis.ReadNodeSelector is set, such as to rueidis.PreferReplicaNodeSelector()")
	case len(o.Redis.Standalone.ReplicaAddress) > 0 && o.Redis.ReadNodeSelector == nil:
		return optionError("Redis.Standalone.ReplicaAddress", fmt.Sprintf("%q", o.Redis.Standalone.ReplicaAddress), "is only for a Redis.ReadNodeSelector, which chooses among them, such as rueidis.PreferReplicaNodeSelector()")
	case o.Redis.Standalone.EnableRedirect:
		return optionError("Redis.Standalone.EnableRedirect", true, "must be false: name the primary, sentinels or nodes of a cluster")
	}
	if !o.withoutRedis() || len(o.Prefixes) > 0 {
		if err := tracking.CheckPrefixes(o.Prefixes); err != nil {
			return fmt.Errorf("nearcache: Options.Prefixes: %w", err)
		}
	}
	if err := checkRange("Options.MaxStaleness", o.MaxStaleness, 5*time.Millisecond, 10*time.Minute); err != nil {
		return err
	}
	switch o.Tracking {
	case RequireTracking:
		if o.DegradedTTL != 0 {
			return optionError("DegradedTTL", o.DegradedTTL, "is only for Tracking: Degrade")
		}
	case Degrade:
		switch {
		case o.withoutRedis():
			return optionError("Tracking", o.Tracking, "is for a client with Redis: leave it out")
		case o.DegradedTTL == NoLocal && o.Bus != nil:
			return optionError("DegradedTTL", "NoLocal", "turns off the L1 that Bus is for: leave one of the two out")
		case o.DegradedTTL != NoLocal:
			if err := checkRange("Options.DegradedTTL", o.DegradedTTL, time.Millisecond, 10*time.Minute); err != nil {
				return err
			}
		}
	default:
		return optionError("Tracking", o.Tracking, "must be RequireTracking or Degrade")
	}
	if o.MaxBytes < 0 {
		return optionError("MaxBytes", o.MaxBytes, "must be positive")
	}
	if err := checkRange("Options.RemoteTimeout", o.RemoteTimeout, time.Millisecond, time.Minute); err != nil {
		return err
	}
	if err := o.Verify.validate(o.withoutRedis()); err != nil {
		return err
	}
	if o.Canary != 0 {
		if o.withoutRedis() {
			return optionError("Canary", o.Canary, "needs Redis to announce it: leave it out")
		}
		if err := checkRange("Options.Canary", o.Canary, 10*time.Millisecond, time.Hour); err != nil {
			return err
		}
	}
	switch o.OnDisconnect {
	case BypassLocal, FailReads:
		if o.StaleLimit != 0 {
			return optionError("StaleLimit", o.StaleLimit, "is only for OnDisconnect: ServeStale, which is "+o.OnDisconnect.String())
		}
	case ServeStale:
		if err := checkRange("Options.StaleLimit", o.StaleLimit, o.MaxStaleness, 24*time.Hour); err != nil {
			return err
		}
	default:
		return optionError("OnDisconnect", o.OnDisconnect, "must be BypassLocal, ServeStale or FailReads")
	}
	return nil
}

// A Config describes one cache of a client. The zero value of each field but Name and Prefix means its default.
type Config[V any] struct {
	// Name names the cache in errors, statistics and telemetry. Required, unique in its client.
	Name string

	// Prefix starts every key of this cache in Redis: the item "42" of the prefix "user:" is the key "user:42". Required; it must
	// begin with one of Options.Prefixes, and no two caches of a client may have the same.
	Prefix string

	// Load reads one item from the source when neither L1 nor Redis has it. It returns ErrNotFound (or an error that wraps it) if there is
	// none. It runs on a goroutine of its own, once at a time for a key in a process and, while Redis is there, in all processes; its
	// context carries the values of the caller that started it but not its cancellation, ends after LoadTimeout and with the
	// client, and must be obeyed; Previous finds in it what the item was before. A panic fails the readers of this key with a
	// PanicError. Default nil: Redis is the source, and a key that is not there is ErrNotFound.
	Load func(ctx context.Context, key string) (V, error)

	// LoadMany reads several items from the source in one call: GetMany asks it for what neither L1 nor Redis has, at most 500 keys a call and
	// each key once. The map holds the items that there are; a key that is not in it does not exist, if the error is nil. To let single
	// keys fail, return a [KeyError] for each, joined with errors.Join; any other error is that of all keys that have no value. Values for
	// keys that were not asked for are ignored, and counted. Leases, timeout, context and panics are as for Load. Get uses Load, and
	// LoadMany with one key if Load is nil. Default nil: GetMany calls Load for each key, several at a time.
	LoadMany func(ctx context.Context, keys []string) (map[string]V, error)

	// Entry decides from the value how long it lives, in place of TTL and LocalTTL: after a load and a Set, and on each node that reads it
	// from Redis. It is called often and from many goroutines, must return the same for the same value, and must not block. Default nil.
	Entry func(key string, value V) EntryOptions

	// Jitter shortens each life in Redis by a random share of it, so that what was stored together does not end together: with 0.1, TTL and
	// NegativeTTL are between 90 % and 100 % of what they say. Default 0; less than 1.
	Jitter float64

	// Store writes one item to the source: Set, SetMany and Update call it, and then put the value into Redis, so that a writer cannot
	// forget the one or the other. While it runs the key holds a lease, so readers on all nodes whom L1 does not answer wait for it, and no load
	// of what it replaces is stored. If it fails the key is deleted, because nobody knows what the source holds; if Redis does not answer it
	// is not called. It must not read the same key through the cache. Its context is the caller's, and ends after LoadTimeout. A panic is returned as a PanicError. Default nil: the writer
	// changes the source, and then calls Set or Delete.
	Store func(ctx context.Context, key string, value V) error

	// Remove deletes one item from the source: Delete and DeleteMany call it, and then delete the key in Redis, whether it failed or not. It
	// must take an item that is not there for success. Context and panics are as for Store. Default nil.
	Remove func(ctx context.Context, key string) error

	// RefreshAhead loads an item anew, in the background, when it is read and less than this share of its TTL is left, so that what is read
	// all the time is never waited for: with 0.2 and a TTL of 10 minutes, in the last 2. One node of the fleet does it for all; the others
	// go on with the value that they have, which is as coherent as before. The result is stored only if nobody has written the key meanwhile. It
	// costs loads of items that nobody might have read again. Default 0: not at all; less than 1.
	RefreshAhead float64

	// StaleWhileRevalidate has an item outlive its TTL by this much at most, in Redis and in L1: from the end of the TTL on, readers go on
	// getting the value while one node of the fleet loads it anew, in the background, when it is read. It is the directive of RFC 5861, and as
	// coherent as any other value: a write or a deletion ends it as ever, and the bounds of reads hold. What may be older than without is only what
	// nobody announced. GetItem shows it (Item.Revalidating). It comes on top of each life: of Entry's, and of TTL(d). What the source has not by then is deleted. Default 0: not at all;
	// from 1 ms. It takes the place of RefreshAhead, which does the same within the TTL.
	StaleWhileRevalidate time.Duration

	// RefreshInvalidated has this node read again, in the background, what its readers ask for often, once it was invalidated by others: so the next of
	// them finds it in L1. A key is read often if it was among a sample, one in 64, of the hits of the last 10 seconds. Each node does it for itself, up to
	// 50 ms later, at random; the loader runs on one of them, by its lease (without Redis, on each). It is how many a second are
	// refreshed at most: a second that brings more invalidations of such keys, as a bulk update does, stops refreshing until one has
	// passed that brings no more (CacheStats.RefreshesRefused counts). It costs reads and loads of what nobody may read again. Default 0: none; up to
	// 10,000.
	RefreshInvalidated int

	// Shadow compares a sample of what is served with what the loader says. Default: nothing is compared.
	Shadow Shadow

	// FailSafe goes on serving the last good value when a load fails or is slow. Default: off.
	FailSafe FailSafe

	// Clone copies a value, deeply enough that a reader may change what Get, GetItem and GetMany return to it. It runs on every read, hits
	// included. Default nil: all readers of a node share one value, and none may change what it points to.
	Clone func(V) V

	// MaxValueBytes bounds the encoded value. A longer one is refused by Set, SetMany and Update with ErrInvalidValue; loaded, it goes to those
	// who wait for it and is kept nowhere; found in Redis, it is not kept in L1. Default 0: the 512 MB of Redis.
	MaxValueBytes int

	// TTL is how long a value lives in Redis after Set or a load. Default 10 minutes; from 1 ms to 10 years.
	TTL time.Duration

	// LocalTTL bounds how long L1 keeps a value; what is left of its life in Redis bounds it too. Default TTL.
	LocalTTL time.Duration

	// NegativeTTL is how long it is remembered, in Redis and in L1, that the loader found nothing. Default 0: not at all.
	NegativeTTL time.Duration

	// LoadTimeout ends the context of a load. It is also how long the fleet waits for a node that died while it was loading. Default
	// 5 s.
	LoadTimeout time.Duration

	// Codec turns values into what Redis stores. Default JSON.
	Codec Codec[V]
}

func (c Config[V]) withDefaults() Config[V] {
	if c.TTL == 0 {
		c.TTL = DefaultTTL
	}
	if c.LocalTTL == 0 {
		c.LocalTTL = c.TTL
	}
	if c.LoadTimeout == 0 {
		c.LoadTimeout = DefaultLoadTimeout
	}
	if c.Codec.Encode == nil && c.Codec.Decode == nil {
		c.Codec = JSON[V]()
	}
	c.Shadow = c.Shadow.withDefaults()
	return c
}

const longest = 10 * 365 * 24 * time.Hour

func (c Config[V]) validate(client Options) error {
	if c.Name == "" {
		return configError(c.Name, "Name", `""`, "is required: it names the cache in errors and telemetry")
	}
	if c.Prefix == "" {
		return configError(c.Name, "Prefix", `""`, "is required: without one the cache would own every key of the server")
	}
	if len(client.Prefixes) > 0 && !underOneOf(c.Prefix, client.Prefixes) {
		return configError(c.Name, "Prefix", fmt.Sprintf("%q", c.Prefix), fmt.Sprintf("must begin with one of Options.Prefixes %q: Redis would not announce its changes", client.Prefixes))
	}
	if c.Load == nil && c.LoadMany == nil && client.withoutRedis() {
		return configError(c.Name, "Load", "nil", "is required without Redis: nothing else has values")
	}
	for _, d := range []struct {
		field    string
		value    time.Duration
		shortest time.Duration
	}{
		{"TTL", c.TTL, time.Millisecond},
		{"LocalTTL", c.LocalTTL, time.Millisecond},
		{"NegativeTTL", c.NegativeTTL, 0},
		{"LoadTimeout", c.LoadTimeout, time.Millisecond},
	} {
		if err := checkRange(fmt.Sprintf("cache %q: Config.%s", c.Name, d.field), d.value, d.shortest, longest); err != nil {
			return err
		}
	}
	switch {
	case !(c.RefreshAhead >= 0 && c.RefreshAhead < 1):
		return configError(c.Name, "RefreshAhead", c.RefreshAhead, "must be at least 0 and less than 1: it is a share of TTL")
	case c.RefreshAhead > 0 && c.Load == nil && c.LoadMany == nil:
		return configError(c.Name, "RefreshAhead", c.RefreshAhead, "needs Config.Load or LoadMany, which are nil: nothing else has newer values")
	case c.RefreshAhead > 0 && client.withoutRedis():
		return configError(c.Name, "RefreshAhead", c.RefreshAhead, "needs Redis, which Options.Bus replaces: it elects the node that loads")
	}
	switch d := c.StaleWhileRevalidate; {
	case d == 0:
	case c.RefreshAhead > 0:
		return configError(c.Name, "StaleWhileRevalidate", d, "does what RefreshAhead does, which is set: the one after the TTL, the other before its end; leave one of the two out")
	case !c.loads():
		return configError(c.Name, "StaleWhileRevalidate", d, "needs Config.Load or LoadMany, which are nil: nothing else has newer values")
	case client.withoutRedis():
		return configError(c.Name, "StaleWhileRevalidate", d, "needs Redis, which Options.Bus replaces: it elects the node that loads")
	default:
		if err := checkRange(fmt.Sprintf("cache %q: Config.StaleWhileRevalidate", c.Name), d, time.Millisecond, longest); err != nil {
			return err
		}
	}
	if c.RefreshInvalidated < 0 || c.RefreshInvalidated > 10_000 {
		return configError(c.Name, "RefreshInvalidated", c.RefreshInvalidated, "must be from 0 to 10,000 a second")
	}
	if err := c.Shadow.validate(c.Name, c.loads()); err != nil {
		return err
	}
	if c.MaxValueBytes < 0 || c.MaxValueBytes > largest {
		return configError(c.Name, "MaxValueBytes", c.MaxValueBytes, "must be from 0 to 512 MB")
	}
	if err := c.FailSafe.validate(c.Name, client, c.LoadTimeout); err != nil {
		return err
	}
	if !(c.Jitter >= 0 && c.Jitter < 1) {
		return configError(c.Name, "Jitter", c.Jitter, "must be at least 0 and less than 1: it is a share of TTL")
	}
	if c.NegativeTTL != 0 && c.NegativeTTL < time.Millisecond {
		return configError(c.Name, "NegativeTTL", c.NegativeTTL, "must be 0 or at least 1ms")
	}
	if c.Codec.Encode == nil || c.Codec.Decode == nil {
		return configError(c.Name, "Codec", "half a codec", "must have both Encode and Decode, or neither")
	}
	return nil
}

func (c Config[V]) loads() bool { return c.Load != nil || c.LoadMany != nil }

func underOneOf(prefix string, tracked []string) bool {
	for _, t := range tracked {
		if strings.HasPrefix(prefix, t) {
			return true
		}
	}
	return false
}

func optionError(field string, value any, rule string) error {
	return fmt.Errorf("nearcache: Options.%s is %v: it %s", field, value, rule)
}

func configError(cache, field string, value any, rule string) error {
	return fmt.Errorf("nearcache: cache %q: Config.%s is %v: it %s", cache, field, value, rule)
}

func checkRange(field string, d, shortest, longest time.Duration) error {
	if d < shortest || d > longest {
		return fmt.Errorf("nearcache: %s is %v: it must be from %v to %v", field, d, shortest, longest)
	}
	return nil
}

// nilable reports whether a V without a value can be told from one: pointers and interfaces.
func nilable[V any]() bool {
	kind := reflect.TypeFor[V]().Kind()
	return kind == reflect.Pointer || kind == reflect.Interface
}

func isNil[V any](value V) bool {
	v := reflect.ValueOf(value)
	return !v.IsValid() || v.Kind() == reflect.Pointer && v.IsNil()
}

// A ReadOption changes one read.
type ReadOption interface{ apply(readOptions) readOptions }

type readOptions struct {
	staleness time.Duration
	skipLocal bool
	wishes    wishes
}

func (o readOptions) bypassing(b Bypass) readOptions {
	if b&BypassL1 != 0 {
		o.skipLocal = true
		o.wishes |= bounded
	}
	if b&BypassRedis != 0 {
		o.wishes |= skipRemote
	}
	if b&BypassStores != 0 {
		o.wishes |= readOnly
	}
	return o
}

type skipLocalOption struct{}

func (skipLocalOption) apply(o readOptions) readOptions {
	o.skipLocal = true
	o.wishes |= bounded
	return o
}

// SkipLocal has a read ask Redis, or the loader if Redis has nothing, whatever L1 holds; L1 then keeps what was found. It is for comparing the
// two, and costs what a miss costs: a read that must not be stale is a Fresh one.
func SkipLocal() ReadOption { return skipLocalOption{} }

type bypassOption Bypass

func (b bypassOption) apply(o readOptions) readOptions { return o.bypassing(Bypass(b)) }

// stored has a read store what it finds whatever bypass is on: for a writer who builds on it.
type stored struct{}

func (stored) apply(o readOptions) readOptions {
	o.wishes &^= skipRemote | readOnly
	return o
}

// SkipRemote has a read neither ask Redis nor write to it: what L1 holds within the bound is returned, and otherwise what the loader says, which is
// called for this read alone, without a lease, and stored nowhere, since nothing would tell when it changes. Readers who do so at the same
// time each call the loader; FailSafe helps as always, but for its SoftTimeout. Without a loader it is ErrUnavailable that L1 has nothing. A client
// without Redis has nothing to skip there, and still stores nothing. In terms of FusionCache: skip reads and writes of the
// distributed cache, and do not write the memory cache.
func SkipRemote() ReadOption { return bypassOption(BypassRedis) }

// ReadOnly has a read leave no trace: it is answered from L1, from Redis, or by the loader, in this order, and what was found is stored in neither;
// no lease is taken, and no refresh is begun. The loader is called for this read alone, even while another load of the key runs. It is for tools and batches that should
// not fill memories with what only they read, and for a process that must not write. In terms of FusionCache: skip the writes of both
// the memory and the distributed cache.
func ReadOnly() ReadOption { return bypassOption(BypassStores) }

type stalenessOption time.Duration

func (d stalenessOption) apply(o readOptions) readOptions {
	o.staleness = time.Duration(d)
	o.wishes |= bounded
	return o
}

// Fresh makes a read linearizable with respect to the Redis server that owns its key: it returns no value that had been
// overwritten when the read began. It costs two small round trips, shared with all reads that ask at the same time; a value
// that has not changed is still served from L1.
func Fresh() ReadOption { return stalenessOption(0) }

// MaxStaleness bounds the staleness of one read in place of Options.MaxStaleness. Zero and less mean Fresh.
func MaxStaleness(d time.Duration) ReadOption { return stalenessOption(max(d, 0)) }
