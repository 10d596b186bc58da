package oracle

import (
	"sync/atomic"
	"time"
)

// A Read is what one read was given.
type Read struct {
	Node      int
	Key       int
	Version   uint64 // what the value carried; of no meaning if Absent
	Absent    bool   // there was none
	Began     Instant
	Ended     Instant
	NotBefore Instant // the read must not return what had been overwritten before
	Demand    Demand
	Tier      Tier
}

// A Reader tells the oracle what the reads of one kind on one node were given. One goroutine at a time may use it.
type Reader struct {
	oracle    *Oracle
	node      int
	demand    Demand
	bound     time.Duration
	staleness Staleness
	missing   atomic.Uint64
	tiers     [3]atomic.Uint64
}

// Reader returns a reader on a node, whose reads accept what had been overwritten for no longer than bound when they began.
func (o *Oracle) Reader(node int, demand Demand, bound time.Duration) *Reader {
	r := &Reader{oracle: o, node: node, demand: demand, bound: bound}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.readers = append(o.readers, r)
	return r
}

// Value judges a read that returned the value of a version.
func (r *Reader) Value(key int, version uint64, began, ended Instant, tier Tier) Rule {
	r.tiers[tier].Add(1)
	return r.judge(Read{Key: key, Version: version, Began: began, Ended: ended, NotBefore: began.Add(-r.bound), Tier: tier})
}

// Missing judges a read that returned that there is nothing.
func (r *Reader) Missing(key int, began, ended Instant) Rule {
	return r.judge(Read{Key: key, Absent: true, Began: began, Ended: ended, NotBefore: began.Add(-r.bound)})
}

// Since is Value, or Missing if version is 0, for a read after a fence that began at fenced.
func (r *Reader) Since(fenced Instant, key int, version uint64, began, ended Instant) Rule {
	return r.judge(Read{Key: key, Version: version, Absent: version == 0, Began: began, Ended: ended, NotBefore: fenced})
}

func (r *Reader) judge(read Read) Rule {
	read.Node, read.Demand = r.node, r.demand
	o := r.oracle
	k := &o.keys[read.Key]
	k.mu.Lock()
	verdict := k.judge(&read)
	if verdict.rule == Kept && !verdict.undecided {
		k.learn(&read, verdict.write)
	}
	k.recent[k.reads%recentReads] = read
	k.reads++
	sampled := k.record(o, &read)
	var violation Violation
	if verdict.rule != Kept {
		violation = k.describe(&read, verdict)
	}
	overwritten := never
	if verdict.write != nil {
		overwritten = verdict.write.overwritten
	}
	k.mu.Unlock()

	if read.Absent {
		r.missing.Add(1)
	} else {
		r.staleness.add(read.Began.Sub(min(overwritten, read.Began)))
	}
	if verdict.undecided {
		o.undecided.Add(1)
	}
	if sampled != nil {
		o.options.Sample.Take(*sampled)
	}
	if verdict.rule != Kept {
		o.report(violation)
	}
	return verdict.rule
}

// A verdict is a rule that was broken, or Kept, and the write that the read returned: nil if it is not known.
type verdict struct {
	rule      Rule
	write     *write
	undecided bool
}

func (k *key) judge(r *Read) verdict {
	if r.Absent {
		return k.judgeAbsent(r)
	}
	w := k.find(r.Version)
	switch {
	case w != nil && !w.absent:
		return verdict{rule: k.broken(r, w), write: w}
	case w != nil || r.Version == 0 || r.Version > k.last:
		return verdict{rule: ForeignValue}
	}
	return k.judgeForgotten(r)
}

// judgeAbsent looks for a write that explains that there is nothing: a removal, or a value that may have expired.
func (k *key) judgeAbsent(r *Read) (v verdict) {
	for i := len(k.writes) - 1; i >= 0; i-- {
		w := &k.writes[i]
		if !w.absent && !w.mayHaveExpired(r.Ended) {
			continue
		}
		rule := k.outdated(r, w)
		if rule == Kept {
			return verdict{write: w}
		}
		if v.write == nil {
			v = verdict{rule: rule, write: w}
		}
	}
	if v.write == nil {
		return k.judgeForgotten(r)
	}
	if k.forgotten >= r.NotBefore {
		return verdict{undecided: true}
	}
	return v
}

// judgeForgotten is for writes that are not kept any more: all of them had been overwritten by k.forgotten.
func (k *key) judgeForgotten(r *Read) verdict {
	if k.forgotten >= r.NotBefore {
		return verdict{undecided: true}
	}
	return verdict{rule: k.recency(r)}
}

// broken returns the rule that a read breaks by returning w.
func (k *key) broken(r *Read, w *write) Rule {
	if w.hasExpired(r.Began) {
		return ExpiredRead
	}
	return k.outdated(r, w)
}

func (k *key) outdated(r *Read, w *write) Rule {
	switch {
	case w.overwritten == never:
		return Kept // by far the most
	case w.overwritten < r.NotBefore:
		return k.recency(r)
	case r.Node == Outside:
		return Kept
	case k.ownWriteBetween(r, w):
		return ReadYourWrites
	case r.Demand != Looser && !k.sourced && w.applied < k.seen[r.Node].invoked && k.seen[r.Node].ended < r.Began:
		return MonotonicReads
	}
	return Kept
}

// recency is the rule that a read breaks by returning what had been overwritten before its NotBefore.
func (k *key) recency(r *Read) Rule {
	switch {
	case r.Demand == Direct && k.sourced, r.Demand == Fenced:
		return StaleFill
	case r.Demand == Direct, r.Demand == Fresh:
		return FreshRead
	}
	return BoundedStaleness
}

// ownWriteBetween reports whether a write of the read's node overwrote w, and had both returned and taken effect before the read began:
// one that failed may do so later.
func (k *key) ownWriteBetween(r *Read, w *write) bool {
	for i := range k.writes {
		own := &k.writes[i]
		if own.node == r.Node && own.certain && max(own.returned, own.applied) < r.Began && w.applied < own.invoked {
			return true
		}
	}
	return false
}

// learn takes from a lawful read what it shows of the write that it returned.
func (k *key) learn(r *Read, w *write) {
	if r.Absent {
		return // it does not tell by which removal
	}
	if k.sourced {
		return // the source shows a write before its invalidation is acknowledged
	}
	if r.Ended < w.applied {
		if w.applied == never && w.returned != never {
			k.unknown--
		}
		w.applied, w.certain = r.Ended, true
		k.reconsider(w)
	} else if !w.certain {
		w.certain = true
		k.reconsider(w)
	}
	if r.Demand == Default && r.Node != Outside {
		if s := &k.seen[r.Node]; s.ended == never || w.invoked > s.invoked {
			*s = sighting{invoked: w.invoked, ended: r.Ended}
		}
	}
}
