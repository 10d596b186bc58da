package broadcasttest

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/go-nearcache/nearcache/broadcast"
)

// brokerRestart: the broker goes away for a while under traffic.
func (s *suite) brokerRestart() {
	broker, ok := s.harness.(Stopper)
	if !ok {
		s.notOffered("broker-restart")
		return
	}
	s.underFault("broker-restart", func(string, []node, []node) {
		broker.Stop(s)
		broker.Start(s)
	})
}

// outbox: while the broker is away messages wait, in bounds, and are sent when it is back; what waits too long fails.
func (s *suite) outbox() {
	broker, ok := s.harness.(Stopper)
	if !ok {
		s.notOffered("outbox")
		return
	}
	const room = 50
	topic := s.topic()
	small := func(o *broadcast.Options) { o.OutboxMessages = room }
	publisher, subscriber := s.node(small), s.node()
	hasty := s.node(func(o *broadcast.Options) { o.OutboxTimeout = 200 * time.Millisecond })
	r := s.listen(subscriber, topic)
	for _, n := range []node{publisher, hasty} {
		s.publish(n, topic, "before "+n.Origin())
		r.AwaitPayload(s, s.config.Patience, "before "+n.Origin())
	}
	broker.Stop(s)

	err := hasty.Publish(s.patient(), broadcast.Message{Topic: topic, Payload: []byte("hasty")})
	if !errors.Is(err, broadcast.ErrUndelivered) {
		s.Errorf("publish to a broker that is away gave %v, want ErrUndelivered", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	err = publisher.Publish(ctx, broadcast.Message{Topic: s.topic(), Payload: []byte("given up")})
	cancel()
	if !errors.Is(err, broadcast.ErrUndelivered) || !errors.Is(err, context.DeadlineExceeded) {
		s.Errorf("publish with a context that ended gave %v, want ErrUndelivered and DeadlineExceeded", err)
	}
	taken := 0
	for ; taken <= 2*room; taken++ {
		m := broadcast.Message{Topic: topic, Payload: fmt.Appendf(nil, "waiting %d", taken)}
		if err = publisher.Enqueue(s.patient(), m); err != nil {
			break
		}
	}
	if !errors.Is(err, broadcast.ErrOutboxFull) || taken > room || taken < room-1 {
		s.Errorf("an outbox for %d messages took %d and then gave %v, want ErrOutboxFull", room, taken, err)
	}
	if waiting := publisher.Stats().Outbox; waiting > room {
		s.Errorf("%d messages wait in an outbox for %d", waiting, room)
	}

	broker.Start(s)
	if err := publisher.Flush(s.patient()); err != nil {
		s.Errorf("flush after the broker came back: %v", err)
	}
	s.publish(publisher, topic, "after")
	// A subscriber may be back later than the publisher: what it misses then it is told.
	r.Await(s, s.config.ReconnectWithin, "the messages that waited, or a gap", func() bool {
		return r.has("after") && r.has(fmt.Sprintf("waiting %d", taken-1)) || lost(closedGaps(r.Gaps()))
	})
	r.checkOrder(s)
}

func closedGaps(gaps []broadcast.Gap) []broadcast.Gap {
	var closed []broadcast.Gap
	for _, gap := range gaps {
		if gap.MustFlush() {
			closed = append(closed, gap)
		}
	}
	return closed
}

// connectionsBroken: all connections break at once, several times.
func (s *suite) connectionsBroken() {
	breaker, ok := s.harness.(Breaker)
	if !ok {
		s.notOffered("connections-broken")
		return
	}
	s.underFault("connections-broken", func(topic string, publishers, _ []node) {
		watch := s.listen(publishers[0], topic, broadcast.ReceiveOwn())
		for range 3 {
			breaker.Break(s)
			s.flowing(s.config.ReconnectWithin, 10, publishers, watch)
		}
	})
}

// isolation: one subscriber is cut off while messages are published. With replay it gets them all afterwards.
func (s *suite) isolation() {
	isolator, ok := s.harness.(Isolator)
	if !ok {
		s.notOffered("isolation")
		return
	}
	var replay bool
	a := s.underFault("isolation", func(topic string, publishers, subscribers []node) {
		replay = subscribers[0].Capabilities().Replay
		s.whileCutOff(topic, publishers, func() func() { return isolator.Isolate(s, subscribers[0].transport) })
	})
	if replay && a.reported > 0 {
		s.Errorf("%d messages were lost by a transport with replay", a.reported)
	}
}

// whileCutOff lets a fault begin, some messages pass elsewhere, and the fault end.
func (s *suite) whileCutOff(topic string, publishers []node, begin func() (heal func())) {
	watch := s.listen(publishers[1], topic, broadcast.ReceiveOwn())
	heal := begin()
	s.flowing(s.config.Patience, 100, publishers, watch)
	heal()
}

// blackHole: one subscriber's packets vanish, which no connection tells of; it is noticed, and reported, by itself.
func (s *suite) blackHole() {
	holer, ok := s.harness.(BlackHoler)
	if !ok {
		s.notOffered("black-hole")
		return
	}
	topic := s.topic()
	publishers := []node{s.node()}
	subscriber := s.node()
	r := NewRecorder(nil)
	subscription := s.subscribe(subscriber, topic, r)
	t := s.traffic(topic, publishers...)
	s.flowing(s.config.Patience, 20, publishers, r)

	fallen := time.Now()
	heal := holer.BlackHole(s, subscriber.transport)
	defer heal()
	if subscriber.Capabilities().Signals {
		r.Await(s, s.config.ReconnectWithin, "the black hole to be noticed", func() bool { return !subscription.Live() })
		s.Logf("transport=%s fault=black-hole noticed after %v", s.config.Name, time.Since(fallen).Round(time.Millisecond))
	} else {
		s.whileCutOff(topic, append(publishers, publishers...), func() func() { return func() {} })
	}
	heal()
	healed := time.Now()
	s.flowing(s.config.ReconnectWithin, 20, publishers, r)
	s.Logf("transport=%s fault=black-hole delivery resumed within %v", s.config.Name, time.Since(healed).Round(time.Millisecond))
	t.end()
	t.ledger.awaitBalance(s, s.config.Patience, s.config.Name, "black-hole", r)
}

// trim: the broker drops what it had stored before a subscriber that was cut off could read it.
func (s *suite) trim() {
	trimmer, trims := s.harness.(Trimmer)
	isolator, isolates := s.harness.(Isolator)
	if !trims || !isolates {
		s.notOffered("trim")
		return
	}
	a := s.underFault("trim", func(topic string, publishers, subscribers []node) {
		s.whileCutOff(topic, publishers, func() func() {
			heal := isolator.Isolate(s, subscribers[0].transport)
			return func() {
				trimmer.Trim(s, topic)
				heal()
			}
		})
	})
	if a.reported == 0 {
		s.Error("messages were trimmed before they were read, and none was reported lost")
	}
}

// loss: the network loses and repeats frames at random.
func (s *suite) loss() {
	disturber, ok := s.harness.(Disturber)
	if !ok {
		s.notOffered("loss")
		return
	}
	topic := s.topic()
	publishers := []node{s.node(), s.node()}
	subscribers := []node{s.node(), s.node()}
	var recorders []*Recorder
	for _, n := range subscribers {
		recorders = append(recorders, s.listen(n, topic))
	}
	disturber.Disturb(s, 0.2)
	t := s.traffic(topic, publishers...)
	s.flowing(s.config.Patience, 300, publishers, recorders...)
	t.end() // and the heartbeats that tell of lost last messages may be lost too
	t.ledger.awaitBalance(s, s.config.Patience, s.config.Name, "loss-20%", recorders...)
	disturber.Disturb(s, 0)
}
