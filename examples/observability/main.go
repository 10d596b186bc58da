// Command observability shows a fleet from outside: metrics for Prometheus, with a dashboard and alert rules that fit them, metrics and traces
// over OTLP, structured logs, a readiness probe, and one complete trace of a read on the screen.
//
//	go run .                                      works for 10 s, then prints a trace and ends
//	go run . -duration 0                          works until Ctrl-C
//	curl localhost:9464/metrics                   for Prometheus: prometheus.yaml scrapes it, alerts.yaml warns, dashboard.json shows
//	curl localhost:9464/ready                     200 or 503, with the reason
//	go run . -otlp http://localhost:4318          metrics and traces to a collector, too
//
// Two nodes, each with a Client of its own, stand for two processes. The Redis is the one of REDIS_ADDR, or one that is started and ends with the
// program.
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
	"syscall"
	"time"

	"github.com/go-nearcache/nearcache/examples/internal/demoserver"
)

type options struct {
	listen   string
	otlp     string
	redis    string
	duration time.Duration
}

func main() {
	var o options
	flag.StringVar(&o.listen, "listen", "", "address of /metrics and /ready (default localhost:9464; any free port if EXAMPLE_DURATION is set)")
	flag.StringVar(&o.otlp, "otlp", "", "URL of an OpenTelemetry collector, such as http://localhost:4318; empty sends nothing")
	flag.DurationVar(&o.duration, "duration", 10*time.Second, "how long to work; 0 is until Ctrl-C (default $EXAMPLE_DURATION)")
	flag.Parse()
	o.redis = os.Getenv("REDIS_ADDR")
	if text := os.Getenv("EXAMPLE_DURATION"); text != "" {
		var err error
		if o.duration, err = time.ParseDuration(text); err != nil {
			fmt.Fprintln(os.Stderr, "observability: EXAMPLE_DURATION:", err)
			os.Exit(2)
		}
		o.listen = cmp.Or(o.listen, "localhost:0")
	}
	o.listen = cmp.Or(o.listen, "localhost:9464")

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C does not wait for a graceful end
	err := run(ctx, o, os.Stdout, slog.New(slog.NewTextHandler(os.Stderr, nil)))
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "observability:", err)
		os.Exit(1)
	}
}

// endTime bounds what is done at the end: exporting, closing.
const endTime = 10 * time.Second

func run(ctx context.Context, o options, out io.Writer, logger *slog.Logger) (err error) {
	redis, err := demoserver.Open(ctx, o.redis)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, redis.Close()) }()

	providers, err := newProviders(ctx, o.otlp)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, atTheEnd(ctx, providers.shutdown)) }()

	fleet, err := openFleet(ctx, redis.Option, providers, logger)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, atTheEnd(ctx, fleet.close)) }()
	// Before the clients are closed: what is observed of them ends with them, and the last minute would not be told.
	defer func() { err = errors.Join(err, atTheEnd(ctx, providers.meter.ForceFlush)) }()

	mux := http.NewServeMux()
	mux.Handle("/metrics", providers.metricsHandler())
	mux.Handle("/ready", fleet[0].client.HealthHandler())
	url, stop, err := serve(o.listen, mux)
	if err != nil {
		return err
	}
	defer stop()
	fmt.Fprintf(out, "Redis at %v\n%s/metrics for Prometheus, %s/ready for a probe\n", redis, url, url)

	working := ctx
	if o.duration > 0 {
		var cancel context.CancelFunc
		working, cancel = context.WithTimeout(ctx, o.duration)
		defer cancel()
		fmt.Fprintf(out, "two nodes work for %v\n", o.duration)
	}
	fleet.work(working)
	if ctx.Err() != nil {
		return nil
	}
	return fleet.showTrace(ctx, providers, out)
}

// atTheEnd does what has to be done even if the program was interrupted.
func atTheEnd(ctx context.Context, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTime)
	defer cancel()
	return do(ctx)
}

// serve serves until stop is called.
func serve(address string, handler http.Handler) (url string, stop func(), err error) {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return "", nil, err
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 5 * time.Second}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(listener)
	}()
	return "http://" + listener.Addr().String(), func() {
		_ = server.Close()
		<-done
	}, nil
}
