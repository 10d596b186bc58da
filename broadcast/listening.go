package broadcast

import (
	"context"
	"slices"
)

// join adds a subscription, starting the transport's listener for the first one. It returns when the topic is live.
func (r *receiver) join(ctx context.Context, s *Subscription) error {
	select {
	case r.listening <- struct{}{}:
		defer func() { <-r.listening }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if r.listener == nil {
		listener, err := r.bus.options.Transport.Listen(ctx, r.topic, r)
		if err != nil {
			return err
		}
		r.listener = listener
		var keeping context.Context
		keeping, r.stop = context.WithCancel(context.Background())
		r.keeper = make(chan struct{})
		go func() {
			defer close(r.keeper)
			r.keep(keeping)
		}()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	s.live.Store(!r.down)
	if r.down {
		s.queue.pushState(Gap{Reason: Reconnect, Open: true, Topic: r.topic})
	}
	r.subscriptions = append(slices.Clone(r.subscriptions), s)
	if s.receiveOwn {
		r.receiveOwn++
	}
	return nil
}

// leave removes a subscription, stopping the transport's listener with the last one.
func (r *receiver) leave(ctx context.Context, s *Subscription) error {
	r.mu.Lock()
	if at := slices.Index(r.subscriptions, s); at >= 0 {
		r.subscriptions = slices.Delete(slices.Clone(r.subscriptions), at, at+1)
		if s.receiveOwn {
			r.receiveOwn--
		}
	}
	r.mu.Unlock()

	select {
	case r.listening <- struct{}{}:
		defer func() { <-r.listening }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	r.mu.Lock()
	used := len(r.subscriptions) > 0
	r.mu.Unlock()
	if used || r.listener == nil {
		return nil
	}
	err := r.listener.Close(ctx)
	r.stop()
	<-r.keeper
	r.listener = nil
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.peers) // what is published from here on is not ours to miss
	r.down = false
	return err
}
