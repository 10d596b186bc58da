package oracle

import "time"

// A Change is what a write does.
type Change struct {
	Absent bool          // it removes the key, or the item from the source
	Life   time.Duration // how long Redis keeps the value; 0 without end, and for sourced keys, which are loaded again
}

// A Write is a write that has begun. Exactly one of its three methods is to be called, once, when the call that carries it out has
// returned.
type Write struct {
	oracle  *Oracle
	key     int
	version uint64
}

const (
	keptWrites    = 256 // writes of a key that are kept at most
	crowdedWrites = 16  // from here on it is worth looking for some to forget
	unknownWrites = 4   // of a key at a time
)

// Begin announces a write, before any of it is sent. It returns false if the key takes no write for now: too many are kept, or nobody
// knows of too many whether they happened; Settle, or time, helps.
func (o *Oracle) Begin(node, key int, change Change) (Write, bool) {
	k := &o.keys[key]
	k.mu.Lock()
	defer k.mu.Unlock()
	now := Now()
	if len(k.writes) >= crowdedWrites {
		k.forget(now.Add(-o.options.Retain))
	}
	if len(k.writes) >= keptWrites || k.unknown >= unknownWrites {
		return Write{}, false
	}
	return Write{o, key, k.begin(write{absent: change.Absent, node: node, invoked: now, life: change.Life})}, true
}

func (k *key) begin(w write) (version uint64) {
	k.last++
	w.version = k.last
	w.returned, w.applied, w.overwritten = never, never, never
	k.writes = append(k.writes, w)
	return w.version
}

// Key returns the key that is written.
func (w Write) Key() int { return w.key }

// Version returns what the value has to carry.
func (w Write) Version() uint64 { return w.version }

// Acknowledged says that the write took effect.
func (w Write) Acknowledged() {
	w.end(func(_ *key, e *write) {
		e.certain = true
		e.applied = min(e.applied, e.returned)
	})
}

// Refused says that the write will never take effect. Should a read return it all the same, that says nothing about a cache.
func (w Write) Refused() {
	w.end(func(_ *key, e *write) { e.applied = min(e.applied, e.returned) })
}

// Unknown says that nobody knows whether the write took effect, nor whether it still will.
func (w Write) Unknown() {
	w.end(func(k *key, e *write) {
		if e.applied == never {
			k.unknown++
		}
	})
}

func (w Write) end(how func(*key, *write)) {
	k := &w.oracle.keys[w.key]
	k.mu.Lock()
	defer k.mu.Unlock()
	// A write that has not returned is always kept.
	e := k.find(w.version)
	e.returned = Now()
	how(k, e)
	k.reconsider(e)
}

// Settle says that no write that had returned before began can take effect from now on: every connection that could carry it was cut
// at Redis after began.
func (o *Oracle) Settle(began Instant) {
	for i := range o.keys {
		k := &o.keys[i]
		k.mu.Lock()
		now := Now()
		for j := range k.writes {
			w := &k.writes[j]
			if w.returned < began && w.applied == never {
				w.applied = now
				k.unknown--
				k.reconsider(w)
			}
		}
		k.mu.Unlock()
	}
}

// A Loss is a time in which Redis loses keys without anybody writing them.
type Loss struct {
	oracle   *Oracle
	versions []uint64 // by key
}

// BeginLoss announces a loss, before it can happen. It concerns all keys that have no source.
func (o *Oracle) BeginLoss() *Loss {
	l := &Loss{oracle: o, versions: make([]uint64, len(o.keys))}
	for i := range o.keys {
		if k := &o.keys[i]; !k.sourced {
			k.mu.Lock()
			l.versions[i] = k.begin(write{absent: true, loss: true, node: Outside, invoked: Now()})
			k.mu.Unlock()
		}
	}
	return l
}

// End says that the loss is over: for certain everything that was there when it began is gone (FLUSHALL, a restart without data), or
// perhaps something is (eviction).
func (l *Loss) End(certain bool) {
	for i, version := range l.versions {
		if version == 0 {
			continue
		}
		w := Write{l.oracle, i, version}
		if certain {
			w.Acknowledged()
		} else {
			w.Refused()
		}
	}
}
