package tracking

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

const millisecond = time.Millisecond

// latency makes the server answer ROLE after d, as if that were the way there and back.
func latency(d time.Duration) func(*fakeConnection, []string) (string, bool) {
	return func(_ *fakeConnection, command []string) (string, bool) {
		if command[0] == "ROLE" {
			time.Sleep(d)
		}
		return "", false
	}
}

func timed(f *fakeServer, h Handler) Options {
	o := f.options(h)
	o.Heartbeat = 100 * millisecond
	o.Deadline = 400 * millisecond
	o.MinBackoff = 10 * millisecond
	o.MaxBackoff = 80 * millisecond
	return o
}

func TestAsOfIsWhenTheQuestionBeforeWasSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, r := newFakeServer(t), newRecorder(t)
		f.answer = latency(10 * millisecond)
		tracker := open(t, timed(f, r))
		live := time.Now()
		if got := r.all(); len(got) != 1 || !got[0].asOf.Equal(live) {
			t.Fatalf("calls %v", got)
		}
		time.Sleep(10*100*millisecond + 50*millisecond)
		confirmed := 0
		for _, c := range r.all()[1:] {
			// Question n is sent n heartbeats after the link is live; the answer to n+1 confirms it.
			confirmed++
			sent := live.Add(time.Duration(confirmed) * 100 * millisecond)
			if c.method != "confirm" || !c.asOf.Equal(sent) || !c.at.Equal(sent.Add(110*millisecond)) {
				t.Errorf("call %d: %v as of %v at %v, want confirm as of %v at %v",
					confirmed, c, c.asOf.Sub(live), c.at.Sub(live), sent.Sub(live), sent.Add(110*millisecond).Sub(live))
			}
		}
		if confirmed != 9 {
			t.Errorf("%d confirmations of 10 questions", confirmed)
		}
		if status := tracker.Status(); !status.AsOf.Equal(live.Add(900 * millisecond)) {
			t.Errorf("status: as of %v", status.AsOf.Sub(live))
		}
	})
}

func TestSlowAnswersAreNeverTwoOutstanding(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, r := newFakeServer(t), newRecorder(t)
		f.answer = latency(250 * millisecond) // longer than a heartbeat
		open(t, timed(f, r))
		live := time.Now()
		time.Sleep(2 * time.Second)
		asked := f.last().commands("ROLE")[1:]
		for i, at := range asked {
			if want := live.Add(100*millisecond + time.Duration(i)*250*millisecond); !at.Equal(want) {
				t.Errorf("question %d at %v, want %v: right after the answer before", i+1, at.Sub(live), want.Sub(live))
			}
		}
		if n := r.count("confirm"); n != len(asked)-2 {
			t.Errorf("%d confirmations, %d questions", n, len(asked))
		}
	})
}

func TestDeadline(t *testing.T) {
	for name, stop := range map[string]func(f *fakeServer, stopped <-chan struct{}){
		"the server answers nothing": func(f *fakeServer, stopped <-chan struct{}) {
			f.answer = func(c *fakeConnection, command []string) (string, bool) {
				return silence, isClosed(stopped) && c.number == 0
			}
		},
		"the server reads nothing": func(f *fakeServer, stopped <-chan struct{}) {
			first := true
			f.wrap = func(c net.Conn) net.Conn {
				if !first {
					return c
				}
				first = false
				return &deaf{Conn: c, stopped: stopped, closed: make(chan struct{})}
			}
		},
		"the server answers too late": func(f *fakeServer, stopped <-chan struct{}) {
			f.answer = func(c *fakeConnection, _ []string) (string, bool) {
				if isClosed(stopped) && c.number == 0 {
					time.Sleep(410 * millisecond)
				}
				return "", false
			}
		},
		"the server is busy all the time": func(f *fakeServer, stopped <-chan struct{}) {
			f.answer = func(c *fakeConnection, _ []string) (string, bool) {
				return answerBusy, isClosed(stopped) && c.number == 0
			}
		},
		"the server loads all the time": func(f *fakeServer, stopped <-chan struct{}) {
			f.answer = func(c *fakeConnection, _ []string) (string, bool) {
				return answerLoading, isClosed(stopped) && c.number == 0
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f, r := newFakeServer(t), newRecorder(t)
				stopped := make(chan struct{})
				stop(f, stopped)
				tracker := open(t, timed(f, r))
				live := time.Now()
				time.Sleep(250 * millisecond)
				close(stopped)
				before := len(r.all())
				i, lost := r.awaitMethod("lost", 0)
				// The question at 300 ms is the one that is not answered.
				if got := lost.at.Sub(live); got != 700*millisecond {
					t.Errorf("lost after %v, want 700ms", got)
				}
				if i != before {
					t.Errorf("calls since the server stopped: %v", r.all()[before:])
				}
				if !errors.Is(lost.err, ErrLinkDown) || !strings.Contains(lost.err.Error(), "no answer within 400ms") {
					t.Errorf("lost: %v", lost.err)
				}
				_, again := r.awaitMethod("live", 1)
				if got := again.at.Sub(lost.at); got > 10*millisecond {
					t.Errorf("the first new attempt came %v after the loss", got)
				}
				if status := tracker.Status(); status.Epoch != 2 || status.Reconnects != 1 || !status.Live || !errors.Is(status.LastError, ErrLinkDown) {
					t.Errorf("status %+v", status)
				}
			})
		})
	}
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// deaf is the client's end of a connection whose other end reads nothing after stopped is closed: writes block until Close.
type deaf struct {
	net.Conn
	stopped <-chan struct{}
	once    sync.Once
	closed  chan struct{}
}

func (d *deaf) Write(b []byte) (int, error) {
	if isClosed(d.stopped) {
		<-d.closed
		return 0, net.ErrClosed
	}
	return d.Conn.Write(b)
}

func (d *deaf) Close() error {
	d.once.Do(func() { close(d.closed) })
	return d.Conn.Close()
}

// A busy server's answer is none: it confirms nothing, and the question after it is the next one.
func TestBusyForLessThanTheDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, r := newFakeServer(t), newRecorder(t)
		began := time.Now()
		f.answer = func(_ *fakeConnection, command []string) (string, bool) {
			since := time.Since(began)
			return answerBusy, command[0] == "ROLE" && since >= 250*millisecond && since < 550*millisecond
		}
		open(t, timed(f, r))
		time.Sleep(590 * millisecond)
		got := r.all()[1:]
		if len(got) != 2 || got[0].asOf.Sub(began) != 100*millisecond || got[1].asOf.Sub(began) != 200*millisecond || got[1].at.Sub(began) < 550*millisecond {
			t.Fatalf("calls: %v", got)
		}
		time.Sleep(100 * millisecond)
		if got := r.all()[3]; got.method != "confirm" || got.asOf.Sub(began) < 550*millisecond {
			t.Errorf("%v as of %v", got, got.asOf.Sub(began))
		}
	})
}

func TestWrongRoleInAHeartbeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, r := newFakeServer(t), newRecorder(t)
		demoted := make(chan struct{})
		f.answer = func(c *fakeConnection, command []string) (string, bool) {
			return answerReplica, command[0] == "ROLE" && isClosed(demoted)
		}
		tracker := open(t, timed(f, r))
		live := time.Now()
		close(demoted)
		_, lost := r.awaitMethod("lost", 0)
		if got := lost.at.Sub(live); got != 100*millisecond || !errors.Is(lost.err, ErrNotPrimary) {
			t.Errorf("lost after %v: %v", got, lost.err)
		}
		// It tries for ever, never live, never faster than the backoff allows.
		time.Sleep(10 * time.Second)
		if tracker.Status().Live || r.count("live") != 1 || r.count("lost") != 1 {
			t.Errorf("calls %v", r.all())
		}
		if n := len(f.attempted()); n < 100 || n > 1000 {
			t.Errorf("%d attempts in 10 s at a backoff of at most 80 ms", n)
		}
		if err := tracker.Fence(t.Context()); !errors.Is(err, ErrLinkDown) || !errors.Is(err, ErrNotPrimary) {
			t.Errorf("fence: %v", err)
		}
	})
}

func TestBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, r := newFakeServer(t), newRecorder(t)
		f.refuse = refuseFrom(1)
		o := timed(f, r)
		o.MinBackoff, o.MaxBackoff = 100*millisecond, time.Second
		tracker := open(t, o)
		time.Sleep(5 * time.Second) // long enough that it does not count as a failure
		ended := time.Now()
		_ = f.last().Close()
		time.Sleep(time.Hour)
		attempts := f.attempted()[1:]
		if first := attempts[0].Sub(ended); first != 0 {
			t.Errorf("first attempt after %v", first)
		}
		var longest, total time.Duration
		for i := 1; i < len(attempts); i++ {
			delay := attempts[i].Sub(attempts[i-1])
			limit := min(time.Second, 100*millisecond<<min(i-1, 10))
			if delay > limit {
				t.Errorf("delay before attempt %d: %v, limit %v", i+1, delay, limit)
			}
			longest, total = max(longest, delay), total+delay
		}
		// Full jitter: the mean of thousands of delays is half the limit, the longest nearly all of it.
		mean := total / time.Duration(len(attempts)-1)
		if longest < 900*millisecond || mean < 450*millisecond || mean > 550*millisecond {
			t.Errorf("%d attempts in an hour, longest delay %v, mean %v", len(attempts), longest, mean)
		}
		if r.count("lost") != 1 || tracker.Status().Live {
			t.Errorf("calls %v", r.all())
		}
	})
}

// refuseFrom refuses all attempts to connect but the first n.
func refuseFrom(n int) func(int) error {
	return func(attempt int) error {
		if attempt >= n {
			return errors.New("nobody there")
		}
		return nil
	}
}

// A link that is lost as soon as it is made is a failure too.
func TestFlappingLinkBacksOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, r := newFakeServer(t), newRecorder(t)
		f.answer = func(c *fakeConnection, command []string) (string, bool) {
			if command[0] == "ROLE" && len(c.commands("ROLE")) == 2 {
				_ = c.Close()
			}
			return "", false
		}
		o := timed(f, r)
		o.MinBackoff, o.MaxBackoff = time.Second, time.Minute
		open(t, o)
		time.Sleep(time.Hour)
		if n := r.count("live"); n < 60 || n > 400 {
			t.Errorf("%d links in an hour at a backoff of up to a minute", n)
		}
	})
}

func TestFenceTakesTwoRoundTripsStartedAfterTheCall(t *testing.T) {
	for _, test := range []struct {
		name   string
		called time.Duration // after the link is live; a heartbeat is under way from 100 ms to 130 ms
		took   time.Duration
	}{
		{"idle link", 50 * millisecond, 60 * millisecond},
		{"as a heartbeat's answer is on its way", 120 * millisecond, 70 * millisecond},
		{"just before a heartbeat", 99 * millisecond, 60 * millisecond},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f, r := newFakeServer(t), newRecorder(t)
				f.answer = latency(30 * millisecond)
				tracker := open(t, timed(f, r))
				live := time.Now()
				time.Sleep(test.called)
				fence(t, tracker)
				if took := time.Since(live) - test.called; took != test.took {
					t.Errorf("took %v, want %v", took, test.took)
				}
				_, last := len(r.all()), r.all()[len(r.all())-1]
				if last.method != "confirm" || last.asOf.Before(live.Add(test.called)) {
					t.Errorf("the handler was told %v as of %v before a fence called at %v returned", last, last.asOf.Sub(live), test.called)
				}
			})
		})
	}
}

func TestFenceIsSharedButNeverTheOneInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, r := newFakeServer(t), newRecorder(t)
		f.answer = latency(30 * millisecond)
		o := timed(f, r)
		o.Heartbeat, o.Deadline = time.Hour, time.Hour
		tracker := open(t, o)
		live := time.Now()
		const callers = 300
		took := make(chan time.Duration, 3*callers)
		for range 3 { // now, and 10 ms and 20 ms into the first round trip
			for range callers {
				go func() {
					began := time.Now()
					fence(t, tracker)
					took <- time.Since(began)
				}()
			}
			synctest.Wait()
			time.Sleep(10 * millisecond)
		}
		counts := map[time.Duration]int{}
		for range 3 * callers {
			counts[<-took]++
		}
		// The first caller of all starts the first round trip. Who came after that, even in the same moment, waits for one
		// more.
		if counts[60*millisecond] == 0 || counts[60*millisecond]+counts[90*millisecond] != callers ||
			counts[80*millisecond] != callers || counts[70*millisecond] != callers {
			t.Errorf("callers by how long they waited: %v", counts)
		}
		if n := len(f.last().commands("ROLE")) - 1; n != 3 {
			t.Errorf("%d round trips, want 3", n)
		}
		if got := time.Since(live); got != 90*millisecond {
			t.Errorf("all took %v", got)
		}
	})
}

func TestFenceEndsWithItsContextTheLinkOrTheTracker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, r := newFakeServer(t), newRecorder(t)
		f.refuse = refuseFrom(1)
		f.answer = func(_ *fakeConnection, command []string) (string, bool) {
			return silence, command[0] == "ROLE" && r.count("live") > 0
		}
		o := timed(f, r)
		o.Heartbeat, o.Deadline = time.Hour, time.Hour
		tracker := open(t, o)

		reason := errors.New("no patience")
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(reason)
		if err := tracker.Fence(ctx); !errors.Is(err, reason) {
			t.Errorf("cancelled before: %v", err)
		}
		ctx, cancel = context.WithCancelCause(t.Context())
		time.AfterFunc(time.Second, func() { cancel(reason) })
		if err := tracker.Fence(ctx); !errors.Is(err, reason) {
			t.Errorf("cancelled: %v", err)
		}
		time.AfterFunc(time.Second, func() { _ = f.last().Close() })
		if err := tracker.Fence(t.Context()); !errors.Is(err, ErrLinkDown) || !errors.Is(err, io.EOF) {
			t.Errorf("connection closed: %v", err)
		}
		r.awaitMethod("lost", 0)

		time.Sleep(time.Second)
		if err := tracker.Fence(t.Context()); !errors.Is(err, ErrLinkDown) {
			t.Errorf("no link: %v", err)
		}
		closeTracker(t, tracker)
		if err := tracker.Fence(t.Context()); !errors.Is(err, ErrClosed) {
			t.Errorf("closed: %v", err)
		}
	})
}

// The handler has been told of a push before anybody learns of the answer behind it.
func TestFenceReturnsAfterTheHandler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, r := newFakeServer(t), newRecorder(t)
		r.hook = func(c call) {
			if c.method == "invalidate" {
				time.Sleep(50 * millisecond) // a slow handler, within the deadline
			}
		}
		f.answer = func(c *fakeConnection, command []string) (string, bool) {
			if command[0] == "ROLE" && len(c.commands("ROLE")) == 3 {
				c.send(pushOf("k:1", "k:2")) // between the answers to the two questions
			}
			return "", false
		}
		tracker := open(t, timed(f, r))
		fence(t, tracker)
		if got := r.keys(0); !slices.Equal(got, []string{"k:1", "k:2"}) {
			t.Errorf("announced before the fence returned: %q", got)
		}
	})
}
