package kafka_test

import (
	"context"
	"crypto/rand"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/go-nearcache/nearcache/broadcast"
	"github.com/go-nearcache/nearcache/broadcast/broadcasttest"
	"github.com/go-nearcache/nearcache/broadcast/kafka"
)

// modes are the two ways to consume.
var modes = map[string]func(*kafka.Options){"kafka": nil, "kafka-group": grouped}

// runFault runs a fault in both modes.
func runFault(t *testing.T, name string, check func(*testing.T, broadcasttest.Outcome), cause func(broadcasttest.Fault, *harness)) {
	t.Helper()
	for mode, vary := range modes {
		t.Run(mode, func(t *testing.T) {
			outcome := broadcasttest.RunFault(t, broadcasttest.Config{
				Name:            mode,
				Start:           func(t testing.TB) broadcasttest.Harness { return newHarness(startCluster(t), vary) },
				ReconnectWithin: 30 * time.Second,
			}, name, func(f broadcasttest.Fault) { cause(f, f.Harness.(*harness)) })
			if check != nil {
				check(t, outcome)
			}
		})
	}
}

func reported(t *testing.T, outcome broadcasttest.Outcome) {
	t.Helper()
	if outcome.Reported == 0 {
		t.Error("the topic was deleted with messages in it, and none was reported lost")
	}
}

// TestTopicDeletion: the topic goes, and the publishers make another one by the same name.
func TestTopicDeletion(t *testing.T) {
	runFault(t, "topic-deletion", nil, func(f broadcasttest.Fault, h *harness) {
		h.deleteTopic(f, f.Topic)
	})
}

// TestTopicRecreation: a node comes back to another topic by the same name.
func TestTopicRecreation(t *testing.T) {
	runFault(t, "topic-recreation", reported, func(f broadcasttest.Fault, h *harness) {
		heal := h.Isolate(f, f.Subscribers[0])
		passing(f)
		h.deleteTopic(f, f.Topic)
		passing(f)
		heal()
	})
}

// TestTransactions: what somebody else's transactions leave in a topic is no loss, and no message of ours.
func TestTransactions(t *testing.T) {
	h := newHarness(startCluster(t), nil)
	transport := h.Transport(t)
	defer transport.Close(context.Background())
	topic := fresh("transactions")
	r := newCounter()
	if _, err := transport.Listen(t.Context(), topic, r); err != nil {
		t.Fatal(err)
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(h.Addr()), kgo.TransactionalID("somebody-else"),
		kgo.DefaultProduceTopic(prefix+topic))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	for _, outcome := range []kgo.TransactionEndTry{kgo.TryCommit, kgo.TryAbort} {
		if err := client.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		if err := client.ProduceSync(t.Context(), kgo.StringRecord("foreign")).FirstErr(); err != nil {
			t.Fatal(err)
		}
		if err := client.EndTransaction(t.Context(), outcome); err != nil {
			t.Fatal(err)
		}
	}
	if err := transport.Send(t.Context(), broadcast.Frame{Topic: topic, Data: []byte("ours")}); err != nil {
		t.Fatal(err)
	}
	for {
		select {
		case frame := <-r.frames:
			if string(frame) == "ours" {
				return
			}
			if string(frame) != "foreign" {
				t.Errorf("a frame is %q", frame)
			}
		case gap := <-r.gaps:
			t.Fatalf("a transaction made a gap: %v", gap)
		}
	}
}

// TestAway: a cluster that is not there costs an error, not patience.
func TestAway(t *testing.T) {
	for mode, vary := range modes {
		t.Run(mode, func(t *testing.T) {
			options := kafka.Options{Brokers: []string{"127.0.0.1:1"}}
			if vary != nil {
				vary(&options)
			}
			transport, err := kafka.New(options)
			if err != nil {
				t.Fatal(err)
			}
			defer transport.Close(context.Background())
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			if err := transport.Send(ctx, broadcast.Frame{Topic: "away", Data: []byte("frame")}); err == nil {
				t.Error("send to a cluster that is not there succeeded")
			}
			if _, err = transport.Listen(ctx, "away", newCounter()); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("listen on a cluster that is not there gave %v, want the deadline", err)
			}
		})
	}
}

// TestExisting: a topic that somebody else makes is waited for.
func TestExisting(t *testing.T) {
	h := newHarness(startCluster(t), func(o *kafka.Options) { o.Existing = true })
	waiting, topic := h.Transport(t), fresh("existing")
	defer waiting.Close(context.Background())
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	if err := waiting.Send(ctx, broadcast.Frame{Topic: topic, Data: []byte("frame")}); err == nil || !strings.Contains(err.Error(), "Options.Existing") {
		t.Errorf("send to a topic that does not exist gave %v", err)
	}
	if _, err := waiting.Listen(ctx, topic, newCounter()); err == nil || !strings.Contains(err.Error(), "Options.Existing") {
		t.Errorf("listen on a topic that does not exist gave %v", err)
	}
	h.vary = nil
	making := h.Transport(t)
	defer making.Close(context.Background())
	if err := making.Send(t.Context(), broadcast.Frame{Topic: topic, Data: []byte("first")}); err != nil {
		t.Fatal(err)
	}
	r := newCounter()
	if _, err := waiting.Listen(t.Context(), topic, r); err != nil {
		t.Fatal(err)
	}
	if err := waiting.Send(t.Context(), broadcast.Frame{Topic: topic, Data: []byte("second")}); err != nil {
		t.Fatal(err)
	}
	if frame := <-r.frames; string(frame) != "second" {
		t.Errorf("the first frame is %q, want what was sent after Listen", frame)
	}
}

// TestOddTopics: any bytes make a topic, and topics do not mix.
func TestOddTopics(t *testing.T) {
	topics := []string{
		"a/b", "a b", "a_b", "a.b", "a.2F", "a/", "..", ".", "_", "\x00\xff", "ä",
		strings.Repeat("long", 63) + "1", strings.Repeat("long", 63) + "2",
	}
	transport := newHarness(startCluster(t), nil).Transport(t)
	defer transport.Close(context.Background())
	receivers := make([]*counter, len(topics))
	for i, topic := range topics {
		receivers[i] = newCounter()
		if _, err := transport.Listen(t.Context(), topic, receivers[i]); err != nil {
			t.Fatalf("listen on %q: %v", topic, err)
		}
	}
	for _, topic := range topics {
		if err := transport.Send(t.Context(), broadcast.Frame{Topic: topic, Data: []byte(topic)}); err != nil {
			t.Fatalf("send to %q: %v", topic, err)
		}
	}
	for i, topic := range topics {
		if got := string(<-receivers[i].frames); got != topic {
			t.Errorf("a frame of %q came on %q", got, topic)
		}
	}
}

// fresh returns a topic that nothing else uses.
func fresh(name string) string { return name + "-" + rand.Text() }

// passing waits until messages pass to a node that is not cut off.
func passing(f broadcasttest.Fault) {
	f.Helper()
	transport := f.Harness.Transport(f)
	defer transport.Close(context.Background())
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	r := newCounter()
	if _, err := transport.Listen(ctx, f.Topic, r); err != nil {
		f.Fatal(err)
	}
	for range 50 {
		select {
		case <-r.frames:
		case <-ctx.Done():
			f.Fatal("no messages pass")
		}
	}
}

// counter is a receiver that hands over what it takes.
type counter struct {
	frames chan []byte
	gaps   chan broadcast.Gap
}

func newCounter() *counter {
	return &counter{frames: make(chan []byte, 1<<16), gaps: make(chan broadcast.Gap, 1<<10)}
}

func (c *counter) Frame(data []byte)     { c.frames <- data }
func (c *counter) Gap(gap broadcast.Gap) { c.gaps <- gap }
