package localcache

import "math/bits"

// Key is the 128-bit hash of a user's key under the seeds of one [View]; see [View.Key]. Keys are comparable and can be
// kept and reused, but mean nothing to another view or another process.
//
// One half is the address in the store, which knows 64-bit keys only. The other is kept in the entry and verified by
// every read, so two keys share an entry only if all 128 bits collide. With the address alone a cache of a hundred
// million keys would serve somebody else's value with a probability of about 1 in 3,700.
type Key struct {
	hi, lo uint64
}

// Part picks one of n parts for the key, n a power of two: for tables of the caller's own that are split to spread their locks.
func (k Key) Part(n int) int {
	// The low bits of hi pick the stripe and must not pick the part as well: keys of one part would then share few stripes.
	return int(k.hi>>48) & (n - 1)
}

// Twin returns the key under which a second view can hold something for the same user's key without hashing that again. The two do not
// collide.
func (k Key) Twin() Key { return Key{hi: bits.RotateLeft64(k.hi, 32), lo: ^k.lo} }
