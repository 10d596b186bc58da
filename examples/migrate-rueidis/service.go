package main

import (
	"context"
	"time"

	"github.com/redis/rueidis"
)

// prefix is that of the service's keys.
const prefix = "nearcache-migrate-rueidis:"

// A service is what calls rueidis. Not a line of it changes.
type service struct{ redis rueidis.Client }

// name reads one field of an airport.
func (s *service) name(ctx context.Context, code string) (name string, hit bool, err error) {
	result := s.redis.DoCache(ctx, s.redis.B().Hget().Key(prefix+code).Field("name").Cache(), time.Hour)
	name, err = result.ToString()
	return name, result.IsCacheHit(), err
}

// rename writes it.
func (s *service) rename(ctx context.Context, code, name string) error {
	return s.redis.Do(ctx, s.redis.B().Hset().Key(prefix+code).FieldValue().FieldValue("name", name).Build()).Error()
}

// part reads a part of a text.
func (s *service) part(ctx context.Context, key string, start, end int64) (string, error) {
	return s.redis.DoCache(ctx, s.redis.B().Getrange().Key(prefix+key).Start(start).End(end).Cache(), time.Hour).ToString()
}
