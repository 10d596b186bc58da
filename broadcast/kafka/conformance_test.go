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
		Nodes: 40, // each message, and each heartbeat, is a fetch for every node, and the fake cluster answers one at a time
	})
}

// grouped gives each node a consumer group of its own.
func grouped(o *kafka.Options) { o.Group = fresh("node") }

func TestConformanceGroup(t *testing.T) {
	broadcasttest.Run(t, broadcasttest.Config{
		Name:  "kafka-group",
		Start: func(t testing.TB) broadcasttest.Harness { return newHarness(startCluster(t), grouped) },
		Nodes: 20,
	})
}
