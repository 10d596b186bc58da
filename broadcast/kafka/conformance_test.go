package kafka_test

import (
	"testing"

	"github.com/go-nearcache/nearcache/broadcast/broadcasttest"
	"github.com/go-nearcache/nearcache/broadcast/kafka"
)

func TestConformance(t *testing.T) {
	broadcasttest.Run(t, broadcasttest.Config{
		Name:  "kafka",
		Start: func(t testing.TB) broadcasttest.Harness { return newHarness(startCluster(t), nil) },
	})
}

// grouped gives each node a consumer group of its own.
func grouped(o *kafka.Options) { o.Group = fresh("node") }

func TestConformanceGroup(t *testing.T) {
	broadcasttest.Run(t, broadcasttest.Config{
		Name:  "kafka-group",
		Start: func(t testing.TB) broadcasttest.Harness { return newHarness(startCluster(t), grouped) },
	})
}
