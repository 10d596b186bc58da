package nearcachetest

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/go-nearcache/nearcache"
)

// AssertNotStalerThan begins to read the key on each node, over and over, and goes on until Stop or the end of the test. The test writes
// meanwhile, through Write, and does to servers and networks what it likes. The test fails if a read returned a value that had been
// overwritten, acknowledged to the writer, for longer than bound when the read began.
//
// Nothing found and values that were not written through Write count as older than the first write. Reads that fail otherwise do not
// count, but the test fails if a node never answered, or nothing was ever overwritten: then nothing has been shown.
func AssertNotStalerThan[V any](t testing.TB, bound time.Duration, key string, nodes ...Reader[V]) *Staleness[V] {
	t.Helper()
	if len(nodes) == 0 {
		t.Fatalf("nearcachetest: AssertNotStalerThan needs a node to read from")
	}
	s := &Staleness[V]{t: t, bound: bound, key: key, nodes: make([]watched, len(nodes)), progress: make(chan struct{})}
	s.ctx, s.cancel = context.WithCancel(context.WithoutCancel(t.Context()))
	for i, node := range nodes {
		s.reading.Go(func() { s.read(i, node) })
	}
	t.Cleanup(func() { s.Stop() })
	return s
}

// Staleness is an assertion at work: see [AssertNotStalerThan].
type Staleness[V any] struct {
	t     testing.TB
	bound time.Duration
	key   string

	ctx     context.Context // of the reads
	cancel  context.CancelFunc
	reading sync.WaitGroup
	writing sync.Mutex // held during a write: the order of the writes is known

	mu       sync.Mutex
	writes   []written[V]
	nodes    []watched
	progress chan struct{} // closed, and made anew, with each read

	stopping sync.Once
	report   StalenessReport
}

// StalenessReport is what an assertion saw.
type StalenessReport struct {
	Reads  int           // that were answered, by all nodes
	Stale  int           // of these, those that broke the bound
	Oldest time.Duration // the longest that a value had been overwritten when a read began that returned it
}

// written is a write in the order of the writes.
type written[V any] struct {
	value V
	at    time.Time // when it was acknowledged; zero while it is not
	doubt bool      // it failed: it may happen yet, or have happened
}

// watched is a node and what it answered.
type watched struct {
	reads   int
	stale   int
	covered time.Time // when the last read that was answered began
	err     error     // of the last read that failed
}

// Write makes a write: write brings value to where the nodes get it from, and returns when that is acknowledged. Its error is returned;
// a value whose write failed may be read at any time. Each value must differ from all others, and there must be no writer
// besides. Write ends the test if the value has been written before.
func (s *Staleness[V]) Write(value V, write func() error) error {
	s.t.Helper()
	s.writing.Lock()
	defer s.writing.Unlock()
	s.mu.Lock()
	again := s.find(value) >= 0
	if !again {
		s.writes = append(s.writes, written[V]{value: value})
	}
	s.mu.Unlock()
	if again {
		s.t.Fatalf("nearcachetest: %s is written twice: a read of it could not be told from a stale one", describe(value, nil))
	}
	err := write()
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	this := &s.writes[len(s.writes)-1]
	if this.doubt = err != nil; !this.doubt {
		this.at = now
	}
	return err
}

// Stop ends the assertion and returns what it saw. It reads on until each node has been read once the bound had passed after the
// last write, so that it sees whether that one was lost, and gives up, which fails the test, on a node that does not answer. The end of
// the test does the same. Calling it again returns the same.
func (s *Staleness[V]) Stop() StalenessReport {
	s.t.Helper()
	s.stopping.Do(s.stop)
	return s.report
}

func (s *Staleness[V]) stop() {
	s.t.Helper()
	s.readOn()
	s.cancel()
	s.reading.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	failed := s.t.Failed()
	for i, n := range s.nodes {
		s.report.Reads += n.reads
		s.report.Stale += n.stale
		if n.reads == 0 && !failed {
			s.t.Errorf("nearcachetest: node %d never answered a read of %.100q: %v", i, s.key, n.err)
		}
	}
	if _, ok := s.lastWrite(); !ok && !failed {
		s.t.Errorf("nearcachetest: %.100q was never overwritten: nothing has been shown", s.key)
	}
	if s.report.Stale > 0 {
		s.t.Errorf("nearcachetest: %d of %d reads of %.100q were stale, by up to %v: the bound is %v",
			s.report.Stale, s.report.Reads, s.key, s.report.Oldest, s.bound)
	}
}

// readOn waits until every node has answered a read from beyond the bound after the last write.
func (s *Staleness[V]) readOn() {
	s.t.Helper()
	deadline := time.NewTimer(s.bound + patience)
	defer deadline.Stop()
	for {
		s.mu.Lock()
		behind, progress := s.behind(), s.progress
		s.mu.Unlock()
		if behind < 0 {
			return
		}
		select {
		case <-progress:
		case <-deadline.C:
			s.mu.Lock()
			defer s.mu.Unlock()
			s.t.Errorf("nearcachetest: node %d has not answered a read of %.100q since the last write: %v", behind, s.key, s.nodes[behind].err)
			return
		}
	}
}

// behind returns a node of which it is not known what became of the last write, or -1.
func (s *Staleness[V]) behind() int {
	last, ok := s.lastWrite()
	if !ok {
		return -1
	}
	return slices.IndexFunc(s.nodes, func(n watched) bool { return n.covered.Sub(last) <= s.bound })
}

// lastWrite returns when the last write was acknowledged; false if none was.
func (s *Staleness[V]) lastWrite() (at time.Time, ok bool) {
	for _, w := range slices.Backward(s.writes) {
		if !w.at.IsZero() {
			return w.at, true
		}
	}
	return at, false
}

// read reads from one node until the end.
func (s *Staleness[V]) read(i int, node Reader[V]) {
	tick := time.NewTicker(pace(s.bound))
	defer tick.Stop()
	for {
		began := time.Now()
		value, err := node.Get(s.ctx, s.key)
		if s.ctx.Err() != nil {
			return
		}
		s.judge(i, began, value, err)
		select {
		case <-tick.C:
		case <-s.ctx.Done():
			return
		}
	}
}

// judge looks at one answer.
func (s *Staleness[V]) judge(i int, began time.Time, value V, err error) {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.progress)
	s.progress = make(chan struct{})
	node := &s.nodes[i]
	version := -1
	switch {
	case err == nil:
		version = s.find(value)
	case !errors.Is(err, nearcache.ErrNotFound):
		node.err = err
		return
	}
	node.reads++
	node.covered = began
	age, by := s.overwritten(version, began)
	s.report.Oldest = max(s.report.Oldest, age)
	if age <= s.bound {
		return
	}
	if node.stale++; node.stale == 1 {
		s.t.Errorf("nearcachetest: node %d answered a read of %.100q with %s, %v after %s had taken its place: the bound is %v",
			i, s.key, describe(value, err), age, describe(s.writes[by].value, nil), s.bound)
	}
}

// find returns the place of a value among the writes, or -1.
func (s *Staleness[V]) find(value V) int {
	for i, w := range slices.Backward(s.writes) {
		if reflect.DeepEqual(w.value, value) {
			return i
		}
	}
	return -1
}

// overwritten returns for how long a version had been overwritten when a read began, and by which write.
func (s *Staleness[V]) overwritten(version int, began time.Time) (age time.Duration, by int) {
	if version >= 0 && s.writes[version].doubt {
		return 0, by
	}
	for i := version + 1; i < len(s.writes); i++ {
		if at := s.writes[i].at; !at.IsZero() {
			return max(began.Sub(at), 0), i
		}
	}
	return 0, by
}

// String returns the report in one line.
func (r StalenessReport) String() string {
	return fmt.Sprintf("%d reads, %d of them stale; the oldest value had been overwritten for %v", r.Reads, r.Stale, r.Oldest)
}
