package kafka

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// health learns from a client whether requests of one kind are answered. The client itself reconnects, and asks again,
// without a word.
type health struct {
	key    int16  // of the requests
	onLoss func() // called when they are not answered any more; it must not block

	mu      sync.Mutex
	broken  chan struct{} // closed while they are not
	cause   error         // why
	lost    time.Time     // the latest failure
	good    time.Time     // the latest answer
	waiting map[context.Context]context.CancelCauseFunc
}

var (
	_ kgo.HookBrokerConnect = (*health)(nil)
	_ kgo.HookBrokerWrite   = (*health)(nil)
	_ kgo.HookBrokerRead    = (*health)(nil)
)

func newHealth(key int16, onLoss func()) *health {
	return &health{
		key: key, onLoss: onLoss, broken: make(chan struct{}), waiting: make(map[context.Context]context.CancelCauseFunc),
	}
}

// OnBrokerConnect implements [kgo.HookBrokerConnect].
func (h *health) OnBrokerConnect(_ kgo.BrokerMetadata, _ time.Duration, _ net.Conn, err error) {
	if err == nil {
		return
	}
	h.fail(err)
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, cancel := range h.waiting {
		cancel(err)
	}
}

// OnBrokerWrite implements [kgo.HookBrokerWrite].
func (h *health) OnBrokerWrite(_ kgo.BrokerMetadata, key int16, _ int, _, _ time.Duration, err error) {
	if key == h.key && err != nil {
		h.fail(err)
	}
}

// OnBrokerRead implements [kgo.HookBrokerRead].
func (h *health) OnBrokerRead(_ kgo.BrokerMetadata, key int16, _ int, _, _ time.Duration, err error) {
	switch {
	case err != nil && key == h.key:
		h.fail(err)
	case key == h.key:
		h.answered()
	}
}

func (h *health) fail(err error) {
	if errors.Is(err, context.Canceled) || errors.Is(err, kgo.ErrClientClosed) {
		return // the client itself has broken it off
	}
	h.mu.Lock()
	h.cause, h.lost = err, time.Now()
	first := !h.isBroken()
	if first {
		close(h.broken)
	}
	h.mu.Unlock()
	if first {
		h.onLoss()
	}
}

func (h *health) answered() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.good = time.Now()
	if h.isBroken() {
		h.broken = make(chan struct{})
	}
}

func (h *health) isBroken() bool {
	select {
	case <-h.broken:
		return true
	default:
		return false
	}
}

// state returns a channel that is closed when requests are not answered, as of now or from some time on, and why they
// were not the last time.
func (h *health) state() (broken <-chan struct{}, cause error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.broken, h.cause
}

// impatient returns a context that ends when the client cannot connect, with that as its cause. Without it the client
// would go on trying until the time is up, and tell only that.
func (h *health) impatient(ctx context.Context) (context.Context, context.CancelFunc) {
	h.mu.Lock()
	defer h.mu.Unlock()
	ctx, cancel := context.WithCancelCause(ctx)
	h.waiting[ctx] = cancel
	return ctx, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.waiting, ctx)
		cancel(nil)
	}
}

// lastLoss is when a request was not answered the last time.
func (h *health) lastLoss() time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.lost
}

// allSince reports whether no request has failed since a time, and one has been answered.
func (h *health) allSince(at time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return at.After(h.lost) && h.good.After(h.lost)
}
