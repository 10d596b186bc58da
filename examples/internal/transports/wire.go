package transports

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"
)

// A Wire is what one node's traffic goes through: it counts bytes, and it can be cut. The zero value is ready.
type Wire struct {
	bytes atomic.Int64

	mu    sync.Mutex
	cut   bool
	conns map[*counted]struct{}
}

var errCut = errors.New("the wire is cut")

// Bytes is how much has gone over the wire, in both directions.
func (w *Wire) Bytes() int64 { return w.bytes.Load() }

// Cut breaks all connections and every new one, until Mend.
func (w *Wire) Cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut = true
	for conn := range w.conns {
		_ = conn.Conn.Close() // closed twice is closed
	}
}

// Mend lets connections be made again.
func (w *Wire) Mend() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut = false
}

func (w *Wire) isCut() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.cut
}

// Dial connects through the wire.
func (w *Wire) Dial(ctx context.Context, dialer *net.Dialer, address string) (net.Conn, error) {
	if w.isCut() {
		return nil, errCut
	}
	conn, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	return w.connection(conn)
}

// connection has a connection go through the wire.
func (w *Wire) connection(conn net.Conn) (net.Conn, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.cut {
		return nil, errors.Join(errCut, conn.Close())
	}
	if w.conns == nil {
		w.conns = make(map[*counted]struct{})
	}
	c := &counted{Conn: conn, wire: w}
	w.conns[c] = struct{}{}
	return c, nil
}

type counted struct {
	net.Conn
	wire *Wire
}

func (c *counted) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.wire.bytes.Add(int64(n))
	return n, err
}

func (c *counted) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.wire.bytes.Add(int64(n))
	return n, err
}

func (c *counted) Close() error {
	c.wire.mu.Lock()
	delete(c.wire.conns, c)
	c.wire.mu.Unlock()
	return c.Conn.Close()
}

// members is the network of a member of a gossip, by way of a wire.
type members struct {
	*memberlist.NetTransport
	wire    *Wire
	packets chan *memberlist.Packet
	streams chan net.Conn
	ended   chan struct{}
}

func newMembers(inner *memberlist.NetTransport, wire *Wire) *members {
	m := &members{
		NetTransport: inner, wire: wire,
		packets: make(chan *memberlist.Packet), streams: make(chan net.Conn), ended: make(chan struct{}),
	}
	go m.receivePackets()
	go m.acceptStreams()
	return m
}

// receivePackets passes on what comes while the wire is whole.
func (m *members) receivePackets() {
	for {
		select {
		case packet := <-m.NetTransport.PacketCh():
			if m.wire.isCut() {
				continue
			}
			m.wire.bytes.Add(int64(len(packet.Buf)))
			select {
			case m.packets <- packet:
			case <-m.ended:
				return
			}
		case <-m.ended:
			return
		}
	}
}

// acceptStreams has the connections that others make go through the wire too.
func (m *members) acceptStreams() {
	for {
		select {
		case conn := <-m.NetTransport.StreamCh():
			through, err := m.wire.connection(conn)
			if err != nil {
				continue
			}
			select {
			case m.streams <- through:
			case <-m.ended:
				_ = through.Close() // nobody will read from it
				return
			}
		case <-m.ended:
			return
		}
	}
}

func (m *members) PacketCh() <-chan *memberlist.Packet { return m.packets }
func (m *members) StreamCh() <-chan net.Conn           { return m.streams }

func (m *members) WriteTo(b []byte, address string) (time.Time, error) {
	return m.WriteToAddress(b, memberlist.Address{Addr: address})
}

func (m *members) WriteToAddress(b []byte, to memberlist.Address) (time.Time, error) {
	if m.wire.isCut() {
		return time.Now(), nil // a packet that is lost is no error
	}
	m.wire.bytes.Add(int64(len(b)))
	return m.NetTransport.WriteToAddress(b, to)
}

func (m *members) DialTimeout(address string, timeout time.Duration) (net.Conn, error) {
	return m.DialAddressTimeout(memberlist.Address{Addr: address}, timeout)
}

func (m *members) DialAddressTimeout(to memberlist.Address, timeout time.Duration) (net.Conn, error) {
	if m.wire.isCut() {
		return nil, errCut
	}
	conn, err := m.NetTransport.DialAddressTimeout(to, timeout)
	if err != nil {
		return nil, err
	}
	return m.wire.connection(conn)
}

// Shutdown ends the network first: what it still passes on must be taken.
func (m *members) Shutdown() error {
	err := m.NetTransport.Shutdown()
	close(m.ended)
	return err
}
