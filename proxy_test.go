package nearcache_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-nearcache/nearcache/internal/redistest"
)

// proxy is a network between nodes and a server that a test can disturb. It tells the invalidation links, by the CLIENT TRACKING they
// send, from the connections that carry data.
type proxy struct {
	backend  string
	listener net.Listener
	running  sync.WaitGroup
	gates    [flows]gate

	mu        sync.Mutex
	conns     map[*proxied]struct{}
	closed    bool
	refusing  bool
	intercept func(args []string) ([]string, bool)
	seen      []request
}

// flow is what a gate holds back.
type flow int

const (
	linkRequests flow = iota // from the node, on its invalidation link
	linkReplies              // to the node, pushes included
	dataRequests
	dataReplies
	flows
)

var (
	wholeLink    = []flow{linkRequests, linkReplies}
	wholeNetwork = []flow{linkRequests, linkReplies, dataRequests, dataReplies}
)

// request is a command that a node sent.
type request struct {
	args []string
	link bool
}

// is reports whether the request begins with these words, whatever their case.
func (r request) is(words ...string) bool {
	return len(r.args) >= len(words) && slices.EqualFunc(r.args[:len(words)], words, strings.EqualFold)
}

// A gate lets everybody through until it is shut.
type gate struct {
	mu   sync.Mutex
	open chan struct{} // closed: open; nil: never shut
	step chan struct{} // lets one through while it is shut
}

func (g *gate) shut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.open == nil || isClosed(g.open) {
		g.open, g.step = make(chan struct{}), make(chan struct{})
	}
}

func (g *gate) reopen() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.open != nil && !isClosed(g.open) {
		close(g.open)
	}
}

func (g *gate) pass(done <-chan struct{}) bool {
	g.mu.Lock()
	open, step := g.open, g.step
	g.mu.Unlock()
	if open == nil {
		return true
	}
	select {
	case <-open:
		return true
	case <-step:
		return true
	case <-done:
		return false
	}
}

func isClosed(c chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// startProxy starts a proxy that ends with the test.
func startProxy(t testing.TB, server *redistest.Server) *proxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	p := &proxy{backend: server.Addr(), listener: listener, conns: make(map[*proxied]struct{})}
	p.running.Go(p.serve)
	t.Cleanup(func() {
		p.mu.Lock()
		p.closed = true
		p.mu.Unlock()
		_ = listener.Close()
		p.cut(func(bool) bool { return true })
		p.running.Wait()
	})
	return p
}

func (p *proxy) addr() string { return p.listener.Addr().String() }

// hold stops flows without a sign to either side: the connections stay open.
func (p *proxy) hold(flows ...flow) {
	for _, f := range flows {
		p.gates[f].shut()
	}
}

// release lets go what hold stopped, in order.
func (p *proxy) release(flows ...flow) {
	for _, f := range flows {
		p.gates[f].reopen()
	}
}

// step lets one portion of what hold stopped go: what came in one read.
func (p *proxy) step(t testing.TB, f flow) {
	t.Helper()
	g := &p.gates[f]
	g.mu.Lock()
	step := g.step
	g.mu.Unlock()
	select {
	case step <- struct{}{}:
	case <-time.After(patience):
		t.Fatalf("nothing is held back within %v", patience)
	}
}

// cut closes the connections that match.
func (p *proxy) cut(match func(link bool) bool) {
	p.mu.Lock()
	var doomed []*proxied
	for c := range p.conns {
		if match(c.link.Load()) {
			doomed = append(doomed, c)
		}
	}
	p.mu.Unlock()
	for _, c := range doomed {
		c.close()
	}
}

func isLink(link bool) bool { return link }

// refuse closes all connections and every new one at once, until it is called with false.
func (p *proxy) refuse(yes bool) {
	p.mu.Lock()
	p.refusing = yes
	p.mu.Unlock()
	if yes {
		p.cut(func(bool) bool { return true })
	}
}

// refuseLinks cuts the links and lets no new one come up, until it is called with false. Data goes on.
func (p *proxy) refuseLinks(yes bool) {
	if !yes {
		p.setIntercept(nil)
		return
	}
	p.setIntercept(noTracking)
	p.cut(isLink)
}

// noTracking closes every connection that would become a link.
func noTracking(args []string) ([]string, bool) {
	return args, !request{args: args}.is("CLIENT", "TRACKING")
}

// setIntercept gives the proxy a function that sees each command before it is forwarded. It returns what to forward in its place, or
// false to close the connection.
func (p *proxy) setIntercept(f func(args []string) ([]string, bool)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.intercept = f
}

// requests returns the commands seen so far that match.
func (p *proxy) requests(match func(request) bool) []request {
	p.mu.Lock()
	defer p.mu.Unlock()
	var matching []request
	for _, r := range p.seen {
		if match(r) {
			matching = append(matching, r)
		}
	}
	return matching
}

// count returns how many commands have begun with these words.
func (p *proxy) count(words ...string) int {
	return len(p.requests(func(r request) bool { return r.is(words...) }))
}

func (p *proxy) serve() {
	for {
		toNode, err := p.listener.Accept()
		if err != nil {
			return
		}
		toServer, err := net.Dial("tcp", p.backend)
		if err != nil {
			_ = toNode.Close()
			continue
		}
		c := &proxied{proxy: p, toNode: toNode, toServer: toServer, done: make(chan struct{})}
		p.mu.Lock()
		unwanted := p.closed || p.refusing
		if !unwanted {
			p.conns[c] = struct{}{}
			p.running.Go(c.forwardRequests)
			p.running.Go(c.forwardReplies)
		}
		p.mu.Unlock()
		if unwanted {
			c.close()
		}
	}
}

// proxied is one connection through the proxy.
type proxied struct {
	proxy            *proxy
	toNode, toServer net.Conn
	link             atomic.Bool
	once             sync.Once
	done             chan struct{}
}

func (c *proxied) close() {
	c.once.Do(func() {
		close(c.done)
		_ = c.toNode.Close()
		_ = c.toServer.Close()
		c.proxy.mu.Lock()
		delete(c.proxy.conns, c)
		c.proxy.mu.Unlock()
	})
}

func (c *proxied) pass(ofLink, ofData flow) bool {
	f := ofData
	if c.link.Load() {
		f = ofLink
	}
	return c.proxy.gates[f].pass(c.done)
}

func (c *proxied) forwardRequests() {
	defer c.close()
	from := bufio.NewReader(c.toNode)
	for {
		args, err := readCommand(from)
		if err != nil {
			return
		}
		if (request{args: args}).is("CLIENT", "TRACKING", "ON") {
			c.link.Store(true)
		}
		c.proxy.mu.Lock()
		c.proxy.seen = append(c.proxy.seen, request{args: args, link: c.link.Load()})
		intercept := c.proxy.intercept
		c.proxy.mu.Unlock()
		if intercept != nil {
			var forward bool
			if args, forward = intercept(args); !forward {
				return
			}
		}
		if !c.pass(linkRequests, dataRequests) {
			return
		}
		if _, err := c.toServer.Write(encodeCommand(args)); err != nil {
			return
		}
	}
}

func (c *proxied) forwardReplies() {
	defer c.close()
	buffer := make([]byte, 32<<10)
	for {
		n, err := c.toServer.Read(buffer)
		if n > 0 {
			if !c.pass(linkReplies, dataReplies) {
				return
			}
			if _, err := c.toNode.Write(buffer[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// readCommand reads an array of bulk strings, which is how clients send commands.
func readCommand(from *bufio.Reader) ([]string, error) {
	n, err := readLength(from, '*')
	if err != nil {
		return nil, err
	}
	args := make([]string, n)
	for i := range args {
		size, err := readLength(from, '$')
		if err != nil {
			return nil, err
		}
		data := make([]byte, size+len("\r\n"))
		if _, err := io.ReadFull(from, data); err != nil {
			return nil, err
		}
		args[i] = string(data[:size])
	}
	return args, nil
}

func readLength(from *bufio.Reader, kind byte) (int, error) {
	line, err := from.ReadString('\n')
	if err != nil {
		return 0, err
	}
	if line[0] != kind {
		return 0, errors.New("not a command: " + strconv.Quote(line))
	}
	return strconv.Atoi(strings.TrimSpace(line[1:]))
}

func encodeCommand(args []string) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "*%d\r\n", len(args))
	for _, arg := range args {
		fmt.Fprintf(&b, "$%d\r\n%s\r\n", len(arg), arg)
	}
	return b.Bytes()
}
