package nearcache

import (
	"bytes"
	"context"
	"log/slog"
	"math"
	"math/bits"
	"reflect"
	"sync/atomic"
	"time"

	"github.com/go-nearcache/nearcache/localcache"
)

// DefaultVerifyPerSecond is Verify.MaxPerSecond if that is 0.
const DefaultVerifyPerSecond = 10

// Verify says how much of what L1 serves is compared with Redis: see Options.Verify. The zero value compares nothing.
//
// A comparison asks Redis for the value first and fences then: what had changed the key by then, L1 has been told of. If L1
// still holds what it served, and that is not what Redis answered, an invalidation has been lost. So no write that is under way can
// look like one, and every alarm is one: a fault of the server, of a proxy or of this library, a change that Redis does not announce
// (SWAPDB), or a value that the program has changed after it got it.
//
// Values are compared as the codec encodes them or, if that is not the same twice, with reflect.DeepEqual.
type Verify struct {
	// SampleRate is the share of reads served from L1 that is compared, from 0 to 1; 0.001 is one in a thousand. Default 0: none.
	SampleRate float64

	// MaxPerSecond bounds the comparisons of the client, each of which is three small round trips to Redis. Samples beyond it are
	// skipped. Default 10; from 1 to 1000.
	MaxPerSecond int

	// LogKeys puts the key of what was wrong into the log, which has the name of the cache and no key otherwise. Default false.
	LogKeys bool
}

func (v Verify) withDefaults() Verify {
	if v.SampleRate != 0 && v.MaxPerSecond == 0 {
		v.MaxPerSecond = DefaultVerifyPerSecond
	}
	return v
}

func (v Verify) validate(withoutRedis bool) error {
	switch {
	case !(v.SampleRate >= 0 && v.SampleRate <= 1):
		return optionError("Verify.SampleRate", v.SampleRate, "must be from 0 to 1")
	case v.SampleRate == 0 && v != (Verify{}):
		return optionError("Verify.SampleRate", "0", "must be positive for the other fields of Verify to mean anything")
	case v.SampleRate > 0 && withoutRedis:
		return optionError("Verify.SampleRate", v.SampleRate, "needs Redis to compare with: leave Verify out")
	case v.SampleRate > 0 && (v.MaxPerSecond < 1 || v.MaxPerSecond > 1000):
		return optionError("Verify.MaxPerSecond", v.MaxPerSecond, "must be from 1 to 1000")
	}
	return nil
}

// VerifyStats counts what Options.Verify found.
type VerifyStats struct {
	Coherent   uint64 `json:"coherent"`   // compared, and what Redis held too
	Wrong      uint64 `json:"wrong"`      // compared, and not what Redis held: an invalidation was lost
	Unresolved uint64 `json:"unresolved"` // not compared: it had left L1 by then, or Redis or the link did not answer
	Skipped    uint64 `json:"skipped"`    // not compared: more than Verify.MaxPerSecond
}

// Consistency is the share of what was compared that was coherent: 0.9999 is four nines. It is 1 if nothing was compared.
func (s VerifyStats) Consistency() float64 {
	compared := s.Coherent + s.Wrong
	if compared == 0 {
		return 1
	}
	return float64(s.Coherent) / float64(compared)
}

type verifyCounts struct{ coherent, wrong, unresolved, skipped atomic.Uint64 }

func (n *verifyCounts) stats() VerifyStats {
	return VerifyStats{
		Coherent: n.coherent.Load(), Wrong: n.wrong.Load(), Unresolved: n.unresolved.Load(), Skipped: n.skipped.Load(),
	}
}

// sampling picks reads: those whose hash is not above it. 0 picks none.
type sampling uint64

func newSampling(rate float64) sampling {
	if rate >= 1 {
		return math.MaxUint64
	}
	return sampling(rate * (1 << 64))
}

// picks decides on the path of a hit, so it does without a generator and its state: a read is as random as the nanosecond in which
// it began. The key tells apart the reads of one GetMany, which begin at once.
func (s sampling) picks(k localcache.Key, began localcache.Instant) bool {
	return s != 0 && s.covers(uint64(began)^uint64(k.Part(1<<16))<<48)
}

// covers hashes as wyhash does; the constants are its own.
func (s sampling) covers(x uint64) bool {
	high, low := bits.Mul64(x^0xa0761d6478bd642f, x^0xe7037ed1a0b428db)
	return sampling(high^low) <= s
}

// A verifier compares what the caches have sampled, one after another, on a goroutine of its own. What comes while it is busy waits in a
// short queue or is skipped.
type verifier struct {
	interval time.Duration
	next     atomic.Int64 // the Instant from which another sample is admitted
	samples  chan func(context.Context)
	log      oncePerSecond
}

func newVerifier(options Verify) *verifier {
	return &verifier{interval: time.Second / time.Duration(options.MaxPerSecond), samples: make(chan func(context.Context), 16)}
}

// admit keeps to the rate.
func (v *verifier) admit() bool {
	now, next := localcache.Now(), v.next.Load()
	return int64(now) >= next && v.next.CompareAndSwap(next, int64(now.Add(v.interval)))
}

func (v *verifier) run(ctx context.Context) {
	for {
		select {
		case compare := <-v.samples:
			compare(ctx)
		case <-ctx.Done():
			return
		}
	}
}

// sample has what was just served from L1 compared, if there is time for it.
func (c *Cache[V]) sample(key string, k localcache.Key, served *record[V]) {
	v := c.client.verifier
	if !v.admit() {
		c.counts.verify.skipped.Add(1)
		return
	}
	select {
	case v.samples <- func(ctx context.Context) { c.compare(ctx, key, k, served) }:
	default:
		c.counts.verify.skipped.Add(1)
	}
}

// compare looks whether L1 still had the right to serve what it served. The order is what makes it certain: whatever wrote what Redis
// answers did so before the fence, so after the fence L1 has been told.
func (c *Cache[V]) compare(ctx context.Context, key string, k localcache.Key, served *record[V]) {
	n := &c.counts.verify
	if _, ok := c.stillServes(k, served); !ok {
		n.unresolved.Add(1)
		return
	}
	full := c.config.Prefix + key
	answer := c.client.remote.fetch(ctx, full)
	if answer.state == unavailable || c.client.fenceShortly(ctx, "", full) != nil {
		n.unresolved.Add(1)
		return
	}
	info, ok := c.stillServes(k, served)
	switch {
	case !ok:
		n.unresolved.Add(1)
	case c.agrees(served, answer):
		n.coherent.Add(1)
	default:
		n.wrong.Add(1)
		c.view.Invalidate(k, localcache.Local)
		c.client.telemetry.VerificationAge(ctx, c.config.Name, info.Age)
		c.reportWrong(ctx, full, answer.state, info.Age)
	}
}

// stillServes reports whether L1 holds this very entry and would serve it to a reader content with any bound.
func (c *Cache[V]) stillServes(k localcache.Key, served *record[V]) (localcache.Info, bool) {
	held, info, ok := c.view.PeekValue(k)
	return info, ok && held == served && info.State == localcache.Servable
}

// agrees reports whether Redis holds what L1 served. The bytes may differ where the values do not: another program may have written them,
// and a codec may put the entries of a map in another order each time.
func (c *Cache[V]) agrees(served *record[V], answer reply) bool {
	if served.absent || answer.state != held {
		return served.absent && answer.state == negative
	}
	encoded, err := c.config.Codec.encode(served.value)
	if err == nil && bytes.Equal(encoded, answer.data) {
		return true
	}
	stored, undecodable := c.config.Codec.decode(answer.data)
	if undecodable != nil {
		return false
	}
	if again, failed := c.config.Codec.encode(stored); err == nil && failed == nil && bytes.Equal(again, encoded) {
		return true
	}
	return reflect.DeepEqual(stored, served.value)
}

func (c *Cache[V]) reportWrong(ctx context.Context, full string, state replyState, age time.Duration) {
	if !c.client.verifier.log.allow() {
		return
	}
	attributes := []slog.Attr{
		slog.String("cache", c.config.Name),
		slog.Duration("held", age),
		slog.String("redis", wrongBecause(state)),
		slog.Uint64("wrong", c.counts.verify.wrong.Load()),
	}
	if c.client.options.Verify.LogKeys {
		attributes = append(attributes, slog.String("key", full))
	}
	c.client.logger.LogAttrs(ctx, slog.LevelError, "nearcache: L1 served what an invalidation should have evicted; it is evicted now", attributes...)
}

func wrongBecause(state replyState) string {
	switch state {
	case held:
		return "another value"
	case negative:
		return "the mark of an absent item"
	case leased:
		return "the mark of a load"
	case refused:
		return "another type"
	}
	return "nothing"
}
