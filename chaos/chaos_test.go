package main

import (
	"fmt"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/go-nearcache/nearcache/internal/oracle"
)

func TestMain(m *testing.M) {
	if os.Getenv(childVariable) != "" {
		if err := beChild(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

// TestRun is a run of the whole program, too short to find much, and long enough to show that everything works.
func TestRun(t *testing.T) {
	var violations []oracle.Violation
	f, err := startFleet(t.Context(), 1, func(v oracle.Violation) { violations = append(violations, v) })
	if err != nil {
		t.Fatal(err)
	}
	if err := f.run(t.Context(), schedule(1, 5*time.Second, len(nodeConfigs))); err != nil {
		t.Error(err)
	}
	if err := f.close(); err != nil {
		t.Error(err)
	}
	for _, v := range violations {
		t.Error(v)
	}
	t.Log(f.summary(5*time.Second, 1))
	seen := map[oracle.Demand]bool{}
	for _, g := range f.oracle.Groups() {
		if g.Staleness.Reads() > 0 {
			seen[g.Demand] = true
		}
	}
	for demand := oracle.Default; demand <= oracle.Direct; demand++ {
		if !seen[demand] {
			t.Errorf("no %v reads were checked", demand)
		}
	}
	if f.injected() == 0 || f.writers.acknowledged.Load() == 0 {
		t.Error("nothing happened")
	}
}

// TestEveryFault does each fault once, for a moment, and heals it.
func TestEveryFault(t *testing.T) {
	f, err := startFleet(t.Context(), 1, func(v oracle.Violation) { t.Error(v) })
	if err != nil {
		t.Fatal(err)
	}
	var events []event
	for _, faults := range [][]namedFault{onNetwork, onServer, onProcess} {
		for i, fault := range faults {
			events = append(events, event{Kind: fault.kind, Node: i % len(nodeConfigs), Length: 50 * time.Millisecond, Dice: uint64(i) << 30 * 7})
		}
	}
	if err := f.run(t.Context(), []round{{Length: time.Second, Lanes: [][]event{events}}}); err != nil {
		t.Error(err)
	}
	if err := f.close(); err != nil {
		t.Error(err)
	}
}

func TestClocksOfProcessesAgree(t *testing.T) {
	first, uncertainty, err := clockOffset()
	if err != nil {
		t.Fatal(err)
	}
	second, uncertainty2, err := clockOffset()
	if err != nil {
		t.Fatal(err)
	}
	if difference := (first - second).Abs(); difference > uncertainty+uncertainty2 {
		t.Errorf("the clocks are apart by %v, and by %v a moment later: more than %v", first, second, uncertainty+uncertainty2)
	}
}

func TestItems(t *testing.T) {
	for key := range keyCount {
		if c := classOf(key); key < c.first() || key >= c.first()+classCounts[c] {
			t.Fatalf("key %d is %v", key, c)
		}
		i, err := decode(encode(key, uint64(key)*3))
		if err != nil || i.key != key || i.version != uint64(key)*3 {
			t.Fatalf("%+v, %v", i, err)
		}
	}
	for _, wrong := range []string{"", "1", "1 2", "1 2 ", "x 2 " + string(make([]byte, 32)), "1 x " + string(make([]byte, 32)), "\x00nearcache\x00lease"} {
		if i, err := decode([]byte(wrong)); err == nil {
			t.Errorf("%q is %+v", wrong, i)
		}
	}
}

func TestRecords(t *testing.T) {
	for _, want := range []record{
		{Demand: oracle.Fenced, Tier: oracle.Remote, Key: 3000, Version: 1 << 60, Began: 1, Ended: 1 << 62, Bound: time.Hour, NotBefore: 7},
		{Version: foreignVersion, Began: -5},
		{Done: true},
	} {
		encoded := want.encode(nil)
		var got record
		got.decode(encoded)
		if len(encoded) != recordSize || got != want {
			t.Errorf("%+v in %d bytes became %+v", want, len(encoded), got)
		}
	}
}
