package main

import (
	"bytes"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/go-nearcache/nearcache/examples/internal/transports"
)

func TestMain(m *testing.M) {
	// memberlist does not wait for a probe that is under way when it is shut down; it ends with its own timeout.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/hashicorp/memberlist.(*Memberlist).probeNode"))
}

func TestEachTransport(t *testing.T) {
	for _, name := range transports.Names {
		t.Run(name, func(t *testing.T) {
			var output bytes.Buffer
			if err := run(t.Context(), &output, name, transports.Brokers{}, 3, 10); err != nil {
				t.Fatalf("run: %v\n%s", err, output.String())
			}
			t.Log(output.String())
			for _, line := range []string{"asked the database 0 times", "10 updates", "all have forgotten", "losses reported: 0"} {
				if !strings.Contains(output.String(), line) {
					t.Errorf("the output lacks %q", line)
				}
			}
		})
	}
}

func TestUnknownTransport(t *testing.T) {
	err := run(t.Context(), t.Output(), "pigeon", transports.Brokers{}, 2, 1)
	if err == nil || !strings.Contains(err.Error(), `"pigeon"`) || !strings.Contains(err.Error(), "gossip") {
		t.Errorf("run = %v", err)
	}
}
