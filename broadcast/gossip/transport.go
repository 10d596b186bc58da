package gossip

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/go-nearcache/nearcache/broadcast"
)

const (
	joinTimeout  = 5 * time.Second // after which a node that reaches no seed begins by itself
	leaveTimeout = 2 * time.Second // for the news that this node leaves
	dialTimeout  = 3 * time.Second // for TCP: joining, and frames that do not fit a packet

	answerers  = 8    // how many members that miss frames are answered at the same time
	maxWants   = 1024 // how many may wait for that; what is beyond is asked for again
	queueDepth = 8192 // packets that memberlist keeps when they come faster than they are taken
)

// Transport carries frames between members. It implements [broadcast.Transport]; its methods may be called from any goroutine.
type Transport struct {
	options Options
	name    string
	members *memberlist.Memberlist
	packet  int // the largest message that is sent as a packet

	ctx     context.Context
	stop    context.CancelFunc
	running sync.WaitGroup
	live    chan struct{} // closed when this node has joined, or has begun by itself
	news    chan struct{} // tells the maintenance that something is due
	wants   chan []byte   // what others ask for
	closing sync.Once
	gone    chan struct{} // closed when Close has finished

	// Events of memberlist come under its lock, so it must not be called with mu held.
	mu        sync.Mutex
	closed    bool
	begun     bool // live is closed
	isolated  bool
	listeners map[string]*listener
	peers     map[string]*memberlist.Node // the other members; the nodes are copies
	targets   []*memberlist.Node          // the same, replaced at every change
	failed    map[string]failure          // members that went without leaving
	senders   map[string]*sender
	sent      *store
	received  *store
	number    uint64    // of the frame sent last
	sentAt    time.Time // when that was
	told      uint64    // the last number that all members have been told of after the fact
}

var _ broadcast.Transport = (*Transport)(nil)

var (
	errJoining  = errors.New("gossip: no seed has been reached yet")
	errIsolated = errors.New("gossip: every other member is out of reach")
)

// New makes a transport and begins to listen and to join. It succeeds while no seed can be reached.
func New(options Options) (*Transport, error) {
	options, bind, advertise, err := options.validate()
	if err != nil {
		return nil, err
	}
	t := newTransport(options)
	config := memberlist.DefaultLANConfig()
	config.BindAddr, config.BindPort = bind.host, bind.port
	config.AdvertisePort = bind.port
	if options.Advertise != "" {
		config.AdvertiseAddr, config.AdvertisePort = advertise.host, advertise.port
	}
	config.TCPTimeout = dialTimeout
	config.HandoffQueueDepth = queueDepth
	config.EnableCompression = false // packets are small, and LZW for each member costs more than it saves
	if options.Configure != nil {
		options.Configure(config)
	}
	config.Name = t.name
	config.Keyring, config.SecretKey = options.Keyring, nil
	config.Label = options.Label
	config.Delegate, config.Events = (*delegate)(t), (*delegate)(t)
	config.DelegateProtocolVersion, config.DelegateProtocolMin, config.DelegateProtocolMax = protocolVersion, protocolVersion, protocolVersion
	config.LogOutput, config.Logger = nil, logger(options.Logger)
	t.packet = config.UDPBufferSize - packetOverhead - len(options.Label)

	t.ctx, t.stop = context.WithCancel(context.Background())
	if t.members, err = memberlist.Create(config); err != nil {
		t.stop()
		return nil, fmt.Errorf("gossip: listen on %s: %w", options.Bind, err)
	}
	t.running.Go(t.join)
	t.running.Go(t.maintain)
	for range answerers {
		t.running.Go(t.answerAll)
	}
	return t, nil
}

func newTransport(options Options) *Transport {
	var suffix [6]byte
	_, _ = rand.Read(suffix[:]) // never fails: see crypto/rand
	return &Transport{
		options: options,
		name:    options.Name + "-" + hex.EncodeToString(suffix[:]),
		live:    make(chan struct{}), news: make(chan struct{}, 1), wants: make(chan []byte, maxWants), gone: make(chan struct{}),
		listeners: make(map[string]*listener), peers: make(map[string]*memberlist.Node),
		failed: make(map[string]failure), senders: make(map[string]*sender),
		sent: newStore(options.RetainBytes), received: newStore(options.RetainBytes),
	}
}

// packetOverhead bounds what memberlist adds to a packet: encryption, a checksum, and types.
const packetOverhead = 64

// Addr is the address by which others reach this node, "host:port": what they take as a seed.
func (t *Transport) Addr() string { return t.members.LocalNode().Address() }

// Members are the names of the members that this node knows to be alive, itself included, in order.
func (t *Transport) Members() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	names := slices.AppendSeq([]string{t.name}, maps.Keys(t.peers))
	slices.Sort(names)
	return names
}

// Capabilities implements [broadcast.Transport].
func (t *Transport) Capabilities() broadcast.Capabilities {
	return broadcast.Capabilities{System: "gossip", Ordered: true, MaxFrame: maxFrame}
}

// Send implements [broadcast.Transport].
func (t *Transport) Send(ctx context.Context, f broadcast.Frame) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if len(f.Data) > maxFrame {
		return fmt.Errorf("%w: a frame of %d bytes, at most %d are allowed", broadcast.ErrTooLarge, len(f.Data), maxFrame)
	}
	t.mu.Lock()
	switch {
	case t.closed:
		t.mu.Unlock()
		return broadcast.ErrClosed
	case !t.begun:
		t.mu.Unlock()
		return errJoining
	case t.isolated:
		t.mu.Unlock()
		return errIsolated
	}
	if f.Control && t.told == t.number {
		t.told++ // the next one tells what this one does
	}
	t.number++
	t.sentAt = time.Now()
	number, targets := t.number, t.targets
	encoded := appendFrame(make([]byte, 0, len(f.Data)+len(f.Topic)+len(t.name)+16), t.name, number, f.Topic, f.Data)
	t.sent.add(id{t.name, number}, encoded)
	message := appendSized([]byte{kindFrames}, encoded)
	if len(message) > t.packet {
		message = t.ownDigestLocked() // who wants it asks for it
	}
	t.mu.Unlock()
	t.wake() // to tell the number once more when nothing follows
	t.sendAll(targets, message)
	return nil
}

// sendAll sends a packet to members. One that is lost is repaired, so an error needs no care.
func (t *Transport) sendAll(targets []*memberlist.Node, message []byte) {
	for _, target := range targets {
		_ = t.members.SendBestEffort(target, message)
	}
}

// Listen implements [broadcast.Transport].
func (t *Transport) Listen(ctx context.Context, topic string, receiver broadcast.Receiver) (broadcast.Listener, error) {
	select {
	case <-t.live:
	case <-t.ctx.Done():
		return nil, broadcast.ErrClosed
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: %w", context.Cause(ctx), errJoining)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil, broadcast.ErrClosed
	}
	l := &listener{transport: t, topic: topic, receiver: receiver}
	t.listeners[topic] = l
	if t.isolated {
		receiver.Gap(broadcast.Gap{Reason: broadcast.Reconnect, Open: true})
	}
	return l, nil
}

type listener struct {
	transport *Transport
	topic     string
	receiver  broadcast.Receiver
}

// Close implements [broadcast.Listener].
func (l *listener) Close(context.Context) error {
	l.transport.mu.Lock()
	defer l.transport.mu.Unlock()
	if l.transport.listeners[l.topic] == l {
		delete(l.transport.listeners, l.topic)
	}
	return nil
}

// tellLocked reports a gap to every listener.
func (t *Transport) tellLocked(gap broadcast.Gap) {
	for _, l := range t.listeners {
		l.receiver.Gap(gap)
	}
}

// Close implements [broadcast.Transport]. It tells the others that this node leaves; meanwhile they can still ask for what
// they miss of it.
func (t *Transport) Close(ctx context.Context) error {
	t.closing.Do(func() {
		t.mu.Lock()
		t.closed = true
		clear(t.listeners)
		targets, digest := t.targets, t.ownDigestLocked()
		t.mu.Unlock()
		go func() {
			defer close(t.gone)
			t.sendAll(targets, digest)
			timeout := leaveTimeout
			if deadline, ok := ctx.Deadline(); ok {
				timeout = max(min(timeout, time.Until(deadline)/2), time.Millisecond)
			}
			_ = t.members.Leave(timeout) // who does not hear of it notices that this node is gone
			_ = t.members.Shutdown()     // it has no error to tell
			t.stop()
			t.running.Wait()
		}()
	})
	select {
	case <-t.gone:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("gossip: still leaving: %w", context.Cause(ctx))
	}
}

func (t *Transport) wake() {
	select {
	case t.news <- struct{}{}:
	default:
	}
}
