package kafka_test

import (
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"
)

// cleanup ends what tests share.
var cleanup = func() {}

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	code := m.Run()
	cleanup()
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	return code
}
