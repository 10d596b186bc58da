// Command migrate-go-redis runs one shop on go-redis and on nearcache, and prints what differs: before.go and after.go are the two.
//
//	go run .                            starts a redis-server of its own
//	REDIS_ADDR=localhost:6379 go run .  uses one that runs, under a key prefix of its own
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/rueidis"

	"github.com/go-nearcache/nearcache/examples/internal/demoserver"
	"github.com/go-nearcache/nearcache/examples/internal/measure"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, os.Getenv("REDIS_ADDR"), os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "migrate-go-redis:", err)
		os.Exit(1)
	}
}

// longest ends the program if something hangs.
const longest = time.Minute

const (
	items = 200
	reads = 20_000
)

func run(ctx context.Context, address string, out io.Writer) (err error) {
	ctx, cancel := context.WithTimeout(ctx, longest)
	defer cancel()
	server, err := demoserver.Open(ctx, address)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Close()) }()

	option := server.Option
	goRedis := redis.NewClient(&redis.Options{
		Addr: option.InitAddress[0], Username: option.Username, Password: option.Password, DB: option.SelectDB, TLSConfig: option.TLSConfig,
	})
	defer func() { err = errors.Join(err, goRedis.Close()) }()
	client, near, err := connect(option)
	if err != nil {
		return err
	}
	defer client.Close()
	defer func() { err = errors.Join(err, clean(context.WithoutCancel(ctx), client)) }()

	for i := range items {
		if err := near.write(ctx, price{name(i), 100 + i}); err != nil {
			return err
		}
	}
	fmt.Fprintf(out, "one shop, %d prices, %d reads one after the other, Redis at %v\n", items, reads, server)
	old, err := try(ctx, before{goRedis}, client)
	if err != nil {
		return err
	}
	now, err := try(ctx, near, client)
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\tbefore\tafter")
	fmt.Fprintf(w, "a read, median\t%v\t%v\n", measure.Round(old.times.Median()), measure.Round(now.times.Median()))
	fmt.Fprintf(w, "a read, 99th percentile\t%v\t%v\n", measure.Round(old.times.Quantile(0.99)), measure.Round(now.times.Quantile(0.99)))
	fmt.Fprintf(w, "GET commands that Redis carried out\t%d\t%d\n", old.sent, now.sent)
	if err := w.Flush(); err != nil {
		return err
	}

	// The two may run side by side while the service moves: Redis tells nearcache of what go-redis writes.
	seen, err := heard(ctx, before{goRedis}, near)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "a price that the old code wrote was read by the new code %v later\n", measure.Round(seen))
	return nil
}

func name(i int) string { return fmt.Sprint("item-", i) }

// seen is what was measured of one client.
type seen struct {
	times measure.Samples
	sent  int
}

// try reads all prices again and again. Other programs' GETs on a shared server are counted with its own.
func try(ctx context.Context, p prices, admin rueidis.Client) (s seen, err error) {
	before, err := gets(ctx, admin)
	if err != nil {
		return s, err
	}
	for i := range reads {
		began := time.Now()
		cents, err := p.read(ctx, name(i%items))
		s.times = append(s.times, time.Since(began))
		if err != nil {
			return s, err
		}
		if cents != 100+i%items {
			return s, fmt.Errorf("%s costs %d", name(i%items), cents)
		}
	}
	after, err := gets(ctx, admin)
	s.sent = after - before
	return s, err
}

// gets returns how many GETs the server has carried out.
func gets(ctx context.Context, admin rueidis.Client) (n int, err error) {
	info, err := admin.Do(ctx, admin.B().Info().Section("commandstats").Build()).ToString()
	if err != nil {
		return 0, err
	}
	if _, rest, ok := strings.Cut(info, "cmdstat_get:calls="); ok {
		_, err = fmt.Sscanf(rest, "%d", &n)
	}
	return n, err
}

// heard writes with one client and reads with the other until it sees the write.
func heard(ctx context.Context, writer, reader prices) (time.Duration, error) {
	began := time.Now()
	if err := writer.write(ctx, price{name(0), 1}); err != nil {
		return 0, err
	}
	for {
		cents, err := reader.read(ctx, name(0))
		if err != nil || cents == 1 {
			return time.Since(began), err
		}
	}
}

func clean(ctx context.Context, client rueidis.Client) error {
	keys := make([]string, items)
	for i := range keys {
		keys[i] = key(name(i))
	}
	return client.Do(ctx, client.B().Del().Key(keys...).Build()).Error()
}
