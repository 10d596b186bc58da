package nearcachetest_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-nearcache/nearcache"
	"github.com/go-nearcache/nearcache/internal/redistest"
	"github.com/go-nearcache/nearcache/nearcachetest"
)

// slot is where a broken cache reads from: a value that changes when the test says so.
type slot struct {
	mu    sync.Mutex
	value string
	err   error
}

func (s *slot) set(value string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.value, s.err = value, err
}

func (s *slot) write(value string) func() error {
	return func() error {
		s.set(value, nil)
		return nil
	}
}

func (s *slot) reader() nearcachetest.Reader[string] {
	return nearcachetest.ReaderFunc[string](func(context.Context, string) (string, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.value, s.err
	})
}

func accepted() error { return nil }

var errWrite = errors.New("no answer")

// Each broken cache is caught, and what is within the bound is let pass, in a bubble: to the nanosecond.
func TestAssertNotStalerThan(t *testing.T) {
	t.Parallel()
	const bound = time.Second
	for name, test := range map[string]struct {
		run      func(t testing.TB, good, suspect *slot, s *nearcachetest.Staleness[string])
		reported []string // nothing: the test passes
	}{
		"coherent": {
			run: func(t testing.TB, good, suspect *slot, s *nearcachetest.Staleness[string]) {
				for _, value := range []string{"1", "2", "3"} {
					check(t, s.Write(value, func() error {
						good.set(value, nil)
						suspect.set(value, nil)
						return nil
					}))
					time.Sleep(2 * bound)
				}
			},
		},
		"old until the bound": {
			run: func(t testing.TB, good, suspect *slot, s *nearcachetest.Staleness[string]) {
				suspect.set("1", nil)
				check(t, s.Write("1", good.write("1")))
				check(t, s.Write("2", good.write("2")))
				time.Sleep(bound)
				suspect.set("2", nil)
				time.Sleep(bound)
			},
		},
		"old for longer": {
			run: func(t testing.TB, good, suspect *slot, s *nearcachetest.Staleness[string]) {
				suspect.set("1", nil)
				check(t, s.Write("1", good.write("1")))
				check(t, s.Write("2", good.write("2")))
				time.Sleep(bound + 50*time.Millisecond)
				suspect.set("2", nil)
			},
			reported: []string{`node 1 answered a read of "k" with "1"`, `after "2" had taken its place`, "the bound is 1s", "were stale, by up to 1.0"},
		},
		"goes back": {
			run: func(t testing.TB, good, suspect *slot, s *nearcachetest.Staleness[string]) {
				for _, value := range []string{"1", "2", "3"} {
					check(t, s.Write(value, good.write(value)))
					suspect.set(value, nil)
				}
				time.Sleep(bound + bound/2)
				suspect.set("2", nil)
				time.Sleep(bound)
			},
			reported: []string{`with "2"`, `after "3" had taken its place`},
		},
		"never learns of the last write": {
			run: func(t testing.TB, good, suspect *slot, s *nearcachetest.Staleness[string]) {
				check(t, s.Write("1", good.write("1"))) // and the test ends
				suspect.set("", nearcache.ErrNotFound)
			},
			reported: []string{`with nearcache: not found`, `after "1" had taken its place`},
		},
		"a value of nobody": {
			run: func(t testing.TB, good, suspect *slot, s *nearcachetest.Staleness[string]) {
				check(t, s.Write("1", good.write("1")))
				suspect.set("from before", nil)
			},
			reported: []string{`with "from before"`},
		},
		"what a failed write did is not known": {
			run: func(t testing.TB, good, suspect *slot, s *nearcachetest.Staleness[string]) {
				suspect.set("1", nil)
				check(t, s.Write("1", good.write("1")))
				if err := s.Write("2", func() error { return errWrite }); !errors.Is(err, errWrite) {
					t.Errorf("Write: %v", err)
				}
				time.Sleep(2 * bound) // "1" is not known to be overwritten
				check(t, s.Write("3", accepted))
				good.set("2", nil) // it may have come later
				suspect.set("3", nil)
				time.Sleep(2 * bound)
			},
		},
		"errors do not count": {
			run: func(t testing.TB, good, suspect *slot, s *nearcachetest.Staleness[string]) {
				check(t, s.Write("1", good.write("1")))
				suspect.set("old", errWrite)
				time.Sleep(2 * bound)
				suspect.set("1", nil)
			},
		},
		"never answers": {
			run: func(t testing.TB, good, suspect *slot, s *nearcachetest.Staleness[string]) {
				suspect.set("", errWrite)
				check(t, s.Write("1", good.write("1")))
			},
			reported: []string{`node 1 has not answered a read of "k" since the last write: no answer`},
		},
		"nothing is written": {
			run:      func(testing.TB, *slot, *slot, *nearcachetest.Staleness[string]) {},
			reported: []string{`"k" was never overwritten`},
		},
		"written twice": {
			run: func(t testing.TB, good, suspect *slot, s *nearcachetest.Staleness[string]) {
				suspect.set("1", nil)
				check(t, s.Write("1", good.write("1")))
				_ = s.Write("1", good.write("1"))
				t.Error("Write went on")
			},
			reported: []string{`"1" is written twice`},
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				good, suspect := new(slot), new(slot)
				report := record(t, func(t testing.TB) {
					test.run(t, good, suspect, nearcachetest.AssertNotStalerThan(t, bound, "k", good.reader(), suspect.reader()))
				})
				mentions(t, report, test.reported...)
				if len(test.reported) == 0 && report != "" {
					t.Errorf("a false alarm: %s", report)
				}
			})
		})
	}
}

// Whatever happens to the network, a real client keeps its bound, and the assertion does not cry wolf.
func TestARealClientIsNotStalerThanItsBound(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{})
	writer := server.Client(t)
	faults := []*nearcachetest.Faults{nearcachetest.NewFaults(t), nearcachetest.NewFaults(t)}
	_, a := openNode(t, optionsThrough(server, faults[0]))
	_, b := openNode(t, optionsThrough(server, faults[1]))
	staleness := nearcachetest.AssertNotStalerThan(t, time.Second, "a", a, b)
	for version := range 200 {
		switch f := faults[version%2]; version % 20 {
		case 5, 16:
			f.Cut(nearcachetest.Links)
		case 8:
			f.Cut(nearcachetest.Links | nearcachetest.Data)
		case 10:
			f.Stall(nearcachetest.Links, nearcachetest.ToClient)
		case 14:
			f.Resume(nearcachetest.Links, nearcachetest.ToClient)
		}
		value := time.Duration(version).String()
		check(t, staleness.Write(value, func() error {
			return writer.Do(t.Context(), writer.B().Set().Key("k:a").Value(value).Build()).Error()
		}))
	}
	for _, f := range faults {
		f.Heal()
	}
	nearcachetest.EventuallyCoherent(t, patience, "a", time.Duration(199).String(), a, b)
	report := staleness.Stop()
	if report != staleness.Stop() || report.Stale != 0 || report.Reads == 0 {
		t.Errorf("%+v", report)
	}
	t.Log(report)
}

// The library cannot see that a push is lost while the link lives on. The assertion does.
func TestALostPushIsCaught(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	write := func(value string) func() error {
		return func() error { return n.server.Command(t.Context(), "SET", "k:a", value).Error() }
	}
	report := record(t, func(t testing.TB) {
		staleness := nearcachetest.AssertNotStalerThan(t, 300*time.Millisecond, "a", n.cache)
		check(t, staleness.Write("told", write("told")))
		n.fence(t)
		warm(t, n.cache, "a", "told")
		n.faults.DropPushes(1, "k:a")
		check(t, staleness.Write("lost", write("lost")))
		n.faults.AwaitDropped(1)
		if report := staleness.Stop(); report.Stale == 0 || report.Oldest < 300*time.Millisecond {
			t.Errorf("%+v", report)
		}
	})
	mentions(t, report, `node 0 answered a read of "a" with "told"`, `after "lost" had taken its place`)
	if !n.client.Health().Ready || n.client.Stats().Link.Reconnects != 0 {
		t.Error("the link has noticed")
	}
}

func TestEventuallyCoherent(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a, b := new(slot), new(slot)
		a.set("new", nil)
		b.set("old", nil)
		time.AfterFunc(time.Second, func() { b.set("", nearcache.ErrNotFound) })
		time.AfterFunc(2*time.Second, func() { b.set("new", nil) })
		began := time.Now()
		nearcachetest.EventuallyCoherent(t, time.Minute, "k", "new", a.reader(), b.reader())
		if took := time.Since(began); took < 2*time.Second || took > 3*time.Second {
			t.Errorf("it took %v", took)
		}

		b.set("", nearcache.ErrNotFound)
		hanging := nearcachetest.ReaderFunc[string](func(ctx context.Context, _ string) (string, error) {
			<-ctx.Done()
			return "", ctx.Err()
		})
		mentions(t, record(t, func(t testing.TB) {
			nearcachetest.EventuallyCoherent(t, time.Second, "k", "new", a.reader(), b.reader(), hanging)
			t.Error("it went on")
		}), "not within 1s", `"k" is "new" on every node`, `node 0: "new"`, "node 1: nearcache: not found", "node 2: no answer")
	})
}

// Without a node there is nothing to assert.
func TestAssertionsNeedANode(t *testing.T) {
	t.Parallel()
	mentions(t, record(t, func(t testing.TB) { nearcachetest.EventuallyCoherent(t, time.Second, "k", "v") }), "needs a node")
	mentions(t, record(t, func(t testing.TB) { nearcachetest.AssertNotStalerThan[string](t, time.Second, "k") }), "needs a node")
}
