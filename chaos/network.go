package main

import (
	"context"
	"crypto/tls"
	"net"
	"runtime"
	"strings"
)

// wires are the addresses of both ways of a node to Redis.
type wires struct {
	Data string // for reads and writes
	Link string // for the invalidation link
}

// dial connects through the wire that the connection belongs on. The library dials both kinds with the same options; who asks shows on
// the stack.
func (w wires) dial(ctx context.Context, _ string, dialer *net.Dialer, _ *tls.Config) (net.Conn, error) {
	address := w.Data
	if calledBy("/nearcache/tracking.") {
		address = w.Link
	}
	return dialer.DialContext(ctx, "tcp", address)
}

// calledBy reports whether a function whose name holds a text is on the stack.
func calledBy(part string) bool {
	callers := make([]uintptr, 64)
	frames := runtime.CallersFrames(callers[:runtime.Callers(2, callers)])
	for {
		frame, more := frames.Next()
		if strings.Contains(frame.Function, part) {
			return true
		}
		if !more {
			return false
		}
	}
}
