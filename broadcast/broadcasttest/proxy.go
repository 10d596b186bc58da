package broadcasttest

import (
	"context"
	"io"
	"net"
	"sync"
	"testing"
)

// Proxy forwards TCP connections to a broker and can misbehave: the faults of a network without touching the broker.
type Proxy struct {
	target   string
	listener net.Listener
	running  sync.WaitGroup

	mu       sync.Mutex
	refusing bool
	hole     chan struct{} // while black-holed; closed when healed
	links    map[*link]struct{}
	closed   bool
}

// NewProxy listens on a free loopback port and forwards to target until the test ends.
func NewProxy(t testing.TB, target string) *Proxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("broadcasttest: proxy: %v", err)
	}
	p := &Proxy{target: target, listener: listener, links: make(map[*link]struct{})}
	p.running.Go(p.accept)
	t.Cleanup(p.Close)
	return p
}

// Addr is where to connect to.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// Dial connects through the proxy, whatever address is asked for: for clients that learn addresses from the broker.
func (p *Proxy) Dial(ctx context.Context, dialer *net.Dialer) (net.Conn, error) {
	return dialer.DialContext(ctx, "tcp", p.Addr())
}

// Break closes all connections. New ones are forwarded.
func (p *Proxy) Break() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.breakLocked()
}

func (p *Proxy) breakLocked() {
	for l := range p.links {
		l.close()
	}
}

// Refuse closes all connections and every new one at once, until heal is called.
func (p *Proxy) Refuse() (heal func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refusing = true
	p.breakLocked()
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.refusing = false
	}
}

// BlackHole keeps all connections open, and accepts new ones, but moves no byte until heal is called: as a network whose
// packets vanish. What was swallowed meanwhile is lost: heal closes the connections that had bytes waiting.
func (p *Proxy) BlackHole() (heal func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	hole := make(chan struct{})
	p.hole = hole
	return sync.OnceFunc(func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.hole == hole {
			p.hole = nil
		}
		close(hole)
	})
}

// Close ends the proxy and waits for it.
func (p *Proxy) Close() {
	p.mu.Lock()
	p.closed = true
	if p.hole != nil {
		close(p.hole)
		p.hole = nil
	}
	p.breakLocked()
	p.mu.Unlock()
	_ = p.listener.Close()
	p.running.Wait()
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.running.Go(func() { p.forward(client) })
	}
}

// link is one connection through the proxy.
type link struct {
	once   sync.Once
	client net.Conn
	server net.Conn
}

func (l *link) close() {
	l.once.Do(func() {
		_ = l.client.Close()
		_ = l.server.Close()
	})
}

func (p *Proxy) forward(client net.Conn) {
	p.mu.Lock()
	refuse := p.refusing || p.closed
	p.mu.Unlock()
	if refuse {
		_ = client.Close()
		return
	}
	server, err := net.Dial("tcp", p.target)
	if err != nil {
		_ = client.Close()
		return
	}
	l := &link{client: client, server: server}
	p.mu.Lock()
	if p.refusing || p.closed {
		p.mu.Unlock()
		l.close()
		return
	}
	p.links[l] = struct{}{}
	p.mu.Unlock()

	var both sync.WaitGroup
	both.Go(func() { p.copy(l, server, client) })
	both.Go(func() { p.copy(l, client, server) })
	both.Wait()
	p.mu.Lock()
	delete(p.links, l)
	p.mu.Unlock()
}

// copy moves bytes one way until either side closes.
func (p *Proxy) copy(l *link, to io.Writer, from io.Reader) {
	defer l.close()
	buffer := make([]byte, 64<<10)
	for {
		n, err := from.Read(buffer)
		p.mu.Lock()
		hole := p.hole
		p.mu.Unlock()
		if hole != nil {
			<-hole
			return // the bytes are lost, so the stream cannot go on
		}
		if n > 0 {
			if _, err := to.Write(buffer[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}
