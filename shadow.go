package nearcache

import (
	"bytes"
	"context"
	"errors"
	"reflect"
	"sync/atomic"

	"github.com/go-nearcache/nearcache/localcache"
)

// DefaultShadowPerSecond is Shadow.MaxPerSecond if that is 0.
const DefaultShadowPerSecond = 10

// Shadow compares a sample of what L1 serves with what the loader says, in the background, and counts: see CacheStats.Shadow. Nothing is
// stored, and nothing evicted. It shows what Options.Verify cannot: writers who change the source and tell nobody.
//
// A difference counts if the value that was served is, after a fence, still what L1 would serve. A writer who is between the change of the source and
// its Set or Delete makes one rightly, so a few are no fault; what does not go away as writes do is.
type Shadow struct {
	// SampleRate is the share of reads served from L1 that is compared, from 0 to 1. Default 0: none.
	SampleRate float64

	// MaxPerSecond bounds the comparisons, each of which is a call of the loader; one runs at a time. Samples beyond it are skipped.
	// Default 10; from 1 to 1000.
	MaxPerSecond int
}

func (s Shadow) withDefaults() Shadow {
	if s.SampleRate != 0 && s.MaxPerSecond == 0 {
		s.MaxPerSecond = DefaultShadowPerSecond
	}
	return s
}

func (s Shadow) validate(cache string, loads bool) error {
	switch {
	case !(s.SampleRate >= 0 && s.SampleRate <= 1):
		return configError(cache, "Shadow.SampleRate", s.SampleRate, "must be from 0 to 1")
	case s.SampleRate == 0 && s.MaxPerSecond != 0:
		return configError(cache, "Shadow.SampleRate", "0", "must be positive for MaxPerSecond to mean anything")
	case s.SampleRate > 0 && !loads:
		return configError(cache, "Shadow.SampleRate", s.SampleRate, "needs Config.Load or LoadMany, which are nil: there is nothing to compare with")
	case s.SampleRate > 0 && (s.MaxPerSecond < 1 || s.MaxPerSecond > 1000):
		return configError(cache, "Shadow.MaxPerSecond", s.MaxPerSecond, "must be from 1 to 1000")
	}
	return nil
}

// ShadowStats counts what Config.Shadow found.
type ShadowStats struct {
	Same       uint64 `json:"same"`       // compared, and what the loader said
	Different  uint64 `json:"different"`  // compared, and not what the loader said
	Unresolved uint64 `json:"unresolved"` // not compared: it had left L1 by then, or the loader failed
	Skipped    uint64 `json:"skipped"`    // not compared: more than MaxPerSecond, or the last comparison was still running
}

// shadow is a comparison at work.
type shadow struct {
	sampling                             sampling
	rate                                 *verifier
	busy                                 atomic.Bool
	same, different, unresolved, skipped atomic.Uint64
}

func (s *shadow) stats() ShadowStats {
	if s == nil {
		return ShadowStats{}
	}
	return ShadowStats{Same: s.same.Load(), Different: s.different.Load(), Unresolved: s.unresolved.Load(), Skipped: s.skipped.Load()}
}

func newShadow(of Shadow) *shadow {
	if of.SampleRate == 0 {
		return nil
	}
	return &shadow{sampling: newSampling(of.SampleRate), rate: newVerifier(Verify{MaxPerSecond: of.MaxPerSecond})}
}

// shade has what was just served compared with the source, if there is time for it.
func (c *Cache[V]) shade(ctx context.Context, key string, k localcache.Key, served *record[V]) {
	s := c.shadow
	if !s.rate.admit() || !s.busy.CompareAndSwap(false, true) {
		s.skipped.Add(1)
		return
	}
	if !c.detach(ctx, func(ctx context.Context) {
		defer s.busy.Store(false)
		c.compareWithSource(ctx, key, k, served)
	}) {
		s.busy.Store(false)
	}
}

func (c *Cache[V]) compareWithSource(ctx context.Context, key string, k localcache.Key, served *record[V]) {
	s := c.shadow
	loaded, err := c.callLoader(ctx, key, nil)
	switch {
	case err != nil && !errors.Is(err, ErrNotFound):
		s.unresolved.Add(1)
		return
	case err == nil && c.alike(served.value, loaded.value):
		s.same.Add(1)
		return
	}
	if c.client.bus == nil && c.client.fenceShortly(ctx, c.config.Prefix, key) != nil {
		s.unresolved.Add(1)
		return
	}
	if _, ok := c.stillServes(k, served); !ok {
		s.unresolved.Add(1)
		return
	}
	s.different.Add(1)
}

// alike compares two values as the codec encodes them or, if that is not the same twice, with reflect.DeepEqual.
func (c *Cache[V]) alike(a, b V) bool {
	first, err := c.config.Codec.encode(a)
	second, failed := c.config.Codec.encode(b)
	return err == nil && failed == nil && bytes.Equal(first, second) || reflect.DeepEqual(a, b)
}
