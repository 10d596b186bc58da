//go:build !kafkabroker

package kafka_test

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/sasl/plain"

	"github.com/go-nearcache/nearcache/broadcast"
	"github.com/go-nearcache/nearcache/broadcast/broadcasttest"
	"github.com/go-nearcache/nearcache/broadcast/kafka"
)

// TestLogLosesItsEnd: the cluster comes back without what it had acknowledged last, as brokers do that lose their
// power, or that elect a leader that was behind.
func TestLogLosesItsEnd(t *testing.T) {
	runFault(t, "log-loses-its-end", nil, func(f broadcasttest.Fault, h *harness) {
		fake := h.cluster.(*fakeCluster)
		saved := f.TempDir()
		fake.Stop(f)
		copyDir(f, saved, fake.dir)
		fake.Start(f)
		passing(f)
		fake.Stop(f)
		if err := os.RemoveAll(fake.dir); err != nil {
			f.Fatal(err)
		}
		copyDir(f, fake.dir, saved)
		fake.Start(f)
	})
}

func copyDir(t testing.TB, to, from string) {
	t.Helper()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
}

// TestIdleLogLosesItsEnd: nobody publishes, so only asking tells.
func TestIdleLogLosesItsEnd(t *testing.T) {
	for mode, vary := range modes {
		t.Run(mode, func(t *testing.T) {
			fake := newFakeCluster(t)
			h := newHarness(fake, vary)
			transport := h.Transport(t)
			defer transport.Close(context.Background())
			frame := broadcast.Frame{Topic: "lost-end", Data: []byte("frame")}
			r := newCounter()
			if _, err := transport.Listen(t.Context(), frame.Topic, r); err != nil {
				t.Fatal(err)
			}
			saved := t.TempDir()
			fake.Stop(t)
			r.expect(t, broadcast.Reconnect, true)
			copyDir(t, saved, fake.dir)
			fake.Start(t)
			r.expect(t, broadcast.Resumed, false)
			for range 10 {
				send(t, transport, frame)
				<-r.frames
			}
			fake.Stop(t)
			r.expect(t, broadcast.Reconnect, true)
			if err := os.RemoveAll(fake.dir); err != nil {
				t.Fatal(err)
			}
			copyDir(t, fake.dir, saved)
			fake.Start(t)
			r.expect(t, broadcast.Trimmed, false)
			send(t, transport, frame)
			<-r.frames
		})
	}
}

// expect waits for a gap.
func (c *counter) expect(t *testing.T, reason broadcast.Reason, open bool) {
	t.Helper()
	select {
	case gap := <-c.gaps:
		if gap.Reason != reason || gap.Open != open {
			t.Fatalf("the gap is %v, want %v with open %t", gap, reason, open)
		}
	case <-time.After(time.Minute):
		t.Fatalf("no gap, want %v with open %t", reason, open)
	}
}

// send repeats as the bus does.
func send(t *testing.T, transport broadcast.Transport, frame broadcast.Frame) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(time.Minute)
	for {
		err := transport.Send(t.Context(), frame)
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("send: %v", err)
		}
	}
}

// TestRefusals: what trying again cannot cure is told at once, to publishers and to subscribers.
func TestRefusals(t *testing.T) {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.EnableSASL(), kfake.EnableACLs(),
		kfake.Superuser("PLAIN", "admin", "secret"),
		kfake.User("PLAIN", "reader", "secret", kfake.ACL{
			Resource: kmsg.ACLResourceTypeTopic, Name: "other", Pattern: kmsg.ACLResourcePatternTypeLiteral,
			Operation: kmsg.ACLOperationRead, Allow: true,
		}))
	if err != nil {
		t.Fatal(err)
	}
	defer cluster.Close()
	transport, err := kafka.New(kafka.Options{
		Brokers: cluster.ListenAddrs(),
		Client:  []kgo.Opt{kgo.SASL(plain.Auth{User: "reader", Pass: "secret"}.AsMechanism())},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer transport.Close(context.Background())
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := transport.Send(ctx, broadcast.Frame{Topic: "refused", Data: []byte("frame")}); !errors.Is(err, broadcast.ErrRejected) {
		t.Errorf("send gave %v, want ErrRejected", err)
	}
	if _, err := transport.Listen(ctx, "refused", newCounter()); !errors.Is(err, broadcast.ErrRejected) {
		t.Errorf("listen gave %v, want ErrRejected", err)
	}
}
