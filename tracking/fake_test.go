package tracking

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/rueidis"
)

// silence is an answer that is not given.
const silence = ""

const (
	answerOK      = "+OK\r\n"
	answerPrimary = "*3\r\n$6\r\nmaster\r\n:0\r\n*0\r\n"
	answerReplica = "*5\r\n$5\r\nslave\r\n$9\r\n127.0.0.1\r\n:6379\r\n$9\r\nconnected\r\n:0\r\n"
	answerHello   = "%4\r\n$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nversion\r\n$5\r\n7.2.0\r\n$5\r\nproto\r\n:3\r\n$2\r\nid\r\n:7\r\n"
	answerBusy    = "-BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.\r\n"
	answerLoading = "-LOADING Redis is loading the dataset in memory\r\n"
)

// A fakeServer speaks as much RESP3 as a link needs, over net.Pipe, so that it runs inside a synctest bubble.
type fakeServer struct {
	// answer overrides the answer to a command; it returns false for the usual one. It runs on the connection's own goroutine
	// and may block: the server then reads nothing more on that connection.
	answer func(c *fakeConnection, command []string) (string, bool)

	// refuse, if set, is asked before a connection is accepted.
	refuse func(attempt int) error

	// wrap, if set, is put around the client's end of each connection.
	wrap func(net.Conn) net.Conn

	mu          sync.Mutex
	connections []*fakeConnection
	attempts    []time.Time
	serving     sync.WaitGroup
}

type fakeConnection struct {
	net.Conn
	number int // from 0

	mu       sync.Mutex // guards what is written, and the fields below
	prefixes []string
	received []receivedCommand
}

type receivedCommand struct {
	at    time.Time
	words []string
}

// newFakeServer returns a server whose connections are all closed, and their goroutines gone, when the test ends.
func newFakeServer(t testing.TB) *fakeServer {
	f := &fakeServer{}
	t.Cleanup(func() {
		for _, c := range f.all() {
			_ = c.Close()
		}
		f.serving.Wait()
	})
	return f
}

func (f *fakeServer) options(h Handler) Options {
	return Options{Redis: rueidis.ClientOption{InitAddress: []string{"fake"}, DialCtxFn: f.dial}, Prefixes: []string{"k:"}, Handler: h}
}

func (f *fakeServer) dial(context.Context, string, *net.Dialer, *tls.Config) (net.Conn, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	attempt := len(f.attempts)
	f.attempts = append(f.attempts, time.Now())
	if f.refuse != nil {
		if err := f.refuse(attempt); err != nil {
			return nil, err
		}
	}
	client, server := net.Pipe()
	c := &fakeConnection{Conn: server, number: len(f.connections)}
	f.connections = append(f.connections, c)
	f.serving.Go(func() { f.serve(c) })
	if f.wrap != nil {
		return f.wrap(client), nil
	}
	return client, nil
}

func (f *fakeServer) all() []*fakeConnection {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]*fakeConnection(nil), f.connections...)
}

// attempted returns when connections were tried.
func (f *fakeServer) attempted() []time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]time.Time(nil), f.attempts...)
}

// last returns the latest connection.
func (f *fakeServer) last() *fakeConnection {
	all := f.all()
	return all[len(all)-1]
}

func (f *fakeServer) serve(c *fakeConnection) {
	defer c.Close()
	r := bufio.NewReader(c)
	for {
		command, err := readCommand(r)
		if err != nil {
			return
		}
		c.mu.Lock()
		c.received = append(c.received, receivedCommand{at: time.Now(), words: command})
		c.mu.Unlock()
		reply, overridden := silence, false
		if f.answer != nil {
			reply, overridden = f.answer(c, command)
		}
		if !overridden {
			reply = c.usual(command)
		}
		if reply != silence && !c.send(reply) {
			return
		}
	}
}

func (c *fakeConnection) usual(command []string) string {
	switch name := strings.ToUpper(strings.Join(command[:min(2, len(command))], " ")); {
	case command[0] == "HELLO":
		return answerHello
	case command[0] == "ROLE":
		return answerPrimary
	case name == "CLIENT TRACKING":
		for i, word := range command {
			if word == "PREFIX" {
				c.prefixes = append(c.prefixes, command[i+1])
			}
		}
		return answerOK
	case name == "CLIENT TRACKINGINFO":
		return fmt.Sprintf("%%3\r\n$5\r\nflags\r\n~2\r\n$2\r\non\r\n$5\r\nbcast\r\n$8\r\nredirect\r\n:0\r\n$8\r\nprefixes\r\n%s", array(c.prefixes...))
	}
	return "-ERR unknown command '" + command[0] + "'\r\n"
}

// send writes a reply or a push, whole, and reports whether the connection took it.
func (c *fakeConnection) send(message string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, err := io.WriteString(c.Conn, message)
	return err == nil
}

// commands returns when a command was received, by its first word.
func (c *fakeConnection) commands(name string) (at []time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, command := range c.received {
		if command.words[0] == name {
			at = append(at, command.at)
		}
	}
	return at
}

func array(elements ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "*%d\r\n", len(elements))
	for _, element := range elements {
		fmt.Fprintf(&b, "$%d\r\n%s\r\n", len(element), element)
	}
	return b.String()
}

func pushOf(keys ...string) string { return ">2\r\n$10\r\ninvalidate\r\n" + array(keys...) }

const nullPush = ">2\r\n$10\r\ninvalidate\r\n_\r\n"

// readCommand reads an array of bulk strings.
func readCommand(r *bufio.Reader) ([]string, error) {
	message, err := readMessage(r)
	if err != nil {
		return nil, err
	}
	lines := bytes.Split(message, []byte("\r\n"))
	n, err := strconv.Atoi(strings.TrimPrefix(string(lines[0]), "*"))
	if err != nil {
		return nil, err
	}
	// Split leaves length and content of each element on lines of their own; no test sends CR LF in an argument.
	command := make([]string, n)
	for i := range command {
		command[i] = string(lines[2+2*i])
	}
	return command, nil
}

// readMessage reads one RESP message, whole, with everything nested in it.
func readMessage(r *bufio.Reader) ([]byte, error) {
	line, err := r.ReadBytes('\n')
	if err != nil {
		return nil, err
	}
	if len(line) < 3 {
		return nil, fmt.Errorf("not RESP: %q", line)
	}
	n, err := strconv.Atoi(string(line[1 : len(line)-2]))
	if err != nil {
		n = -1
	}
	switch line[0] {
	case '$', '=', '!':
		if n < 0 {
			return line, nil
		}
		content := make([]byte, n+2)
		_, err := io.ReadFull(r, content)
		return append(line, content...), err
	case '%', '|':
		n *= 2
		fallthrough
	case '*', '~', '>':
		for range n {
			element, err := readMessage(r)
			if err != nil {
				return nil, err
			}
			line = append(line, element...)
		}
	}
	return line, nil
}

// A proxy stands between a link and a real server.
type proxy struct {
	listener net.Listener
	work     sync.WaitGroup
}

// startProxy forwards connections to address. reply may change a message from the server, whole, or drop it by returning nil.
func startProxy(t testing.TB, address string, reply func(message []byte) []byte) *proxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	return serveProxy(t, listener, address, reply)
}

func serveProxy(t testing.TB, listener net.Listener, address string, reply func(message []byte) []byte) *proxy {
	p := &proxy{listener: listener}
	t.Cleanup(func() {
		_ = listener.Close()
		p.work.Wait()
	})
	p.work.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", address)
			if err != nil {
				_ = client.Close()
				continue
			}
			p.work.Go(func() {
				defer server.Close()
				_, _ = io.Copy(server, client)
			})
			p.work.Go(func() {
				defer client.Close()
				r := bufio.NewReader(server)
				for {
					message, err := readMessage(r)
					if err != nil {
						return
					}
					if message = reply(message); message != nil {
						if _, err := client.Write(message); err != nil {
							return
						}
					}
				}
			})
		}
	})
	return p
}

func (p *proxy) address() string { return p.listener.Addr().String() }
