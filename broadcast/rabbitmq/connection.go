package rabbitmq

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/go-nearcache/nearcache/broadcast"
)

const (
	dialTimeout  = 5 * time.Second // to connect to one broker, handshakes included
	closeTimeout = 2 * time.Second // for the farewell to the broker

	minReconnectDelay = 10 * time.Millisecond
	maxReconnectDelay = time.Second
)

// client is what a transport's connections have in common.
type client struct {
	options Options

	// ctx ends when the transport is closed; abort closes every socket, with which all that still waits for the broker fails.
	ctx     context.Context
	stop    context.CancelFunc
	aborted context.Context
	abort   context.CancelFunc

	mu      sync.Mutex
	closed  bool
	running sync.WaitGroup // added to only while not closed
}

func newClient(options Options) *client {
	c := &client{options: options}
	c.ctx, c.stop = context.WithCancel(context.Background())
	c.aborted, c.abort = context.WithCancel(context.Background())
	return c
}

// goRun starts a goroutine that close waits for; false means that the transport is closed.
func (c *client) goRun(f func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	c.running.Go(f)
	return true
}

// close ends all goroutines and connections. They get a moment to do it in good order, within ctx.
func (c *client) close(ctx context.Context) error {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.stop()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		c.running.Wait()
	}()
	graceful, cancel := context.WithTimeout(ctx, closeTimeout)
	defer cancel()
	defer context.AfterFunc(graceful, c.abort)()
	select {
	case <-ended:
		c.abort()
		return nil
	case <-ctx.Done():
		c.abort()
		return fmt.Errorf("rabbitmq: connections are still closing: %w", context.Cause(ctx))
	}
}

// connection is one connection to a broker.
type connection struct {
	*amqp.Connection
	socket  net.Conn
	dead    atomic.Bool
	unabort func() bool
	link    *link // what a publisher has on it
}

// dial connects to the first broker that answers.
func (c *client) dial(purpose string) (*connection, error) {
	var failures []error
	first := rand.IntN(len(c.options.URLs)) // spreads the nodes over the brokers
	for i := range c.options.URLs {
		conn, err := c.dialOne(c.options.URLs[(first+i)%len(c.options.URLs)], purpose)
		if err == nil {
			return conn, nil
		}
		if c.ctx.Err() != nil {
			return nil, broadcast.ErrClosed
		}
		failures = append(failures, err)
	}
	return nil, fmt.Errorf("rabbitmq: connect: %w", errors.Join(failures...))
}

func (c *client) dialOne(url, purpose string) (*connection, error) {
	config := c.options.Config
	// The client writes into both, so each connection has its own.
	config.Properties = maps.Clone(config.Properties)
	if config.Properties == nil {
		config.Properties = amqp.NewConnectionProperties()
	}
	if _, named := config.Properties["connection_name"]; !named {
		config.Properties.SetClientConnectionName("nearcache " + c.options.Node + " " + purpose)
	}
	if config.TLSClientConfig != nil {
		config.TLSClientConfig = config.TLSClientConfig.Clone()
	}
	dial := config.Dial
	if dial == nil {
		dialer := &net.Dialer{Timeout: dialTimeout}
		dial = func(network, address string) (net.Conn, error) { return dialer.DialContext(c.ctx, network, address) }
	}
	conn := &connection{}
	handshaking := func() bool { return true }
	config.Dial = func(network, address string) (net.Conn, error) {
		socket, err := dial(network, address)
		if err != nil {
			return nil, err
		}
		conn.socket = socket
		handshaking = context.AfterFunc(c.ctx, func() { _ = socket.Close() })
		// The client lifts the deadline when the handshakes are over.
		return socket, socket.SetDeadline(time.Now().Add(dialTimeout))
	}
	var err error
	conn.Connection, err = amqp.DialConfig(url, config)
	if undisturbed := handshaking(); err == nil && !undisturbed {
		err = broadcast.ErrClosed
	}
	if err != nil {
		if conn.socket != nil {
			_ = conn.socket.Close()
		}
		return nil, rejection(err)
	}
	conn.unabort = context.AfterFunc(c.aborted, conn.kill)
	return conn, nil
}

// do runs f on a channel of its own: a request that the broker refuses costs its channel.
func (c *connection) do(f func(*amqp.Channel) error) error {
	channel, err := c.Channel()
	if err != nil {
		return err
	}
	defer channel.Close()
	return f(channel)
}

// kill drops the connection without a word to the broker.
func (c *connection) kill() {
	c.dead.Store(true)
	_ = c.socket.Close()
}

// close takes leave of the broker, if it listens, and drops the connection.
func (c *connection) close() {
	c.dead.Store(true)
	_ = c.CloseDeadline(time.Now().Add(closeTimeout)) // the only errors are that it is closed, or that the broker does not answer
	c.kill()
	c.unabort()
}

// connector keeps one connection for several users, who ask for it whenever they need it.
type connector struct {
	client  *client
	purpose string
	setup   func(*connection) error // makes a new connection ready, if set

	mu        sync.Mutex
	current   *connection
	attempt   chan struct{} // closed when the attempt under way has ended; nil when there is none
	trouble   error         // of the last attempt
	delay     time.Duration // between attempts
	notBefore time.Time     // of the next attempt
}

// get returns the connection if it is up, and dials otherwise. After an attempt that failed it fails at once until it is time
// for another one.
func (c *connector) get(ctx context.Context) (*connection, error) {
	c.mu.Lock()
	if c.current != nil && !c.current.dead.Load() && !c.current.IsClosed() {
		defer c.mu.Unlock()
		return c.current, nil
	}
	if c.attempt == nil {
		if time.Now().Before(c.notBefore) {
			defer c.mu.Unlock()
			return nil, c.trouble
		}
		attempt := make(chan struct{})
		if !c.client.goRun(func() { c.connect(attempt) }) {
			c.mu.Unlock()
			return nil, broadcast.ErrClosed
		}
		c.attempt = attempt
	}
	attempt := c.attempt
	c.mu.Unlock()
	select {
	case <-attempt:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.current == nil {
		return nil, c.trouble
	}
	return c.current, nil
}

// connect makes one attempt.
func (c *connector) connect(attempt chan struct{}) {
	conn, err := c.client.dial(c.purpose)
	if err == nil && c.setup != nil {
		err = c.setup(conn)
	}
	if err == nil && !c.client.goRun(func() { c.watch(conn) }) {
		err = broadcast.ErrClosed
	}
	if err != nil && conn != nil {
		conn.close()
		conn = nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.current, c.trouble, c.attempt = conn, err, nil
	if err == nil {
		c.delay = 0
	} else {
		c.delay = min(max(2*c.delay, minReconnectDelay), maxReconnectDelay)
		c.notBefore = time.Now().Add(c.delay/2 + rand.N(c.delay/2))
	}
	close(attempt)
}

// watch closes a connection when it is lost, which frees what belongs to it, or when the transport is closed.
func (c *connector) watch(conn *connection) {
	lost := conn.NotifyClose(make(chan *amqp.Error, 1))
	select {
	case <-lost: //nolint:errcheck // why it was lost is told to those who use it
	case <-c.client.ctx.Done():
	}
	conn.close()
}

// backoff is the pause before another attempt, growing with each failure.
type backoff struct{ delay time.Duration }

// wait pauses; false means that ctx has ended.
func (b *backoff) wait(ctx context.Context) bool {
	b.delay = min(max(2*b.delay, minReconnectDelay), maxReconnectDelay)
	timer := time.NewTimer(b.delay/2 + rand.N(b.delay/2))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func (b *backoff) reset() { b.delay = 0 }

// rejection marks errors that trying again cannot cure.
func rejection(err error) error {
	// Only what the broker says counts: the client guesses that credentials are wrong whenever a handshake breaks off.
	if answer, ok := errors.AsType[*amqp.Error](err); ok && answer.Server {
		switch answer.Code {
		case amqp.AccessRefused, amqp.NotAllowed, amqp.PreconditionFailed, amqp.NotImplemented, amqp.InvalidPath:
			return fmt.Errorf("%w: %w", broadcast.ErrRejected, err)
		}
	}
	return err
}
