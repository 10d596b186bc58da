package redistest

import (
	"context"
	"testing"

	"github.com/redis/rueidis"
)

// Start is [Run] for a test: a server that cannot be started fails the test, and the server is closed when the test ends. If
// the test failed, the end of the server's log is in its output.
func Start(t testing.TB, config Config) *Server {
	t.Helper()
	s, err := Run(t.Context(), config)
	return started(t, s, err)
}

// StartReplica is [RunReplica] for a test.
func StartReplica(t testing.TB, primary *Server, config Config) *Server {
	t.Helper()
	s, err := RunReplica(t.Context(), primary, config)
	return started(t, s, err)
}

func started(t testing.TB, s *Server, err error) *Server {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the end of the log of %s:\n%s", s.Addr(), s.Log())
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// Client returns a client of the default user that is closed when the test ends.
func (s *Server) Client(t testing.TB) rueidis.Client {
	t.Helper()
	client, err := rueidis.NewClient(s.ClientOption())
	if err != nil {
		t.Fatalf("redistest: client of %s: %v", s.Addr(), err)
	}
	t.Cleanup(client.Close)
	return client
}

// Do is [Server.Command] for a test: an error reply, or none, fails the test. A null reply does not.
func (s *Server) Do(t testing.TB, args ...string) rueidis.RedisMessage {
	t.Helper()
	// Not the test's own context: that one has ended when cleanups run.
	message, err := s.Command(context.WithoutCancel(t.Context()), args...).ToMessage()
	if err != nil && !rueidis.IsRedisNil(err) {
		t.Fatalf("redistest: %q on %s: %v", args, s.Addr(), err)
	}
	return message
}

// StartCluster is [RunCluster] for a test: it is closed when the test ends, and the ends of its nodes' logs are in the output of a test that
// failed.
func StartCluster(t testing.TB, config ClusterConfig) *Cluster {
	t.Helper()
	c, err := RunCluster(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		logIfFailed(t, c.Nodes())
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// StartSentinel is [RunSentinel] for a test, as [StartCluster] is RunCluster.
func StartSentinel(t testing.TB, config SentinelConfig) *Sentinel {
	t.Helper()
	s, err := RunSentinel(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		logIfFailed(t, s.Servers)
		logIfFailed(t, s.Sentinels)
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func logIfFailed(t testing.TB, servers []*Server) {
	t.Helper()
	if !t.Failed() {
		return
	}
	for _, s := range servers {
		t.Logf("the end of the log of %s:\n%s", s.Addr(), s.Log())
	}
}
