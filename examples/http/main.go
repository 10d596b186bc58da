// Command http is a small service that reads airports through a near cache, and a load generator for it.
//
//	go run ./http                                  two nodes, on localhost:8080 and localhost:8081
//	curl -i localhost:8080/airports/SIN            three times: see Server-Timing
//	curl -s localhost:8080/airports/SIN | sed 's/Changi/Paya Lebar/' | curl -X PUT localhost:8081/airports/SIN -d @-
//	curl localhost:8080/airports/SIN               has heard of it
//	curl localhost:8080/health
//	curl localhost:8080/stats
//
//	go run ./http -load 5s                         serves, and puts load on itself
//	go run ./http -load 5s -target http://localhost:8080,http://localhost:8081
//
// The nodes of one process stand for processes of their own: service.go is what each of those would have. They share a database that exists
// in the memory of this process only. The Redis is the one of -redis or REDIS_ADDR, or one that is started and ends with the program.
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
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/redis/rueidis"

	"github.com/go-nearcache/nearcache/examples/data"
	"github.com/go-nearcache/nearcache/examples/internal/demoserver"
)

// options are the flags.
type options struct {
	address string
	nodes   int
	redis   string
	latency time.Duration
	target  string
	load    load
}

func main() {
	var o options
	flag.StringVar(&o.address, "addr", "", "address of the first node; each further one has the next port (default localhost:8080; with -load, free ports)")
	flag.IntVar(&o.nodes, "nodes", 2, "how many nodes to run")
	flag.StringVar(&o.redis, "redis", "", "host:port or URL of Redis; empty starts a redis-server (default $REDIS_ADDR)")
	flag.DurationVar(&o.latency, "latency", 20*time.Millisecond, "how long each query of the database takes")
	flag.DurationVar(&o.load.duration, "load", 0, "put load on the nodes for this long, print figures and end (default $EXAMPLE_DURATION)")
	flag.StringVar(&o.target, "target", "", "with -load: URLs, separated by commas, of nodes that run already")
	flag.IntVar(&o.load.workers, "workers", 16, "with -load: how many requests are under way at a time")
	flag.Float64Var(&o.load.writes, "writes", 0.01, "with -load: the fraction of requests that change an airport")
	flag.Parse()
	o.redis = cmp.Or(o.redis, os.Getenv("REDIS_ADDR")) // not as the flag's default, which -help prints: it may hold a password
	if text := os.Getenv("EXAMPLE_DURATION"); text != "" && o.load.duration == 0 {
		var err error
		if o.load.duration, err = time.ParseDuration(text); err != nil {
			fmt.Fprintln(os.Stderr, "http: EXAMPLE_DURATION:", err)
			os.Exit(2)
		}
	}
	if o.address == "" {
		o.address = "localhost:8080"
		if o.load.duration > 0 {
			o.address = "localhost:0"
		}
	}

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C does not wait for a graceful end
	err := run(ctx, o, os.Stdout, slog.New(slog.NewTextHandler(os.Stderr, nil)))
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "http:", err)
		os.Exit(1)
	}
}

// run serves until ctx ends or the load has been put, and leaves nothing running.
func run(ctx context.Context, o options, out io.Writer, logger *slog.Logger) (err error) {
	if o.target != "" {
		o.load.targets = strings.Split(o.target, ",")
		return o.load.run(ctx, out)
	}
	if o.nodes < 1 {
		return fmt.Errorf("-nodes is %d: it must be at least 1", o.nodes)
	}
	redis, err := demoserver.Open(ctx, o.redis)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, redis.Close()) }()
	fmt.Fprintf(out, "Redis at %v\n", redis)

	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	database := data.NewDatabase(o.latency)
	for i := range o.nodes {
		address, err := nextPort(o.address, i)
		if err != nil {
			return err
		}
		n, err := startNode(ctx, address, redis.Option, database, logger, fail)
		if err != nil {
			return err
		}
		defer n.stop(logger)
		o.load.targets = append(o.load.targets, n.url)
		fmt.Fprintf(out, "node %d serves %s/airports/SIN\n", i+1, n.url)
	}
	if o.load.duration > 0 {
		return o.load.run(ctx, out)
	}
	<-ctx.Done()
	if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) {
		return cause
	}
	return nil
}

// nextPort adds i to the port of an address; port 0, which means any free one, stays.
func nextPort(address string, i int) (string, error) {
	host, text, err := net.SplitHostPort(address)
	if err != nil {
		return "", fmt.Errorf("-addr: %w", err)
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return "", fmt.Errorf("-addr: port: %w", err)
	}
	if port != 0 {
		port += uint64(i)
	}
	return net.JoinHostPort(host, strconv.FormatUint(port, 10)), nil
}

// A node is a service and what serves it.
type node struct {
	service *service
	server  *http.Server
	url     string
	done    chan struct{} // closed when the server has returned
}

// startNode returns once the node is ready. If its server fails later, it calls fail.
func startNode(ctx context.Context, address string, redis rueidis.ClientOption, database *data.Database, logger *slog.Logger, fail func(error)) (*node, error) {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, err
	}
	service, err := newService(ctx, redis, database, logger)
	if err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	n := &node{
		service: service,
		server: &http.Server{
			Handler:           service.handler(),
			ReadHeaderTimeout: 5 * time.Second,
			ReadTimeout:       10 * time.Second,
			WriteTimeout:      10 * time.Second,
			IdleTimeout:       time.Minute,
		},
		url:  "http://" + listener.Addr().String(),
		done: make(chan struct{}),
	}
	go func() {
		defer close(n.done)
		if err := n.server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			fail(err)
		}
	}()
	return n, nil
}

// stop lets the requests finish that have begun, and then closes the client: in this order, since they need it.
func (n *node) stop(logger *slog.Logger) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := errors.Join(n.server.Shutdown(ctx), n.server.Close(), n.service.client.Close(ctx)); err != nil {
		logger.Error("the end was not graceful", "node", n.url, "error", err)
	}
	<-n.done
}
