package nearcachetest

import (
	"errors"
	"net"
	"sync"
	"time"
)

// A connection joins the client's end of a pipe to a connection to the server. Each direction has a goroutine that reads messages and
// one that writes them: between the two is the lane, where faults work.
type connection struct {
	faults             *Faults
	client, server     net.Conn
	toServer, toClient *lane
	link               bool // under faults.mu

	once sync.Once
	done chan struct{}
}

// attach returns what the client gets in place of its connection to the server.
func (f *Faults) attach(server net.Conn) (net.Conn, error) {
	ours, theirs := net.Pipe()
	c := &connection{faults: f, client: ours, server: server, done: make(chan struct{})}
	c.toServer, c.toClient = newLane(c, ToServer, server), newLane(c, ToClient, ours)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil, errors.Join(errClosed, server.Close())
	}
	f.connections[c] = struct{}{}
	f.running.Go(c.readCommands)
	f.running.Go(c.readReplies)
	f.running.Go(c.toServer.run)
	f.running.Go(c.toClient.run)
	return &clientEnd{Conn: theirs, local: server.LocalAddr(), remote: server.RemoteAddr()}, nil
}

// clientEnd is a pipe with the addresses of what it leads to.
type clientEnd struct {
	net.Conn
	local, remote net.Addr
}

func (c *clientEnd) LocalAddr() net.Addr  { return c.local }
func (c *clientEnd) RemoteAddr() net.Addr { return c.remote }

// kind is called under faults.mu.
func (c *connection) kind() Connections {
	if c.link {
		return Links
	}
	return Data
}

func (c *connection) close() {
	c.once.Do(func() {
		close(c.done)
		_ = c.client.Close()
		_ = c.server.Close()
		f := c.faults
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.connections, c)
		held := f.held[:0]
		for _, h := range f.held {
			if h.from != c {
				held = append(held, h)
			}
		}
		clear(f.held[len(held):])
		f.held = held
	})
}

// readCommands ends the connection when the client does.
func (c *connection) readCommands() {
	defer c.close()
	from := newFrames(c.client)
	for {
		frame, err := from.next()
		if len(frame) > 0 && !c.command(frame) {
			return
		}
		if err != nil {
			return
		}
	}
}

// command passes a command on, and reports false if the connection must not live.
func (c *connection) command(frame []byte) bool {
	f := c.faults
	f.mu.Lock()
	defer f.mu.Unlock()
	if !c.link && startsTracking(frame) {
		if f.refusesLinks {
			return false
		}
		c.link = true
	}
	c.toServer.add(parcel{data: frame})
	return true
}

// readReplies passes on the end of the connection to the server in its place: a stalled client does not get to see it.
func (c *connection) readReplies() {
	from := newFrames(c.server)
	for {
		frame, err := from.next()
		if len(frame) > 0 {
			c.reply(frame)
		}
		if err != nil {
			c.faults.mu.Lock()
			c.toClient.add(parcel{last: true})
			c.faults.mu.Unlock()
			return
		}
	}
}

func (c *connection) reply(frame []byte) {
	if push, ok := asPush(frame); ok {
		c.faults.judge(push, frame, c)
		return
	}
	c.faults.mu.Lock()
	defer c.faults.mu.Unlock()
	c.toClient.add(parcel{data: frame})
}

// A lane is one direction of a connection. Its fields are guarded by faults.mu.
type lane struct {
	connection *connection
	direction  Direction
	to         net.Conn
	wake       chan struct{}

	waiting []parcel
	delayed []parcel // pushes that others may overtake, in the order in which they came
}

type parcel struct {
	data []byte
	due  time.Time // zero: now
	last bool      // the end of the connection
}

func newLane(c *connection, direction Direction, to net.Conn) *lane {
	return &lane{connection: c, direction: direction, to: to, wake: make(chan struct{}, 1)}
}

func (l *lane) add(p parcel) {
	l.waiting = append(l.waiting, p)
	l.wakeUp()
}

func (l *lane) delay(p parcel) {
	l.delayed = append(l.delayed, p)
	l.wakeUp()
}

func (l *lane) wakeUp() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// run writes what may pass.
func (l *lane) run() {
	defer l.connection.close()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		p, wait, ok := l.next()
		if ok {
			if p.last {
				return
			}
			if _, err := l.to.Write(p.data); err != nil {
				return
			}
			continue
		}
		var due <-chan time.Time
		if wait > 0 {
			timer.Reset(wait)
			due = timer.C
		}
		select {
		case <-l.wake:
		case <-due:
		case <-l.connection.done:
			return
		}
	}
}

// next takes what may pass now; if there is nothing, wait is the time until there will be, or 0 if that is not known.
func (l *lane) next() (p parcel, wait time.Duration, ok bool) {
	f := l.connection.faults
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.stalled[flow{l.connection.kind(), l.direction}] {
		return p, 0, false
	}
	if len(l.delayed) > 0 {
		if wait = time.Until(l.delayed[0].due); wait <= 0 {
			return take(&l.delayed), 0, true
		}
	}
	if len(l.waiting) > 0 {
		return take(&l.waiting), 0, true
	}
	return p, wait, false
}

// take removes the first, and gives the room back when nothing is left.
func take(parcels *[]parcel) parcel {
	first := (*parcels)[0]
	(*parcels)[0] = parcel{}
	if *parcels = (*parcels)[1:]; len(*parcels) == 0 {
		*parcels = nil
	}
	return first
}
