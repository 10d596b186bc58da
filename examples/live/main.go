// Command live shows coherence happening, on a page in the browser: four nodes read and write through one Redis, and the page shows what each
// holds in memory, each push that evicts, and how old each node's knowledge is, while you cut links, freeze the server, flush it, and write from
// outside.
//
//	go run ./live -open          serves on localhost:8090 and opens the page
//	go run ./live -writes 0      nobody writes but you
//
// The nodes stand for four processes. The Redis is the one of -redis or REDIS_ADDR, or one that is started and ends with the program; only the
// latter can be frozen and flushed.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"
	"time"

	"github.com/go-nearcache/nearcache/examples/internal/demoserver"
)

type options struct {
	listen   string
	redis    string
	writes   time.Duration
	open     bool
	duration time.Duration // 0: until ctx ends
}

func main() {
	var o options
	flag.StringVar(&o.listen, "listen", "", "address of the page (default localhost:8090; any free port if EXAMPLE_DURATION is set)")
	flag.StringVar(&o.redis, "redis", "", "host:port or URL of Redis; empty starts a redis-server (default $REDIS_ADDR)")
	flag.DurationVar(&o.writes, "writes", 1500*time.Millisecond, "the time between two writes of the nodes; 0 is none")
	flag.BoolVar(&o.open, "open", false, "open the page in the browser")
	flag.Parse()
	o.redis = cmp.Or(o.redis, os.Getenv("REDIS_ADDR"))
	if text := os.Getenv("EXAMPLE_DURATION"); text != "" {
		var err error
		if o.duration, err = time.ParseDuration(text); err != nil {
			fmt.Fprintln(os.Stderr, "live: EXAMPLE_DURATION:", err)
			os.Exit(2)
		}
		o.listen = cmp.Or(o.listen, "localhost:0")
	}
	o.listen = cmp.Or(o.listen, "localhost:8090")

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C does not wait for a graceful end
	err := run(ctx, o, os.Stdout, slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})))
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "live:", err)
		os.Exit(1)
	}
}

// run serves until ctx or the duration ends, and leaves nothing running.
func run(ctx context.Context, o options, out io.Writer, logger *slog.Logger) (err error) {
	if o.duration > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, o.duration)
		defer cancel()
	}
	listener, err := net.Listen("tcp", o.listen)
	if err != nil {
		return err
	}
	defer func() { _ = listener.Close() }() // a second time, if it was served
	redis, err := demoserver.Open(ctx, o.redis)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, redis.Close()) }()
	f, err := openFleet(ctx, redis, logger)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.close(ctx)) }()

	// Requests end with the program: a browser would keep its stream of events open for ever.
	server := &http.Server{
		Handler:           newPage(f),
		ReadHeaderTimeout: 5 * time.Second,
		BaseContext:       func(net.Listener) context.Context { return ctx },
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	url := "http://" + listener.Addr().String()
	fmt.Fprintf(out, "Redis at %v\nlive: %s\n", redis, url)
	if o.open {
		if err := openBrowser(ctx, url); err != nil {
			fmt.Fprintln(out, "no browser could be opened; open the page yourself")
		}
	}

	f.work(ctx, o.writes)
	err = server.Close()
	if serveErr := <-served; !errors.Is(serveErr, http.ErrServerClosed) {
		err = errors.Join(err, serveErr)
	}
	return err
}

func openBrowser(ctx context.Context, url string) error {
	command := map[string]string{"darwin": "open", "windows": "explorer"}[runtime.GOOS]
	return exec.CommandContext(ctx, cmp.Or(command, "xdg-open"), url).Run() //nolint:gosec // the URL is our own
}
