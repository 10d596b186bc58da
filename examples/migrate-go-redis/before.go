package main

import (
	"context"

	"github.com/redis/go-redis/v9"
)

// before is the shop on go-redis: every read travels.
type before struct{ redis redis.Cmdable }

func (b before) read(ctx context.Context, item string) (int, error) {
	return parse(b.redis.Get(ctx, key(item)).Result())
}

func (b before) write(ctx context.Context, p price) error {
	return b.redis.Set(ctx, key(p.item), p.cents, life).Err()
}
