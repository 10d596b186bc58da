package rabbitmq_test

import (
	"context"
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/go-nearcache/nearcache/broadcast/rabbitmq/internal/rabbittest"
)

// broker is shared by all tests of the package: starting one takes seconds. They do not run in parallel, since some stop it.
var broker *rabbittest.Server

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	var err error
	if broker, err = rabbittest.Run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := m.Run()
	broker.Close()
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	return code
}
