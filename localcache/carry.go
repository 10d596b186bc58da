package localcache

// Carry returns what the view holds for k if it may be stored again, together with something new, under t: it was filled
// with a token of t's own generation and epoch, so no invalidation of k began between the two tokens, and one that begins
// from now on makes worthless what is filled under t. That makes a set of values with one key: each is added by a fill of
// all of them. The value may have passed its deadline; not nil, it is shared and must not be changed.
//
// An entry that a [View.Get] would serve is often not carried: a later invalidation of another key of the stripe is enough.
func (v *View[V]) Carry(k Key, t Token) *V {
	c := v.cache
	cell := v.gate.cell()
	cell.entered.Add(1)
	defer cell.others.Add(1)
	if c.closed() || !t.Live() {
		return nil
	}
	r, ok := c.look(k)
	if !ok {
		return nil
	}
	e, ok := r.(*entry[V])
	if !ok || e.generation != t.generation || e.epoch != t.epoch {
		return nil
	}
	return &e.value
}
