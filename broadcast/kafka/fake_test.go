//go:build !kafkabroker

package kafka_test

import (
	"net"
	"strconv"
	"testing"

	"github.com/twmb/franz-go/pkg/kfake"
)

// startCluster starts what the tests run on. With the build tag kafkabroker that is a real broker.
func startCluster(t testing.TB) cluster {
	t.Helper()
	return newFakeCluster(t)
}

// fakeCluster speaks Kafka's protocol within the test, and keeps its data over a restart.
type fakeCluster struct {
	dir  string
	port int
	live *kfake.Cluster
}

func newFakeCluster(t testing.TB) *fakeCluster {
	t.Helper()
	c := &fakeCluster{dir: t.TempDir()}
	c.Start(t)
	t.Cleanup(func() {
		if c.live != nil {
			c.live.Close()
		}
	})
	return c
}

func (c *fakeCluster) Addr() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(c.port)) }

func (c *fakeCluster) Stop(testing.TB) {
	c.live.Close()
	c.live = nil
}

func (c *fakeCluster) Start(t testing.TB) {
	t.Helper()
	live, err := kfake.NewCluster(kfake.Ports(c.port), kfake.DataDir(c.dir), kfake.DefaultNumPartitions(1))
	if err != nil {
		t.Fatal(err)
	}
	c.live = live
	_, port, err := net.SplitHostPort(live.ListenAddrs()[0])
	if err != nil {
		t.Fatal(err)
	}
	if c.port, err = strconv.Atoi(port); err != nil {
		t.Fatal(err)
	}
}
