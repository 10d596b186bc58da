package broadcast

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"
)

// Handler takes what a subscription delivers. Its functions run on the subscription's own goroutine, one call at a time:
// messages of one origin in the order of their publishing, gaps in their place among them. They may block; what waits
// meanwhile is bounded, and overflow is reported as a gap. They may call any method of the bus. A panic is caught,
// counted, logged, and delivery goes on.
type Handler struct {
	// Message takes a message. Required. The context carries the processing span, and ends when the subscription is
	// closed. An error is counted and marks the span; the message is not delivered again.
	Message func(ctx context.Context, message Message) error
	// Gap learns that messages may have been missed. Without it losses are counted and logged only.
	Gap func(ctx context.Context, gap Gap)
}

// SubscribeOption varies one subscription.
type SubscribeOption interface{ applySubscribe(*Subscription) }

type subscribeOption func(*Subscription)

func (o subscribeOption) applySubscribe(s *Subscription) { o(s) }

// ReceiveOwn delivers also what this bus itself publishes, which is otherwise filtered out.
func ReceiveOwn() SubscribeOption {
	return subscribeOption(func(s *Subscription) { s.receiveOwn = true })
}

// QueueLimit bounds this subscription's queue, instead of Options.QueueMessages and Options.QueueBytes. A value below 1
// keeps the bus's.
func QueueLimit(messages, bytes int) SubscribeOption {
	return subscribeOption(func(s *Subscription) {
		if messages > 0 {
			s.queue.maxMessages = messages
		}
		if bytes > 0 {
			s.queue.maxBytes = bytes
		}
	})
}

// Subscription is one handler on one topic. Its methods may be called from any goroutine.
type Subscription struct {
	bus        *Bus
	receiver   *receiver
	lane       *lane
	handler    Handler
	queue      *queue
	receiveOwn bool
	since      time.Time
	live       atomic.Bool

	// Of the goroutine that calls the handler.
	failures, gaps logLimit

	ctx    context.Context
	cancel context.CancelFunc
	done   chan struct{} // closed when the handler goroutine has ended

	closing  sync.Once
	closeErr error
}

// leaveTimeout bounds how long the broker may take to end a topic's delivery.
const leaveTimeout = 5 * time.Second

// insideKey marks the context of a handler with its subscription, so that Close knows not to wait for its own caller.
type insideKey struct{ *Subscription }

func newSubscription(bus *Bus, l *lane, r *receiver, handler Handler, options []SubscribeOption) *Subscription {
	s := &Subscription{
		bus: bus, receiver: r, lane: l, handler: handler,
		queue: newQueue(bus.options.QueueMessages, bus.options.QueueBytes),
		done:  make(chan struct{}),
	}
	s.since = time.Now()
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.ctx = context.WithValue(s.ctx, insideKey{s}, true)
	for _, option := range options {
		option.applySubscribe(s)
	}
	return s
}

// Topic returns what the subscription is on.
func (s *Subscription) Topic() string { return s.receiver.topic }

// Live reports whether the link to the broker is up, at this moment: it is false as soon as a loss is seen, before the
// open [Gap] has made its way through the queue.
func (s *Subscription) Live() bool { return s.live.Load() }

// Close ends delivery: messages that wait are dropped, and when it returns the handler is not running and will not run.
// If ctx ends first its error is returned, and the handler may still be running. Calling it again is harmless; called
// from the subscription's own handler, with the handler's context, it does not wait for that handler.
func (s *Subscription) Close(ctx context.Context) error {
	s.closing.Do(func() {
		s.cancel()
		s.queue.close()
		// The broker is told even if the caller's time is up: nobody else would do it later.
		leaving, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveTimeout)
		defer cancel()
		s.closeErr = s.receiver.leave(leaving, s)
		s.lane.setListening(-1)
	})
	if ctx.Value(insideKey{s}) != nil {
		return s.closeErr
	}
	select {
	case <-s.done:
		return s.closeErr
	case <-ctx.Done():
		return fmt.Errorf("broadcast: the handler on %q is still running: %w", s.Topic(), context.Cause(ctx))
	}
}

// run calls the handler until the subscription is closed.
func (s *Subscription) run() {
	defer close(s.done)
	defer s.bus.forget(s)
	for {
		next, ok := s.queue.pop()
		if !ok {
			return
		}
		if next.gap.Reason != 0 {
			s.handleGap(next.gap)
		} else {
			s.handleMessage(next.message)
		}
	}
}

func (s *Subscription) handleMessage(m Message) {
	ctx, process := s.bus.telemetry.StartProcess(s.ctx, s.bus.destination(m.Topic), m.Headers)
	if len(m.Headers) > 0 {
		process.SetMessage(m.ID(), len(m.Payload))
	}
	err := s.callMessage(ctx, m)
	process.End(err)
	s.bus.counters.delivered.Add(1)
	if err != nil {
		s.bus.counters.handlerErrors.Add(1)
		s.logFailure(ctx, m, err)
	}
}

func (s *Subscription) logFailure(ctx context.Context, m Message, err error) {
	if more, ok := s.failures.allow(); ok {
		s.bus.options.Logger.LogAttrs(ctx, slog.LevelError, "broadcast: handler failed",
			slog.String("topic", m.Topic), slog.String("message", m.ID()), slog.Any("error", err), slog.Int("more", more))
	}
}

// A logLimit lets one record of a kind through in a second: a handler that fails for every message, or a network that loses every other one, would
// flood the log.
type logLimit struct {
	last time.Time
	kept int
}

// allow reports whether to log now, and how many records were kept back since the last one.
func (l *logLimit) allow() (more int, ok bool) {
	now := time.Now()
	if now.Sub(l.last) < time.Second {
		l.kept++
		return 0, false
	}
	more, l.last, l.kept = l.kept, now, 0
	return more, true
}

func (s *Subscription) callMessage(ctx context.Context, m Message) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = &panicError{value: p, stack: debug.Stack()}
		}
	}()
	return s.handler.Message(ctx, m)
}

func (s *Subscription) handleGap(gap Gap) {
	if gap.Reason == Resumed || gap.Reason == NewOrigin {
		s.bus.options.Logger.LogAttrs(s.ctx, slog.LevelDebug, "broadcast: gap", slog.String("gap", gap.String()))
	} else if more, ok := s.gaps.allow(); ok {
		s.bus.options.Logger.LogAttrs(s.ctx, slog.LevelWarn, "broadcast: gap", slog.String("gap", gap.String()), slog.Int("more", more))
	}
	if s.handler.Gap == nil {
		return
	}
	defer func() {
		if p := recover(); p != nil {
			s.bus.counters.handlerErrors.Add(1)
			if more, ok := s.failures.allow(); ok {
				s.bus.options.Logger.LogAttrs(s.ctx, slog.LevelError, "broadcast: gap handler failed",
					slog.String("topic", gap.Topic), slog.Any("error", &panicError{value: p, stack: debug.Stack()}), slog.Int("more", more))
			}
		}
	}()
	s.handler.Gap(s.ctx, gap)
}

// panicError is what a handler's panic becomes.
type panicError struct {
	value any
	stack []byte
}

func (e *panicError) Error() string {
	return fmt.Sprintf("broadcast: the handler panicked: %v\n%s", e.value, e.stack)
}

func (e *panicError) Unwrap() error {
	err, _ := e.value.(error)
	return err
}
