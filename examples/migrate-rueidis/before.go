package main

import "github.com/redis/rueidis"

// before is how the service connected.
func before(option rueidis.ClientOption) (rueidis.Client, error) {
	return rueidis.NewClient(option)
}
