package broadcasttest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel/baggage"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/goleak"

	"github.com/go-nearcache/nearcache/broadcast"
)

// subscribeIsLive: what is published right after Subscribe has returned is delivered.
func (s *suite) subscribeIsLive() {
	publisher, subscriber := s.node(), s.node()
	for i := range 10 {
		topic, payload := s.topic(), fmt.Sprintf("first %d", i)
		r := s.listen(subscriber, topic)
		s.publish(publisher, topic, payload)
		r.AwaitPayload(s, s.config.Patience, payload)
	}
}

// order: what several nodes publish, from several goroutines, comes in order per node, once, and on a healthy network
// completely.
func (s *suite) order() {
	const publishers, goroutines, messages = 3, 4, 100
	topic := s.topic()
	subscriber := s.node()
	r := s.listen(subscriber, topic)
	var running sync.WaitGroup
	for range publishers {
		n := s.node()
		for g := range goroutines {
			running.Go(func() {
				for i := range messages {
					m := broadcast.Message{Topic: topic, Payload: fmt.Appendf(nil, "%d %d", g, i)}
					if err := n.Publish(s.patient(), m); err != nil {
						s.Errorf("publish: %v", err)
						return
					}
				}
			})
		}
	}
	running.Wait()
	r.Await(s, s.config.Patience, "all messages", func() bool {
		return len(r.Messages()) >= publishers*goroutines*messages || lost(r.Gaps())
	})
	r.checkOrder(s)
	if got := len(r.Messages()); got != publishers*goroutines*messages {
		s.Errorf("%d messages were delivered on a healthy network, want %d; gaps: %v",
			got, publishers*goroutines*messages, r.Gaps())
	}
	type source struct {
		origin    string
		goroutine string
	}
	last := make(map[source]int)
	for _, m := range r.Messages() {
		var i int
		goroutine, number, _ := strings.Cut(string(m.Payload), " ")
		_, _ = fmt.Sscan(number, &i)
		from := source{m.Origin, goroutine}
		if before, seen := last[from]; seen && i <= before {
			s.Fatalf("message %d of goroutine %s came after %d", i, goroutine, before)
		}
		last[from] = i
	}
}

// lost reports whether gaps tell of more than first contacts.
func lost(gaps []broadcast.Gap) bool {
	return slices.ContainsFunc(gaps, func(g broadcast.Gap) bool { return g.Reason != broadcast.NewOrigin })
}

// packing: messages enqueued by one goroutine share frames, and all arrive in order.
func (s *suite) packing() {
	const messages = 5000
	topic := s.topic()
	publisher, subscriber := s.node(), s.node()
	r := s.listen(subscriber, topic)
	for i := range messages {
		err := publisher.Enqueue(s.patient(), broadcast.Message{Topic: topic, Payload: fmt.Append(nil, i)})
		if errors.Is(err, broadcast.ErrOutboxFull) {
			s.Fatalf("the outbox was full after %d messages", i)
		}
		if err != nil {
			s.Fatalf("enqueue: %v", err)
		}
	}
	if err := publisher.Flush(s.patient()); err != nil {
		s.Fatalf("flush: %v", err)
	}
	r.Await(s, s.config.Patience, "all messages", func() bool { return len(r.Messages()) == messages })
	r.checkOrder(s)
	if frames := publisher.Stats().FramesSent; frames > messages/4 {
		s.Errorf("%d messages took %d frames: they were not packed", messages, frames)
	}
}

// ownMessages: a bus hears itself only where it asks for it.
func (s *suite) ownMessages() {
	topic := s.topic()
	n, other := s.node(), s.node()
	quiet, loud := s.listen(n, topic), s.listen(n, topic, broadcast.ReceiveOwn())
	s.publish(n, topic, "own")
	s.publish(other, topic, "foreign")
	for _, r := range []*Recorder{quiet, loud} {
		r.AwaitPayload(s, s.config.Patience, "foreign")
	}
	loud.AwaitPayload(s, s.config.Patience, "own")
	if quiet.has("own") {
		s.Error("a subscription without ReceiveOwn got its own bus's message")
	}
}

// fields: everything a message carries arrives.
func (s *suite) fields() {
	topic := s.topic()
	publisher, subscriber := s.node(), s.node()
	r := s.listen(subscriber, topic)
	sent := broadcast.Message{
		Topic: topic, Type: "price", Version: 3,
		Headers: map[string]string{"tenant": "α", "empty": ""},
		Payload: []byte{0, 1, 0xff, '\r', '\n', 0},
	}
	start := time.Now()
	for range 2 {
		if err := publisher.Publish(s.patient(), sent); err != nil {
			s.Fatalf("publish: %v", err)
		}
	}
	r.Await(s, s.config.Patience, "two messages", func() bool { return len(r.Messages()) == 2 })
	for i, got := range r.Messages() {
		if got.Topic != topic || got.Type != sent.Type || got.Version != sent.Version || !bytes.Equal(got.Payload, sent.Payload) {
			s.Errorf("got %+v, want %+v", got, sent)
		}
		for name, value := range sent.Headers {
			if other, ok := got.Headers[name]; !ok || other != value {
				s.Errorf("header %q is %q, want %q", name, other, value)
			}
		}
		if got.Origin != publisher.Origin() || got.Epoch != publisher.Epoch() || got.Seq != uint64(i+1) {
			s.Errorf("message %d has the ID %s, want %s/%d/%d", i, got.ID(), publisher.Origin(), publisher.Epoch(), i+1)
		}
		if got.Time.Before(start.Add(-time.Second)) || got.Time.After(time.Now().Add(time.Second)) {
			s.Errorf("message %d is of %v, published at %v", i, got.Time, start)
		}
	}
}

// traceContext: the publisher's trace and baggage reach the handler.
func (s *suite) traceContext() {
	topic := s.topic()
	publisher, subscriber := s.node(), s.node()
	r := NewRecorder(nil)
	member := make(chan string, 1)
	handler := r.Handler()
	record := handler.Message
	handler.Message = func(ctx context.Context, m broadcast.Message) error {
		member <- baggage.FromContext(ctx).Member("tenant").Value()
		return record(ctx, m)
	}
	if _, err := subscriber.Subscribe(s.patient(), topic, handler); err != nil {
		s.Fatal(err)
	}
	state, err := trace.ParseTraceState("vendor=value")
	if err != nil {
		s.Fatal(err)
	}
	span := trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: trace.TraceID{1, 2, 3}, SpanID: trace.SpanID{4, 5}, TraceFlags: trace.FlagsSampled, TraceState: state,
	})
	bag, err := baggage.Parse("tenant=acme")
	if err != nil {
		s.Fatal(err)
	}
	ctx := baggage.ContextWithBaggage(trace.ContextWithSpanContext(s.patient(), span), bag)
	if err := publisher.Publish(ctx, broadcast.Message{Topic: topic, Payload: []byte("traced")}); err != nil {
		s.Fatal(err)
	}
	r.AwaitPayload(s, s.config.Patience, "traced")
	headers := r.Messages()[0].Headers
	if !strings.Contains(headers["traceparent"], span.TraceID().String()) || headers["tracestate"] != "vendor=value" {
		s.Errorf("headers are %v, want the trace %v", headers, span.TraceID())
	}
	if got := <-member; got != "acme" {
		s.Errorf("the baggage in the handler's context is %q, want %q", got, "acme")
	}
}

// sizeLimit: the largest message passes, a larger one is refused with a clear error, and the bus goes on.
func (s *suite) sizeLimit() {
	topic := s.topic()
	publisher, subscriber := s.node(), s.node()
	r := s.listen(subscriber, topic)
	limit := publisher.Capabilities().MaxFrame
	if limit == 0 || limit > 1<<20 {
		limit = 1 << 20
	}
	largest := strings.Repeat("x", limit-512)
	s.publish(publisher, topic, largest)
	r.AwaitPayload(s, s.config.Patience, largest)
	err := publisher.Publish(s.patient(), broadcast.Message{Topic: topic, Payload: make([]byte, limit)})
	if !errors.Is(err, broadcast.ErrTooLarge) {
		s.Errorf("a message of %d bytes gave the error %v, want ErrTooLarge", limit, err)
	}
	s.publish(publisher, topic, "after")
	r.AwaitPayload(s, s.config.Patience, "after")
	if lost(r.Gaps()) {
		s.Errorf("a refused message made a gap: %v", r.Gaps())
	}
}

// badFrames: what is no frame, or a broken one, is counted, reported where it may have carried messages, and harms nothing.
func (s *suite) badFrames() {
	topic := s.topic()
	publisher, subscriber := s.node(), s.node()
	r := s.listen(subscriber, topic)
	s.publish(publisher, topic, "before")
	r.AwaitPayload(s, s.config.Patience, "before")

	raw := s.harness.Transport(s)
	s.Cleanup(func() { _ = raw.Close(context.Background()) })
	future := append([]byte("nc\x7f"), make([]byte, 64)...)
	corrupted := append([]byte("nc\x01\x01"), make([]byte, 64)...)
	for _, frame := range [][]byte{
		[]byte("hello"), {0}, []byte(`{"json": true}`), // foreign
		[]byte("nc\x01"), // truncated
		future,
		corrupted,
	} {
		if err := raw.Send(s.patient(), broadcast.Frame{Topic: topic, Data: frame}); err != nil {
			s.Fatalf("send: %v", err)
		}
	}
	s.publish(publisher, topic, "after")
	r.AwaitPayload(s, s.config.Patience, "after")
	r.Await(s, s.config.Patience, "counts of the bad frames", func() bool {
		refused := subscriber.Stats().Refused
		return refused.Foreign >= 3 && refused.Truncated >= 1 && refused.Future >= 1 && refused.Corrupted >= 1
	})
	r.Await(s, s.config.Patience, "three gaps for unreadable frames", func() bool {
		unreadable := 0
		for _, gap := range r.Gaps() {
			if gap.Reason == broadcast.Unreadable {
				unreadable++
			}
		}
		return unreadable == 3
	})
}

// manyTopics: one bus listens on many topics, and each gets its own messages only.
func (s *suite) manyTopics() {
	publisher, subscriber := s.node(), s.node()
	topics := make([]string, s.config.Topics)
	recorders := make([]*Recorder, s.config.Topics)
	for i := range topics {
		topics[i] = s.topic()
		recorders[i] = s.listen(subscriber, topics[i])
	}
	for _, topic := range topics {
		if err := publisher.Enqueue(s.patient(), broadcast.Message{Topic: topic, Payload: []byte(topic)}); err != nil {
			s.Fatal(err)
		}
	}
	if err := publisher.Flush(s.patient()); err != nil {
		s.Fatal(err)
	}
	for i, r := range recorders {
		r.AwaitPayload(s, s.config.Patience, topics[i])
		if n := len(r.Messages()); n != 1 {
			s.Errorf("%d messages on %s, want 1", n, topics[i])
		}
	}
}

// manyNodes: every node of a large fleet gets every other's message.
func (s *suite) manyNodes() {
	topic := s.topic()
	nodes := make([]node, s.config.Nodes)
	recorders := make([]*Recorder, s.config.Nodes)
	for i := range nodes {
		nodes[i] = s.node(func(o *broadcast.Options) { o.Heartbeat = time.Minute }) // each goes to all, as the messages do
		recorders[i] = s.listen(nodes[i], topic)
	}
	for _, n := range nodes {
		s.publish(n, topic, n.Origin())
	}
	for i, r := range recorders {
		r.Await(s, s.config.Patience, fmt.Sprintf("everybody's message on node %d", i), func() bool {
			return len(r.Messages()) >= len(nodes)-1
		})
		r.checkOrder(s)
		if r.has(nodes[i].Origin()) {
			s.Errorf("node %d got its own message", i)
		}
	}
	var closing sync.WaitGroup
	for _, n := range nodes {
		closing.Go(func() { s.closeBus(n.Bus) })
	}
	closing.Wait()
}

// unsubscribe: after Close nothing is delivered, other subscriptions go on, and the topic can be subscribed again.
func (s *suite) unsubscribe() {
	topic := s.topic()
	publisher, subscriber := s.node(), s.node()
	first, second := NewRecorder(nil), NewRecorder(nil)
	closing := s.subscribe(subscriber, topic, first)
	remaining := s.subscribe(subscriber, topic, second)
	s.publish(publisher, topic, "one")
	first.AwaitPayload(s, s.config.Patience, "one")
	second.AwaitPayload(s, s.config.Patience, "one")
	for range 2 {
		if err := closing.Close(s.patient()); err != nil {
			s.Fatal(err)
		}
	}
	s.publish(publisher, topic, "two")
	second.AwaitPayload(s, s.config.Patience, "two")
	if err := remaining.Close(s.patient()); err != nil {
		s.Fatal(err)
	}
	s.publish(publisher, topic, "three")
	third := s.listen(subscriber, topic)
	s.publish(publisher, topic, "four")
	third.AwaitPayload(s, s.config.Patience, "four")
	if first.has("two") || first.has("four") || second.has("three") || second.has("four") || third.has("two") {
		s.Error("a message was delivered to a subscription that was not there")
	}
}

// slowHandler: a blocked handler holds up nothing but itself, and what it loses is reported.
func (s *suite) slowHandler() {
	slow, fast := s.topic(), s.topic()
	publisher, subscriber := s.node(), s.node()
	release := make(chan struct{})
	let := sync.OnceFunc(func() { close(release) })
	s.Cleanup(let)
	blocked := NewRecorder(func(broadcast.Message) { <-release })
	s.subscribe(subscriber, slow, blocked, broadcast.QueueLimit(10, 0))
	unblocked := s.listen(subscriber, slow)
	other := s.listen(subscriber, fast)

	l := newLedger()
	const messages = 200
	for n := range uint64(messages) {
		if err := l.publish(s.patient(), publisher.Bus, slow, n+1); err != nil {
			s.Fatal(err)
		}
	}
	s.publish(publisher, fast, "passed")
	other.AwaitPayload(s, s.config.Patience, "passed")
	unblocked.Await(s, s.config.Patience, "all messages beside the blocked handler", func() bool {
		return len(unblocked.Messages()) == messages
	})
	let()
	a := l.awaitBalance(s, s.config.Patience, s.config.Name, "slow-handler", blocked, unblocked)
	if stats := subscriber.Stats(); a.reported == 0 || stats.Gaps[broadcast.Overflow] == 0 || stats.Overflowed == 0 {
		s.Errorf("a queue of 10 messages took %d without an overflow", messages)
	}
}

// presence: a node knows who listens, and learns who leaves.
func (s *suite) presence() {
	topic := s.topic()
	nodes := []node{s.node(), s.node(), s.node()}
	r := s.listen(nodes[0], topic)
	s.listen(nodes[1], topic)
	s.listen(nodes[2], topic)
	await := func(what string, want ...node) {
		s.Helper()
		var origins []string
		for _, n := range want {
			origins = append(origins, n.Origin())
		}
		slices.Sort(origins)
		r.Await(s, s.config.Patience, what, func() bool {
			var present []string
			for _, p := range nodes[0].Presence(topic) {
				present = append(present, p.Origin)
			}
			return slices.Equal(present, origins)
		})
	}
	await("three nodes present", nodes...)
	s.closeBus(nodes[1].Bus)
	await("one of three gone", nodes[0], nodes[2])
}

// requests: every listening node answers, and who does not is named.
func (s *suite) requests() {
	topic := s.topic()
	var asking node
	var silent string
	var r *Recorder
	for i := range 4 {
		n := s.node()
		handler := broadcast.Handler{Message: func(ctx context.Context, m broadcast.Message) error {
			return n.Reply(ctx, m, broadcast.Message{Payload: []byte("here: " + n.Origin())})
		}}
		switch i {
		case 0: // asks, and listens to know the others
			asking, r = n, NewRecorder(nil)
			handler = r.Handler()
		case 3: // listens, but never answers
			silent = n.Origin()
			handler.Message = func(context.Context, broadcast.Message) error { return nil }
		}
		if _, err := n.Subscribe(s.patient(), topic, handler); err != nil {
			s.Fatal(err)
		}
	}
	r.Await(s, s.config.Patience, "four nodes present", func() bool { return len(asking.Presence(topic)) == 4 })
	deadline := time.Second
	for { // a loaded machine may need longer, never less
		ctx, cancel := context.WithTimeout(context.Background(), deadline)
		replies, err := asking.Request(ctx, broadcast.Message{Topic: topic, Payload: []byte("who is there?")})
		cancel()
		if err != nil {
			s.Fatal(err)
		}
		if len(replies.Messages) == 2 && slices.Equal(replies.Missing, []string{silent}) {
			return
		}
		if deadline *= 2; deadline > s.config.Patience {
			s.Fatalf("%d replies, missing %v; want 2, missing only %s", len(replies.Messages), replies.Missing, silent)
		}
	}
}

// close: closing under traffic is clean, idempotent, refuses what comes later, and leaves no goroutine.
func (s *suite) close() {
	topic := s.topic()
	publisher, subscriber := s.node(), s.node()
	r := s.listen(subscriber, topic)
	t := s.traffic(topic, publisher)
	s.flowing(s.config.Patience, 20, []node{publisher}, r)
	s.closeBus(subscriber.Bus)
	s.closeBus(publisher.Bus)
	s.closeBus(publisher.Bus)
	t.end()
	if err := publisher.Publish(s.patient(), broadcast.Message{Topic: topic}); !errors.Is(err, broadcast.ErrClosed) {
		s.Errorf("publish after Close gave %v, want ErrClosed", err)
	}
	if _, err := subscriber.Subscribe(s.patient(), topic, r.Handler()); !errors.Is(err, broadcast.ErrClosed) {
		s.Errorf("subscribe after Close gave %v, want ErrClosed", err)
	}
	// Proxies belong to the harness and end with it.
	const proxy = "github.com/go-nearcache/nearcache/broadcast/broadcasttest.(*Proxy)."
	err := goleak.Find(s.leaks, goleak.IgnoreAnyFunction(proxy+"accept"), goleak.IgnoreAnyFunction(proxy+"forward"),
		goleak.IgnoreAnyFunction(proxy+"copy"),
		// rueidis lets a refresh of a cluster's topology sleep for up to a second, whatever is closed meanwhile.
		goleak.IgnoreAnyFunction("github.com/redis/rueidis.(*call).DelayDo.func1"))
	if err != nil {
		s.Error(err)
	}
}
