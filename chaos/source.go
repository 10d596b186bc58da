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
	"sync/atomic"
	"time"
)

// A source is the database behind the loaders: for each sourced key a version, or 0 if there is no item.
type source interface {
	version(ctx context.Context, key int) (uint64, error)
}

// memorySource is the source itself.
type memorySource struct {
	versions []atomic.Uint64
	queries  atomic.Uint64
	stop     func() // ends serve; nil if it was not started
}

func newMemorySource() *memorySource {
	return &memorySource{versions: make([]atomic.Uint64, classCounts[sourced]+classCounts[tagged])}
}

func (s *memorySource) commit(key int, version uint64) {
	s.versions[key-sourced.first()].Store(version)
}

// version answers after a delay that depends on the key and the time, so that some loads overlap writes.
func (s *memorySource) version(ctx context.Context, key int) (uint64, error) {
	n := s.queries.Add(1)
	version := s.versions[key-sourced.first()].Load()
	delay := time.Duration(n%8) * time.Millisecond
	if n%64 == 0 {
		delay = 150 * time.Millisecond
	}
	if n%1024 == 0 {
		delay = loadTimeout + 500*time.Millisecond // longer than the lease
	}
	select {
	case <-time.After(delay):
		return version, nil
	case <-ctx.Done():
		if n%2048 == 0 {
			return version, nil // a loader that does not obey its context, and is late
		}
		return 0, context.Cause(ctx)
	}
}

// serve answers the loaders of other processes: a line with a key, a line with a version.
func (s *memorySource) serve(listener net.Listener) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var connections sync.WaitGroup
	defer connections.Wait()
	for {
		connection, err := listener.Accept()
		if err != nil {
			cancel()
			return
		}
		connections.Go(func() {
			defer connection.Close()
			stop := context.AfterFunc(ctx, func() { _ = connection.Close() })
			defer stop()
			for lines := bufio.NewScanner(connection); lines.Scan(); {
				key, err := strconv.Atoi(lines.Text())
				if err != nil {
					return
				}
				version, err := s.version(ctx, key)
				if err != nil {
					return
				}
				if _, err := fmt.Fprintln(connection, version); err != nil {
					return
				}
			}
		})
	}
}

// socketSource is the source as another process sees it.
type socketSource struct {
	path string
}

func (s socketSource) version(ctx context.Context, key int) (uint64, error) {
	var dialer net.Dialer
	connection, err := dialer.DialContext(ctx, "unix", s.path)
	if err != nil {
		return 0, err
	}
	defer connection.Close()
	stop := context.AfterFunc(ctx, func() { _ = connection.Close() })
	defer stop()
	if _, err := fmt.Fprintln(connection, key); err != nil {
		return 0, err
	}
	line, err := bufio.NewReader(connection).ReadString('\n')
	if err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return 0, err
	}
	return strconv.ParseUint(line[:len(line)-1], 10, 64)
}
