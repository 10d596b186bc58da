package broadcast

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

// Network connects buses of one process without a broker: for tests, and for programs that run as a single process. It
// delivers within Send, in order, and loses nothing, unless told otherwise by [Network.SetFaults] and [Network.Disconnect].
type Network struct {
	options NetworkOptions

	mu         sync.Mutex
	transports []*memoryTransport
	faults     Faults
	random     *rand.Rand
	back       chan struct{}  // set while disconnected; closed when connected again
	late       sync.WaitGroup // frames on their way
}

// NetworkOptions configure a [Network].
type NetworkOptions struct {
	// Unordered makes the transports declare that frames may overtake each other and be lost without notice, as over
	// gossip. Without it they declare order and signals, as over Redis Pub/Sub.
	Unordered bool
	// MaxFrame is the size of the largest frame in bytes. Default: no limit.
	MaxFrame int
	// Seed makes the faults repeatable.
	Seed uint64
}

// Faults are what a [Network] does to frames. Loss, Duplication and Corruption are probabilities from 0 to 1, for each
// frame and receiving node.
type Faults struct {
	Loss        float64
	Duplication float64
	Corruption  float64
	// Jitter delays each frame by a random time up to this. Frames then overtake each other.
	Jitter time.Duration
}

// NewNetwork makes a network without faults.
func NewNetwork(options NetworkOptions) *Network {
	return &Network{options: options, random: rand.New(rand.NewPCG(options.Seed, 0))}
}

// Transport connects one more node.
func (n *Network) Transport() Transport {
	t := &memoryTransport{network: n, listeners: make(map[string]*memoryListener)}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.transports = append(n.transports, t)
	return t
}

// SetFaults changes the faults for the frames sent from now on.
func (n *Network) SetFaults(faults Faults) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.faults = faults
}

// Disconnect cuts every node off, as a broker that goes away: Send fails, and listeners are told of an open gap. Connect
// ends it.
func (n *Network) Disconnect() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.back == nil {
		n.back = make(chan struct{})
		n.signal(Gap{Reason: Reconnect, Open: true})
	}
}

// Connect brings the nodes together again, and tells listeners that the gap is closed.
func (n *Network) Connect() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.back != nil {
		close(n.back)
		n.back = nil
		n.signal(Gap{Reason: Reconnect})
	}
}

func (n *Network) signal(gap Gap) {
	if n.options.Unordered {
		return // such a network has no signals: sequences alone tell
	}
	for _, t := range n.transports {
		for _, l := range t.listeners {
			l.receiver.Gap(gap)
		}
	}
}

var errAway = errors.New("broadcast: the network is disconnected")

// send delivers a frame to every node. Delivery happens under the lock: receivers do not block, and it keeps the order.
func (n *Network) send(frame Frame) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.back != nil {
		return errAway
	}
	for _, t := range n.transports {
		l := t.listeners[frame.Topic]
		if l == nil {
			continue
		}
		copies := 1
		if n.random.Float64() < n.faults.Loss {
			copies = 0
		} else if n.random.Float64() < n.faults.Duplication {
			copies = 2
		}
		for range copies {
			data := bytes.Clone(frame.Data)
			if n.random.Float64() < n.faults.Corruption {
				data[n.random.IntN(len(data))] ^= 1 << n.random.IntN(8)
			}
			n.deliver(t, frame.Topic, l, data)
		}
	}
	return nil
}

// deliver hands a frame over, now or after a random delay.
func (n *Network) deliver(t *memoryTransport, topic string, l *memoryListener, data []byte) {
	if n.faults.Jitter <= 0 {
		l.receiver.Frame(data)
		return
	}
	n.late.Add(1)
	time.AfterFunc(time.Duration(n.random.Int64N(int64(n.faults.Jitter))), func() {
		defer n.late.Done()
		n.mu.Lock()
		defer n.mu.Unlock()
		if t.listeners[topic] == l {
			l.receiver.Frame(data)
		}
	})
}

type memoryTransport struct {
	network   *Network
	listeners map[string]*memoryListener // under network.mu
	closed    bool                       // under network.mu
}

// Capabilities implements [Transport].
func (t *memoryTransport) Capabilities() Capabilities {
	ordered := !t.network.options.Unordered
	return Capabilities{
		System: "memory", Ordered: ordered, Signals: ordered, Echo: true, MaxFrame: t.network.options.MaxFrame,
	}
}

// Send implements [Transport].
func (t *memoryTransport) Send(ctx context.Context, frame Frame) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	t.network.mu.Lock()
	closed := t.closed
	t.network.mu.Unlock()
	if closed {
		return ErrClosed
	}
	if limit := t.network.options.MaxFrame; limit > 0 && len(frame.Data) > limit {
		return ErrTooLarge
	}
	return t.network.send(frame)
}

// Listen implements [Transport].
func (t *memoryTransport) Listen(ctx context.Context, topic string, receiver Receiver) (Listener, error) {
	for {
		listener, back, err := t.listen(topic, receiver)
		if back == nil {
			return listener, err
		}
		select {
		case <-back:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// listen returns a channel to wait for while the network is disconnected.
func (t *memoryTransport) listen(topic string, receiver Receiver) (Listener, <-chan struct{}, error) {
	t.network.mu.Lock()
	defer t.network.mu.Unlock()
	if t.closed {
		return nil, nil, ErrClosed
	}
	if t.network.back != nil {
		return nil, t.network.back, nil
	}
	l := &memoryListener{transport: t, topic: topic, receiver: receiver}
	t.listeners[topic] = l
	return l, nil, nil
}

// Close implements [Transport].
func (t *memoryTransport) Close(context.Context) error {
	n := t.network
	n.mu.Lock()
	t.closed = true
	clear(t.listeners)
	n.transports = slices.DeleteFunc(n.transports, func(other *memoryTransport) bool { return other == t })
	last := len(n.transports) == 0
	n.mu.Unlock()
	if last {
		n.late.Wait()
	}
	return nil
}

type memoryListener struct {
	transport *memoryTransport
	topic     string
	receiver  Receiver
}

// Close implements [Listener].
func (l *memoryListener) Close(context.Context) error {
	l.transport.network.mu.Lock()
	defer l.transport.network.mu.Unlock()
	if l.transport.listeners[l.topic] == l {
		delete(l.transport.listeners, l.topic)
	}
	return nil
}
