package nearcache_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/go-nearcache/nearcache"
)

// The variables that make the test binary a node of its own, which a test can freeze or kill.
const (
	childVariable     = "NEARCACHE_TEST_CHILD" // the address of Redis
	stalenessVariable = "NEARCACHE_TEST_CHILD_STALENESS"
)

// child is a node in another process. It carries out one line of its standard input after the other, each with one line of its output:
//
//	get KEY     reads, and answers "local VALUE" or "remote VALUE"
//	load KEY    reads with a loader that says "loading" and never returns
type child struct {
	command *exec.Cmd
	in      io.WriteCloser
	out     chan string
}

func startChild(t *testing.T, address string, staleness time.Duration) *child {
	t.Helper()
	c := &child{command: exec.Command(os.Args[0]), out: make(chan string, 16)}
	c.command.Env = append(os.Environ(), childVariable+"="+address, stalenessVariable+"="+staleness.String())
	c.command.Stderr = t.Output()
	in, err := c.command.StdinPipe()
	check(t, err)
	c.in = in
	out, err := c.command.StdoutPipe()
	check(t, err)
	check(t, c.command.Start())
	read := make(chan struct{})
	go func() {
		defer close(read)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			c.out <- lines.Text()
		}
	}()
	t.Cleanup(func() {
		_ = c.command.Process.Kill() // The only error is that it has ended already.
		<-read
		_ = c.command.Wait() // It was killed.
	})
	c.hear(t, "ready")
	return c
}

func (c *child) say(t *testing.T, format string, args ...any) {
	t.Helper()
	_, err := fmt.Fprintf(c.in, format+"\n", args...)
	check(t, err)
}

func (c *child) hear(t *testing.T, expected string) {
	t.Helper()
	if line := receive(t, "the child says "+expected, c.out); line != expected {
		t.Fatalf("the child says %q, want %q", line, expected)
	}
}

func (c *child) signal(t *testing.T, signal syscall.Signal) {
	t.Helper()
	check(t, c.command.Process.Signal(signal))
}

func (c *child) kill(t *testing.T) { c.signal(t, syscall.SIGKILL) }

// runChild is the main function of the child. It ends with its standard input.
func runChild() int {
	fail := func(err error) int {
		fmt.Fprintln(os.Stderr, "child:", err)
		return 1
	}
	staleness, err := time.ParseDuration(os.Getenv(stalenessVariable))
	if err != nil {
		return fail(err)
	}
	ctx := context.Background()
	options := optionsAt(os.Getenv(childVariable))
	options.MaxStaleness = staleness
	client, err := nearcache.Open(ctx, options)
	if err != nil {
		return fail(err)
	}
	plain, err := nearcache.New(client, nearcache.Config[string]{Name: "test", Prefix: prefix, Codec: nearcache.String()})
	if err != nil {
		return fail(err)
	}
	blocking, err := nearcache.New(client, nearcache.Config[string]{
		Name: "blocking", Prefix: prefix + "blocking:", Codec: nearcache.String(), LoadTimeout: 500 * time.Millisecond,
		Load: func(context.Context, string) (string, error) {
			fmt.Println("loading")
			select {}
		},
	})
	if err != nil {
		return fail(err)
	}
	fmt.Println("ready")
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		switch verb, key, _ := strings.Cut(lines.Text(), " "); verb {
		case "get":
			before := client.Stats().Caches["test"].LocalHits
			value, err := plain.Get(ctx, key)
			if err != nil {
				return fail(err)
			}
			tier := "remote"
			if client.Stats().Caches["test"].LocalHits > before {
				tier = "local"
			}
			fmt.Println(tier, value)
		case "load":
			_, err := blocking.Get(ctx, key)
			return fail(err)
		}
	}
	return 0
}
