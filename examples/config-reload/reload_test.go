package main

import (
	"bytes"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/go-nearcache/nearcache/examples/internal/transports"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestEveryNodeFollows(t *testing.T) {
	for _, transport := range []string{"pubsub", "streams"} {
		t.Run(transport, func(t *testing.T) {
			var out bytes.Buffer
			if err := run(t.Context(), &out, transport, transports.Brokers{}); err != nil {
				t.Fatalf("%v\n%s", err, out.String())
			}
			t.Log(out.String())
			for _, line := range []string{
				"all have version 2", "roll call: node-0 has 2 node-1 has 2 node-2 has 2, 0 are missing", "node-2 is at version 2, the others at 3",
				"node-2 is back: it has version 3",
				"node-3 starts, and has version 3", "read at its start",
			} {
				if !strings.Contains(out.String(), line) {
					t.Errorf("the output lacks %q", line)
				}
			}
		})
	}
}

func TestTransportsThatWillNotDo(t *testing.T) {
	for transport, word := range map[string]string{"pigeon": `"pigeon"`, "memory": "choose another"} {
		if err := run(t.Context(), t.Output(), transport, transports.Brokers{}); err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("%s: %v", transport, err)
		}
	}
}
