package localcache

import "sync/atomic"

// A Token is the right to store one fetched value. It is taken before the fetch is sent, by [View.Token], and presented
// with the value to [View.Fill]. An invalidation of the key, or the end of the shard's epoch, makes it worthless whenever
// that happens: between the token and the fill, during the fill, or between the fill and the moment the value becomes
// visible. Tokens hold no resource and may be dropped.
//
// The zero Token is neither current nor live.
type Token struct {
	shard      *Shard
	stripe     *atomic.Uint64
	generation uint64
	epoch      uint64
	last       uint64 // the shard's last epoch, which tells apart two times without one
}

// Token notes the generation of the key's stripe and the epoch that the shard allows fills under. The shard must be one
// of this view's cache: Token panics otherwise.
func (v *View[V]) Token(k Key, s *Shard) Token {
	s.mustBelongTo(v.cache)
	stripe := v.cache.stripe(k)
	generation, state := stripe.Load(), s.state()
	return Token{shard: s, stripe: stripe, generation: generation, epoch: state.fill, last: state.last}
}

// Current reports whether a value fetched since the token was taken is as good as one fetched now: the key has not been
// invalidated and the shard's epoch for fills is the same, or there has been none all the while. About once in 65,536 invalidations it denies that
// for an invalidation of another key. A reader may join the fetch of another one only while that one's token is current.
func (t Token) Current() bool {
	if t.shard == nil || t.stripe.Load() != t.generation {
		return false
	}
	state := t.shard.state()
	return state.fill == t.epoch && state.last == t.last
}

// Live reports whether the token can lead to a stored entry at all, that is, whether the shard was live when it was taken.
func (t Token) Live() bool { return t.epoch != epochNone }

// Of reports whether the token was taken for this shard.
func (t Token) Of(s *Shard) bool { return t.shard != nil && t.shard == s }
