package oracle

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const ms = time.Millisecond

// A story is one key's history, told step by step in the time of a bubble. Each step takes a millisecond.
type story struct {
	t      *testing.T
	oracle *Oracle
	writes map[string]Write
	reads  map[string]Instant
}

func tell(t *testing.T, sourced bool, steps func(s *story)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		steps(&story{
			t:      t,
			oracle: New(Options{Keys: 1, Nodes: 2, Sourced: func(int) bool { return sourced }}),
			writes: map[string]Write{},
			reads:  map[string]Instant{},
		})
	})
}

func (s *story) wait(d time.Duration) { time.Sleep(d) }

// begin starts the named write.
func (s *story) begin(name string, node int, change Change) {
	s.t.Helper()
	w, ok := s.oracle.Begin(node, 0, change)
	if !ok {
		s.t.Fatalf("write %s was not admitted", name)
	}
	s.writes[name] = w
	s.wait(ms)
}

func (s *story) acknowledged(name string) { s.writes[name].Acknowledged(); s.wait(ms) }
func (s *story) unknown(name string)      { s.writes[name].Unknown(); s.wait(ms) }

// write is a whole write.
func (s *story) write(name string, node int) {
	s.t.Helper()
	s.begin(name, node, Change{})
	s.acknowledged(name)
}

func (s *story) settle() {
	began := Now()
	s.wait(ms)
	s.oracle.Settle(began)
	s.wait(ms)
}

// start begins the named read.
func (s *story) start(name string) { s.reads[name] = Now(); s.wait(ms) }

// end ends the named read, and checks the verdict. The version is that of a write; "" is that there was nothing.
func (s *story) end(name string, node int, demand Demand, bound time.Duration, version string, want Rule) {
	s.t.Helper()
	s.wait(ms)
	r := s.oracle.Reader(node, demand, bound)
	var got Rule
	if version == "" {
		got = r.Missing(0, s.reads[name], Now())
	} else {
		got = r.Value(0, s.writes[version].Version(), s.reads[name], Now(), Unknown)
	}
	if got != want {
		s.t.Errorf("a %v read of %q, bound %v: got %v, want %v", demand, version, bound, got, want)
	}
	s.wait(ms)
}

// read is a whole read.
func (s *story) read(node int, demand Demand, bound time.Duration, version string, want Rule) {
	s.t.Helper()
	s.start("")
	s.end("", node, demand, bound, version, want)
}

func TestRules(t *testing.T) {
	const bound = 100 * ms
	tests := map[string]struct {
		sourced bool
		steps   func(s *story)
	}{
		"an overwritten value may be read within the bound and not after": {steps: func(s *story) {
			s.write("a", Outside)
			s.write("b", Outside)
			s.read(0, Default, bound, "a", Kept)
			s.wait(bound)
			s.read(0, Default, bound, "b", Kept)
			s.read(1, Default, bound, "a", BoundedStaleness)
		}},
		"the bound counts to the beginning of the read": {steps: func(s *story) {
			s.write("a", Outside)
			s.write("b", Outside)
			s.start("slow")
			s.wait(10 * bound)
			s.end("slow", 0, Default, bound, "a", Kept)
		}},
		"a write that is not acknowledged overwrites nothing": {steps: func(s *story) {
			s.write("a", Outside)
			s.begin("b", Outside, Change{})
			s.wait(2 * bound)
			s.read(0, Fresh, 0, "a", Kept)
			s.acknowledged("b")
			s.read(0, Fresh, 0, "a", FreshRead)
		}},
		"writes that overlap overwrite neither each other": {steps: func(s *story) {
			s.write("zero", Outside)
			s.begin("a", Outside, Change{})
			s.begin("b", Outside, Change{})
			s.acknowledged("b")
			s.acknowledged("a")
			s.wait(2 * bound)
			s.read(0, Fresh, 0, "b", Kept)
			s.read(0, Fresh, 0, "a", Kept)
			s.read(0, Fresh, 0, "zero", FreshRead)
		}},
		"a fresh read may return a write that is under way, and none after it the one before": {steps: func(s *story) {
			s.write("a", Outside)
			s.begin("b", Outside, Change{})
			s.read(0, Fresh, 0, "b", Kept)
			s.read(1, Fresh, 0, "a", FreshRead)
		}},
		"fresh reads that overlap may differ": {steps: func(s *story) {
			s.write("a", Outside)
			s.begin("b", Outside, Change{})
			s.start("1")
			s.start("2")
			s.end("1", 0, Fresh, 0, "b", Kept)
			s.end("2", 1, Fresh, 0, "a", Kept)
		}},
		"an unknown write may happen late": {steps: func(s *story) {
			s.write("a", Outside)
			s.begin("b", Outside, Change{})
			s.unknown("b")
			s.write("c", Outside)
			s.wait(2 * bound)
			s.read(0, Fresh, 0, "c", Kept)
			s.read(0, Fresh, 0, "b", Kept)
		}},
		"an unknown write that was read has happened": {steps: func(s *story) {
			s.write("a", Outside)
			s.begin("b", Outside, Change{})
			s.unknown("b")
			s.read(0, Fresh, 0, "b", Kept)
			s.read(0, Fresh, 0, "a", FreshRead)
			s.write("c", Outside)
			s.read(0, Fresh, 0, "b", FreshRead)
		}},
		"an unknown write that is settled may have happened, before": {steps: func(s *story) {
			s.write("a", Outside)
			s.begin("b", Outside, Change{})
			s.unknown("b")
			s.settle()
			s.read(0, Fresh, 0, "a", Kept)
			s.write("c", Outside)
			s.read(0, Fresh, 0, "b", FreshRead)
		}},
		"settling does not concern a write that returned later": {steps: func(s *story) {
			s.begin("a", Outside, Change{})
			began := Now()
			s.wait(ms)
			s.unknown("a")
			s.oracle.Settle(began)
			s.wait(ms)
			s.write("b", Outside)
			s.read(0, Fresh, 0, "a", Kept)
		}},
		"a refused write overwrites nothing": {steps: func(s *story) {
			s.write("a", Outside)
			s.begin("b", Outside, Change{})
			s.writes["b"].Refused()
			s.wait(2 * bound)
			s.read(0, Fresh, 0, "a", Kept)
		}},
		"a node reads its own writes": {steps: func(s *story) {
			s.write("a", Outside)
			s.write("b", 0)
			s.read(1, Default, bound, "a", Kept)
			s.read(0, Default, bound, "a", ReadYourWrites)
			s.read(0, Default, bound, "b", Kept)
			s.write("c", Outside)
			s.read(0, Default, bound, "b", Kept)
		}},
		"a read that began before the node's write returned need not see it": {steps: func(s *story) {
			s.write("a", Outside)
			s.begin("b", 0, Change{})
			s.start("")
			s.acknowledged("b")
			s.end("", 0, Default, bound, "a", Kept)
		}},
		"an own write that failed and was seen to happen is read too": {steps: func(s *story) {
			s.write("a", Outside)
			s.begin("b", 0, Change{})
			s.unknown("b")
			s.read(0, Default, bound, "a", Kept)
			s.read(1, Default, bound, "b", Kept)
			s.read(0, Default, bound, "a", ReadYourWrites)
		}},
		"an own write that failed need not be read before it has happened": {steps: func(s *story) {
			s.write("a", Outside)
			s.begin("b", 0, Change{})
			s.unknown("b")
			s.start("early")
			s.read(1, Fresh, 0, "b", Kept)
			s.end("early", 0, Default, bound, "a", Kept)
		}},
		"reads of a node are monotonic": {steps: func(s *story) {
			s.write("a", Outside)
			s.write("b", Outside)
			s.read(0, Default, bound, "b", Kept)
			s.read(1, Default, bound, "a", Kept)
			s.read(0, Default, bound, "a", MonotonicReads)
			s.read(0, Tighter, bound/2, "a", MonotonicReads)
			s.read(0, Looser, 2*bound, "a", Kept)
		}},
		"reads that overlap need not be monotonic": {steps: func(s *story) {
			s.write("a", Outside)
			s.write("b", Outside)
			s.start("1")
			s.start("2")
			s.end("2", 0, Default, bound, "b", Kept)
			s.end("1", 0, Default, bound, "a", Kept)
		}},
		"a read after a fresh one need not be monotonic": {steps: func(s *story) {
			s.write("a", Outside)
			s.write("b", Outside)
			s.read(0, Fresh, 0, "b", Kept)
			s.read(0, Default, bound, "a", Kept)
		}},
		"a key without a write is absent": {steps: func(s *story) {
			s.read(0, Fresh, 0, "", Kept)
			s.write("a", Outside)
			s.read(0, Default, bound, "", Kept)
			s.read(0, Fresh, 0, "", FreshRead)
		}},
		"a removal overwrites": {steps: func(s *story) {
			s.write("a", Outside)
			s.begin("-", Outside, Change{Absent: true})
			s.read(0, Fresh, 0, "", Kept)
			s.acknowledged("-")
			s.read(0, Fresh, 0, "", Kept)
			s.read(0, Fresh, 0, "a", FreshRead)
			s.write("b", Outside)
			s.read(0, Fresh, 0, "", FreshRead)
		}},
		"a value may be missing once it may have expired, and must be once it has": {steps: func(s *story) {
			s.begin("a", Outside, Change{Life: 50 * ms})
			s.acknowledged("a")
			s.read(0, Fresh, 0, "", FreshRead)
			s.wait(50 * ms)
			s.read(0, Fresh, 0, "", Kept)
			s.read(0, Fresh, 0, "a", Kept)
			s.wait(expirySlack)
			s.read(0, Looser, time.Hour, "a", ExpiredRead)
			s.write("b", Outside)
			s.read(0, Fresh, 0, "", FreshRead)
		}},
		"what may be lost may be missing": {steps: func(s *story) {
			s.write("a", Outside)
			loss := s.oracle.BeginLoss()
			s.wait(ms)
			s.read(0, Fresh, 0, "", Kept)
			s.write("b", Outside)
			s.wait(ms)
			loss.End(false)
			s.wait(2 * bound)
			s.read(0, Fresh, 0, "b", Kept)
			s.read(0, Fresh, 0, "", Kept)
			s.write("c", Outside)
			s.read(0, Fresh, 0, "", FreshRead)
		}},
		"what was flushed must not be read, and what was written meanwhile may": {steps: func(s *story) {
			s.write("a", Outside)
			loss := s.oracle.BeginLoss()
			s.wait(ms)
			s.write("b", Outside)
			loss.End(true)
			s.wait(ms)
			s.read(0, Default, bound, "a", Kept)
			s.wait(2 * bound)
			s.read(0, Default, bound, "a", BoundedStaleness)
			s.read(0, Default, bound, "b", Kept)
			s.read(0, Default, bound, "", Kept)
		}},
		"what was never written is foreign": {steps: func(s *story) {
			s.write("a", Outside)
			s.begin("-", Outside, Change{Absent: true})
			s.acknowledged("-")
			for _, version := range []uint64{0, s.writes["-"].Version(), 99} {
				if got := s.oracle.Reader(0, Default, bound).Value(0, version, Now(), Now(), Local); got != ForeignValue {
					s.t.Errorf("version %d: %v", version, got)
				}
			}
		}},
		"the source may show a write before its invalidation": {sourced: true, steps: func(s *story) {
			s.write("a", Outside)
			s.begin("b", Outside, Change{})
			s.read(0, Fresh, 0, "b", Kept)
			s.read(0, Fresh, 0, "a", Kept)
			s.read(Outside, Direct, 0, "a", Kept)
			s.acknowledged("b")
			s.read(Outside, Direct, 0, "a", StaleFill)
			s.read(0, Default, bound, "a", Kept)
			s.read(0, Default, bound, "b", Kept)
			s.read(0, Default, bound, "a", Kept) // nothing is said of its order
		}},
		"a loss does not concern a sourced key": {sourced: true, steps: func(s *story) {
			s.write("a", Outside)
			s.oracle.BeginLoss().End(true)
			s.wait(2 * bound)
			s.read(0, Fresh, 0, "a", Kept)
			s.read(0, Fresh, 0, "", FreshRead)
		}},
		"a fence is the limit of the reads after it": {steps: func(s *story) {
			s.write("a", Outside)
			fenced := Now()
			s.wait(ms)
			s.write("b", Outside)
			r := s.oracle.Reader(0, Fenced, 0)
			if got := r.Since(fenced, 0, s.writes["a"].Version(), Now(), Now()); got != Kept {
				s.t.Error(got)
			}
			if got := r.Since(Now(), 0, s.writes["a"].Version(), Now(), Now()); got != StaleFill {
				s.t.Error(got)
			}
		}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) { tell(t, test.sourced, test.steps) })
	}
}

func TestLeases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := New(Options{Keys: 1})
		const life = time.Second
		check := func(marker string, remaining time.Duration, want Rule) {
			t.Helper()
			if got := o.Lease(0, marker, remaining, life, Now()); got != want {
				t.Errorf("lease %q with %v left: %v", marker, remaining, got)
			}
		}
		check("a", life, Kept)
		check("a", -1, LeaseOverdue)
		check("a", life+2*ms, LeaseOverdue)
		time.Sleep(life)
		check("a", 1, Kept)
		check("b", life, Kept)
		check("a", life, Kept) // it is not the one that was seen before, for all that the oracle remembers
		time.Sleep(life + leaseSlack + ms)
		check("a", life, LeaseOverdue)
	})
}

func TestMemoryIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := New(Options{Keys: 1, Nodes: 1, Retain: time.Second})
		admitted := 0
		var first Write
		for range 10_000 {
			w, ok := o.Begin(0, 0, Change{})
			if ok {
				if admitted == 0 {
					first = w
				}
				admitted++
				time.Sleep(time.Microsecond)
				w.Acknowledged()
			}
			time.Sleep(ms)
			if n := len(o.keys[0].writes); n > keptWrites {
				t.Fatalf("%d writes are kept", n)
			}
		}
		if admitted < 2000 || admitted > 3000 {
			t.Errorf("%d writes were admitted: %d may be kept for a second", admitted, keptWrites)
		}
		r := o.Reader(0, Default, 100*ms)
		if got := r.Value(0, first.Version(), Now(), Now(), Local); got != BoundedStaleness {
			t.Errorf("a forgotten write was read: %v", got)
		}
		// A read that began so long ago that nobody knows any more what it could see.
		if got := r.Value(0, first.Version(), Now().Add(-time.Minute), Now(), Local); got != Kept {
			t.Errorf("a read from long ago: %v", got)
		}
		if c := o.Counts(); c.Undecided != 1 || c.Reads != 2 || c.Violations[BoundedStaleness] != 1 {
			t.Errorf("%+v", c)
		}
		for range 2 * unknownWrites {
			if w, ok := o.Begin(0, 0, Change{}); ok {
				w.Unknown()
			}
		}
		if _, ok := o.Begin(0, 0, Change{}); ok {
			t.Error("a write was admitted although nobody knows what is there")
		}
		time.Sleep(ms)
		o.Settle(Now())
		if _, ok := o.Begin(0, 0, Change{}); !ok {
			t.Error("no write was admitted after settling")
		}
	})
}

func TestReport(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var violations []Violation
		o := New(Options{Keys: 1, Nodes: 1, OnViolation: func(v Violation) { violations = append(violations, v) }})
		var written []Write
		for range 2 {
			w, _ := o.Begin(Outside, 0, Change{})
			time.Sleep(ms)
			w.Acknowledged()
			time.Sleep(ms)
			written = append(written, w)
		}
		r := o.Reader(0, Default, time.Second)
		r.Value(0, written[0].Version(), Now(), Now(), Local)
		time.Sleep(3 * time.Second)
		r.Value(0, written[0].Version(), Now(), Now(), Local)
		r.Value(0, written[1].Version(), Now(), Now(), Remote)
		if len(violations) != 1 || violations[0].Rule != BoundedStaleness || violations[0].Staler < 2*time.Second {
			t.Fatalf("%v", violations)
		}
		text := violations[0].String()
		for _, want := range []string{"bounded staleness", "node 0", "version 1", "version 2", "longer than this read accepts"} {
			if !strings.Contains(text, want) {
				t.Errorf("no %q in:\n%s", want, text)
			}
		}
		groups := o.Groups()
		if len(groups) != 1 || groups[0].Staleness.Max() < 3*time.Second || groups[0].Staleness.Current() != 1 || groups[0].Local != 2 {
			t.Errorf("%v", groups)
		}
	})
}

func TestSamplesHoldEveryWriteAroundTheirReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var histories []History
		o := New(Options{Keys: 2, Nodes: 1, Sample: Sampling{Keys: 2, Reads: 4, Take: func(h History) { histories = append(histories, h) }}})
		r := o.Reader(0, Fresh, 0)
		write := func() Write {
			w, _ := o.Begin(Outside, 1, Change{})
			time.Sleep(ms)
			return w
		}
		read := func(w Write) {
			began := Now()
			time.Sleep(ms)
			r.Value(1, w.Version(), began, Now(), Local)
			time.Sleep(ms)
		}
		old := write()
		old.Acknowledged()
		time.Sleep(ms)
		read(old)
		next := write()
		read(next)
		next.Acknowledged()
		lost := write()
		lost.Unknown()
		read(next)
		read(next)
		if len(histories) != 1 {
			t.Fatalf("%d histories", len(histories))
		}
		h := histories[0]
		versions := []uint64{}
		for _, w := range h.Writes {
			versions = append(versions, w.Version)
		}
		if h.Key != 1 || len(h.Reads) != 4 || !slices.Equal(versions, []uint64{1, 2, 3}) {
			t.Errorf("%+v", h)
		}
		// A loss within makes a history worthless.
		read(next)
		o.BeginLoss().End(true)
		for range 3 {
			r.Missing(1, Now(), Now())
		}
		if len(histories) != 1 {
			t.Errorf("%+v", histories[1])
		}
	})
}

func BenchmarkValue(b *testing.B) {
	o := New(Options{Keys: 1024, Nodes: 4})
	versions := make([]uint64, 1024)
	for i := range versions {
		w, _ := o.Begin(Outside, i, Change{})
		w.Acknowledged()
		versions[i] = w.Version()
	}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		r := o.Reader(0, Default, time.Second)
		for i := 0; pb.Next(); i++ {
			began := Now()
			if rule := r.Value(i%1024, versions[i%1024], began, Now(), Local); rule != Kept {
				b.Error(rule)
			}
		}
	})
}

func ExampleOracle() {
	o := New(Options{Keys: 1, Nodes: 2})
	for range 2 {
		w, _ := o.Begin(Outside, 0, Change{})
		// Here Redis is told to hold w.Version().
		w.Acknowledged()
	}
	reader := o.Reader(0, Fresh, 0)
	began := Now()
	// Here the cache is asked, and says 1.
	fmt.Println(reader.Value(0, 1, began, Now(), Unknown))
	// Output: fresh read
}
