package tracking

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/redis/rueidis"
)

// busyPause is how long a link waits before it asks a busy server again, if the heartbeat is not shorter.
const busyPause = 20 * time.Millisecond

// A link is one connection with tracking on it, from the attempt to connect until it is given up. It goes from new to live to
// down, or from new to down, and never back; a new attempt is a new link.
type link struct {
	tracker    *Tracker
	connection *connection
	server     Server
	fences     fences
	node       string // its id in the cluster, if Options.Topology is set

	// The latest topology, and whether the next question is for the next one. Used by the goroutine that opens the link, then by that of serve.
	topology Topology
	slotsDue bool

	position Position // the latest, if Options.Position is set; as the topology

	failing sync.Once
	down    chan struct{} // closed by fail, first of all
	err     error         // why; readable once down is closed

	live bool // between Live and Lost; guarded by tracker.delivery

	// The last round trip that was answered. Used by the goroutine of serve alone.
	answered struct {
		number uint64
		sent   time.Time
	}
}

// open connects, turns tracking on, and makes sure of it and of the server's role. The link it returns is not live yet.
func (t *Tracker) open(ctx context.Context) (*link, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, t.options.Redis.Dialer.Timeout,
		fmt.Errorf("no answer within %v (Options.Redis.Dialer.Timeout)", t.options.Redis.Dialer.Timeout))
	defer cancel()
	l := &link{tracker: t, connection: new(connection), down: make(chan struct{})}
	l.fences.kick = make(chan struct{}, 1)
	settled := l.connection.connect(ctx, t.options.Redis, l.fail)
	err := l.handshake(ctx)
	if !settled() && err == nil {
		err = l.trouble("connect", context.Cause(ctx), "")
	}
	if err != nil {
		l.fail(err)
		t.discard(l)
		return nil, err
	}
	return l, nil
}

// handshake sends the commands that make a connection a link. Their order matters: the reader must run before the first push
// can come, and prefixes are sent once, on a fresh connection, all in one command.
func (l *link) handshake(ctx context.Context) error {
	if failure := l.connection.failure; failure != nil {
		return failure
	}
	reply, err := l.connection.do(ctx, "HELLO", "3")
	if failure := l.connection.failure; failure != nil {
		return failure
	}
	if err != nil {
		return l.helloTrouble(causeOf(ctx, err))
	}
	hello, err := parseHello(reply)
	if err != nil {
		return l.noTracking("HELLO 3", err, "connect to a Redis or Valkey server, or to a proxy that speaks RESP3")
	}
	if hello.mode == modeCluster && l.tracker.options.Topology == nil && !l.tracker.options.Replica {
		return l.failed("HELLO 3", ErrClusterNode, errors.New("the server is a node of a cluster"), "set Options.Topology, to be told when slots move")
	}
	if hello.protocol != 3 {
		return l.noTracking("HELLO 3", fmt.Errorf("protocol %d in the reply", hello.protocol), "connect to the server itself: the proxy before it does not speak RESP3")
	}
	l.server = Server{Address: l.address(), Product: hello.product, Version: hello.version, Connection: hello.connection}

	l.connection.receive(l.push)
	command := []string{"CLIENT", "TRACKING", "ON", "BCAST"}
	for _, prefix := range l.tracker.options.Prefixes {
		command = append(command, "PREFIX", prefix)
	}
	if _, err := l.connection.do(ctx, command...); err != nil {
		if _, refused := refusal(err); !refused || noAnswer(err) {
			return l.trouble("CLIENT TRACKING", causeOf(ctx, err), "")
		}
		return l.noTracking("CLIENT TRACKING", err, "use Redis 6 or later, or Valkey, without a proxy that blocks the command, and grant the user +client|tracking")
	}
	switch reply, err := l.connection.do(ctx, "CLIENT", "TRACKINGINFO"); {
	case err == nil:
		if err := checkTracking(reply, l.tracker.options.Prefixes); err != nil {
			return l.noTracking("CLIENT TRACKINGINFO", err, "connect to the server itself, without a proxy")
		}
	case noAnswer(err):
		return l.trouble("CLIENT TRACKINGINFO", err, "")
	default:
		// Redis 6.0 does not have it, and the user need not have the right to it.
		if _, refused := refusal(err); !refused {
			return l.trouble("CLIENT TRACKINGINFO", causeOf(ctx, err), "")
		}
	}
	if err := l.askRole(ctx); err != nil {
		return l.handshakeTrouble(ctx, l.roleStep(), err)
	}
	if l.tracker.options.Topology != nil {
		if err := l.askNode(ctx); err != nil {
			return l.handshakeTrouble(ctx, "CLUSTER SLOTS", err)
		}
	}
	return nil
}

func (l *link) handshakeTrouble(ctx context.Context, step string, err error) error {
	if _, isLinkError := errors.AsType[*LinkError](err); isLinkError {
		return err
	}
	return l.trouble(step, causeOf(ctx, err), "")
}

func (l *link) helloTrouble(err error) error {
	text, refused := refusal(err)
	if !refused || noAnswer(err) {
		return l.trouble("HELLO 3", err, "")
	}
	switch code, _, _ := strings.Cut(text, " "); {
	case code == "WRONGPASS", code == "NOAUTH":
		return l.failed("HELLO 3", ErrCredentials, err, "correct Options.Redis.Username and Password, or what AuthCredentialsFn returns")
	case code == "NOPROTO":
		return l.noTracking("HELLO 3", err, "connect to the server itself: the proxy before it does not speak RESP3")
	case strings.HasPrefix(text, "unknown command"):
		return l.noTracking("HELLO 3", err, "use Redis 6 or later, or Valkey, without a proxy that does not speak RESP3")
	}
	return l.trouble("HELLO 3", err, "")
}

// askRole asks for the role, and returns nil if it is the one that the server must have. Errors that are no LinkError may mean anything.
func (l *link) askRole(ctx context.Context) error {
	options := &l.tracker.options
	step, question, parse := l.roleStep(), []string{"ROLE"}, parseRole
	if options.Position != nil {
		question, parse = []string{"INFO", "replication"}, l.parsePosition
	}
	reply, err := l.connection.do(ctx, question...)
	if err != nil {
		if text, refused := refusal(err); refused && !noAnswer(err) {
			if strings.HasPrefix(text, "NOPERM ") {
				return l.noTracking(step, err, "grant the user +"+strings.ToLower(step))
			}
			return l.noTracking(step, err, "connect to the server itself: its role must be known")
		}
		return err
	}
	role, err := parse(reply)
	switch {
	case err != nil:
		return l.noTracking(step, err, "connect to the server itself: its role must be known")
	case options.Replica && role != replicaRole:
		return l.trouble(step, fmt.Errorf("the server's role is %q", role), "connect to a replica")
	case !options.Replica && role != primaryRole:
		return l.failed(step, ErrNotPrimary, fmt.Errorf("the server's role is %q", role), "connect to the primary")
	}
	return nil
}

// roleStep is the command that tells the role.
func (l *link) roleStep() string {
	if l.tracker.options.Position != nil {
		return "INFO"
	}
	return "ROLE"
}

// parsePosition notes the position that a reply holds besides the role.
func (l *link) parsePosition(reply any) (role string, err error) {
	role, position, err := parseReplication(reply)
	if err == nil {
		l.position = position
	}
	return role, err
}

// goLive tells the handler that the link is live, unless it is down already.
func (l *link) goLive() error {
	t := l.tracker
	t.delivery.Lock()
	defer t.delivery.Unlock()
	if l.isDown() {
		return l.err
	}
	asOf := time.Now()
	t.becameLive(l, asOf)
	t.current.Store(l)
	l.live = true
	if t.options.Topology != nil {
		t.options.Topology(l.topology)
	}
	t.options.Handler.Live(asOf)
	return nil
}

func (l *link) isDown() bool {
	select {
	case <-l.down:
		return true
	default:
		return false
	}
}

// fail gives the link up. Whoever calls first says why, and nobody's call returns before the handler knows.
func (l *link) fail(err error) {
	l.failing.Do(func() {
		t := l.tracker
		if _, ok := errors.AsType[*LinkError](err); !ok && !errors.Is(err, ErrClosed) {
			err = &LinkError{Address: l.address(), Step: "connection", Kind: ErrLinkDown, Cause: err}
		}
		l.err = err
		close(l.down)
		t.delivery.Lock()
		defer t.delivery.Unlock()
		if l.live {
			l.live = false
			t.options.Handler.Lost(err)
			t.lost(err) // before there is no current link: who finds none looks here for the reason
			t.current.Store(nil)
		}
	})
}

// push passes the keys of one push to the handler. It is called by the goroutine that reads the connection, with nil for a null
// push; also at the end of the connection, when the link is down already.
func (l *link) push(keys []rueidis.RedisMessage) {
	if len(keys) == 0 || len(keys) > MaxPushKeys {
		l.deliver(Handler.Flush)
		return
	}
	for i := range keys {
		key, err := keys[i].ToString()
		if err != nil { // a name that is no string is a key we cannot name
			l.deliver(Handler.Flush)
			return
		}
		if !l.deliverKey(key) {
			return
		}
	}
}

// deliverKey passes one key to the handler, and reports whether it might. The lock is taken anew for each key: that costs some
// 40 ns, and a loss noticed elsewhere is then told after one key and not after a hundred thousand.
func (l *link) deliverKey(key string) bool {
	l.tracker.delivery.Lock()
	defer l.tracker.delivery.Unlock()
	if !l.mayDeliver() {
		return false
	}
	l.tracker.options.Handler.Invalidate(key)
	return true
}

// deliver makes one call to the handler, unless the link is not live.
func (l *link) deliver(call func(Handler)) {
	l.tracker.delivery.Lock()
	defer l.tracker.delivery.Unlock()
	if l.mayDeliver() {
		call(l.tracker.options.Handler)
	}
}

// mayDeliver reports, under the delivery lock, whether the handler may be told something. Once the link is down it may not,
// even if whoever noticed has not got the lock yet to say so.
func (l *link) mayDeliver() bool { return l.live && !l.isDown() }

// serve asks the server for its role, one round trip after the other, at every heartbeat and for as long as somebody waits for
// a fence; in between it renews the credentials when that is due. It returns when the link is down.
func (l *link) serve(ctx context.Context) {
	heartbeat := l.tracker.options.Heartbeat
	beat := time.NewTimer(heartbeat)
	defer beat.Stop()
	renewal := l.newRenewal()
	defer renewal.stop()
	for {
		select {
		case <-l.down:
			return
		case <-ctx.Done():
			l.fail(context.Cause(ctx))
			return
		case <-renewal.due():
			renewal.ask()
			continue
		case answer := <-renewal.answers:
			if err := l.authenticate(ctx, renewal, answer); err != nil {
				l.fail(err)
				return
			}
			continue
		case <-beat.C:
		case <-l.fences.kick:
		}
		if err := l.roundTrip(ctx); err != nil {
			l.fail(err)
			return
		}
		if l.fences.pending() {
			l.fences.wake()
		}
		beat.Reset(heartbeat - time.Since(l.answered.sent))
	}
}

// ask sends one question, ROLE or, every second time in a cluster, CLUSTER SLOTS. So the role and the slots that an as-of time rests on were
// both the server's own answers at that time or later, and a fence asks for both.
func (l *link) ask(ctx context.Context) error {
	if !l.slotsDue {
		if err := l.askRole(ctx); err != nil {
			return err
		}
		l.slotsDue = l.tracker.options.Topology != nil
		return nil
	}
	topology, err := l.askSlots(ctx)
	if err != nil {
		return err
	}
	l.slotsDue = false
	if !topology.Equal(l.topology) {
		l.topology = topology
		l.deliver(func(Handler) { l.tracker.options.Topology(topology) })
	}
	return nil
}

// roundTrip asks until it gets an answer, but not for longer than the deadline. An answer confirms everything before the last
// answered question was sent.
func (l *link) roundTrip(ctx context.Context) error {
	options := &l.tracker.options
	ctx, cancel := context.WithTimeoutCause(ctx, options.Deadline, fmt.Errorf("no answer within %v (Options.Deadline)", options.Deadline))
	defer cancel()
	for {
		number, sent, position := l.fences.begin(), time.Now(), l.position
		err := l.ask(ctx)
		if err == nil {
			if !options.Replica {
				position = l.position
			}
			l.confirm(number, sent, position)
			return nil
		}
		if !noAnswer(err) {
			return l.roundTripTrouble(ctx, err)
		}
		select {
		case <-time.After(min(busyPause, options.Heartbeat)):
		case <-l.down:
			return l.err
		case <-ctx.Done():
			return l.roundTripTrouble(ctx, err)
		}
	}
}

func (l *link) roundTripTrouble(ctx context.Context, err error) error {
	if _, ok := errors.AsType[*LinkError](err); ok {
		return err
	}
	if ctx.Err() != nil {
		cause := context.Cause(ctx)
		if errors.Is(cause, ErrClosed) {
			return cause
		}
		if text, refused := refusal(err); refused {
			cause = fmt.Errorf("%w: %s", cause, text)
		}
		err = cause
	}
	return l.trouble("heartbeat", err, "")
}

// confirm takes note of an answered round trip. A primary's position is from an answer to a question sent at the as-of time or later, and a
// replica's from the answer before this one, so that the pushes of all writes up to it have come.
func (l *link) confirm(number uint64, sent time.Time, position Position) {
	before := l.answered
	l.answered.number, l.answered.sent = number, sent
	if before.number == 0 {
		return
	}
	l.deliver(func(h Handler) {
		l.tracker.confirmed(before.sent)
		if l.tracker.options.Position != nil {
			l.tracker.options.Position(before.sent, position)
		}
		h.Confirm(before.sent)
		l.fences.release(before.number) // under the lock: a fence must not succeed by a link that was lost meanwhile
	})
}

func (l *link) address() string { return l.tracker.options.Redis.InitAddress[0] }

func (l *link) failed(step string, kind, cause error, advice string) *LinkError {
	return &LinkError{Address: l.address(), Step: step, Kind: kind, Cause: l.connection.secrets.Redact(cause), Advice: advice}
}

func (l *link) noTracking(step string, cause error, advice string) *LinkError {
	return l.failed(step, ErrNoTracking, cause, advice)
}

// trouble is a failure that may pass.
func (l *link) trouble(step string, cause error, advice string) *LinkError {
	return l.failed(step, ErrLinkDown, cause, advice)
}
