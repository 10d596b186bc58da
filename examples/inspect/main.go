// Command inspect asks a running service what its near cache knows: its health and statistics, or where one item lives and why.
//
//	go run ./inspect                                            shows it on a service of its own
//	go run ./inspect -url http://10.0.0.7:9090/nearcache        health and statistics of yours
//	go run ./inspect -url http://10.0.0.7:9090/nearcache users 42
//
// The service has one line for it, on an address that the public does not reach:
//
//	http.Handle("/nearcache", nearcache.InspectHandler(client))
package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"time"

	"github.com/go-nearcache/nearcache"
	"github.com/go-nearcache/nearcache/examples/data"
	"github.com/go-nearcache/nearcache/examples/internal/demoserver"
)

func main() {
	address := flag.String("url", "", "where the service has nearcache.InspectHandler; empty starts a service to look at")
	redis := flag.String("redis", "", "without -url: host:port or URL of Redis; empty starts a redis-server (default $REDIS_ADDR)")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *address, *redis, flag.Args(), os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "inspect:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, address, redis string, item []string, out io.Writer) error {
	switch {
	case address == "":
		return demonstrate(ctx, redis, out)
	case len(item) == 0:
		return ask(ctx, address, nil, out)
	case len(item) == 2:
		return ask(ctx, address, url.Values{"cache": {item[0]}, "key": {item[1]}}, out)
	}
	return errors.New("give the name of a cache and the key of an item, or neither")
}

// ask prints the answer of a service.
func ask(ctx context.Context, address string, about url.Values, out io.Writer) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address+"?"+about.Encode(), nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", response.Status, strings.TrimSpace(string(body)))
	}
	var indented bytes.Buffer
	if err := json.Indent(&indented, body, "", "  "); err != nil {
		return fmt.Errorf("%s does not answer as InspectHandler does: %w", address, err)
	}
	_, err = indented.WriteTo(out)
	return err
}

// demonstrate looks at a service that lives as long as the call: at an item in L1, and at one that nobody has.
func demonstrate(ctx context.Context, redis string, out io.Writer) (err error) {
	server, err := demoserver.Open(ctx, cmp.Or(redis, os.Getenv("REDIS_ADDR")))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Close()) }()
	prefix := "inspect:" + rand.Text() + ":" // no other program's
	client, err := nearcache.Open(ctx, nearcache.Options{Redis: server.Option, Prefixes: []string{prefix}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, client.Close(context.WithoutCancel(ctx))) }()
	airports, err := nearcache.New(client, nearcache.Config[data.Airport]{Name: "airports", Prefix: prefix, TTL: time.Minute})
	if err != nil {
		return err
	}
	if err := airports.Set(ctx, "SIN", data.Airport{Name: "Singapore Changi Airport"}); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, airports.Delete(context.WithoutCancel(ctx), "SIN")) }()
	if _, err := airports.Get(ctx, "SIN"); err != nil {
		return err
	}

	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	service := &http.Server{Handler: nearcache.InspectHandler(client), ReadHeaderTimeout: time.Second}
	served := make(chan error, 1)
	go func() { served <- service.Serve(listener) }()
	defer func() {
		err = errors.Join(err, service.Close())
		if ended := <-served; !errors.Is(ended, http.ErrServerClosed) {
			err = errors.Join(err, ended)
		}
		http.DefaultClient.CloseIdleConnections()
	}()
	address := "http://" + listener.Addr().String()
	for _, item := range [][]string{nil, {"airports", "SIN"}, {"airports", "nowhere"}} {
		fmt.Fprintln(out, "inspect -url", address, strings.Join(item, " "))
		if err := run(ctx, address, redis, item, out); err != nil {
			return err
		}
	}
	return nil
}
