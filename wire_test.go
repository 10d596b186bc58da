package nearcache_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/go-nearcache/nearcache/internal/redistest"
)

// wire is a connection to a server without a client library in between: what the server sends, in the order in which it sends it.
type wire struct {
	conn net.Conn
	from *bufio.Reader
}

// push is an out-of-band message of RESP3.
type push []any

func dialWire(t testing.TB, server *redistest.Server) *wire {
	t.Helper()
	conn, err := net.Dial("tcp", server.Addr())
	check(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return &wire{conn: conn, from: bufio.NewReader(conn)}
}

// dialLink returns a connection in RESP3 that tracks the prefixes by broadcast.
func dialLink(t testing.TB, server *redistest.Server, prefixes ...string) *wire {
	t.Helper()
	w := dialWire(t, server)
	w.send(t, "HELLO", "3")
	w.receive(t)
	tracking := []string{"CLIENT", "TRACKING", "ON", "BCAST"}
	for _, p := range prefixes {
		tracking = append(tracking, "PREFIX", p)
	}
	w.send(t, tracking...)
	if reply := w.receive(t); reply != "OK" {
		t.Fatalf("CLIENT TRACKING: %v", reply)
	}
	return w
}

func (w *wire) send(t testing.TB, args ...string) {
	t.Helper()
	_, err := w.conn.Write(encodeCommand(args))
	check(t, err)
}

// receive returns the next message: a string, a list, a push, or nil.
func (w *wire) receive(t testing.TB) any {
	t.Helper()
	check(t, w.conn.SetDeadline(time.Now().Add(patience)))
	message, err := w.read()
	check(t, err)
	return message
}

// invalidated returns the keys of the next message, which must be a push; none for a null push.
func (w *wire) invalidated(t testing.TB) []string {
	t.Helper()
	message := w.receive(t)
	p, ok := message.(push)
	if !ok || len(p) != 2 || p[0] != "invalidate" {
		t.Fatalf("want a push, got %v", message)
	}
	return keysOf(p)
}

func keysOf(p push) []string {
	list, _ := p[1].([]any)
	keys := make([]string, len(list))
	for i, key := range list {
		keys[i] = key.(string)
	}
	return keys
}

// settles sends a command and fails if anything comes before its reply.
func (w *wire) settles(t testing.TB) {
	t.Helper()
	w.send(t, "PING")
	if reply := w.receive(t); reply != "PONG" {
		t.Fatalf("the server sent %v", reply)
	}
}

func (w *wire) read() (any, error) {
	line, err := w.from.ReadString('\n')
	if err != nil {
		return nil, err
	}
	kind, rest := line[0], strings.TrimSuffix(line[1:], "\r\n")
	switch kind {
	case '+', '-', ':', '#', ',', '(':
		return rest, nil
	case '_':
		return nil, nil
	}
	n, err := strconv.Atoi(rest)
	if err != nil {
		return nil, fmt.Errorf("not a message: %q", line)
	}
	switch kind {
	case '$', '=':
		if n < 0 {
			return nil, nil
		}
		data := make([]byte, n+len("\r\n"))
		_, err := io.ReadFull(w.from, data)
		return string(data[:n]), err
	case '%':
		n *= 2
	}
	if n < 0 {
		return nil, nil
	}
	list := make([]any, n)
	for i := range list {
		if list[i], err = w.read(); err != nil {
			return nil, err
		}
	}
	if kind == '>' {
		return push(list), nil
	}
	return list, nil
}

// monitor is what the server has carried out, in order.
type monitor struct{ wire *wire }

func startMonitor(t testing.TB, server *redistest.Server) *monitor {
	t.Helper()
	m := &monitor{wire: dialWire(t, server)}
	m.wire.send(t, "MONITOR")
	if reply := m.wire.receive(t); reply != "OK" {
		t.Fatalf("MONITOR: %v", reply)
	}
	return m
}

// sets returns, for each of the first n values that SET gave the key, the number of its SET.
func (m *monitor) sets(t testing.TB, key string, n int) map[string]int {
	t.Helper()
	start := fmt.Sprintf(`] "SET" %q "`, key)
	order := make(map[string]int, n)
	for len(order) < n {
		line, _ := m.wire.receive(t).(string)
		if _, rest, ok := strings.Cut(line, start); ok {
			value, _, _ := strings.Cut(rest, `"`)
			order[value] = len(order)
		}
	}
	return order
}

// linkOf returns the id of the one connection of the server that tracks by broadcast.
func linkOf(t testing.TB, server *redistest.Server) string {
	t.Helper()
	return linkFields(t, server)["id"]
}

// linkFields returns what CLIENT LIST says of that connection.
func linkFields(t testing.TB, server *redistest.Server) map[string]string {
	t.Helper()
	list := strings.TrimPrefix(text(t, server, "CLIENT", "LIST"), "txt:") // the format that a verbatim string begins with
	for line := range strings.Lines(list) {
		fields := make(map[string]string)
		for field := range strings.FieldsSeq(line) {
			name, value, _ := strings.Cut(field, "=")
			fields[name] = value
		}
		if strings.Contains(fields["flags"], "B") {
			return fields
		}
	}
	t.Fatalf("no connection tracks by broadcast:\n%s", list)
	return nil
}
