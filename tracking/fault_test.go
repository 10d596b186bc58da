package tracking

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-nearcache/nearcache/internal/redistest"
)

// healed waits for the next live link after the call with index from and checks that it carries pushes.
func healed(t *testing.T, s *redistest.Server, r *recorder, from int) {
	t.Helper()
	i, _ := r.awaitMethod("live", from)
	s.Do(t, "SET", "k:after", "v")
	r.awaitKey("k:after", i)
}

func TestLossAndReturn(t *testing.T) {
	for _, test := range []struct {
		name   string
		fault  func(t *testing.T, s *redistest.Server, tracker *Tracker)
		heal   func(t *testing.T, s *redistest.Server)
		reason error
	}{
		{
			name: "CLIENT KILL",
			fault: func(t *testing.T, s *redistest.Server, tracker *Tracker) {
				s.Do(t, "CLIENT", "KILL", "ID", strconv.FormatInt(tracker.Status().Server.Connection, 10))
			},
			reason: ErrLinkDown,
		},
		{
			name:   "kill and restart",
			fault:  func(_ *testing.T, s *redistest.Server, _ *Tracker) { s.Kill() },
			heal:   func(t *testing.T, s *redistest.Server) { check(t, s.Restart(t.Context())) },
			reason: ErrLinkDown,
		},
		{
			name:   "shutdown and restart",
			fault:  func(t *testing.T, s *redistest.Server, _ *Tracker) { check(t, s.Shutdown(t.Context())) },
			heal:   func(t *testing.T, s *redistest.Server) { check(t, s.Restart(t.Context())) },
			reason: ErrLinkDown,
		},
		{
			name: "REPLICAOF by hand",
			// Port 1 has nobody: the server is a replica all the same.
			fault:  func(t *testing.T, s *redistest.Server, _ *Tracker) { s.Do(t, "REPLICAOF", "127.0.0.1", "1") },
			heal:   func(t *testing.T, s *redistest.Server) { s.Do(t, "REPLICAOF", "NO", "ONE") },
			reason: ErrNotPrimary,
		},
		{
			name: "the right to ROLE is revoked",
			fault: func(t *testing.T, s *redistest.Server, _ *Tracker) {
				s.Do(t, "ACL", "SETUSER", "default", "-role")
			},
			heal:   func(t *testing.T, s *redistest.Server) { s.Do(t, "ACL", "SETUSER", "default", "+role") },
			reason: ErrNoTracking,
		},
		{
			name: "the user is switched off and its connection killed",
			fault: func(t *testing.T, s *redistest.Server, _ *Tracker) {
				s.Do(t, "ACL", "SETUSER", "default", "off")
				s.Do(t, "CLIENT", "KILL", "USER", "default")
			},
			heal:   func(t *testing.T, s *redistest.Server) { s.Do(t, "ACL", "SETUSER", "default", "on") },
			reason: ErrLinkDown,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := redistest.Start(t, redistest.Config{})
			r := newRecorder(t)
			tracker := open(t, options(s, r))
			test.fault(t, s, tracker)
			i, lost := r.awaitMethod("lost", 0)
			if !errors.Is(lost.err, test.reason) {
				t.Errorf("lost: %v", lost.err)
			}
			if test.heal != nil {
				// Lost is told once, however often the attempts to return fail.
				if err := tracker.Fence(t.Context()); !errors.Is(err, ErrLinkDown) {
					t.Errorf("fence: %v", err)
				}
				test.heal(t, s)
			}
			healed(t, s, r, i)
			fence(t, tracker)
			if status := tracker.Status(); !status.Live || status.Epoch != 2 || status.Reconnects != 1 || status.LastError == nil {
				t.Errorf("status %+v", status)
			}
		})
	}
}

func TestServerFrozenLongerThanTheDeadline(t *testing.T) {
	s := redistest.Start(t, redistest.Config{})
	r := newRecorder(t)
	o := options(s, r)
	o.Deadline = 300 * time.Millisecond
	tracker := open(t, o)
	check(t, s.Pause())
	i, lost := r.awaitMethod("lost", 0)
	if !errors.Is(lost.err, ErrLinkDown) || !strings.Contains(lost.err.Error(), "no answer within 300ms") {
		t.Errorf("lost: %v", lost.err)
	}
	if tracker.Status().Live {
		t.Error("the status says live")
	}
	check(t, s.Resume())
	healed(t, s, r, i)
}

func TestServerFrozenForLessThanTheDeadline(t *testing.T) {
	s := redistest.Start(t, redistest.Config{})
	r := newRecorder(t)
	tracker := open(t, options(s, r))
	check(t, s.Pause())
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := tracker.Fence(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("fence of a frozen server: %v", err)
	}
	check(t, s.Resume())
	fence(t, tracker)
	if n := r.count("lost"); n != 0 {
		t.Errorf("calls %v", r.all())
	}
}

// CLIENT PAUSE ALL holds back even ROLE; CLIENT PAUSE WRITE does not.
func TestClientPause(t *testing.T) {
	s := redistest.Start(t, redistest.Config{})
	r := newRecorder(t)
	o := options(s, r)
	o.Deadline = 300 * time.Millisecond
	tracker := open(t, o)
	s.Do(t, "CLIENT", "PAUSE", "600000", "WRITE")
	fence(t, tracker)
	s.Do(t, "CLIENT", "UNPAUSE")
	if n := r.count("lost"); n != 0 {
		t.Fatalf("calls %v", r.all())
	}
	client := newClient(t, s.AdminOption()) // a new connection would be paused before it is one
	check(t, client.Do(t.Context(), client.B().Arbitrary("CLIENT", "PAUSE", "1000", "ALL").Build()).Error())
	i, _ := r.awaitMethod("lost", 0)
	healed(t, s, r, i)
}

// A script that runs on and on is answered for with -BUSY, and by nothing before that.
func TestBusyScript(t *testing.T) {
	for _, deadline := range []time.Duration{200 * time.Millisecond, patience} {
		t.Run(deadline.String(), func(t *testing.T) {
			s := redistest.Start(t, redistest.Config{Settings: []string{"lua-time-limit 5"}})
			r := newRecorder(t)
			o := options(s, r)
			o.Deadline = deadline
			tracker := open(t, o)
			var script sync.WaitGroup
			script.Go(func() {
				if err := s.Command(t.Context(), "EVAL", "while true do end", "0").Error(); err == nil || !strings.Contains(err.Error(), "killed") {
					t.Errorf("script: %v", err)
				}
			})
			eventually(t, "the script runs", func() bool {
				err := s.Command(t.Context(), "DBSIZE").Error()
				return err != nil && strings.HasPrefix(err.Error(), "BUSY")
			})
			from := 0
			if deadline < patience {
				i, lost := r.awaitMethod("lost", 0)
				from = i
				if !strings.Contains(lost.err.Error(), "BUSY") && !strings.Contains(lost.err.Error(), "no answer") {
					t.Errorf("lost: %v", lost.err)
				}
			}
			s.Do(t, "SCRIPT", "KILL")
			script.Wait()
			if deadline == patience {
				fence(t, tracker)
				if n := r.count("lost"); n != 0 {
					t.Errorf("calls %v", r.all())
				}
			} else {
				healed(t, s, r, from)
			}
		})
	}
}

// Server fact 8: a client that reads too slowly is disconnected. What it got before is passed on, then the loss is told.
func TestOutputBufferLimit(t *testing.T) {
	s := redistest.Start(t, redistest.Config{})
	r := newRecorder(t)
	within, release := make(chan struct{}), make(chan struct{})
	r.hook = func(c call) {
		if c.key == "k:slow" {
			close(within)
			<-release
		}
	}
	open(t, options(s, r))
	s.Do(t, "CONFIG", "SET", "client-output-buffer-limit", "normal 1mb 0 0")
	s.Do(t, "SET", "k:slow", "v")
	<-within
	// More than socket buffers and rueidis's own buffer take while nobody reads.
	long := strings.Repeat("x", 1000)
	for i := range 40 {
		s.Do(t, "EVAL", `for i = 1, 1000 do redis.call("SET", ARGV[1] .. i, "") end`, "0", fmt.Sprintf("k:%s:%d:", long, i))
	}
	eventually(t, "the server disconnects the link", func() bool {
		list, err := s.Command(t.Context(), "CLIENT", "LIST").ToString()
		check(t, err)
		return !strings.Contains(list, "name="+clientName)
	})
	close(release)
	i, lost := r.awaitMethod("lost", 0)
	if !errors.Is(lost.err, ErrLinkDown) {
		t.Errorf("lost: %v", lost.err)
	}
	healed(t, s, r, i)
}

func TestSlowHandlerLosesTheLink(t *testing.T) {
	s := redistest.Start(t, redistest.Config{})
	r := newRecorder(t)
	release := make(chan struct{})
	r.hook = func(c call) {
		if c.key == "k:slow" {
			<-release
		}
	}
	o := options(s, r)
	o.Deadline = 200 * time.Millisecond
	tracker := open(t, o)
	s.Do(t, "SET", "k:slow", "v")
	eventually(t, "the link is down", func() bool { return !tracker.Status().Live })
	if err := tracker.Fence(t.Context()); !errors.Is(err, ErrLinkDown) {
		t.Errorf("fence: %v", err)
	}
	close(release)
	i, _ := r.awaitMethod("lost", 0)
	healed(t, s, r, i)
}

// Server fact 14: an idle link would be closed by the server's timeout; the heartbeat keeps it.
func TestServerTimeoutDoesNotCloseTheLink(t *testing.T) {
	s := redistest.Start(t, redistest.Config{Settings: []string{"timeout 1"}})
	r := newRecorder(t)
	tracker := open(t, options(s, r))
	idle, err := net.Dial("tcp", s.Addr())
	check(t, err)
	defer idle.Close()
	check(t, idle.SetReadDeadline(time.Now().Add(patience)))
	if _, err := idle.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the server did not close an idle connection: %v", err)
	}
	fence(t, tracker)
	if n := r.count("lost"); n != 0 {
		t.Errorf("calls %v", r.all())
	}
}

// A failover: the replica becomes primary and the old primary its replica. The link to the old one must end, though it stays
// open and goes on pushing (server fact 6).
func TestFailover(t *testing.T) {
	primary := redistest.Start(t, redistest.Config{})
	replica := redistest.StartReplica(t, primary, redistest.Config{})
	if _, err := Open(t.Context(), options(replica, newRecorder(t))); !errors.Is(err, ErrNotPrimary) {
		t.Fatalf("link to a replica: %v", err)
	}
	old, fresh := newRecorder(t), newRecorder(t)
	open(t, options(primary, old))
	replica.Do(t, "REPLICAOF", "NO", "ONE")
	open(t, options(replica, fresh))
	primary.Do(t, "REPLICAOF", "127.0.0.1", strconv.Itoa(replica.Port()))
	_, lost := old.awaitMethod("lost", 0)
	if !errors.Is(lost.err, ErrNotPrimary) {
		t.Errorf("lost: %v", lost.err)
	}
	check(t, primary.AwaitInSync(t.Context()))
	replica.Do(t, "SET", "k:1", "v")
	fresh.awaitKey("k:1", 0)
	if got := old.keys(0); len(got) != 0 {
		t.Errorf("the demoted primary announced %q", got)
	}
}

func TestFenceSharedByAThousandCallers(t *testing.T) {
	const callers = 1000
	s := redistest.Start(t, redistest.Config{})
	r := newRecorder(t)
	o := options(s, r)
	o.Heartbeat, o.Deadline = time.Minute, time.Minute
	tracker := open(t, o)
	roles := func() int {
		info, err := s.Command(t.Context(), "INFO", "commandstats").ToString()
		check(t, err)
		_, rest, _ := strings.Cut(redistest.InfoField(info, "cmdstat_role"), "calls=")
		text, _, _ := strings.Cut(rest, ",")
		n, err := strconv.Atoi(text)
		check(t, err)
		return n
	}
	before := roles()
	// The server is frozen until all callers are about to wait, so that they share. A few may be late.
	check(t, s.Pause())
	var begun, done sync.WaitGroup
	begun.Add(callers)
	for range callers {
		done.Go(func() {
			begun.Done()
			fence(t, tracker)
		})
	}
	begun.Wait()
	check(t, s.Resume())
	done.Wait()
	if n := roles() - before; n < 2 || n > 20 {
		t.Errorf("%d callers made %d round trips", callers, n)
	}
}

// The promise of a fence, for many writes by somebody else: what was acknowledged before the call has been announced when it
// returns.
func TestFenceCoversAcknowledgedWrites(t *testing.T) {
	const n = 2000
	s := redistest.Start(t, redistest.Config{})
	var mu sync.Mutex
	announced := map[string]bool{}
	r := newRecorder(t)
	r.hook = func(c call) {
		mu.Lock()
		announced[c.key] = true
		mu.Unlock()
	}
	tracker := open(t, options(s, r))
	client := s.Client(t)
	for i := range n {
		key := fmt.Sprintf("k:%d", i)
		check(t, client.Do(t.Context(), client.B().Set().Key(key).Value("v").Build()).Error())
		fence(t, tracker)
		mu.Lock()
		if !announced[key] {
			t.Errorf("%s was written and not announced", key)
		}
		mu.Unlock()
	}
}

// The as-of time is never later than it may be: a write acknowledged before it has been announced.
func TestConfirmCoversAcknowledgedWrites(t *testing.T) {
	s := redistest.Start(t, redistest.Config{})
	var mu sync.Mutex
	acknowledged := map[string]time.Time{}
	r := newRecorder(t)
	r.hook = func(c call) {
		mu.Lock()
		defer mu.Unlock()
		switch c.method {
		case "invalidate":
			delete(acknowledged, c.key)
		case "confirm":
			for key, at := range acknowledged {
				if at.Before(c.asOf) {
					t.Errorf("%s, acknowledged %v before %v, is not announced", key, c.asOf.Sub(at), c.asOf)
				}
			}
		}
	}
	o := options(s, r)
	o.Heartbeat = time.Millisecond
	open(t, o)
	client := s.Client(t)
	for i := 0; r.count("confirm") < 300; i++ {
		key := fmt.Sprintf("k:%d", i)
		mu.Lock()
		acknowledged[key] = time.Now().Add(time.Hour) // not yet
		mu.Unlock()
		check(t, client.Do(t.Context(), client.B().Set().Key(key).Value("v").Build()).Error())
		mu.Lock()
		if _, waiting := acknowledged[key]; waiting {
			acknowledged[key] = time.Now()
		}
		mu.Unlock()
	}
}

func TestCloseDuringEverything(t *testing.T) {
	s := redistest.Start(t, redistest.Config{})
	client := s.Client(t)
	stop := make(chan struct{})
	var writers sync.WaitGroup
	writers.Go(func() {
		for i := 0; !isClosed(stop); i++ {
			_ = client.Do(t.Context(), client.B().Set().Key(fmt.Sprintf("k:%d", i%100)).Value("v").Build())
		}
	})
	writers.Go(func() {
		for !isClosed(stop) {
			_ = s.Command(t.Context(), "CLIENT", "KILL", "TYPE", "normal").Error()
		}
	})
	for round := range 30 {
		r := newRecorder(t)
		tracker, err := Open(t.Context(), options(s, r))
		if err != nil {
			if !errors.Is(err, ErrLinkDown) { // the connection was killed during the handshake
				t.Error(err)
			}
			continue
		}
		var callers sync.WaitGroup
		for range 10 {
			callers.Go(func() {
				for {
					if err := tracker.Fence(t.Context()); errors.Is(err, ErrClosed) {
						return
					} else if err != nil && !errors.Is(err, ErrLinkDown) {
						t.Errorf("fence: %v", err)
						return
					}
				}
			})
		}
		for range round % 3 {
			r.awaitMethod("lost", 0)
		}
		for range 2 {
			callers.Go(func() { closeTracker(t, tracker) })
		}
		closeTracker(t, tracker)
		callers.Wait()
		if calls := r.all(); r.count("live") != r.count("lost") {
			t.Errorf("after Close the handler believes that the link is live: %v", calls[max(0, len(calls)-5):])
		}
		if status := tracker.Status(); status.Live {
			t.Errorf("status after Close: %+v", status)
		}
	}
	close(stop)
	writers.Wait()
}

func TestCloseTellsTheHandler(t *testing.T) {
	s := redistest.Start(t, redistest.Config{})
	r := newRecorder(t)
	tracker := open(t, options(s, r))
	closeTracker(t, tracker)
	closeTracker(t, tracker)
	calls := r.all()
	if last := calls[len(calls)-1]; last.method != "lost" || !errors.Is(last.err, ErrClosed) {
		t.Errorf("calls %v", calls)
	}
	if n := slices.IndexFunc(calls, func(c call) bool { return c.method == "lost" }); n != len(calls)-1 {
		t.Errorf("calls %v", calls)
	}
	if err := tracker.Fence(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("fence: %v", err)
	}
}
