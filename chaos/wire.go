package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/Shopify/toxiproxy/v2/stream"
	"github.com/Shopify/toxiproxy/v2/toxics"
	"github.com/rs/zerolog"
)

func init() { zerolog.SetGlobalLevel(zerolog.Disabled) } // toxics log

// A wire is the way of one node's connections of one kind to Redis: a proxy that passes bytes on until a fault poisons it.
//
// The toxics are toxiproxy's. Its own proxy is not used, since it comes to a standstill when a connection breaks while a toxic is being added
// or removed, which here is all the time.
type wire struct {
	name     string
	upstream string
	address  string
	free     chan struct{} // holds a token while no fault has the wire

	mu          sync.Mutex
	listener    net.Listener // nil while connections are refused
	connections map[*proxied]struct{}
	toxics      [2]toxics.Toxic // by direction, for new connections
	work        sync.WaitGroup
}

// A direction is one of the two ways that bytes go.
type direction int

const (
	up   direction = iota // to Redis
	down                  // from Redis
)

func newWire(name, listen, upstream string) (*wire, error) {
	listener, err := net.Listen("tcp", listen)
	if err != nil {
		return nil, fmt.Errorf("chaos: wire %s: %w", name, err)
	}
	w := &wire{name: name, upstream: upstream, address: listener.Addr().String(), free: make(chan struct{}, 1), connections: map[*proxied]struct{}{}}
	w.toxics = [2]toxics.Toxic{new(toxics.NoopToxic), new(toxics.NoopToxic)}
	w.serve(listener)
	w.release()
	return w, nil
}

func (w *wire) serve(listener net.Listener) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.listener = listener
	w.work.Go(func() {
		for {
			near, err := listener.Accept()
			if err != nil {
				return // it was closed
			}
			w.work.Go(func() { w.pass(near.(*net.TCPConn)) })
		}
	})
}

// pass carries one connection until either side, or a fault, ends it.
func (w *wire) pass(near *net.TCPConn) {
	defer near.Close()
	far, err := net.Dial("tcp", w.upstream)
	if err != nil {
		return
	}
	defer far.Close()
	p := &proxied{near: near, far: far.(*net.TCPConn)}
	w.mu.Lock()
	if w.listener == nil {
		w.mu.Unlock()
		return
	}
	w.connections[p] = struct{}{}
	p.start(w.toxics)
	w.mu.Unlock()
	p.work.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.connections, p)
}

// take waits until no other fault has the wire; release gives it back.
func (w *wire) take(ctx context.Context) error {
	select {
	case <-w.free:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("chaos: wire %s is still taken: %w", w.name, ctx.Err())
	}
}

func (w *wire) release() { w.free <- struct{}{} }

// poison takes the wire and has all that goes in the directions pass the toxic, on present connections and new ones.
func (w *wire) poison(ctx context.Context, toxic toxics.Toxic, directions ...direction) error {
	if err := w.take(ctx); err != nil {
		return err
	}
	return w.setToxic(ctx, toxic, directions...)
}

// cure lets everything pass again and releases the wire. What was held back is passed on; connections of which a black hole has swallowed
// something are closed.
func (w *wire) cure(ctx context.Context) error {
	defer w.release()
	return w.setToxic(ctx, new(toxics.NoopToxic), up, down)
}

func (w *wire) setToxic(ctx context.Context, toxic toxics.Toxic, directions ...direction) error {
	w.mu.Lock()
	var changes sync.WaitGroup
	for _, d := range directions {
		w.toxics[d] = toxic
		for p := range w.connections {
			changes.Go(func() { p.ways[d].change(toxic) })
		}
	}
	w.mu.Unlock()
	changed := make(chan struct{})
	go func() {
		changes.Wait()
		close(changed)
	}()
	select {
	case <-changed:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("chaos: wire %s: a toxic does not take: %w", w.name, ctx.Err())
	}
}

// refuse takes the wire, ends its connections and refuses new ones, until accept.
func (w *wire) refuse(ctx context.Context) error {
	if err := w.take(ctx); err != nil {
		return err
	}
	return w.cut()
}

func (w *wire) accept(context.Context) error {
	defer w.release()
	listener, err := net.Listen("tcp", w.address)
	if err != nil {
		return fmt.Errorf("chaos: wire %s: %w", w.name, err)
	}
	w.serve(listener)
	return nil
}

func (w *wire) cut() (err error) {
	w.mu.Lock()
	if w.listener != nil {
		err = w.listener.Close()
		w.listener = nil
	}
	for p := range w.connections {
		p.close()
	}
	w.mu.Unlock()
	w.work.Wait()
	return err
}

func (w *wire) close() error { return w.cut() }

// proxied is one connection through a wire.
type proxied struct {
	near, far *net.TCPConn
	ways      [2]*way // by direction
	work      sync.WaitGroup
}

func (p *proxied) start(by [2]toxics.Toxic) {
	for d, ends := range [2][2]*net.TCPConn{up: {p.near, p.far}, down: {p.far, p.near}} {
		y := newWay()
		p.ways[d] = y
		y.run(by[d])
		p.work.Go(func() { y.read(ends[0]) })
		p.work.Go(func() {
			y.write(ends[1])
			p.close()
			close(y.over)
		})
	}
}

func (p *proxied) close() {
	_ = p.near.Close() // A closed connection is as good.
	_ = p.far.Close()
}

// A way is one direction of a connection: read → in → toxic → out → write.
type way struct {
	in   chan *stream.StreamChunk
	out  chan *stream.StreamChunk
	over chan struct{} // closed when nothing is written any more
	stub *toxics.ToxicStub

	mu      sync.Mutex // held while the toxic is changed
	current toxics.Toxic
}

// heldBack is how many pieces a toxic may hold back before the sender is.
const heldBack = 1024

func newWay() *way {
	y := &way{in: make(chan *stream.StreamChunk, heldBack), out: make(chan *stream.StreamChunk), over: make(chan struct{})}
	y.stub = toxics.NewToxicStub(y.in, y.out)
	return y
}

func (y *way) run(toxic toxics.Toxic) {
	y.current = toxic
	go y.stub.Run(&toxics.ToxicWrapper{Toxic: toxic, Toxicity: 1})
}

// change puts a toxic in the place of the current one.
func (y *way) change(toxic toxics.Toxic) {
	y.mu.Lock()
	defer y.mu.Unlock()
	if !y.stub.InterruptToxic() {
		return // the way is over
	}
	if cleanup, ok := y.current.(toxics.CleanupToxic); ok {
		cleanup.Cleanup(y.stub)
		if y.stub.Closed() {
			return
		}
	}
	y.run(toxic)
}

func (y *way) read(from *net.TCPConn) {
	defer close(y.in)
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		if n > 0 {
			select {
			case y.in <- &stream.StreamChunk{Data: bytes.Clone(buffer[:n]), Timestamp: time.Now()}:
			case <-y.over:
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// write passes on what the toxic lets through. After a failure it goes on taking, so that the toxic can always be interrupted.
func (y *way) write(to *net.TCPConn) {
	failed := false
	for chunk := range y.out {
		if failed {
			continue
		}
		if _, err := to.Write(chunk.Data); err != nil {
			failed = true
			_ = to.Close() // ends the reader of the other way
		}
	}
	y.mu.Lock()
	defer y.mu.Unlock()
	if _, reset := y.current.(*toxics.ResetToxic); reset {
		_ = to.SetLinger(0)
	}
}
