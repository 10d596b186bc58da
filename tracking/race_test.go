package tracking

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// In these tests the handler is held in the middle of a push, or the bytes of a push are held back, while the link is lost: the
// interleavings that only luck would show otherwise.

func TestNothingFollowsLostWhenAPushIsBeingHandled(t *testing.T) {
	for name, lose := range map[string]func(f *fakeServer, tracker *Tracker){
		// Nobody reads the connection while the handler runs, so the deadline notices this too.
		"the server closes":     func(f *fakeServer, _ *Tracker) { _ = f.last().Close() },
		"the deadline passes":   func(*fakeServer, *Tracker) {},
		"the tracker is closed": func(_ *fakeServer, tracker *Tracker) { go tracker.Close(context.Background()) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f, r := newFakeServer(t), newRecorder(t)
				f.refuse = refuseFrom(1)
				within, release := make(chan struct{}), make(chan struct{})
				r.hook = func(c call) {
					if c.key == "k:1" {
						close(within)
						<-release
					}
				}
				tracker := open(t, timed(f, r))
				l := tracker.current.Load()
				go f.last().send(pushOf("k:1", "k:2", "k:3") + nullPush)
				<-within
				lose(f, tracker)
				<-l.down
				if tracker.Status().Live {
					t.Error("the status says live")
				}
				if err := tracker.Fence(t.Context()); err == nil {
					t.Error("a fence succeeds")
				}
				if n := r.count("lost"); n != 0 {
					t.Errorf("lost was told while the handler ran: %v", r.all())
				}
				close(release)
				r.awaitMethod("lost", 0)
				synctest.Wait()
				calls := r.all()
				if last := calls[len(calls)-1]; last.method != "lost" || calls[len(calls)-2].key != "k:1" {
					t.Errorf("calls %v, want k:1 and then the loss", calls)
				}
			})
		})
	}
}

// late is the client's end of a connection that hands out what it has read only when it is told to, even after Close: a
// goroutine that has been descheduled between reading from the socket and passing on what it read.
type late struct {
	net.Conn
	hold    func(b []byte) bool
	release <-chan struct{}
}

func (l *late) Read(b []byte) (int, error) {
	n, err := l.Conn.Read(b)
	if n > 0 && l.hold(b[:n]) {
		<-l.release
	}
	return n, err
}

func TestPushOfAnOldConnectionIsDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, r := newFakeServer(t), newRecorder(t)
		release, held := make(chan struct{}), make(chan struct{})
		f.wrap = func(c net.Conn) net.Conn {
			return &late{Conn: c, release: release, hold: func(b []byte) bool {
				stale := strings.Contains(string(b), "k:stale")
				if stale {
					close(held)
				}
				return stale
			}}
		}
		tracker := open(t, timed(f, r))
		old := f.last()
		go old.send(pushOf("k:stale") + nullPush)
		<-held
		// The old reader is stuck, so the deadline ends the old link; a new one is live; then the old reader goes on.
		i, _ := r.awaitMethod("live", 1)
		f.last().send(pushOf("k:fresh"))
		r.awaitKey("k:fresh", i)
		close(release)
		synctest.Wait()
		fence(t, tracker)
		if got := r.keys(0); !slices.Equal(got, []string{"k:fresh"}) || r.count("flush") != 0 {
			t.Errorf("calls %v", r.all())
		}
		if r.count("live") != 2 || r.count("lost") != 1 {
			t.Errorf("calls %v", r.all())
		}
	})
}

// An answer that was on its way when the link was lost confirms nothing and serves no fence.
func TestAnswerOfALostLinkConfirmsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, r := newFakeServer(t), newRecorder(t)
		f.refuse = refuseFrom(1)
		tracker := open(t, timed(f, r))
		l := tracker.current.Load()
		fence(t, tracker) // so that a round trip has been answered, and the next answer would confirm it
		l.fail(errors.New("lost"))
		synctest.Wait() // serve has ended, and its state is ours
		done, before := l.fences.join(), len(r.all())
		l.confirm(l.fences.begin(), time.Now(), Position{})
		l.confirm(l.fences.begin(), time.Now(), Position{})
		if isClosed(done) || len(r.all()) != before {
			t.Errorf("calls after the loss: %v", r.all()[before:])
		}
	})
}

// Live is not told if the connection ends just before.
func TestLinkThatEndsBeforeItIsLive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, r := newFakeServer(t), newRecorder(t)
		tracker := open(t, timed(f, r))
		l, err := tracker.open(t.Context())
		check(t, err)
		l.fail(errors.New("ended"))
		if err := l.goLive(); !errors.Is(err, ErrLinkDown) {
			t.Errorf("went live: %v", err)
		}
		tracker.discard(l)
		if n := r.count("live") + r.count("lost"); n != 1 {
			t.Errorf("calls %v", r.all())
		}
		if !tracker.Status().Live {
			t.Error("the live link was touched")
		}
	})
}

// Whoever notices the loss, and however many notice it at once, the handler is told once, and nobody goes on before it knows.
func TestLossIsToldOnce(t *testing.T) {
	const callers = 50
	f, r := newFakeServer(t), newRecorder(t)
	f.refuse = refuseFrom(1)
	begun := make(chan struct{}, callers)
	r.hook = func(c call) {
		if c.method == "lost" {
			for range callers {
				<-begun
			}
		}
	}
	tracker := open(t, f.options(r))
	l := tracker.current.Load()
	var noticed sync.WaitGroup
	for range callers {
		noticed.Go(func() {
			begun <- struct{}{}
			l.fail(errors.New("lost"))
			if n := r.count("lost"); n != 1 {
				t.Errorf("went on after %d calls of Lost", n)
			}
		})
	}
	noticed.Wait()
}

// A socket whose Close blocks delays neither the loss nor the next link, and Close of the tracker only as long as its caller
// allows.
func TestCloseOfTheSocketBlocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, r := newFakeServer(t), newRecorder(t)
		unblock := make(chan struct{})
		f.wrap = func(c net.Conn) net.Conn { return &stuck{Conn: c, unblock: unblock} }
		f.answer = func(c *fakeConnection, command []string) (string, bool) {
			return silence, c.number == 0 && command[0] == "ROLE" && len(c.commands("ROLE")) > 1
		}
		tracker, err := Open(t.Context(), timed(f, r))
		check(t, err)
		live := time.Now()
		_, lost := r.awaitMethod("lost", 0)
		if got := lost.at.Sub(live); got != 500*millisecond {
			t.Errorf("lost after %v", got)
		}
		r.awaitMethod("live", 1)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := tracker.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("close: %v", err)
		}
		if tracker.Status().Live || r.count("lost") != 2 {
			t.Errorf("calls %v", r.all())
		}
		close(unblock)
		closeTracker(t, tracker)
	})
}

// While one Close is under way, another returns at once, and nothing more can be written.
func TestSocketThatIsBeingClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		defer far.Close()
		unblock := make(chan struct{})
		var reasons []error
		s := &socket{Conn: &stuck{Conn: near, unblock: unblock}, broken: func(err error) { reasons = append(reasons, err) }}
		go s.Close()
		synctest.Wait()
		check(t, s.Close())
		if _, err := s.Write([]byte("PING")); !errors.Is(err, net.ErrClosed) {
			t.Errorf("write: %v", err)
		}
		if len(reasons) != 1 {
			t.Errorf("reasons %v", reasons)
		}
		close(unblock)
	})
}

type stuck struct {
	net.Conn
	unblock <-chan struct{}
}

func (s *stuck) Close() error {
	<-s.unblock
	return s.Conn.Close()
}

// A push with something in it that is no string cannot be passed on key by key.
func TestPushThatCannotBeNamedIsAFlush(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, r := newFakeServer(t), newRecorder(t)
		tracker := open(t, timed(f, r))
		for _, push := range []string{
			">2\r\n$10\r\ninvalidate\r\n*2\r\n$3\r\nk:1\r\n:7\r\n",
			">2\r\n$10\r\ninvalidate\r\n*0\r\n",
			nullPush,
		} {
			before := r.count("flush")
			f.last().send(push)
			fence(t, tracker)
			if n := r.count("flush") - before; n != 1 {
				t.Errorf("%q: %d flushes", push, n)
			}
		}
		// What is no invalidation is nothing to us.
		f.last().send(">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nm\r\n")
		fence(t, tracker)
		if n := r.count("flush"); n != 3 || !tracker.Status().Live {
			t.Errorf("calls %v", r.all())
		}
	})
}

// Bytes that are not RESP end the link at once.
func TestGarbageEndsTheLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, r := newFakeServer(t), newRecorder(t)
		open(t, timed(f, r))
		live := time.Now()
		f.last().send("GET / HTTP/1.1\r\n")
		_, lost := r.awaitMethod("lost", 0)
		if !lost.at.Equal(live) || !errors.Is(lost.err, ErrLinkDown) || !errors.Is(lost.err, errUnreadable) {
			t.Errorf("lost after %v: %v", lost.at.Sub(live), lost.err)
		}
		r.awaitMethod("live", 1)
	})
}
