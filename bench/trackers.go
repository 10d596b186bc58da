package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/redis/rueidis"

	"github.com/go-nearcache/nearcache/internal/redistest"
)

// audience is who follows what while writes are measured.
type audience struct {
	name     string
	trackers int
	prefixes []string
}

// otherPrefixes are n prefixes that no write has.
func otherPrefixes(n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprintf("other%03d:", i)
	}
	return all
}

// trackers measures what trackers cost the server: the throughput of SET, and the processor time of the server for each, as ratios to nobody
// following anything. The trackers read what they are sent and do nothing with it.
func trackers(ctx context.Context, server *redistest.Server, rounds int) ([]row, error) {
	data, err := bare(server)
	if err != nil {
		return nil, err
	}
	defer data.Close()
	audiences := []audience{
		{"nobody", 0, nil},
		{"1 tracker of the written prefix", 1, []string{prefix}},
		{"10 trackers of the written prefix", 10, []string{prefix}},
		{"100 trackers of the written prefix", 100, []string{prefix}},
		{"1 tracker of 1 other prefix", 1, otherPrefixes(1)},
		{"1 tracker of 10 other prefixes", 1, otherPrefixes(10)},
		{"1 tracker of 100 other prefixes", 1, otherPrefixes(100)},
		{"100 trackers of 1 other prefix", 100, otherPrefixes(1)},
	}
	const writers, writesEach = 32, 1000
	rates, costs := make([][]float64, len(audiences)), make([][]float64, len(audiences))
	for range rounds {
		for i, a := range audiences {
			leave, err := a.attend(ctx, server)
			if err != nil {
				return nil, errors.Join(err, leave())
			}
			before, err := processorTime(ctx, data)
			if err != nil {
				return nil, errors.Join(err, leave())
			}
			began := time.Now()
			err = writeTogether(ctx, data, writers, writesEach)
			took := time.Since(began)
			after, cpuErr := processorTime(ctx, data)
			if err := errors.Join(err, cpuErr, leave()); err != nil {
				return nil, err
			}
			rates[i] = append(rates[i], writers*writesEach/took.Seconds())
			costs[i] = append(costs[i], (after-before).Seconds()/(writers*writesEach))
		}
	}
	rows := []row{{audiences[0].name, fmt.Sprintf("%.0f SET/s, %.2f µs of the server each", median(rates[0]), median(costs[0])*1e6), "", true}}
	for i, a := range audiences[1:] {
		rows = append(rows, row{a.name, fmt.Sprintf("%.2f× the throughput, %.2f× the server's time, %+.2f µs a write",
			median(rates[i+1])/median(rates[0]), median(costs[i+1])/median(costs[0]), (median(costs[i+1])-median(costs[0]))*1e6), "", true})
	}
	return rows, nil
}

// writeTogether has goroutines write, each with one SET on its way at a time; rueidis sends those that come together in one go.
func writeTogether(ctx context.Context, data rueidis.Client, writers, each int) error {
	failures := make([]error, writers)
	var all sync.WaitGroup
	for w := range writers {
		all.Go(func() {
			for i := range each {
				if err := data.Do(ctx, data.B().Set().Key(prefix+id(w*each+i)).Value("value").Build()).Error(); err != nil {
					failures[w] = err
					return
				}
			}
		})
	}
	all.Wait()
	return errors.Join(failures...)
}

// processorTime is what the server has used of a processor.
func processorTime(ctx context.Context, data rueidis.Client) (time.Duration, error) {
	info, err := data.Do(ctx, data.B().Info().Section("cpu").Build()).ToString()
	if err != nil {
		return 0, err
	}
	total := 0.0
	for _, field := range []string{"used_cpu_user", "used_cpu_sys"} {
		seconds, err := strconv.ParseFloat(redistest.InfoField(info, field), 64)
		if err != nil {
			return 0, fmt.Errorf("INFO cpu: %w", err)
		}
		total += seconds
	}
	return time.Duration(total * float64(time.Second)), nil
}

// attend connects the trackers, and returns what ends them.
func (a audience) attend(ctx context.Context, server *redistest.Server) (leave func() error, err error) {
	var reading sync.WaitGroup
	var connections []net.Conn
	leave = func() error {
		var failures []error
		for _, connection := range connections {
			failures = append(failures, connection.Close())
		}
		reading.Wait()
		return errors.Join(failures...)
	}
	command := []string{"CLIENT", "TRACKING", "ON", "BCAST"}
	for _, prefix := range a.prefixes {
		command = append(command, "PREFIX", prefix)
	}
	for range a.trackers {
		connection, err := (&net.Dialer{}).DialContext(ctx, "tcp", server.Addr())
		if err != nil {
			return leave, err
		}
		connections = append(connections, connection)
		replies := bufio.NewReader(connection)
		if err := tell(connection, "HELLO", "3"); err != nil {
			return leave, err
		}
		if err := tell(connection, command...); err != nil {
			return leave, err
		}
		for line := ""; line != "+OK\r\n"; { // after the map that HELLO is answered with
			if line, err = replies.ReadString('\n'); err != nil {
				return leave, err
			}
			if line[0] == '-' {
				return leave, errors.New(line)
			}
		}
		reading.Go(func() { _, _ = io.Copy(io.Discard, replies) }) // until the connection is closed
	}
	return leave, nil
}

func tell(connection net.Conn, command ...string) error {
	message := fmt.Appendf(nil, "*%d\r\n", len(command))
	for _, word := range command {
		message = fmt.Appendf(message, "$%d\r\n%s\r\n", len(word), word)
	}
	_, err := connection.Write(message)
	return err
}
