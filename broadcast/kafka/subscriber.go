package kafka

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/go-nearcache/nearcache/broadcast"
)

const (
	inspectPeriod = 5 * time.Second        // between inspections while all is well …
	inspectSoon   = 200 * time.Millisecond // … and while it is not
	stuckAfter    = 5 * time.Second        // without progress, though there is more, a topic is consumed anew
)

// subscriber consumes all topics with one client. One goroutine polls it and does all that concerns the listeners;
// another asks the cluster now and then, and at once when something is amiss, whether the positions are still sound:
// the client says nothing when a topic is another one by the same name, nor how far behind it is.
type subscriber struct {
	transport *transport
	client    *kgo.Client
	health    *health
	amiss     chan struct{} // asks for an inspection
	unsettled atomic.Bool   // a listener is cut off, or was disturbed

	mu        sync.RWMutex // held for reading while a receiver is called: forgetting a listener waits for that
	listeners map[string]*listener
	started   bool
	ended     bool

	wakeMu    sync.Mutex
	interrupt context.CancelFunc // ends the poll under way
	lost      bool               // requests are not answered
	found     *inspection        // the latest, until it is applied

	consumed map[string]bool // topics that the client knows of; of the polling goroutine only
}

// inspection is what the cluster said about the topics at one time.
type inspection struct {
	began   time.Time
	before  map[*listener]standing
	answers map[string]answer
}

func newSubscriber(t *transport) *subscriber {
	s := &subscriber{
		transport: t, amiss: make(chan struct{}, 1),
		listeners: make(map[string]*listener), consumed: make(map[string]bool),
	}
	s.health = newHealth(kmsg.Fetch.Int16(), s.tellLoss)
	return s
}

// add begins to consume a topic.
func (s *subscriber) add(l *listener) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return broadcast.ErrClosed
	}
	if !s.started {
		if !s.transport.goRun(s.run) || !s.transport.goRun(s.inspectAll) {
			return broadcast.ErrClosed
		}
		s.started = true
	}
	s.listeners[l.topic] = l
	s.wake(nil)
	return nil
}

// forget removes a listener; its receiver is not called any more.
func (s *subscriber) forget(l *listener) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.listeners[l.topic] == l {
		delete(s.listeners, l.topic)
		s.wake(nil)
	}
}

// end removes all.
func (s *subscriber) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	clear(s.listeners)
}

// wake makes the polling goroutine look for news, which note leaves, if set.
func (s *subscriber) wake(note func()) {
	s.wakeMu.Lock()
	defer s.wakeMu.Unlock()
	if note != nil {
		note()
	}
	if s.interrupt != nil {
		s.interrupt()
	}
}

// tellLoss is called by the client when the broker does not answer.
func (s *subscriber) tellLoss() { s.wake(func() { s.lost = true }) }

// run polls until the transport is closed.
func (s *subscriber) run() {
	for s.transport.ctx.Err() == nil {
		ctx, cancel := context.WithCancel(s.transport.ctx)
		s.wakeMu.Lock()
		s.interrupt = cancel
		lost, found := s.lost, s.found
		s.lost, s.found = false, nil
		s.wakeMu.Unlock()

		s.mu.RLock()
		if lost {
			s.cutOffAll(s.health.lastLoss())
		}
		if found != nil {
			s.apply(found)
		}
		s.settle()
		s.mu.RUnlock()
		s.assign()
		fetches := s.client.PollFetches(ctx)
		cancel()
		s.mu.RLock()
		s.take(fetches)
		s.mu.RUnlock()
		if fetches.IsClientClosed() {
			return
		}
	}
}

func (s *subscriber) cutOffAll(at time.Time) {
	for _, l := range s.listeners {
		l.cutOff(at)
	}
	s.askForInspection()
}

func (s *subscriber) askForInspection() {
	select {
	case s.amiss <- struct{}{}:
	default:
	}
}

// settle ends the gaps that can be closed.
func (s *subscriber) settle() {
	unsettled := false
	for _, l := range s.listeners {
		l.resume()
		unsettled = unsettled || l.down || l.disturbed
	}
	s.unsettled.Store(unsettled)
}

// take hands over what was polled.
func (s *subscriber) take(fetches kgo.Fetches) {
	fetches.EachError(func(topic string, p int32, err error) {
		switch {
		case errors.Is(err, context.Canceled), errors.Is(err, kgo.ErrClientClosed):
		case topic == "": // the group is lost
			s.cutOffAll(time.Now())
		case s.listeners[topic] != nil && p <= partition: // a negative one means the topic
			s.listeners[topic].disturb(err)
			s.askForInspection()
		}
	})
	fetches.EachRecord(func(r *kgo.Record) {
		if l := s.listeners[r.Topic]; l != nil && l.assigned && r.Partition == partition {
			l.take(r)
		}
	})
}

// apply compares the listeners' positions with what the cluster has said.
func (s *subscriber) apply(found *inspection) {
	for l, before := range found.before {
		if s.listeners[l.topic] == l {
			l.apply(found.answers[l.topic], before, found.began)
		}
	}
}

// assign makes the client consume what is listened on, from the listeners' positions.
func (s *subscriber) assign() {
	s.mu.RLock()
	var unwanted []string
	for topic := range s.consumed {
		if l := s.listeners[topic]; l == nil || !l.assigned {
			unwanted = append(unwanted, topic)
		}
	}
	var wanted []*listener
	for _, l := range s.listeners {
		if !l.assigned {
			wanted = append(wanted, l)
		}
	}
	s.mu.RUnlock()
	if len(unwanted) > 0 {
		// The client forgets all it knows of the topic, so that it learns anew which topic that is.
		s.client.PurgeTopicsFromConsuming(unwanted...)
		for _, topic := range unwanted {
			delete(s.consumed, topic)
		}
	}
	if len(wanted) == 0 {
		return
	}
	topics := make([]string, 0, len(wanted))
	offsets := make(map[string]map[int32]kgo.Offset, len(wanted))
	for _, l := range wanted {
		l.assigned = true
		s.consumed[l.topic] = true
		topics = append(topics, l.topic)
		offsets[l.topic] = map[int32]kgo.Offset{partition: l.offset()}
	}
	if s.transport.options.Group != "" {
		s.client.AddConsumeTopics(topics...)
	} else {
		s.client.AddConsumePartitions(offsets)
	}
}

// adjustOffsets makes a group that has been joined go on from the listeners' positions instead of those it has committed.
func (s *subscriber) adjustOffsets(
	_ context.Context, offsets map[string]map[int32]kgo.Offset,
) (map[string]map[int32]kgo.Offset, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for topic, partitions := range offsets {
		for p := range partitions {
			partitions[p] = kgo.NewOffset().AtEnd()
			if l := s.listeners[topic]; l != nil && p == partition {
				partitions[p] = kgo.NewOffset().At(l.next.Load())
			}
		}
	}
	return offsets, nil
}

// inspectAll asks the cluster about the topics until the transport is closed.
func (s *subscriber) inspectAll() {
	look := time.NewTicker(inspectSoon)
	defer look.Stop()
	var last time.Time
	for {
		select {
		case <-look.C:
			if !s.unsettled.Load() && time.Since(last) < inspectPeriod {
				continue
			}
		case <-s.amiss:
		case <-s.transport.ctx.Done():
			return
		}
		last = time.Now()
		found := &inspection{began: last, before: make(map[*listener]standing)}
		s.mu.RLock()
		topics := make([]string, 0, len(s.listeners))
		for topic, l := range s.listeners {
			topics = append(topics, topic)
			found.before[l] = l.standing()
		}
		s.mu.RUnlock()
		if len(topics) == 0 {
			continue
		}
		found.answers = inspect(s.transport.ctx, s.client, topics)
		for topic, a := range found.answers {
			if errors.Is(a.err, errMissing) && !s.transport.options.Existing {
				// It was deleted. With a new one the publishers can go on; what is in it the next inspection tells.
				_ = makeTopic(s.transport.ctx, s.client, topic, s.transport.options)
			}
		}
		s.wake(func() { s.found = found })
	}
}
