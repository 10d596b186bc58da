package broadcast_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-nearcache/nearcache/broadcast"
	"github.com/go-nearcache/nearcache/broadcast/broadcasttest"
)

// pair makes a publisher and a subscriber on a network of their own.
func pair(t *testing.T, options broadcast.NetworkOptions) (*broadcast.Network, *broadcast.Bus, *broadcast.Bus) {
	t.Helper()
	network := broadcast.NewNetwork(options)
	return network, newBus(t, broadcast.Options{Transport: network.Transport(), Origin: "publisher"}),
		newBus(t, broadcast.Options{Transport: network.Transport(), Origin: "subscriber"})
}

func subscribe(t *testing.T, bus *broadcast.Bus, handler broadcast.Handler, options ...broadcast.SubscribeOption) *broadcast.Subscription {
	t.Helper()
	s, err := bus.Subscribe(t.Context(), "topic", handler, options...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func publish(t *testing.T, bus *broadcast.Bus, payload string) {
	t.Helper()
	if err := bus.Publish(t.Context(), broadcast.Message{Topic: "topic", Payload: []byte(payload)}); err != nil {
		t.Errorf("publish %q: %v", payload, err)
	}
}

func payloads(r *broadcasttest.Recorder) []string {
	var all []string
	for _, m := range r.Messages() {
		all = append(all, string(m.Payload))
	}
	return all
}

func TestHeartbeatFindsLostTail(t *testing.T) {
	for _, unordered := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			network, publisher, subscriber := pair(t, broadcast.NetworkOptions{Unordered: unordered})
			r := broadcasttest.NewRecorder(nil)
			subscribe(t, subscriber, r.Handler())
			publish(t, publisher, "one")
			network.SetFaults(broadcast.Faults{Loss: 1})
			publish(t, publisher, "two")
			publish(t, publisher, "three")
			network.SetFaults(broadcast.Faults{})
			time.Sleep(2 * time.Second)
			synctest.Wait()
			want := broadcast.Gap{Reason: broadcast.SeqHole, Topic: "topic", Origin: "publisher", From: 2, To: 3}
			if got := r.Gaps(); len(got) != 1 || got[0] != want {
				t.Errorf("unordered %v: got gaps %v, want %v", unordered, got, want)
			}
		})
	}
}

func TestIdleHeartbeatsSlowDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, publisher, _ := pair(t, broadcast.NetworkOptions{})
		publish(t, publisher, "one")
		time.Sleep(time.Hour)
		synctest.Wait()
		// One for the message, four at 1, 3, 7 and 15 s at the latest, then one every 12 to 16 s.
		if frames := publisher.Stats().FramesSent; frames < 225 || frames > 305 {
			t.Errorf("%d frames in an idle hour, want about 260", frames)
		}
	})
}

// TestNewcomerIsGreeted: an idle node makes itself known to a new one soon, and with it what it published before.
func TestNewcomerIsGreeted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network, publisher, old := pair(t, broadcast.NetworkOptions{})
		subscribe(t, old, broadcasttest.NewRecorder(nil).Handler())
		publish(t, publisher, "one")
		time.Sleep(time.Hour)
		newcomer := newBus(t, broadcast.Options{Transport: network.Transport(), Origin: "newcomer"})
		r := broadcasttest.NewRecorder(nil)
		subscribe(t, newcomer, r.Handler())
		time.Sleep(time.Second)
		synctest.Wait()
		if got := newcomer.Presence("topic"); len(got) != 2 || got[0].Origin != "newcomer" || got[1].Origin != "subscriber" {
			t.Errorf("present are %+v, want the newcomer and the old subscriber", got)
		}
		time.Sleep(16 * time.Second) // the publisher does not listen, so it does not notice
		synctest.Wait()
		want := broadcast.Gap{Reason: broadcast.NewOrigin, Topic: "topic", Origin: "publisher", From: 1, To: 1}
		if got := r.Gaps(); len(got) != 1 || got[0] != want {
			t.Errorf("got gaps %v, want %v", got, want)
		}
	})
}

func TestGoodbyeIsNoLoss(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, publisher, subscriber := pair(t, broadcast.NetworkOptions{Unordered: true})
		r := broadcasttest.NewRecorder(nil)
		subscribe(t, subscriber, r.Handler())
		publish(t, publisher, "one")
		if err := publisher.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if gaps := r.Gaps(); len(gaps) != 0 {
			t.Errorf("an origin that closed made gaps: %v", gaps)
		}
	})
}

func TestLinkStateReachesSubscription(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network, _, subscriber := pair(t, broadcast.NetworkOptions{})
		r := broadcasttest.NewRecorder(nil)
		first := subscribe(t, subscriber, r.Handler())
		network.Disconnect()
		if first.Live() {
			t.Error("a subscription is live on a network that is disconnected")
		}
		late := broadcasttest.NewRecorder(nil)
		second := subscribe(t, subscriber, late.Handler()) // the topic is subscribed to already
		synctest.Wait()
		if second.Live() || len(late.Gaps()) != 1 || !late.Gaps()[0].Open {
			t.Errorf("a subscription made while the link is down has the gaps %v", late.Gaps())
		}
		network.Connect()
		synctest.Wait()
		if !first.Live() || !second.Live() || !late.Gaps()[1].MustFlush() {
			t.Errorf("after the link came back: live %v and %v, gaps %v", first.Live(), second.Live(), late.Gaps())
		}
	})
}

func TestSubscribeWaitsForTheBroker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network, publisher, subscriber := pair(t, broadcast.NetworkOptions{})
		network.Disconnect()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err := subscriber.Subscribe(ctx, "topic", broadcasttest.NewRecorder(nil).Handler())
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("subscribe on a network that is disconnected gave %v", err)
		}
		time.AfterFunc(time.Minute, network.Connect)
		r := broadcasttest.NewRecorder(nil)
		subscribe(t, subscriber, r.Handler())
		publish(t, publisher, "one")
		synctest.Wait()
		if got := payloads(r); !slices.Equal(got, []string{"one"}) {
			t.Errorf("got %v", got)
		}
	})
}

// gated is a transport whose Send waits for the test, or fails as it says.
type gated struct {
	broadcast.Transport
	gate chan error // what each Send returns; sends are let through to the network on nil
	echo bool
}

func (g *gated) Send(ctx context.Context, frame broadcast.Frame) error {
	if g.gate == nil {
		return g.Transport.Send(ctx, frame)
	}
	select {
	case err := <-g.gate:
		if err != nil {
			return err
		}
		return g.Transport.Send(ctx, frame)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (g *gated) Capabilities() broadcast.Capabilities {
	c := g.Transport.Capabilities()
	c.Echo = g.echo
	return c
}

func gatedPair(t *testing.T, options broadcast.Options) (*gated, *broadcast.Bus, *broadcasttest.Recorder) {
	t.Helper()
	network := broadcast.NewNetwork(broadcast.NetworkOptions{})
	g := &gated{Transport: network.Transport(), gate: make(chan error), echo: true}
	options.Transport, options.Origin = g, "publisher"
	publisher := newBus(t, options)
	t.Cleanup(func() { close(g.gate) }) // before the bus is closed
	r := broadcasttest.NewRecorder(nil)
	subscribe(t, newBus(t, broadcast.Options{Transport: network.Transport()}), r.Handler())
	return g, publisher, r
}

func TestWhatWaitsTravelsTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, publisher, r := gatedPair(t, broadcast.Options{})
		for i := range 50 {
			go publish(t, publisher, fmt.Sprint(i))
			synctest.Wait()
		}
		g.gate <- nil // a lone message
		synctest.Wait()
		g.gate <- nil // everything behind it
		synctest.Wait()
		if got := len(r.Messages()); got != 50 {
			t.Errorf("two frames brought %d messages, want 50", got)
		}
		for i, payload := range payloads(r) {
			if payload != fmt.Sprint(i) {
				t.Fatalf("message %d is %s", i, payload)
			}
		}
	})
}

func TestGivenUpMessageIsNotSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, publisher, r := gatedPair(t, broadcast.Options{})
		go publish(t, publisher, "one")
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		err := publisher.Publish(ctx, broadcast.Message{Topic: "topic", Payload: []byte("given up")})
		if !errors.Is(err, broadcast.ErrUndelivered) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want ErrUndelivered and DeadlineExceeded", err)
		}
		go publish(t, publisher, "two")
		synctest.Wait()
		g.gate <- nil
		synctest.Wait()
		g.gate <- nil
		synctest.Wait()
		if got := payloads(r); !slices.Equal(got, []string{"one", "two"}) || len(r.Gaps()) != 0 {
			t.Errorf("got %v and gaps %v, want one and two, and no gap for what its publisher knows was not sent", got, r.Gaps())
		}
	})
}

func TestRetryIsOneMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, publisher, r := gatedPair(t, broadcast.Options{})
		go func() {
			for range 5 {
				g.gate <- errors.New("away")
			}
			g.gate <- nil
		}()
		publish(t, publisher, "one")
		synctest.Wait()
		if got := payloads(r); !slices.Equal(got, []string{"one"}) || publisher.Stats().Retries != 5 {
			t.Errorf("got %v after %d retries, want one message and 5", got, publisher.Stats().Retries)
		}
	})
}

func TestDroppedFromOutboxIsSeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, publisher, r := gatedPair(t, broadcast.Options{OutboxTimeout: time.Second})
		away := make(chan struct{})
		go func() {
			for {
				select {
				case g.gate <- errors.New("away"):
				case <-away:
					return
				}
			}
		}()
		for _, payload := range []string{"one", "two", "three"} {
			if err := publisher.Enqueue(t.Context(), broadcast.Message{Topic: "topic", Payload: []byte(payload)}); err != nil {
				t.Fatal(err)
			}
		}
		if err := publisher.Flush(t.Context()); !errors.Is(err, broadcast.ErrUndelivered) {
			t.Errorf("flush gave %v, want ErrUndelivered", err)
		}
		close(away)
		synctest.Wait()
		go func() { g.gate <- nil }()
		publish(t, publisher, "four")
		synctest.Wait()
		if got := publisher.Stats(); got.Undelivered != 3 || got.Outbox != 0 {
			t.Errorf("%d undelivered and %d in the outbox, want 3 and 0", got.Undelivered, got.Outbox)
		}
		gaps := r.Gaps()
		if got := payloads(r); !slices.Equal(got, []string{"four"}) || len(gaps) != 1 || gaps[0].From != 1 || gaps[0].To != 3 {
			t.Errorf("got %v and gaps %v, want four and a gap of 1 to 3", got, gaps)
		}
	})
}

func TestRejectionIsFinal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, publisher, _ := gatedPair(t, broadcast.Options{})
		go func() { g.gate <- fmt.Errorf("%w: no permission", broadcast.ErrRejected) }()
		err := publisher.Publish(t.Context(), broadcast.Message{Topic: "topic"})
		if !errors.Is(err, broadcast.ErrRejected) || !errors.Is(err, broadcast.ErrUndelivered) {
			t.Errorf("got %v, want ErrUndelivered and ErrRejected", err)
		}
		if retries := publisher.Stats().Retries; retries != 0 {
			t.Errorf("a rejected message was tried again %d times", retries)
		}
	})
}

func TestCloseIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := broadcast.NewNetwork(broadcast.NetworkOptions{})
		g := &gated{Transport: network.Transport(), gate: make(chan error), echo: true}
		bus, err := broadcast.New(broadcast.Options{Transport: g})
		if err != nil {
			t.Fatal(err)
		}
		if err := bus.Enqueue(t.Context(), broadcast.Message{Topic: "topic"}); err != nil {
			t.Fatal(err)
		}
		result := make(chan error, 1)
		go func() { result <- bus.Publish(context.Background(), broadcast.Message{Topic: "topic"}) }()
		synctest.Wait()
		start := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		if err := bus.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("close with messages that cannot be sent gave %v", err)
		}
		if took := time.Since(start); took > 3*time.Second {
			t.Errorf("close took %v, its context allowed 3 s", took)
		}
		if err := <-result; !errors.Is(err, broadcast.ErrUndelivered) || !errors.Is(err, broadcast.ErrClosed) {
			t.Errorf("the waiting publisher got %v, want ErrUndelivered and ErrClosed", err)
		}
	})
}

func TestHandlerThatPanics(t *testing.T) {
	_, publisher, subscriber := pair(t, broadcast.NetworkOptions{})
	r := broadcasttest.NewRecorder(func(m broadcast.Message) {
		if string(m.Payload) == "bad" {
			panic("cannot take it")
		}
	})
	handler := r.Handler()
	subscribe(t, subscriber, handler)
	publish(t, publisher, "bad")
	publish(t, publisher, "good")
	r.AwaitPayload(t, time.Minute, "good")
	if got := subscriber.Stats().HandlerErrors; got != 1 {
		t.Errorf("%d handler errors, want 1", got)
	}
}

func TestFailuresOfAHandlerDoNotFloodTheLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := broadcast.NewNetwork(broadcast.NetworkOptions{})
		var text bytes.Buffer
		publisher := newBus(t, broadcast.Options{Transport: network.Transport(), Origin: "publisher"})
		subscriber := newBus(t, broadcast.Options{
			Transport: network.Transport(), Origin: "subscriber", Logger: slog.New(slog.NewTextHandler(&text, nil)),
		})
		subscribe(t, subscriber, broadcast.Handler{Message: func(context.Context, broadcast.Message) error { return errors.New("cannot take it") }})
		failed := func(more int) {
			t.Helper()
			synctest.Wait()
			lines := strings.Split(strings.TrimSpace(text.String()), "\n")
			text.Reset()
			if len(lines) != 1 || !strings.Contains(lines[0], `"broadcast: handler failed"`) || !strings.Contains(lines[0], fmt.Sprintf("more=%d", more)) {
				t.Errorf("want one line that tells of %d more: %q", more, lines)
			}
		}
		for range 100 {
			publish(t, publisher, "bad")
		}
		failed(0)
		time.Sleep(time.Second)
		publish(t, publisher, "bad")
		failed(99)
		if got := subscriber.Stats().HandlerErrors; got != 101 {
			t.Errorf("%d handler errors, want 101", got)
		}
	})
}

func TestGapsDoNotFloodTheLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := broadcast.NewNetwork(broadcast.NetworkOptions{})
		var text bytes.Buffer
		publisher := newBus(t, broadcast.Options{Transport: network.Transport(), Origin: "publisher"})
		subscriber := newBus(t, broadcast.Options{
			Transport: network.Transport(), Origin: "subscriber", Logger: slog.New(slog.NewTextHandler(&text, nil)),
		})
		r := broadcasttest.NewRecorder(nil)
		subscribe(t, subscriber, r.Handler())
		publish(t, publisher, "first")
		r.AwaitPayload(t, time.Minute, "first")
		// Every other message is lost, and reported.
		lose := func(times int) {
			for i := range times {
				network.SetFaults(broadcast.Faults{Loss: 1})
				publish(t, publisher, "lost")
				network.SetFaults(broadcast.Faults{})
				last := fmt.Sprint("after ", i)
				publish(t, publisher, last)
			}
			synctest.Wait()
		}
		told := func(more int) {
			t.Helper()
			lines := strings.Split(strings.TrimSpace(text.String()), "\n")
			text.Reset()
			if len(lines) != 1 || !strings.Contains(lines[0], `"broadcast: gap"`) || !strings.Contains(lines[0], fmt.Sprintf("more=%d", more)) {
				t.Errorf("want one line that tells of %d more: %q", more, lines)
			}
		}
		lose(50)
		told(0)
		time.Sleep(time.Second)
		lose(1)
		told(49)
		lost := 0
		for _, gap := range r.Gaps() {
			if gap.Reason == broadcast.SeqHole {
				lost++
			}
		}
		if lost != 51 {
			t.Errorf("%d losses were reported, want 51", lost)
		}
	})
}

func TestCloseFromItsOwnHandler(t *testing.T) {
	_, publisher, subscriber := pair(t, broadcast.NetworkOptions{})
	var s *broadcast.Subscription
	var assigned sync.WaitGroup
	assigned.Add(1)
	closed := make(chan error, 1)
	s = subscribe(t, subscriber, broadcast.Handler{Message: func(ctx context.Context, _ broadcast.Message) error {
		assigned.Wait()
		closed <- s.Close(ctx)
		return nil
	}})
	assigned.Done()
	publish(t, publisher, "one")
	if err := <-closed; err != nil {
		t.Error(err)
	}
	if err := s.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestCloseWaitsForTheHandler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, publisher, subscriber := pair(t, broadcast.NetworkOptions{})
		release := make(chan struct{})
		s := subscribe(t, subscriber, broadcast.Handler{Message: func(ctx context.Context, _ broadcast.Message) error {
			<-ctx.Done() // the handler is told
			<-release
			return nil
		}})
		publish(t, publisher, "one")
		synctest.Wait() // the handler has begun
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := s.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("close of a subscription whose handler runs gave %v", err)
		}
		close(release)
		if err := s.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// TestTransportWithoutEcho: the bus delivers its own messages to itself, once.
func TestTransportWithoutEcho(t *testing.T) {
	network := broadcast.NewNetwork(broadcast.NetworkOptions{})
	bus := newBus(t, broadcast.Options{Transport: &gated{Transport: network.Transport()}})
	loud, quiet := broadcasttest.NewRecorder(nil), broadcasttest.NewRecorder(nil)
	subscribe(t, bus, loud.Handler(), broadcast.ReceiveOwn())
	subscribe(t, bus, quiet.Handler())
	publish(t, bus, "one")
	publish(t, bus, "two")
	loud.AwaitPayload(t, time.Minute, "two")
	if got := payloads(loud); !slices.Equal(got, []string{"one", "two"}) || len(quiet.Messages()) != 0 {
		t.Errorf("got %v with ReceiveOwn and %v without", got, payloads(quiet))
	}
}

// TestEverythingAtOnce publishes, subscribes, unsubscribes and closes concurrently, for the race detector.
func TestEverythingAtOnce(t *testing.T) {
	network := broadcast.NewNetwork(broadcast.NetworkOptions{Unordered: true})
	network.SetFaults(broadcast.Faults{Loss: 0.1, Duplication: 0.1, Corruption: 0.05, Jitter: time.Millisecond})
	var running sync.WaitGroup
	for range 4 {
		bus, err := broadcast.New(broadcast.Options{Transport: network.Transport(), Heartbeat: 10 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		closing := make(chan struct{})
		for g := range 4 {
			running.Go(func() {
				for i := 0; i < 50 || !isClosed(closing); i++ {
					topic := fmt.Sprint("topic ", i%3)
					s, err := bus.Subscribe(t.Context(), topic, broadcasttest.NewRecorder(nil).Handler(), broadcast.ReceiveOwn())
					m := broadcast.Message{Topic: topic, Payload: []byte("x")}
					_, _ = bus.Publish(t.Context(), m), bus.Enqueue(t.Context(), m)
					bus.Presence(topic)
					bus.Stats()
					// The first 50 leave half of theirs open, for Close to end.
					if err == nil && (i >= 50 || (i+g)%2 == 0) {
						_ = s.Close(t.Context())
					}
				}
			})
		}
		running.Go(func() {
			defer close(closing)
			r := broadcasttest.NewRecorder(nil)
			if _, err := bus.Subscribe(t.Context(), "topic 1", r.Handler(), broadcast.ReceiveOwn()); err != nil {
				t.Error(err)
				return
			}
			r.Await(t, time.Minute, "some messages", func() bool { return len(r.Messages()) > 20 })
			if err := bus.Close(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	running.Wait()
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func TestOptionsAreChecked(t *testing.T) {
	transport := func() broadcast.Transport { return broadcast.NewNetwork(broadcast.NetworkOptions{}).Transport() }
	for field, options := range map[string]broadcast.Options{
		"Transport":      {},
		"Origin":         {Transport: transport(), Origin: strings.Repeat("x", 256)},
		"Heartbeat":      {Transport: transport(), Heartbeat: time.Millisecond},
		"ReorderWindow":  {Transport: transport(), ReorderWindow: -1},
		"OutboxTimeout":  {Transport: transport(), OutboxTimeout: -1},
		"QueueMessages":  {Transport: transport(), QueueMessages: -1},
		"QueueBytes":     {Transport: transport(), QueueBytes: -1},
		"OutboxMessages": {Transport: transport(), OutboxMessages: -1},
		"OutboxBytes":    {Transport: transport(), OutboxBytes: -1},
		"MaxFrameBytes":  {Transport: transport(), MaxFrameBytes: 1023},
	} {
		if _, err := broadcast.New(options); err == nil || !strings.Contains(err.Error(), "Options."+field) {
			t.Errorf("a bad %s gave the error %v", field, err)
		}
	}
}

func TestMessagesAreChecked(t *testing.T) {
	_, bus, _ := pair(t, broadcast.NetworkOptions{})
	long := strings.Repeat("x", 256)
	many := make(map[string]string)
	for i := range 65 {
		many[fmt.Sprint(i)] = ""
	}
	for name, m := range map[string]broadcast.Message{
		"no topic":         {},
		"long topic":       {Topic: long},
		"long type":        {Topic: "topic", Type: long},
		"many headers":     {Topic: "topic", Headers: many},
		"empty header":     {Topic: "topic", Headers: map[string]string{"": "x"}},
		"long header name": {Topic: "topic", Headers: map[string]string{long: "x"}},
		"long header":      {Topic: "topic", Headers: map[string]string{"x": strings.Repeat("x", 8193)}},
	} {
		if err := bus.Publish(t.Context(), m); !errors.Is(err, broadcast.ErrInvalidMessage) {
			t.Errorf("%s: publish gave %v", name, err)
		}
		if err := bus.Enqueue(t.Context(), m); !errors.Is(err, broadcast.ErrInvalidMessage) {
			t.Errorf("%s: enqueue gave %v", name, err)
		}
	}
	if _, err := bus.Subscribe(t.Context(), "", broadcasttest.NewRecorder(nil).Handler()); !errors.Is(err, broadcast.ErrInvalidMessage) {
		t.Errorf("subscribe to no topic gave %v", err)
	}
	if _, err := bus.Subscribe(t.Context(), "topic", broadcast.Handler{}); err == nil {
		t.Error("a handler without a function was accepted")
	}
	if _, err := bus.Request(context.Background(), broadcast.Message{Topic: "topic"}); err == nil {
		t.Error("a request without an end was accepted")
	}
}

func TestTopicThatCannotDecode(t *testing.T) {
	_, publisher, subscriber := pair(t, broadcast.NetworkOptions{})
	topic, err := broadcast.NewTopic(subscriber, broadcast.TopicOptions[int]{Name: "topic"})
	if err != nil {
		t.Fatal(err)
	}
	values, gaps := make(chan int, 1), make(chan broadcast.Gap, 1)
	_, err = topic.Subscribe(t.Context(), broadcast.TopicHandler[int]{
		Value: func(_ context.Context, value int, _ broadcast.Message) error { values <- value; return nil },
		Gap:   func(_ context.Context, gap broadcast.Gap) { gaps <- gap },
	})
	if err != nil {
		t.Fatal(err)
	}
	publish(t, publisher, "not a number")
	publish(t, publisher, "42")
	if value := <-values; value != 42 {
		t.Errorf("got %d, want 42", value)
	}
	if gap := <-gaps; gap.Reason != broadcast.Unreadable || !gap.Covers("publisher", 1) {
		t.Errorf("got the gap %v", gap)
	}
	if got := subscriber.Stats().HandlerErrors; got != 1 {
		t.Errorf("%d handler errors, want 1", got)
	}
}
