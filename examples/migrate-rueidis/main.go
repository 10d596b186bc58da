// Command migrate-rueidis runs one service on a client of rueidis and on one of nearcache, and prints what differs. The service is in
// service.go and does not change; what changes is one line, from before.go to after.go.
//
//	go run ./migrate-rueidis                            starts a redis-server of its own
//	REDIS_ADDR=localhost:6379 go run ./migrate-rueidis  uses one that runs, under a key prefix of its own
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"text/tabwriter"
	"time"

	"github.com/redis/rueidis"

	"github.com/go-nearcache/nearcache/examples/internal/demoserver"
	"github.com/go-nearcache/nearcache/examples/internal/measure"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, os.Getenv("REDIS_ADDR"), os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "migrate-rueidis:", err)
		os.Exit(1)
	}
}

// longest ends the program if something hangs.
const longest = time.Minute

func run(ctx context.Context, address string, out io.Writer) (err error) {
	ctx, cancel := context.WithTimeout(ctx, longest)
	defer cancel()
	server, err := demoserver.Open(ctx, address)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Close()) }()
	outside := server.Option
	outside.DisableCache = true
	admin, err := rueidis.NewClient(outside)
	if err != nil {
		return err
	}
	defer admin.Close()
	defer func() {
		for _, key := range []string{"JFK", "text"} {
			err = errors.Join(err, admin.Do(context.WithoutCancel(ctx), admin.B().Del().Key(prefix+key).Build()).Error())
		}
	}()

	fmt.Fprintf(out, "one service, two clients, Redis at %v\n", server)
	var columns [2]results
	for i, connect := range []func(rueidis.ClientOption) (rueidis.Client, error){before, after} {
		if columns[i], err = try(ctx, server.Option, connect, admin); err != nil {
			return err
		}
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\tbefore\tafter")
	for i, row := range columns[0] {
		fmt.Fprintf(w, "%s\t%s\t%s\n", row.what, row.seen, columns[1][i].seen)
	}
	return w.Flush()
}

// results are the rows of one column.
type results []struct{ what, seen string }

func (r *results) add(what, format string, args ...any) {
	*r = append(*r, struct{ what, seen string }{what, fmt.Sprintf(format, args...)})
}

// try runs the service on one client.
func try(ctx context.Context, option rueidis.ClientOption, connect func(rueidis.ClientOption) (rueidis.Client, error), admin rueidis.Client) (r results, err error) {
	network, err := startRelay(option.InitAddress[0])
	if err != nil {
		return nil, err
	}
	option.InitAddress = []string{network.addr()}
	option.DisableCache = false
	option.ForceSingleClient = true
	client, err := connect(option)
	if err != nil {
		return nil, errors.Join(err, network.close())
	}
	defer func() {
		// The network first: what waits for an answer through it gives up.
		err = errors.Join(err, network.close())
		client.Close()
	}()
	s := &service{client}
	if err := s.rename(ctx, "JFK", "John F. Kennedy"); err != nil {
		return nil, err
	}
	if err := warm(ctx, s, "John F. Kennedy"); err != nil {
		return nil, err
	}

	times, err := timeHits(ctx, s)
	if err != nil {
		return nil, err
	}
	r.add("a hit, with the building of its command", "%v", measure.Round(times.Median()))

	if err := admin.Do(ctx, admin.B().Set().Key(prefix+"text").Value("abcdefghijklmnopqrstuvwxyz").Build()).Error(); err != nil {
		return nil, err
	}
	if _, err := s.part(ctx, "text", 1, 23); err != nil {
		return nil, err
	}
	part, err := s.part(ctx, "text", 12, 3)
	if err != nil {
		return nil, err
	}
	r.add(`GETRANGE 12 3, which is empty, after GETRANGE 1 23`, "%q", part)

	stale, err := writeAndRead(ctx, s)
	if err != nil {
		return nil, err
	}
	r.add(fmt.Sprintf("reads after an own write that returned what was before it, of %d", ownWrites), "%d", stale)

	if err := s.rename(ctx, "JFK", "Idlewild"); err != nil {
		return nil, err
	}
	if err := warm(ctx, s, "Idlewild"); err != nil {
		return nil, err
	}
	served, ended, err := halfOpen(ctx, s, network, admin)
	if err != nil {
		return nil, err
	}
	if ended {
		r.add("an old value, served over a network that has fallen silent", "for %v", served.Round(10*time.Millisecond))
	} else {
		r.add("an old value, served over a network that has fallen silent", "for %v, and no end in sight", served.Round(10*time.Millisecond))
	}
	return r, nil
}

// warm reads until the client's cache serves the name.
func warm(ctx context.Context, s *service, want string) error {
	for {
		name, hit, err := s.name(ctx, "JFK")
		if err != nil {
			return err
		}
		if hit && name == want {
			return nil
		}
	}
}

func timeHits(ctx context.Context, s *service) (measure.Samples, error) {
	const rounds, reads = 50, 2000
	var all measure.Samples
	for range rounds {
		began := time.Now()
		for range reads {
			if _, _, err := s.name(ctx, "JFK"); err != nil {
				return nil, err
			}
		}
		all = append(all, time.Since(began)/reads)
	}
	return all, nil
}

const ownWrites = 2000

// writeAndRead counts the reads that do not see the write of the same goroutine.
func writeAndRead(ctx context.Context, s *service) (stale int, err error) {
	for i := range ownWrites {
		name := fmt.Sprint("name ", i)
		if err := s.rename(ctx, "JFK", name); err != nil {
			return 0, err
		}
		got, _, err := s.name(ctx, "JFK")
		if err != nil {
			return 0, err
		}
		if got != name {
			stale++
		}
	}
	return stale, nil
}

// halfOpen stops the network, has somebody else write, and reads for as long as the old value is served, at most a few seconds. A read that gets
// no answer in time fails, and ends it too: the old value is not served.
func halfOpen(ctx context.Context, s *service, network *relay, admin rueidis.Client) (served time.Duration, ended bool, err error) {
	const most, patience = 4 * time.Second, 100 * time.Millisecond
	network.stop()
	if err := admin.Do(ctx, admin.B().Hset().Key(prefix+"JFK").FieldValue().FieldValue("name", "John F. Kennedy").Build()).Error(); err != nil {
		return 0, false, err
	}
	written := time.Now()
	for last := written; ; last = time.Now() {
		if last.Sub(written) > most {
			return last.Sub(written), false, nil
		}
		reading, cancel := context.WithTimeout(ctx, patience)
		name, _, err := s.name(reading, "JFK")
		cancel()
		if err != nil || name != "Idlewild" {
			return last.Sub(written), true, ctx.Err()
		}
		time.Sleep(time.Millisecond)
	}
}
