package broadcast

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"
)

// receiver is the incoming side of one topic. It runs on the transport's reading goroutine: it decodes, removes
// duplicates, finds losses, restores order, and hands over to the subscriptions' queues. It never blocks.
type receiver struct {
	bus   *Bus
	topic string

	// listening guards starting and stopping the transport's listener. It is a channel so that waiting can be abandoned.
	listening chan struct{}
	listener  Listener      // under listening
	keeper    chan struct{} // under listening; closed when the keeper goroutine has ended
	stop      context.CancelFunc

	mu            sync.Mutex
	subscriptions []*Subscription
	receiveOwn    int // how many subscriptions want this bus's own messages
	peers         map[string]*peer
	names         interner
	down          bool        // the transport has reported an open gap
	upSince       time.Time   // when the last one was closed
	reorder       *time.Timer // fires when a hole must be given up
	reordering    bool        // it is set
}

// peer is an origin, by name. It has more than one incarnation only around a restart under the same name.
type peer struct {
	name         string
	incarnations []*incarnation
}

// incarnation is one origin and epoch.
type incarnation struct {
	sequence
	origin    string
	epoch     uint64
	since     time.Time     // first contact
	heard     time.Time     // last contact
	interval  time.Duration // when it promised to be heard again
	listening bool          // it has a subscription on the topic
	left      bool          // it has said goodbye
	strange   bool          // it had published before the first contact, and that has not been reported yet
}

func newReceiver(bus *Bus, topic string) *receiver {
	r := &receiver{bus: bus, topic: topic, listening: make(chan struct{}, 1), peers: make(map[string]*peer)}
	r.reorder = time.NewTimer(time.Hour)
	r.reorder.Stop()
	return r
}

// Frame implements [Receiver].
func (r *receiver) Frame(data []byte) {
	f, err := parseFrame(data)
	switch {
	case err == nil && len(data) > r.bus.options.MaxFrameBytes:
		err = errCorrupted
	case err == nil && string(f.topic) != r.topic:
		err = errMisrouted
	}
	if err != nil {
		r.refuse(err)
		return
	}
	r.bus.counters.framesReceived.Add(1)
	own := r.bus.isOwn(f.origin, f.epoch)
	now := time.Now()

	r.mu.Lock()
	defer r.mu.Unlock()
	if own && r.receiveOwn == 0 {
		return
	}
	from := r.incarnation(&f, now)
	from.heard = now
	if f.kind == kindHeartbeat {
		r.heartbeat(from, &f, now)
		return
	}
	for n := f.first; n < f.first+uint64(f.count); n++ {
		record, err := f.next()
		if err != nil {
			r.report(Gap{Reason: Unreadable, Origin: from.origin})
			r.bus.counters.refused(err)
			return
		}
		r.record(from, n, record, now)
	}
}

// refuse counts a frame that cannot be read. What bears this library's mark may have carried messages, so it is also a
// gap. What does not is a stranger on the topic.
func (r *receiver) refuse(err error) {
	r.bus.counters.refused(err)
	if errors.Is(err, errForeign) || errors.Is(err, errMisrouted) {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.report(Gap{Reason: Unreadable})
}

// record takes one message of a frame.
func (r *receiver) record(from *incarnation, n uint64, record []byte, now time.Time) {
	verdict := from.place(n)
	if verdict == ahead && r.bus.capabilities.Ordered {
		r.giveUp(from, n)
		verdict = from.place(n)
	} else if verdict == ahead && n-from.next >= maxHeld {
		r.giveUp(from, n-maxHeld+1)
		verdict = from.place(n)
	}
	switch verdict {
	case duplicate:
		r.bus.counters.duplicates.Add(1)
	case due:
		if m, ok := r.decode(from, n, record); ok {
			r.dispatch(from, m)
		}
		r.drain(from)
	case ahead:
		m, ok := r.decode(from, n, record)
		if !ok {
			return // its number stays missing
		}
		if !from.hold(m, now) {
			r.bus.counters.duplicates.Add(1)
			return
		}
		r.awaitReorder(r.bus.options.ReorderWindow)
	}
}

// giveUp reports what is missing before number n of an origin and goes on from there, passing on what is held below n.
func (r *receiver) giveUp(from *incarnation, n uint64) {
	for from.next < n {
		lowest, _, ok := from.lowestHeld()
		if !ok || lowest > n {
			lowest = n
		}
		if from.next < lowest {
			gap := Gap{Reason: SeqHole, Origin: from.origin}
			if from.strange {
				gap.Reason = NewOrigin
			}
			gap.From, gap.To = from.skipTo(lowest)
			r.report(gap)
		}
		from.strange = false
		r.drain(from)
	}
}

// drain passes on what was held and is now due.
func (r *receiver) drain(from *incarnation) {
	from.strange = false
	for {
		m, ok := from.release()
		if !ok {
			return
		}
		r.dispatch(from, m)
	}
}

func (r *receiver) decode(from *incarnation, n uint64, record []byte) (Message, bool) {
	m := Message{Origin: from.origin, Epoch: from.epoch, Seq: n, Topic: r.topic}
	if err := parseRecord(record, &m, &r.names); err != nil {
		r.bus.counters.refused(err)
		r.report(Gap{Reason: Unreadable, Origin: from.origin, From: n, To: n})
		return m, false
	}
	return m, true
}

func (r *receiver) heartbeat(from *incarnation, f *frame, now time.Time) {
	from.interval = f.interval
	if listening := f.flags&flagListening != 0; listening != from.listening {
		from.listening = listening
		if l, ok := r.bus.lanes.Load(r.topic); ok && listening {
			l.(*lane).greet(len(r.peers))
		}
	}
	if f.flags&flagLeaving != 0 {
		from.left = true
	}
	if f.last == 0 {
		from.strange = false
	}
	if !from.expect(f.last, now) {
		return
	}
	if r.bus.capabilities.Ordered {
		r.giveUp(from, f.last+1)
		return
	}
	r.awaitReorder(r.bus.options.ReorderWindow)
}

// incarnation finds the sender of a frame, or makes its acquaintance.
func (r *receiver) incarnation(f *frame, now time.Time) *incarnation {
	p := r.peers[string(f.origin)]
	if p == nil {
		p = &peer{name: string(f.origin)}
		r.peers[p.name] = p
	}
	for _, known := range p.incarnations {
		if known.epoch == f.epoch {
			return known
		}
	}
	strange := true
	for _, old := range p.incarnations {
		if !old.left {
			// Its last messages may be lost. This gap also covers what the new one sent before this contact.
			r.report(Gap{Reason: EpochChanged, Origin: p.name})
			old.left = true
			strange = false
		}
	}
	made := &incarnation{
		origin: p.name, epoch: f.epoch, since: now, strange: strange,
		interval: idleHeartbeats * r.bus.options.Heartbeat,
	}
	made.next = 1
	if !strange {
		// On an ordered transport nothing earlier can come any more.
		if first := max(f.first, f.last+1); r.bus.capabilities.Ordered {
			made.next = first
		}
	}
	p.incarnations = append(p.incarnations, made)
	return made
}

// Gap implements [Receiver].
func (r *receiver) Gap(gap Gap) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.down = gap.Open
	if !gap.Open {
		r.upSince = time.Now()
	}
	gap.Topic = r.topic
	r.bus.counters.gaps[gap.Reason].Add(1)
	for _, s := range r.subscriptions {
		s.live.Store(!gap.Open)
		s.queue.pushState(gap)
	}
}

// report hands a gap that this receiver has found to the subscriptions, in its place among the messages.
func (r *receiver) report(gap Gap) {
	gap.Topic = r.topic
	r.bus.counters.gaps[gap.Reason].Add(1)
	own := gap.Origin == r.bus.options.Origin
	for _, s := range r.subscriptions {
		if !own || s.receiveOwn {
			s.queue.pushGap(gap)
		}
	}
}

func (r *receiver) dispatch(from *incarnation, m Message) {
	own := from.epoch == r.bus.epoch && from.origin == r.bus.options.Origin
	for _, s := range r.subscriptions {
		if own && !s.receiveOwn {
			continue
		}
		switch s.queue.pushMessage(m) {
		case overflowed:
			r.bus.counters.gaps[Overflow].Add(1)
			fallthrough
		case dropped:
			r.bus.counters.overflowed.Add(1)
		}
	}
}

func (r *receiver) awaitReorder(window time.Duration) {
	if !r.reordering {
		r.reordering = true
		r.reorder.Reset(window)
	}
}

// keep gives up holes whose window is over and forgets origins that have gone.
func (r *receiver) keep(ctx context.Context) {
	sweep := time.NewTicker(max(r.bus.options.Heartbeat, minHeartbeat))
	defer sweep.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.reorder.C:
			r.giveUpOverdue()
		case <-sweep.C:
			r.forgetSilent()
		}
	}
}

func (r *receiver) giveUpOverdue() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.reordering = false
	now := time.Now()
	var earliest time.Time
	for _, p := range r.peers {
		for _, from := range p.incarnations {
			for {
				resume, at, ok := from.overdue(r.bus.options.ReorderWindow)
				if !ok {
					break
				}
				if at.After(now) {
					if earliest.IsZero() || at.Before(earliest) {
						earliest = at
					}
					break
				}
				r.giveUp(from, resume)
				r.drain(from)
			}
		}
	}
	if !earliest.IsZero() {
		r.awaitReorder(max(earliest.Sub(now), time.Millisecond))
	}
}

// silence is how long an origin may be unheard before it counts as gone.
func (r *receiver) silence(from *incarnation) time.Duration {
	return max(3*from.interval, 10*r.bus.options.Heartbeat)
}

// forgetSilent forgets the origins that have gone. While the link is down nobody can be heard, and what is replayed afterwards
// must be known as a repetition, so silence counts only from when the link was live again.
func (r *receiver) forgetSilent() {
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.down {
		return
	}
	for name, p := range r.peers {
		p.incarnations = slices.DeleteFunc(p.incarnations, func(from *incarnation) bool {
			if silence := r.silence(from); now.Sub(from.heard) < silence || now.Sub(r.upSince) < silence {
				return false
			}
			if !from.left && !r.bus.capabilities.Signals && from.next > 1 {
				r.report(Gap{Reason: OriginLost, Origin: from.origin, From: from.next})
			}
			return true
		})
		if len(p.incarnations) == 0 {
			delete(r.peers, name)
		}
	}
}
