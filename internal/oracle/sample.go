package oracle

import "time"

// Sampling says which histories to hand out, and to whom.
type Sampling struct {
	// Keys hands out histories of the first so many keys. Default 0: none. A key with a source, or with values that expire, gives none.
	Keys int

	// Reads is how many fresh reads a history holds. Default 64.
	Reads int

	// Take gets a history, on the goroutine of a reader. It must not block, nor call the oracle.
	Take func(History)
}

// A History is all fresh reads of a key in a stretch of time, and all writes that these may have returned.
type History struct {
	Key    int
	Reads  []Read
	Writes []WriteRecord
}

// A WriteRecord is one write of a history.
type WriteRecord struct {
	Version  uint64
	Absent   bool
	Invoked  Instant
	Returned Instant // never later than it took effect; greater than all other instants if that is open
	Certain  bool    // it took effect
}

// sample collects the history of one key.
type sample struct {
	reads []Read
}

// longestSample keeps a sample within what Options.Retain surely keeps of the writes.
const longestSample = 4 * time.Second

// record adds a fresh read to the sample of the key, and returns the history when it is complete.
func (k *key) record(o *Oracle, r *Read) *History {
	s := o.options.Sample
	if r.Key >= s.Keys || k.sourced || r.Demand != Fresh {
		return nil
	}
	size := s.Reads
	if size == 0 {
		size = 64
	}
	if len(k.sample.reads) > 0 && r.Ended.Sub(k.sample.reads[0].Began) > longestSample {
		k.sample.reads = k.sample.reads[:0]
	}
	k.sample.reads = append(k.sample.reads, *r)
	if len(k.sample.reads) < size {
		return nil
	}
	h := &History{Key: r.Key, Reads: k.sample.reads}
	k.sample.reads = nil
	first := h.Reads[0].Began
	for i := range h.Reads {
		first = min(first, h.Reads[i].Began)
	}
	for i := range k.writes {
		w := &k.writes[i]
		if w.life > 0 || w.loss && w.applied >= first {
			return nil // what is absent may have been lost, more than once: any order would do
		}
		// What was overwritten before the first read has its place before what overwrote it, and shows in no read. All others count, even
		// if they took effect before: which of them came last is for the search to find.
		if w.overwritten >= first {
			h.Writes = append(h.Writes, WriteRecord{Version: w.version, Absent: w.absent, Invoked: w.invoked, Returned: w.applied, Certain: w.certain})
		}
	}
	return h
}
