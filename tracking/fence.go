package tracking

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// fences are the callers that wait for a link's round trips. Round trips are numbered from 1 in the order in which they are
// sent. A caller that arrives when n have been sent is served when one later than n confirms, which is two round trips that
// both were started after it arrived; all that arrive between the same two are one group.
type fences struct {
	kick chan struct{} // holds a token when somebody waits who may have to be attended to now

	mu      sync.Mutex
	started uint64
	groups  []fenceGroup // by ascending after; never more than three
}

type fenceGroup struct {
	after uint64 // the number of round trips that had been started
	done  chan struct{}
}

// begin returns the number of a round trip that is about to be sent.
func (f *fences) begin() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.started++
	return f.started
}

// join adds a caller and returns what is closed when it is served.
func (f *fences) join() <-chan struct{} {
	f.mu.Lock()
	if last := len(f.groups) - 1; last >= 0 && f.groups[last].after == f.started {
		done := f.groups[last].done
		f.mu.Unlock()
		return done
	}
	done := make(chan struct{})
	f.groups = append(f.groups, fenceGroup{after: f.started, done: done})
	f.mu.Unlock()
	f.wake()
	return done
}

func (f *fences) wake() {
	select {
	case f.kick <- struct{}{}:
	default:
	}
}

// release serves the callers that arrived before the confirmed round trip was started.
func (f *fences) release(confirmed uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	served := 0
	for served < len(f.groups) && f.groups[served].after < confirmed {
		close(f.groups[served].done)
		served++
	}
	f.groups = append(f.groups[:0], f.groups[served:]...)
}

func (f *fences) pending() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.groups) > 0
}

// Fence returns nil once every write that the server had acknowledged when Fence was called has been passed to the handler. It
// takes two round trips on the link, both started after the call; all who call in the same moment share them, and whoever calls
// while they are under way waits for later ones.
//
// It returns an error that wraps [ErrLinkDown] at once if the link is down, or when it goes down; [ErrClosed] if the tracker is
// closed; and the cause of ctx if ctx ends first. The write may have been announced all the same.
func (t *Tracker) Fence(ctx context.Context) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	l := t.current.Load()
	if l == nil {
		return t.downError()
	}
	select {
	case <-l.fences.join():
		return nil
	case <-l.down:
		return downError(l.err)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (t *Tracker) downError() error {
	if t.ctx.Err() != nil {
		return ErrClosed
	}
	return downError(t.Status().LastError)
}

// downError makes any reason for a loss, a wrong role among them, an ErrLinkDown.
func downError(reason error) error {
	if errors.Is(reason, ErrClosed) {
		return ErrClosed
	}
	return fmt.Errorf("%w: %w", ErrLinkDown, reason)
}
