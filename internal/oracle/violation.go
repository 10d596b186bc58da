package oracle

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// A Violation is a rule that was broken, with the history of the key around it.
type Violation struct {
	Rule   Rule
	Read   Read
	Staler time.Duration // what was returned had been overwritten for so much longer than the read accepts; 0 where that is not the point
	Detail string        // for what is no read of a node: what is wrong

	writes []write
	reads  []Read
}

// describe copies the history. The key is locked.
func (k *key) describe(r *Read, v verdict) Violation {
	violation := Violation{Rule: v.rule, Read: *r, writes: slices.Clone(k.writes)}
	if v.write != nil && v.write.overwritten != never {
		violation.Staler = max(0, r.NotBefore.Sub(v.write.overwritten))
	}
	for i := range min(k.reads, recentReads) {
		violation.reads = append(violation.reads, k.recent[i])
	}
	return violation
}

// Disagreement reports that a node and Redis do not hold the same under a key although nobody writes: a StaleFill.
func (o *Oracle) Disagreement(node, key int, detail string) {
	o.accuse(StaleFill, node, key, detail)
}

// Unordered reports that no order explains the fresh reads of a key: a FreshRead.
func (o *Oracle) Unordered(key int, detail string) {
	o.accuse(FreshRead, Outside, key, detail)
}

// accuse reports a violation that no read of a version shows.
func (o *Oracle) accuse(rule Rule, node, key int, detail string) {
	k := &o.keys[key]
	k.mu.Lock()
	now := Now()
	violation := k.describe(&Read{Node: node, Key: key, Absent: true, Began: now, Ended: now, NotBefore: now, Demand: Direct}, verdict{rule: rule})
	k.mu.Unlock()
	violation.Detail = detail
	o.report(violation)
}

func (o *Oracle) report(v Violation) {
	o.violations[v.Rule].Add(1)
	if o.options.OnViolation != nil {
		o.options.OnViolation(v)
	}
}

// String tells the violation and the history of its key, oldest first; all instants are relative to the beginning of the read.
func (v Violation) String() string {
	var b strings.Builder
	what := v.Detail
	if what == "" {
		what = v.Read.describe(v.Read.Began)
	}
	fmt.Fprintf(&b, "violation of %q: %s\n", v.Rule, what)
	if v.Staler > 0 {
		fmt.Fprintf(&b, "  it had been overwritten %v longer than this read accepts\n", v.Staler)
	}
	type line struct {
		at   Instant
		text string
	}
	var lines []line
	for i := range v.writes {
		lines = append(lines, line{v.writes[i].invoked, v.writes[i].describe(v.Read.Began)})
	}
	for i := range v.reads {
		if v.reads[i] != v.Read {
			lines = append(lines, line{v.reads[i].Began, v.reads[i].describe(v.Read.Began)})
		}
	}
	slices.SortStableFunc(lines, func(a, b line) int { return cmp.Compare(a.at, b.at) })
	const shown = 60
	if len(lines) > shown {
		fmt.Fprintf(&b, "  (%d older lines)\n", len(lines)-shown)
		lines = lines[len(lines)-shown:]
	}
	for _, l := range lines {
		fmt.Fprintf(&b, "  %s\n", l.text)
	}
	return b.String()
}

func (r *Read) describe(zero Instant) string {
	what := fmt.Sprintf("version %d", r.Version)
	if r.Absent {
		what = "nothing"
	}
	return fmt.Sprintf("read  %s … %s  key %d on %s: %s (%v, from %v, not before %s)",
		since(r.Began, zero), since(r.Ended, zero), r.Key, nodeName(r.Node), what, r.Demand, r.Tier, since(r.NotBefore, zero))
}

func (w *write) describe(zero Instant) string {
	what := fmt.Sprintf("version %d", w.version)
	switch {
	case w.loss:
		what += ", a loss of everything"
	case w.absent:
		what += ", a removal"
	}
	if w.life > 0 {
		what += fmt.Sprintf(", for %v", w.life)
	}
	effect := "took effect by"
	if !w.certain {
		effect = "may have taken effect, if so by"
	}
	return fmt.Sprintf("write %s … %s  on %s: %s; %s %s; overwritten by %s",
		since(w.invoked, zero), since(w.returned, zero), nodeName(w.node), what, effect, since(w.applied, zero), since(w.overwritten, zero))
}

func since(t, zero Instant) string {
	switch t {
	case never:
		return "never"
	case math.MinInt64:
		return "ever"
	}
	return fmt.Sprintf("%+.6fs", t.Sub(zero).Seconds())
}

func nodeName(node int) string {
	if node == Outside {
		return "outside"
	}
	return fmt.Sprintf("node %d", node)
}
