package tracking

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"

	"github.com/go-nearcache/nearcache/internal/secret"
)

// A connection is one dedicated RESP3 connection to one server, and nothing besides: no pipeline beside it, no retries, no
// background PING, no automatic reconnect. Only what this package asks for travels on it.
type connection struct {
	client    rueidis.Client
	dedicated rueidis.DedicatedClient
	socket    *socket    // nil if the server could not be reached
	failure   *LinkError // why the connection is unusable from the start
	secrets   secret.Keeper

	// renew asks for new credentials, and renewAt is when; nil and zero if those that there are have no end.
	renew   func() (rueidis.AuthCredentials, error)
	renewAt time.Time
}

// errNoPipeline makes rueidis leave out the connection for shared pipelining that it opens before anything else.
var errNoPipeline = errors.New("tracking: no connection for pipelining is wanted")

// connect dials the server in redis.InitAddress[0] and lets rueidis say HELLO with the credentials; if that fails, the next
// command does. The context bounds it, and every command until settled is called: when it ends, the socket is closed. settled
// reports false if it has been. broken is called at least once when the socket fails or is closed, on the goroutine that
// noticed, before rueidis learns of it.
func (c *connection) connect(ctx context.Context, redis rueidis.ClientOption, broken func(error)) (settled func() bool) {
	c.secrets.Watch(&redis)
	address := redis.InitAddress[0]
	option := rueidis.ClientOption{
		InitAddress:        []string{address},
		Username:           redis.Username,
		Password:           redis.Password,
		ClientName:         redis.ClientName,
		ClientNoEvict:      redis.ClientNoEvict,
		ClientSetInfo:      rueidis.DisableClientSetInfo, // needs a right of its own
		ReadBufferEachConn: redis.ReadBufferEachConn,

		ForceSingleClient:   true,
		PipelineMultiplex:   -1,
		BlockingPoolSize:    1,
		RingScaleEachConn:   3, // at most three commands are ever queued: a round trip and two of rueidis's own at the end
		WriteBufferEachConn: 4096,
		DisableCache:        true,
		DisableRetry:        true, // a repeated question would be a second one outstanding
	}
	option.Dialer.Timeout = redis.Dialer.Timeout
	option.Dialer.KeepAlive = -1 // turns off rueidis's background PING, a second question outstanding too

	if redis.AuthCredentialsFn != nil {
		option.AuthCredentialsFn = func(about rueidis.AuthCredentialsContext) (rueidis.AuthCredentials, error) {
			credentials, err := redis.AuthCredentialsFn(about)
			if err != nil {
				c.failure = &LinkError{Address: address, Step: "AuthCredentialsFn", Kind: ErrCredentials, Cause: err}
			}
			c.renewAt = credentials.RefreshAfter
			c.renew = func() (rueidis.AuthCredentials, error) { return redis.AuthCredentialsFn(about) }
			// rueidis does not refresh a dedicated connection, and takes one that was due before it was handed out for expired.
			credentials.RefreshAfter = time.Time{}
			return credentials, err
		}
	}
	settled = func() bool { return true }
	pipeline := true // the first connection that rueidis asks for
	option.DialCtxFn = func(_ context.Context, _ string, _ *net.Dialer, _ *tls.Config) (net.Conn, error) {
		if pipeline {
			pipeline = false
			return nil, errNoPipeline
		}
		raw, err := dial(ctx, redis)
		if err != nil {
			c.failure = &LinkError{
				Address: address, Step: "connect", Kind: ErrLinkDown, Cause: causeOf(ctx, err),
				Advice: "start a server there or correct the address",
			}
			return nil, err
		}
		c.socket = &socket{Conn: raw, broken: broken}
		settled = context.AfterFunc(ctx, func() { _ = c.socket.Close() })
		return c.socket, nil
	}

	client, err := rueidis.NewClient(option)
	if client == nil {
		c.failure = &LinkError{Address: address, Step: "connect", Kind: ErrLinkDown, Cause: err}
		return settled
	}
	c.client = client
	c.dedicated, _ = client.Dedicate()
	return settled
}

func dial(ctx context.Context, redis rueidis.ClientOption) (net.Conn, error) {
	address, dialer := redis.InitAddress[0], redis.Dialer
	if dialer.KeepAlive == 0 {
		dialer.KeepAlive = rueidis.DefaultTCPKeepAlive
	}
	switch {
	case redis.DialCtxFn != nil:
		return redis.DialCtxFn(ctx, address, &dialer, redis.TLSConfig)
	case redis.DialFn != nil:
		return redis.DialFn(address, &dialer, redis.TLSConfig)
	case redis.TLSConfig != nil:
		return (&tls.Dialer{NetDialer: &dialer, Config: redis.TLSConfig}).DialContext(ctx, "tcp", address)
	}
	return dialer.DialContext(ctx, "tcp", address)
}

// do sends one command and returns its reply. Several at once are never sent.
func (c *connection) do(ctx context.Context, command ...string) (any, error) {
	result := c.dedicated.Do(ctx, c.dedicated.B().Arbitrary(command...).Build())
	message, err := result.ToMessage()
	if err != nil {
		return nil, err
	}
	return message.ToAny()
}

// receive starts the goroutine that reads the connection and passes pushes to onPush; before it runs, rueidis reads only while
// a command waits for its reply, and drops the pushes that it meets. onPush(nil) means a null push or the end of the
// connection.
func (c *connection) receive(onPush func(keys []rueidis.RedisMessage)) {
	c.dedicated.SetOnInvalidations(onPush)
}

// discard closes the connection and waits until rueidis has let go of it. The socket goes first: rueidis would ask for a last
// answer on it and wait.
func (c *connection) discard() {
	if c.socket != nil {
		_ = c.socket.Close()
	}
	if c.dedicated != nil {
		c.dedicated.Close()
	}
	if c.client != nil {
		c.client.Close()
	}
}

// A socket reports the end of the connection the moment that it shows, on the goroutine that met it. rueidis tells only after
// it has cleaned up.
type socket struct {
	net.Conn
	broken func(error)
	closed atomic.Bool
}

var errUnreadable = errors.New("the connection was closed: the server sent something that is not RESP3")

func (s *socket) Read(b []byte) (int, error) {
	n, err := s.Conn.Read(b)
	if err != nil {
		s.broken(err)
	}
	return n, err
}

// Write fails once Close has been called, by whoever: rueidis's writer ends at its first failing write after Close and waits
// for ever without one.
func (s *socket) Write(b []byte) (int, error) {
	if s.closed.Load() {
		return 0, net.ErrClosed
	}
	n, err := s.Conn.Write(b)
	if err != nil {
		s.broken(err)
	}
	return n, err
}

// Close closes the socket under TLS directly: a close_notify would wait for a peer that may be gone. Only the first call waits
// for the socket to be closed.
func (s *socket) Close() error {
	if !s.closed.CompareAndSwap(false, true) {
		return nil
	}
	// This package gives its own reasons before it closes; who closes without one is rueidis, on a message that it cannot read.
	s.broken(errUnreadable)
	if secure, ok := s.Conn.(interface{ NetConn() net.Conn }); ok {
		return secure.NetConn().Close()
	}
	return s.Conn.Close()
}
