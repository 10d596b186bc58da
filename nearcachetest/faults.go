package nearcachetest

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// Faults stands between a client and its server and misbehaves when it is told to. Its Dial goes into
// nearcache.Options.Redis.DialCtxFn; a Faults for each node disturbs each by itself. Make it with [NewFaults], before the client, so that
// it is closed after it.
//
// Faults of pushes take keys, as Redis knows them: the fault is then about the pushes that name one of them, and otherwise about
// all. Without keys, count in the library's own writes: Open makes a key to prove tracking, which expires a second later, and a load
// puts its lease into the key before the value.
type Faults struct {
	t testing.TB

	mu          sync.Mutex
	connections map[*connection]struct{}
	changed     chan struct{} // closed, and made anew, when held or dropped grows
	closed      bool
	running     sync.WaitGroup

	stalled      map[flow]bool
	refusing     bool
	refusesLinks bool
	drops        drops
	holds        *pushRule
	delays       *pushRule
	delay        time.Duration
	held         []heldPush
	dropped      []Push
}

// pushRule picks the pushes that a fault is about.
type pushRule struct{ keys []string }

func (r *pushRule) covers(p Push) bool { return r != nil && p.concerns(r.keys) }

type drops struct {
	pushRule
	left int
}

type heldPush struct {
	Push
	data []byte
	from *connection
}

// Connections are kinds of connections, to be joined with the | operator.
type Connections uint8

const (
	// Links are invalidation links: a connection is one from the CLIENT TRACKING that it sends.
	Links Connections = 1 << iota
	// Data are all others.
	Data
)

// Direction is which way bytes travel, to be joined with the | operator.
type Direction uint8

const (
	// ToServer is from the client to the server: commands.
	ToServer Direction = 1 << iota
	// ToClient is from the server to the client: replies and pushes.
	ToClient
)

// flow is what travels one way on connections of one kind.
type flow struct {
	connections Connections
	direction   Direction
}

// flowsOf takes joined kinds and directions apart.
func flowsOf(connections Connections, direction Direction) (flows []flow) {
	for _, c := range []Connections{Links, Data} {
		for _, d := range []Direction{ToServer, ToClient} {
			if connections&c != 0 && direction&d != 0 {
				flows = append(flows, flow{c, d})
			}
		}
	}
	return flows
}

// NewFaults returns a Faults that does no harm yet. It ends with the test.
func NewFaults(t testing.TB) *Faults {
	f := &Faults{
		t:           t,
		connections: make(map[*connection]struct{}),
		changed:     make(chan struct{}),
		stalled:     make(map[flow]bool),
	}
	t.Cleanup(f.close)
	return f
}

func (f *Faults) close() {
	f.mu.Lock()
	f.closed = true
	f.mu.Unlock()
	f.Cut(Links | Data)
	f.running.Wait()
}

var (
	errRefused = errors.New("nearcachetest: connection refused")
	errClosed  = errors.New("nearcachetest: the test has ended")
)

// Dial connects to a server as rueidis would: over TLS if config is not nil, over a Unix socket if the address is a path. It is a
// nearcache.Options.Redis.DialCtxFn.
func (f *Faults) Dial(ctx context.Context, address string, dialer *net.Dialer, config *tls.Config) (net.Conn, error) {
	f.mu.Lock()
	refusing := f.refusing
	f.mu.Unlock()
	if refusing {
		return nil, fmt.Errorf("%w: %s", errRefused, address)
	}
	network := "tcp"
	if strings.HasPrefix(address, "/") {
		network = "unix"
	}
	dial := dialer.DialContext
	if config != nil {
		dial = (&tls.Dialer{NetDialer: dialer, Config: config}).DialContext
	}
	server, err := dial(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return f.attach(server)
}

// Cut closes the connections of these kinds, as a network or a server does that resets them, and returns how many there were.
func (f *Faults) Cut(connections Connections) int {
	f.mu.Lock()
	var doomed []*connection
	for c := range f.connections {
		if connections&c.kind() != 0 {
			doomed = append(doomed, c)
		}
	}
	f.mu.Unlock()
	for _, c := range doomed {
		c.close()
	}
	return len(doomed)
}

// Stall lets nothing pass any more, in these directions on connections of these kinds, and tells nobody: the connections stay open, as a
// half-open TCP connection does, or one to a frozen machine. Resume passes on what has come meanwhile.
func (f *Faults) Stall(connections Connections, direction Direction) {
	f.change(func() {
		for _, flow := range flowsOf(connections, direction) {
			f.stalled[flow] = true
		}
	})
}

// Resume ends what Stall began.
func (f *Faults) Resume(connections Connections, direction Direction) {
	f.change(func() {
		for _, flow := range flowsOf(connections, direction) {
			delete(f.stalled, flow)
		}
	})
}

// RefuseConnections makes Dial fail until AcceptConnections is called. What is connected stays so: see Cut.
func (f *Faults) RefuseConnections() { f.change(func() { f.refusing = true }) }

// RefuseLinks closes each new connection that asks for tracking, until AcceptConnections is called. Data is not disturbed, and neither is
// a link that is there: see Cut.
func (f *Faults) RefuseLinks() { f.change(func() { f.refusesLinks = true }) }

// AcceptConnections ends RefuseConnections and RefuseLinks.
func (f *Faults) AcceptConnections() { f.change(func() { f.refusing, f.refusesLinks = false, false }) }

// DropPushes loses the next n pushes that name one of the keys, or any n without keys, as no server does: the link goes on as if
// nothing had been sent. It takes the place of an earlier DropPushes.
func (f *Faults) DropPushes(n int, keys ...string) {
	f.change(func() { f.drops = drops{pushRule{slices.Clone(keys)}, n} })
}

// AwaitDropped waits until n pushes have been lost in all and returns them, in order. It ends the test if they do not come.
func (f *Faults) AwaitDropped(n int) []Push {
	f.t.Helper()
	var dropped []Push
	f.await(fmt.Sprintf("%d pushes were dropped", n), func() bool {
		dropped = slices.Clone(f.dropped)
		return len(dropped) >= n
	})
	return dropped
}

// HoldPushes keeps pushes back that name one of the keys, or all without keys, while replies go on. It takes the place of an earlier
// HoldPushes. A push that is held goes down with its connection.
func (f *Faults) HoldPushes(keys ...string) {
	f.change(func() { f.holds = &pushRule{slices.Clone(keys)} })
}

// AwaitHeld waits until at least n pushes are held back and returns them, in the order in which they came. It ends the test if they do not
// come.
func (f *Faults) AwaitHeld(n int) []Push {
	f.t.Helper()
	var held []Push
	f.await(fmt.Sprintf("%d pushes are held", n), func() bool {
		held = held[:0]
		for _, h := range f.held {
			held = append(held, h.Push)
		}
		return len(held) >= n
	})
	return held
}

// ReleasePush passes on one of the pushes that are held, by its place in what AwaitHeld returns; those behind it move up. It ends the test
// if there is none there.
func (f *Faults) ReleasePush(index int) {
	f.t.Helper()
	f.unhold(index, func(h heldPush) { h.from.toClient.add(parcel{data: h.data}) })
}

// DropPush loses one of the pushes that are held, by its place in what AwaitHeld returns; those behind it move up. It ends the test if there
// is none there.
func (f *Faults) DropPush(index int) {
	f.t.Helper()
	f.unhold(index, func(h heldPush) { f.drop(h.Push) })
}

func (f *Faults) unhold(index int, then func(heldPush)) {
	f.t.Helper()
	f.mu.Lock()
	n := len(f.held)
	if index >= 0 && index < n {
		then(f.held[index])
		f.held = slices.Delete(f.held, index, index+1)
	}
	f.mu.Unlock()
	if index < 0 || index >= n {
		f.t.Fatalf("nearcachetest: there is no push %d: %d are held", index, n)
	}
}

// ReleasePushes passes on all pushes that are held, in order, and holds no more.
func (f *Faults) ReleasePushes() {
	f.change(func() {
		f.holds = nil
		for _, h := range f.held {
			h.from.toClient.add(parcel{data: h.data})
		}
		f.held = nil
	})
}

// DelayPushes passes pushes on that much later that name one of the keys, or all without keys, while replies go on. It takes the place of
// an earlier DelayPushes; 0 ends it, for pushes that have not come yet.
func (f *Faults) DelayPushes(delay time.Duration, keys ...string) {
	f.change(func() {
		f.delay, f.delays = delay, nil
		if delay > 0 {
			f.delays = &pushRule{slices.Clone(keys)}
		}
	})
}

// Heal ends every fault, and passes on what was held back.
func (f *Faults) Heal() {
	f.Resume(Links|Data, ToServer|ToClient)
	f.AcceptConnections()
	f.DropPushes(0)
	f.DelayPushes(0)
	f.ReleasePushes()
}

// change makes a change and lets every connection see it.
func (f *Faults) change(do func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	do()
	for c := range f.connections {
		c.toServer.wakeUp()
		c.toClient.wakeUp()
	}
}

// await returns once the condition holds, which is looked at under the lock when pushes have been held or dropped.
func (f *Faults) await(what string, condition func() bool) {
	f.t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	for {
		f.mu.Lock()
		holds, changed := condition(), f.changed
		f.mu.Unlock()
		if holds {
			return
		}
		select {
		case <-changed:
		case <-deadline.C:
			f.t.Fatalf("nearcachetest: not within %v: %s", patience, what)
		}
	}
}

// announce wakes those that await, under the lock.
func (f *Faults) announce() {
	close(f.changed)
	f.changed = make(chan struct{})
}

// drop notes a lost push, under the lock.
func (f *Faults) drop(p Push) {
	f.dropped = append(f.dropped, p)
	f.announce()
}

// judge decides what becomes of a push.
func (f *Faults) judge(p Push, data []byte, from *connection) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.drops.left > 0 && f.drops.covers(p):
		f.drops.left--
		f.drop(p)
	case f.holds.covers(p):
		f.held = append(f.held, heldPush{p, data, from})
		f.announce()
	case f.delays.covers(p):
		from.toClient.delay(parcel{data: data, due: time.Now().Add(f.delay)})
	default:
		from.toClient.add(parcel{data: data})
	}
}
