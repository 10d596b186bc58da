package rabbitmq_test

import (
	"context"
	"crypto/rand"
	"errors"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/go-nearcache/nearcache/broadcast"
	"github.com/go-nearcache/nearcache/broadcast/broadcasttest"
	"github.com/go-nearcache/nearcache/broadcast/rabbitmq"
	"github.com/go-nearcache/nearcache/internal/rabbittest"
)

func fanoutFault(t *testing.T, name string, cause func(broadcasttest.Fault)) broadcasttest.Outcome {
	t.Helper()
	return broadcasttest.RunFault(t, broadcasttest.Config{
		Name:            "rabbitmq-fanout",
		Start:           func(testing.TB) broadcasttest.Harness { return fanoutHarness{newHarness(makeFanout)} },
		ReconnectWithin: 30 * time.Second,
	}, name, cause)
}

func streamsFault(t *testing.T, name string, cause func(broadcasttest.Fault)) broadcasttest.Outcome {
	t.Helper()
	return broadcasttest.RunFault(t, broadcasttest.Config{
		Name:            "rabbitmq-streams",
		Start:           func(testing.TB) broadcasttest.Harness { return streamsHarness{newHarness(makeStreams)} },
		ReconnectWithin: 30 * time.Second,
	}, name, cause)
}

// deleteQueue does what an operator might.
func deleteQueue(t testing.TB, name string) {
	t.Helper()
	administer(t, func(channel *amqp.Channel) error {
		_, err := channel.QueueDelete(name, false, false, false)
		return err
	})
}

func TestQueueDeletion(t *testing.T) {
	fanoutFault(t, "queue-deletion", func(f broadcasttest.Fault) {
		deleteQueue(f, rabbitmq.QueueOf(f.Subscribers[0]))
	})
}

// TestQueueGoneOnReturn: as when Expires is over.
func TestQueueGoneOnReturn(t *testing.T) {
	outcome := fanoutFault(t, "queue-gone-on-return", func(f broadcasttest.Fault) {
		heal := f.Harness.(broadcasttest.Isolator).Isolate(f, f.Subscribers[0])
		deleteQueue(f, rabbitmq.QueueOf(f.Subscribers[0]))
		passing(f)
		heal()
	})
	if outcome.Reported == 0 {
		t.Error("the queue was deleted with messages in it, and none was reported lost")
	}
}

// TestExchangeDeletion: every binding goes with the exchange, and the broker tells nobody.
func TestExchangeDeletion(t *testing.T) {
	fanoutFault(t, "exchange-deletion", func(f broadcasttest.Fault) {
		administer(f, func(channel *amqp.Channel) error {
			return channel.ExchangeDelete(rabbitmq.ExchangeOf(f.Subscribers[0], f.Topic), false, false)
		})
	})
}

// TestBindingDeletion: one node is cut off from a topic that others still get.
func TestBindingDeletion(t *testing.T) {
	fanoutFault(t, "binding-deletion", func(f broadcasttest.Fault) {
		administer(f, func(channel *amqp.Channel) error {
			return channel.QueueUnbind(rabbitmq.QueueOf(f.Subscribers[0]), "", rabbitmq.ExchangeOf(f.Subscribers[0], f.Topic), nil)
		})
	})
}

func TestBrokerCrash(t *testing.T) {
	outcome := fanoutFault(t, "broker-crash", func(f broadcasttest.Fault) {
		broker().Crash()
		if err := broker().Restart(context.Background()); err != nil {
			f.Fatal(err)
		}
	})
	if outcome.Reported > 0 {
		t.Errorf("%d messages that the broker had confirmed did not survive its crash", outcome.Reported)
	}
}

func TestStreamDeletion(t *testing.T) {
	streamsFault(t, "stream-deletion", func(f broadcasttest.Fault) {
		deleteQueue(f, rabbitmq.ExchangeOf(f.Subscribers[0], f.Topic))
	})
}

// TestStreamReplaced: a node comes back to another stream by the same name.
func TestStreamReplaced(t *testing.T) {
	outcome := streamsFault(t, "stream-replaced", func(f broadcasttest.Fault) {
		heal := f.Harness.(broadcasttest.Isolator).Isolate(f, f.Subscribers[0])
		passing(f)
		deleteQueue(f, rabbitmq.ExchangeOf(f.Subscribers[0], f.Topic))
		passing(f)
		heal()
	})
	if outcome.Reported == 0 {
		t.Error("the stream was deleted with messages in it, and none was reported lost")
	}
}

// TestStreamLostItsEnd: a node comes back to a stream that does not reach to what it has read.
func TestStreamLostItsEnd(t *testing.T) {
	h := newHarness(makeStreams)
	transport := h.Transport(t)
	defer transport.Close(context.Background())
	r := newCounter()
	const topic = "lost-end"
	if _, err := transport.Listen(t.Context(), topic, r); err != nil {
		t.Fatal(err)
	}
	frame := broadcast.Frame{Topic: topic, Data: []byte("frame")}
	for range 20 {
		if err := transport.Send(t.Context(), frame); err != nil {
			t.Fatal(err)
		}
		<-r.frames
	}
	heal := h.Isolate(t, transport)
	if gap := <-r.gaps; !gap.Open {
		t.Errorf("the first gap is %v, want an open one", gap)
	}
	deleteQueue(t, rabbitmq.ExchangeOf(transport, topic))
	heal()
	if gap := <-r.gaps; gap.Open || gap.Reason != broadcast.Trimmed {
		t.Errorf("the gap after the return is %v, want %v", gap, broadcast.Trimmed)
	}
	if err := transport.Send(t.Context(), frame); err != nil {
		t.Fatal(err)
	}
	<-r.frames
}

// passing waits until messages have passed to a subscriber that is not cut off.
func passing(f broadcasttest.Fault) {
	f.Helper()
	r := newCounter()
	transport := f.Harness.Transport(f)
	defer transport.Close(context.Background())
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
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

// nodes makes one transport of each kind.
func nodes(t *testing.T, vary func(*rabbitmq.Options)) map[string]broadcast.Transport {
	t.Helper()
	made := make(map[string]broadcast.Transport)
	for name, make_ := range map[string]func(rabbitmq.Options) (broadcast.Transport, error){
		"fanout": makeFanout, "streams": makeStreams,
	} {
		options := rabbitmq.Options{URLs: []string{broker().URL()}, Config: amqp.Config{Heartbeat: 2 * time.Second}}
		if vary != nil {
			vary(&options)
		}
		transport, err := make_(options)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = transport.Close(context.Background()) })
		made[name] = transport
	}
	return made
}

// TestBlackHole: that nothing comes any more is noticed although no connection tells.
func TestBlackHole(t *testing.T) {
	for name, make_ := range map[string]func(rabbitmq.Options) (broadcast.Transport, error){
		"fanout": makeFanout, "streams": makeStreams,
	} {
		t.Run(name, func(t *testing.T) {
			h := newHarness(make_)
			transport := h.Transport(t)
			defer transport.Close(context.Background())
			r := newCounter()
			if _, err := transport.Listen(t.Context(), "black-hole", r); err != nil {
				t.Fatal(err)
			}
			heal := h.BlackHole(t, transport)
			if gap := <-r.gaps; !gap.Open {
				t.Errorf("the gap is %v, want an open one", gap)
			}
			heal()
			if gap := <-r.gaps; gap.Reason != broadcast.Resumed {
				t.Errorf("the gap after the return is %v, want %v", gap, broadcast.Resumed)
			}
		})
	}
}

// TestBlockedBroker: a broker that is short of memory or disk takes no messages, and Send says so at once.
func TestBlockedBroker(t *testing.T) {
	alarm := func(call string) {
		t.Helper()
		if answer, err := broker().Eval(call); err != nil || answer != "ok" {
			t.Fatalf("%s gave %s, %v", call, answer, err)
		}
	}
	for name, transport := range nodes(t, nil) {
		t.Run(name, func(t *testing.T) {
			frame := broadcast.Frame{Topic: "blocked-" + name, Data: []byte("frame")}
			if err := transport.Send(t.Context(), frame); err != nil {
				t.Fatal(err)
			}
			alarm("rabbit_alarm:set_alarm({{resource_limit, memory, node()}, []})")
			defer alarm("rabbit_alarm:clear_alarm({resource_limit, memory, node()})")
			// The broker tells a connection when that publishes, so the first time may wait.
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			_ = transport.Send(ctx, frame)
			if err := transport.Send(t.Context(), frame); err == nil || !strings.Contains(err.Error(), "takes no messages at the moment") {
				t.Errorf("send to a blocked broker gave %v", err)
			}
		})
	}
}

// TestRefusals: what trying again cannot cure is told at once, to publishers and to subscribers.
func TestRefusals(t *testing.T) {
	user := rand.Text()
	for _, call := range []string{
		`rabbit_auth_backend_internal:add_user(<<"` + user + `">>, <<"secret">>, <<"test">>)`,
		`rabbit_auth_backend_internal:set_permissions(<<"` + user + `">>, <<"/">>, <<"^$">>, <<"^$">>, <<".*">>, <<"test">>)`,
	} {
		if answer, err := broker().Eval(call); err != nil || answer != "ok" {
			t.Fatalf("%s gave %s, %v", call, answer, err)
		}
	}
	for problem, url := range map[string]string{
		"no permission":   "amqp://" + user + ":secret@" + broker().Addr() + "/",
		"no virtual host": rabbittest.URL(broker().Addr()) + "nowhere",
	} {
		for name, transport := range nodes(t, func(o *rabbitmq.Options) { o.URLs = []string{url} }) {
			t.Run(problem+"/"+name, func(t *testing.T) {
				topic := "refused"
				if err := transport.Send(t.Context(), broadcast.Frame{Topic: topic, Data: []byte("frame")}); !errors.Is(err, broadcast.ErrRejected) {
					t.Errorf("send gave %v, want ErrRejected", err)
				}
				if _, err := transport.Listen(t.Context(), topic, newCounter()); !errors.Is(err, broadcast.ErrRejected) {
					t.Errorf("listen gave %v, want ErrRejected", err)
				}
			})
		}
	}
}

// TestAway: a broker that is not there costs an error, not patience.
func TestAway(t *testing.T) {
	for name, transport := range nodes(t, func(o *rabbitmq.Options) { o.URLs = []string{"amqp://127.0.0.1:1/"} }) {
		t.Run(name, func(t *testing.T) {
			if err := transport.Send(t.Context(), broadcast.Frame{Topic: "away", Data: []byte("frame")}); err == nil {
				t.Error("send to a broker that is not there succeeded")
			}
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			_, err := transport.Listen(ctx, "away", newCounter())
			if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "refused") {
				t.Errorf("listen on a broker that is not there gave %v, want the deadline and why", err)
			}
		})
	}
}

// TestSeveralURLs: one broker of several is enough.
func TestSeveralURLs(t *testing.T) {
	for name, transport := range nodes(t, func(o *rabbitmq.Options) { o.URLs = append(o.URLs, "amqp://127.0.0.1:1/", "amqp://127.0.0.1:2/") }) {
		t.Run(name, func(t *testing.T) {
			r := newCounter()
			if _, err := transport.Listen(t.Context(), "several", r); err != nil {
				t.Fatal(err)
			}
			if err := transport.Send(t.Context(), broadcast.Frame{Topic: "several", Data: []byte("frame")}); err != nil {
				t.Fatal(err)
			}
			<-r.frames
		})
	}
}

// TestCloseDeletesQueue: a node that leaves in good order leaves nothing behind.
func TestCloseDeletesQueue(t *testing.T) {
	transport := nodes(t, nil)["fanout"]
	if _, err := transport.Listen(t.Context(), "leaving", newCounter()); err != nil {
		t.Fatal(err)
	}
	queue := rabbitmq.QueueOf(transport)
	exists := `rabbit_amqqueue:exists(rabbit_misc:r(<<"/">>, queue, <<"` + queue + `">>))`
	if answer, err := broker().Eval(exists); err != nil || answer != "true" {
		t.Fatalf("while listening %s gave %s, %v", exists, answer, err)
	}
	if err := transport.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if answer, err := broker().Eval(exists); err != nil || answer != "false" {
		t.Errorf("after Close %s gave %s, %v", exists, answer, err)
	}
}

// TestOddTopics: any bytes make a topic, and topics do not mix.
func TestOddTopics(t *testing.T) {
	topics := []string{"a/b", "a b", "a\nb", "\x00\xff", "%61", "a", "ä", strings.Repeat("long", 63) + "1", strings.Repeat("long", 63) + "2"}
	for name, transport := range nodes(t, nil) {
		t.Run(name, func(t *testing.T) {
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
		})
	}
}
