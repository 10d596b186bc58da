package main

import (
	"github.com/redis/rueidis"

	"github.com/go-nearcache/nearcache"
)

// after is how it connects now: the prefixes are what Redis announces to this process.
func after(option rueidis.ClientOption) (rueidis.Client, error) {
	return nearcache.NewRueidis(option, prefix)
}
