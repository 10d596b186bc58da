package main

import (
	"errors"
	"net"
	"sync"
)

// A relay stands between a client and Redis, as a network does. Stopped, it passes nothing on and closes nothing: neither side can tell.
type relay struct {
	listener net.Listener
	backend  string
	running  sync.WaitGroup

	mu      sync.Mutex
	moving  *sync.Cond
	stopped bool
	closed  bool
	conns   []net.Conn
}

func startRelay(backend string) (*relay, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	r := &relay{listener: listener, backend: backend}
	r.moving = sync.NewCond(&r.mu)
	r.running.Go(r.accept)
	return r, nil
}

func (r *relay) addr() string { return r.listener.Addr().String() }

func (r *relay) accept() {
	for {
		client, err := r.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", r.backend)
		if err != nil {
			_ = client.Close()
			continue
		}
		r.mu.Lock()
		r.conns = append(r.conns, client, server)
		closed := r.closed
		r.mu.Unlock()
		r.running.Go(func() { r.pass(client, server) })
		r.running.Go(func() { r.pass(server, client) })
		if closed {
			_, _ = client.Close(), server.Close()
		}
	}
}

func (r *relay) pass(to, from net.Conn) {
	defer func() { _, _ = to.Close(), from.Close() }()
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		if n > 0 && r.wait() {
			_, err = to.Write(buffer[:n])
		}
		if err != nil {
			return
		}
	}
}

// wait returns when the relay passes things on; false if it is closed.
func (r *relay) wait() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.stopped && !r.closed {
		r.moving.Wait()
	}
	return !r.closed
}

func (r *relay) stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stopped = true
}

func (r *relay) close() error {
	r.mu.Lock()
	r.closed = true
	r.moving.Broadcast()
	conns := r.conns
	r.mu.Unlock()
	errs := []error{r.listener.Close()}
	for _, conn := range conns {
		_ = conn.Close()
	}
	r.running.Wait()
	return errors.Join(errs...)
}
