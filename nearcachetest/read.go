package nearcachetest

import (
	"context"

	"github.com/go-nearcache/nearcache"
)

// A Reader is what the assertions read from: a *nearcache.Cache[V] is one. Get must return nearcache.ErrNotFound, or an error that wraps
// it, if there is nothing under the key.
type Reader[V any] interface {
	Get(ctx context.Context, key string, options ...nearcache.ReadOption) (V, error)
}

// ReaderFunc makes a Reader of a function: of the program's own, which reads through a cache, or one that reads with options.
type ReaderFunc[V any] func(ctx context.Context, key string) (V, error)

// Get calls the function. It takes no options.
func (f ReaderFunc[V]) Get(ctx context.Context, key string, _ ...nearcache.ReadOption) (V, error) {
	return f(ctx, key)
}

var _ Reader[string] = (*nearcache.Cache[string])(nil)
