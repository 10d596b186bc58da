package rabbitmq_test

import (
	"context"
	"fmt"
	"os"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/go-nearcache/nearcache/internal/rabbittest"
)

// broker returns the broker that all tests share: starting one takes seconds, so only a test that needs it does, which
// fuzzing does not. Tests do not run in parallel, since some stop it.
var broker = sync.OnceValue(func() *rabbittest.Server {
	server, err := rabbittest.Run(context.Background())
	if err != nil {
		panic(err) // it says what to install
	}
	cleanup = server.Close
	return server
})

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
