//go:build !kafkabroker

package kafka_test

import "testing"

// startCluster starts what the tests run on.
func startCluster(t testing.TB) cluster {
	t.Helper()
	return newFakeCluster(t)
}
