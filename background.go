package nearcache

import (
	"context"
	"fmt"
)

// background are the goroutines that work for a client while nobody calls it. start is for Open and stop for Close.
type background struct {
	ctx    context.Context
	cancel context.CancelFunc
	done   []chan struct{}
}

func (b *background) start(run func(context.Context)) {
	if b.cancel == nil {
		b.ctx, b.cancel = context.WithCancel(context.Background())
	}
	done := make(chan struct{})
	b.done = append(b.done, done)
	go func() {
		defer close(done)
		run(b.ctx)
	}()
}

// stop returns once all have ended, which a codec of the user's may delay.
func (b *background) stop(ctx context.Context) error {
	if b.cancel == nil {
		return nil
	}
	b.cancel()
	for _, done := range b.done {
		select {
		case <-done:
		case <-ctx.Done():
			return fmt.Errorf("nearcache: work in the background is still running: %w", context.Cause(ctx))
		}
	}
	return nil
}
