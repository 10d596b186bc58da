package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync"
)

// A wire is how a node reaches Redis. It can tell the invalidation link from the connections that carry data, and cut it.
type wire struct {
	mu    sync.Mutex
	cut   bool
	links map[*wireConn]struct{}
}

// dial is a rueidis.ClientOption.DialCtxFn.
func (w *wire) dial(ctx context.Context, address string, dialer *net.Dialer, config *tls.Config) (net.Conn, error) {
	var conn net.Conn
	var err error
	if config != nil {
		conn, err = (&tls.Dialer{NetDialer: dialer, Config: config}).DialContext(ctx, "tcp", address)
	} else {
		conn, err = dialer.DialContext(ctx, "tcp", address)
	}
	if err != nil {
		return nil, err
	}
	return &wireConn{Conn: conn, wire: w}, nil
}

// setCut closes the link and lets no new one come up, or lets it.
func (w *wire) setCut(cut bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut = cut
	if cut {
		for link := range w.links {
			_ = link.Conn.Close()
		}
	}
}

func (w *wire) isCut() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.cut
}

var errCut = errors.New("the link is cut")

// admit takes note that a connection is becoming a link.
func (w *wire) admit(conn *wireConn) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.cut {
		return errors.Join(errCut, conn.Conn.Close())
	}
	if w.links == nil {
		w.links = make(map[*wireConn]struct{})
	}
	w.links[conn] = struct{}{}
	return nil
}

func (w *wire) forget(conn *wireConn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.links, conn)
}

// wireConn is a link from the CLIENT TRACKING that is sent on it.
type wireConn struct {
	net.Conn
	wire *wire
}

func (c *wireConn) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte("\r\nTRACKING\r\n")) && bytes.Contains(p, []byte("\r\nBCAST\r\n")) {
		if err := c.wire.admit(c); err != nil {
			return 0, err
		}
	}
	return c.Conn.Write(p)
}

func (c *wireConn) Close() error {
	c.wire.forget(c)
	return c.Conn.Close()
}
