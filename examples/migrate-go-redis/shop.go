package main

import (
	"context"
	"strconv"
	"time"
)

// prefix is that of the shop's keys.
const prefix = "nearcache-migrate-go-redis:"

// A price is what the shop keeps in Redis.
type price struct {
	item  string
	cents int
}

// prices is what the shop needs of either client.
type prices interface {
	read(ctx context.Context, item string) (cents int, err error)
	write(ctx context.Context, p price) error
}

func key(item string) string { return prefix + item }

func parse(text string, err error) (int, error) {
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(text)
}

const life = time.Hour
