package main

import (
	"context"
	"time"

	"github.com/redis/rueidis"
	"github.com/redis/rueidis/rueidiscompat"

	"github.com/go-nearcache/nearcache"
)

// after is the shop on nearcache, through rueidis's adapter, which has go-redis's calls. What changes is how it connects, and .Cache(…) where a
// read may come from memory.
type after struct{ redis rueidiscompat.Cmdable }

func connect(option rueidis.ClientOption) (rueidis.Client, after, error) {
	client, err := nearcache.NewRueidis(option, prefix)
	if err != nil {
		return nil, after{}, err
	}
	return client, after{rueidiscompat.NewAdapter(client)}, nil
}

func (a after) read(ctx context.Context, item string) (int, error) {
	return parse(a.redis.Cache(time.Minute).Get(ctx, key(item)).Result())
}

func (a after) write(ctx context.Context, p price) error {
	return a.redis.Set(ctx, key(p.item), p.cents, life).Err()
}
