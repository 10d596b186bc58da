package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	// memberlist does not wait for a probe that is under way when it is shut down; it ends with its own timeout.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/hashicorp/memberlist.(*Memberlist).probeNode"))
}

// TestSystems runs the quick ones; the program itself runs all.
func TestSystems(t *testing.T) {
	var results []result
	for _, name := range []string{"tracking", "pubsub", "gossip"} {
		r, err := measureSystem(t.Context(), name, 300*time.Millisecond)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for what, o := range map[string]*outcome{"cut": &r.cut, "restart": r.restart} {
			if o != nil && o.lost > 0 && !o.reported {
				t.Errorf("%s: %s: %d messages were lost and nobody was told", name, what, o.lost)
			}
		}
		if r.healthy.lost > 0 || r.writes <= 0 || len(r.latency) == 0 {
			t.Errorf("%s: %+v", name, r)
		}
		results = append(results, r)
	}
	t.Log("\n" + table(results))

	directory := t.TempDir()
	document := filepath.Join(directory, "patterns-of-communication.md")
	if err := os.WriteFile(document, []byte("before\n"+begin+"old\n"+end+"\nafter\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := writeDocs(directory, results); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"before\n", "| gossip |", "\nafter\n"} {
		if !strings.Contains(string(content), want) {
			t.Errorf("the document lacks %q:\n%s", want, content)
		}
	}
	if strings.Contains(string(content), "old") {
		t.Error("the old table is still there")
	}
}
