package localcache

// Derive returns another key of the same view, one for each n: for callers with several name spaces in one view. n must not be 0.
func (k Key) Derive(n uint64) Key {
	// The halves are hashes; odd factors keep different n apart in both.
	return Key{hi: k.hi ^ n*0x9e3779b97f4a7c15, lo: k.lo ^ n*0xd1342543de82ef95}
}
