package tracking

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// A Tracker keeps a link to one server, and makes a new one whenever it is lost, until it is closed. All of its methods may be
// called from any goroutine.
type Tracker struct {
	options Options
	ctx     context.Context // ends when the tracker is closed
	cancel  context.CancelCauseFunc
	work    sync.WaitGroup // run, and the connections on their way out
	stopped chan struct{}  // closed when work is done

	// delivery is held during every call of the handler: one at a time, and none from a link that is no longer live. Nothing
	// that can block is done under it besides.
	delivery sync.Mutex
	current  atomic.Pointer[link] // the live link, or nil

	mu     sync.Mutex
	status Status
}

// A Server is what a link has learnt of its server.
type Server struct {
	Address    string // as configured
	Product    string // as the server calls itself: "redis", "valkey"
	Version    string
	Connection int64 // the link's id there, as in CLIENT LIST and CLIENT KILL ID
}

// Status is the state of a tracker at one moment.
type Status struct {
	Live       bool      // there is a live link
	Epoch      uint64    // how many links have been live; a new one never continues an old one
	AsOf       time.Time // every write acknowledged before it has been passed to the handler; zero if not Live
	Server     Server    // the server of the live link, or of the last one
	Reconnects uint64    // how many links have been live after the first
	Since      time.Time // when Live last changed
	LastError  error     // why the last link was lost or the last attempt failed; nil if there was none. It stays when a new link is live.
}

// Open makes the first link and returns when it is live, which is after Handler.Live has returned. One attempt is made, bounded
// by ctx and by Options.Redis.Dialer.Timeout: if it fails, Open returns why, a [*LinkError], and leaves nothing running. Errors
// wrap [ErrNoTracking], [ErrNotPrimary], [ErrCredentials] or [ErrLinkDown], and the cause of ctx if that is the reason; others
// say which option is wrong. ctx bounds Open alone: a tracker lives until [Tracker.Close].
func Open(ctx context.Context, options Options) (*Tracker, error) {
	options = options.withDefaults()
	if err := options.validate(); err != nil {
		return nil, err
	}
	t := &Tracker{options: options, stopped: make(chan struct{})}
	t.status.Server.Address = options.Redis.InitAddress[0]
	t.status.Since = time.Now()
	t.ctx, t.cancel = context.WithCancelCause(context.Background())

	giveUp := context.AfterFunc(ctx, func() { t.cancel(context.Cause(ctx)) })
	opened := make(chan error, 1)
	t.work.Go(func() { t.run(opened) })
	go func() {
		t.work.Wait()
		close(t.stopped)
	}()
	err := t.await(ctx, opened)
	if !giveUp() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		t.cancel(err)
		select {
		case <-t.stopped:
		case <-time.After(openGrace):
		}
		return nil, err
	}
	return t, nil
}

// openGrace is how long Open waits, once its context has ended, for what does not obey a context: a DialFn, an
// AuthCredentialsFn.
const openGrace = 500 * time.Millisecond

// await returns the outcome of the first attempt.
func (t *Tracker) await(ctx context.Context, opened <-chan error) error {
	select {
	case err := <-opened:
		return err
	case <-ctx.Done():
	}
	select {
	case err := <-opened: // says at which step
		return err
	case <-time.After(openGrace):
		return context.Cause(ctx)
	}
}

// Close ends the tracker. A live link is lost first, with [ErrClosed]; after Close has returned nil the handler is not called
// any more and nothing is left running. If ctx ends before that (a connection that cannot be closed, a handler or
// AuthCredentialsFn that blocks), Close returns its cause, and the rest ends when it can. Closing again waits likewise.
func (t *Tracker) Close(ctx context.Context) error {
	t.cancel(ErrClosed)
	select {
	case <-t.stopped:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Status returns the state of the tracker.
func (t *Tracker) Status() Status {
	t.mu.Lock()
	defer t.mu.Unlock()
	status := t.status
	if l := t.current.Load(); l == nil || l.isDown() {
		// The loss is noted after the handler knows of it, and the handler may be busy.
		status.Live, status.AsOf = false, time.Time{}
	}
	return status
}

// run makes one link after the other. The outcome of the first attempt goes to opened; if that fails, run ends.
func (t *Tracker) run(opened chan<- error) {
	logger := t.options.Logger.With(slog.String("server", t.options.Redis.InitAddress[0]))
	reported := "" // the reason for being down that was logged last
	for failures, first := 0, true; t.pause(t.backoff(failures)); first = false {
		l, err := t.open(t.ctx)
		if err == nil {
			if err = l.goLive(); err != nil {
				t.discard(l)
			}
		}
		if first {
			opened <- err
			if err != nil {
				return
			}
		}
		if err != nil {
			failures++
			t.failed(err)
			if t.ctx.Err() == nil && err.Error() != reported {
				reported = err.Error()
				logger.LogAttrs(t.ctx, slog.LevelWarn, "tracking: no link; will try again", slog.Any("error", err))
			}
			continue
		}
		began := time.Now()
		logger.LogAttrs(t.ctx, slog.LevelInfo, "tracking: link is live",
			slog.String("product", l.server.Product), slog.String("version", l.server.Version), slog.Int64("connection", l.server.Connection))
		l.serve(t.ctx)
		t.discard(l)
		if errors.Is(l.err, ErrClosed) {
			logger.LogAttrs(t.ctx, slog.LevelInfo, "tracking: link is closed")
			return
		}
		reported = l.err.Error()
		logger.LogAttrs(t.ctx, slog.LevelWarn, "tracking: link is lost; will try again", slog.Any("error", l.err))
		failures++
		if time.Since(began) > t.options.MaxBackoff {
			failures = 0
		}
	}
}

// backoff returns a random delay before the next attempt: none without failures, and up to twice as much after each. Spreading
// it over the whole range keeps a fleet that lost its server from coming back as one.
func (t *Tracker) backoff(failures int) time.Duration {
	if failures == 0 {
		return 0
	}
	limit := t.options.MinBackoff
	for range failures - 1 {
		if limit > t.options.MaxBackoff/2 {
			limit = t.options.MaxBackoff
			break
		}
		limit *= 2
	}
	return rand.N(limit)
}

// pause waits, and reports false if the tracker was closed.
func (t *Tracker) pause(delay time.Duration) bool {
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-t.ctx.Done():
	}
	return t.ctx.Err() == nil
}

// discard closes a link's connection, however long that takes.
func (t *Tracker) discard(l *link) { t.work.Go(l.connection.discard) }

// becameLive notes that l is live from now on.
func (t *Tracker) becameLive(l *link, asOf time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.status.Live, t.status.AsOf, t.status.Since = true, asOf, time.Now()
	t.status.Server = l.server
	t.status.Reconnects = t.status.Epoch
	t.status.Epoch++
}

// lost notes that there is no live link any more.
func (t *Tracker) lost(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.status.Live, t.status.AsOf, t.status.Since = false, time.Time{}, time.Now()
	t.status.LastError = err
}

// confirmed notes a later as-of time.
func (t *Tracker) confirmed(asOf time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.status.AsOf = asOf
}

// failed notes why an attempt to make a link failed.
func (t *Tracker) failed(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.status.LastError = err
}
