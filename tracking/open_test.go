package tracking

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/rueidis"

	"github.com/go-nearcache/nearcache/internal/redistest"
)

func TestOptionsAreChecked(t *testing.T) {
	valid := func() Options {
		return Options{Redis: rueidis.ClientOption{InitAddress: []string{"127.0.0.1:1"}}, Prefixes: []string{"k:"}, Handler: newRecorder(t)}
	}
	if err := valid().withDefaults().validate(); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		want   string
		spoil  func(*Options)
		reason error // that it wraps, if any
	}{
		{"Options.Redis.InitAddress", func(o *Options) { o.Redis.InitAddress = nil }, nil},
		{"Options.Redis.InitAddress", func(o *Options) { o.Redis.InitAddress = []string{""} }, nil},
		{"Options.Redis.AlwaysRESP2", func(o *Options) { o.Redis.AlwaysRESP2 = true }, ErrNoTracking},
		{"Options.Redis.Sentinel.MasterSet", func(o *Options) { o.Redis.Sentinel.MasterSet = "main" }, nil},
		{"Options.Redis.ReplicaOnly", func(o *Options) { o.Redis.ReplicaOnly = true }, nil},
		{"Options.Redis.Dialer.Timeout is -1s", func(o *Options) { o.Redis.Dialer.Timeout = -time.Second }, nil},
		{"no prefixes", func(o *Options) { o.Prefixes = nil }, nil},
		{`"k:1" begins with prefix "k:"`, func(o *Options) { o.Prefixes = []string{"k:", "k:1"} }, nil},
		{"Options.Handler", func(o *Options) { o.Handler = nil }, nil},
		{"Options.Heartbeat is -1s", func(o *Options) { o.Heartbeat = -time.Second }, nil},
		{"Options.Heartbeat is 1ns", func(o *Options) { o.Heartbeat = 1 }, nil},
		{"Options.Deadline is 100ms", func(o *Options) { o.Deadline = 100 * millisecond }, nil},
		{"Options.Deadline is -1ns", func(o *Options) { o.Deadline = -1 }, nil},
		{"Options.MinBackoff is -1s", func(o *Options) { o.MinBackoff = -time.Second }, nil},
		{"Options.MaxBackoff is -1s", func(o *Options) { o.MaxBackoff = -time.Second }, nil},
		{"Options.MaxBackoff is 1s", func(o *Options) { o.MinBackoff, o.MaxBackoff = 2*time.Second, time.Second }, nil},
	} {
		o := valid()
		test.spoil(&o)
		_, err := Open(t.Context(), o)
		if err == nil || !strings.Contains(err.Error(), test.want) || test.reason != nil && !errors.Is(err, test.reason) {
			t.Errorf("got %v, want %q", err, test.want)
		}
	}
}

func TestDefaults(t *testing.T) {
	o := Options{}.withDefaults()
	if o.Heartbeat != DefaultHeartbeat || o.Deadline != DefaultDeadline || o.MinBackoff != DefaultMinBackoff || o.MaxBackoff != DefaultMaxBackoff || o.Logger == nil {
		t.Errorf("%+v", o)
	}
	// One given option never makes another's default invalid.
	if o := (Options{Heartbeat: time.Minute}).withDefaults(); o.Deadline != time.Minute {
		t.Errorf("Deadline %v", o.Deadline)
	}
	if o := (Options{MaxBackoff: 1}).withDefaults(); o.MinBackoff != 1 {
		t.Errorf("MinBackoff %v", o.MinBackoff)
	}
	// However absurd, it is a delay.
	tracker := &Tracker{options: Options{MinBackoff: math.MaxInt64 / 3, MaxBackoff: math.MaxInt64}}
	for failures := range 100 {
		if delay := tracker.backoff(failures); delay < 0 {
			t.Errorf("delay %v after %d failures", delay, failures)
		}
	}
	if o := (Options{MinBackoff: time.Hour}).withDefaults(); o.MaxBackoff != time.Hour {
		t.Errorf("MaxBackoff %v", o.MaxBackoff)
	}
}

func TestNoServer(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	check(t, listener.Close())
	o := Options{Redis: rueidis.ClientOption{InitAddress: []string{listener.Addr().String()}}, Prefixes: []string{"k:"}, Handler: newRecorder(t)}
	_, err = Open(t.Context(), o)
	failure, ok := errors.AsType[*LinkError](err)
	if !ok || !errors.Is(err, ErrLinkDown) || failure.Step != "connect" || failure.Address != listener.Addr().String() || failure.Advice == "" {
		t.Errorf("got %#v", err)
	}
	if operation, ok := errors.AsType[*net.OpError](err); !ok || operation.Op != "dial" {
		t.Errorf("the cause is not wrapped: %v", err)
	}
}

// minimal are the rights that doc.go promises to suffice.
const minimal = "+client|tracking +role"

func TestRights(t *testing.T) {
	s := redistest.Start(t, redistest.Config{Password: "secret", Users: []string{
		"minimal on >m1 " + minimal,
		"informed on >m2 " + minimal + " +client|trackinginfo",
		"prober on >m3 ~k:* +set " + minimal,
		"untracked on >m4 ~* +@all -client",
		"roleless on >m5 +client|tracking",
		"disabled off >m6 ~* +@all",
	}})
	for _, test := range []struct {
		user, password string
		open, probe    error
		says           string
	}{
		{"minimal", "m1", nil, ErrProbeRefused, "+set"},
		{"informed", "m2", nil, ErrProbeRefused, "+set"},
		{"prober", "m3", nil, nil, ""},
		{"default", "secret", nil, nil, ""},
		{"", "secret", nil, nil, ""},
		{"untracked", "m4", ErrNoTracking, ErrNoTracking, "+client|tracking"},
		{"roleless", "m5", ErrNoTracking, ErrNoTracking, "+role"},
		{"disabled", "m6", ErrCredentials, ErrCredentials, "Password"},
		{"minimal", "wrong", ErrCredentials, ErrCredentials, "Password"},
		{"nobody", "m1", ErrCredentials, ErrCredentials, "Password"},
		{"", "", ErrCredentials, ErrCredentials, "Password"},
	} {
		t.Run(test.user+"/"+test.password, func(t *testing.T) {
			r := newRecorder(t)
			o := options(s, r)
			o.Redis.Username, o.Redis.Password = test.user, test.password
			tracker, err := Open(t.Context(), o)
			if !errors.Is(err, test.open) || err != nil && !strings.Contains(err.Error(), test.says) {
				t.Errorf("open: %v", err)
			}
			if err == nil {
				s.Do(t, "SET", "k:"+test.user, "v")
				r.awaitKey("k:"+test.user, 0)
				closeTracker(t, tracker)
			}
			err = Probe(t.Context(), o.Redis, "k:")
			if !errors.Is(err, test.probe) || err != nil && !strings.Contains(err.Error(), test.says) {
				t.Errorf("probe: %v", err)
			}
		})
	}
}

// Only what doc.go names is refused to the minimal user, and nothing the default user does shows up.
func TestMinimalRightsLeaveOneLineInTheLog(t *testing.T) {
	s := redistest.Start(t, redistest.Config{Users: []string{"minimal on >m " + minimal}})
	o := options(s, newRecorder(t))
	o.Redis.Username, o.Redis.Password = "minimal", "m"
	fence(t, open(t, o))
	entries, err := s.Command(t.Context(), "ACL", "LOG").ToArray()
	check(t, err)
	if len(entries) != 1 {
		t.Fatalf("ACL LOG has %d entries: %v", len(entries), entries)
	}
	entry, err := entries[0].AsStrMap()
	want := "client|trackinginfo"
	if !s.Version().AtLeast(7, 0) {
		want = "client" // it does not say more
	}
	if object := entry["object"]; err != nil && object == "" || object != want {
		t.Errorf("ACL LOG: %v, %v", entries[0], err)
	}
}

// An ACL rotation: the password changes, the connection dies, and the new connection asks for the credentials again.
func TestCredentialsAreAskedForAgain(t *testing.T) {
	s := redistest.Start(t, redistest.Config{Users: []string{"u on >first " + minimal}})
	var password atomic.Pointer[string]
	set := func(text string) { password.Store(&text) }
	set("first")
	var asked atomic.Int32
	var log bytes.Buffer
	r := newRecorder(t)
	o := options(s, r)
	o.Logger = slog.New(slog.NewTextHandler(&lockedWriter{w: &log}, nil))
	o.Redis.AuthCredentialsFn = func(about rueidis.AuthCredentialsContext) (rueidis.AuthCredentials, error) {
		if about.Address == nil {
			t.Error("no address")
		}
		asked.Add(1)
		if *password.Load() == "" {
			return rueidis.AuthCredentials{}, errors.New("the vault is closed")
		}
		// A refresh that is due at once must not make the connection count as expired for ever.
		return rueidis.AuthCredentials{Username: "u", Password: *password.Load(), RefreshAfter: time.Now().Add(-time.Hour)}, nil
	}
	tracker := open(t, o)
	s.Do(t, "ACL", "SETUSER", "u", "resetpass", ">second")
	s.Do(t, "CLIENT", "KILL", "USER", "u")
	i, _ := r.awaitMethod("lost", 0)
	eventually(t, "the old password is refused", func() bool { return errors.Is(tracker.Status().LastError, ErrCredentials) })
	set("")
	eventually(t, "the vault's error is shown", func() bool {
		return strings.Contains(tracker.Status().LastError.Error(), "the vault is closed")
	})
	set("second")
	healed(t, s, r, i)
	if asked.Load() < 4 {
		t.Errorf("asked %d times", asked.Load())
	}
	closeTracker(t, tracker)
	if strings.Contains(log.String(), "first") || strings.Contains(log.String(), "second") {
		t.Errorf("the log has the password:\n%s", log.String())
	}
}

type lockedWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *lockedWriter) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(b)
}

// One record for each change of state, and none for the attempts that fail like the one before.
func TestLogHasTheChangesOfState(t *testing.T) {
	s := redistest.Start(t, redistest.Config{})
	var log bytes.Buffer
	r := newRecorder(t)
	o := options(s, r)
	o.Logger = slog.New(slog.NewTextHandler(&lockedWriter{w: &log}, nil))
	tracker := open(t, o)
	s.Do(t, "SET", "k:private", "v")
	s.Do(t, "REPLICAOF", "127.0.0.1", "1")
	i, _ := r.awaitMethod("lost", 0)
	count := func() int {
		info, err := s.Command(t.Context(), "INFO", "stats").ToString()
		check(t, err)
		n, err := strconv.Atoi(redistest.InfoField(info, "total_connections_received"))
		check(t, err)
		return n
	}
	for before := count(); count() < before+50; { // half of them are our own
	}
	s.Do(t, "REPLICAOF", "NO", "ONE")
	r.awaitMethod("live", i)
	closeTracker(t, tracker)
	var messages []string
	for line := range strings.Lines(log.String()) {
		_, rest, _ := strings.Cut(line, "msg=")
		message, _, _ := strings.Cut(strings.Trim(rest, `"`), `"`)
		messages = append(messages, message)
	}
	if want := []string{
		"tracking: link is live",
		"tracking: link is lost; will try again",
		"tracking: link is live",
		"tracking: link is closed",
	}; !slices.Equal(messages, want) {
		t.Errorf("log:\n%s", log.String())
	}
	if strings.Contains(log.String(), "private") {
		t.Errorf("the log has a key:\n%s", log.String())
	}
}

func TestUnixSocket(t *testing.T) {
	s := redistest.Start(t, redistest.Config{})
	option, err := rueidis.ParseURL("unix://" + s.Socket())
	check(t, err)
	r := newRecorder(t)
	o := options(s, r)
	o.Redis = option
	tracker := open(t, o)
	s.Do(t, "SET", "k:1", "v")
	fence(t, tracker)
	r.awaitKey("k:1", 0)
	check(t, Probe(t.Context(), option, "k:"))
}

func TestProbe(t *testing.T) {
	s := redistest.Start(t, redistest.Config{})
	check(t, Probe(t.Context(), s.ClientOption(), "k:"))
	// Somebody who flushes meanwhile proves as much.
	if reply := s.Do(t, "CLIENT", "LIST"); strings.Contains(reply.String(), clientName) {
		t.Error("a connection of the probe is left")
	}
	if err := Probe(t.Context(), s.ClientOption(), ""); err == nil {
		t.Error("an empty prefix was probed")
	}
	s.Do(t, "CONFIG", "SET", "maxmemory", "1")
	if err := Probe(t.Context(), s.ClientOption(), "k:"); !errors.Is(err, ErrProbeRefused) || !strings.Contains(err.Error(), "OOM") {
		t.Errorf("probe without memory: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Probe(ctx, s.ClientOption(), "k:"); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestProxies(t *testing.T) {
	s := redistest.Start(t, redistest.Config{Password: "hunter2"})
	var hello atomic.Bool // the proxy has answered a HELLO
	for _, test := range []struct {
		name        string
		reply       func(message []byte) []byte
		open, probe error
		says        string
	}{
		{
			name:  "honest",
			reply: func(message []byte) []byte { return message },
		},
		{
			name: "swallows pushes",
			reply: func(message []byte) []byte {
				if message[0] == '>' {
					return nil
				}
				return message
			},
			probe: ErrNoTracking,
			says:  "was not announced",
		},
		{
			name: "does not know HELLO, and repeats what it does not know",
			reply: func(message []byte) []byte {
				if bytes.Contains(message, []byte("proto")) || bytes.HasPrefix(message, []byte("-NOAUTH")) {
					return []byte("-ERR unknown command 'HELLO', with args beginning with: '3' 'AUTH' 'default' 'hunter2' \r\n")
				}
				return message
			},
			open: ErrNoTracking, probe: ErrNoTracking,
			says: "HELLO",
		},
		{
			name: "knows RESP2 only",
			reply: func(message []byte) []byte {
				if bytes.Contains(message, []byte("proto")) {
					return []byte("-NOPROTO unsupported protocol version\r\n")
				}
				return message
			},
			open: ErrNoTracking, probe: ErrNoTracking,
			says: "RESP3",
		},
		{
			name: "turns RESP3 into RESP2",
			reply: func(message []byte) []byte {
				return bytes.Replace(message, []byte("proto\r\n:3"), []byte("proto\r\n:2"), 1)
			},
			open: ErrNoTracking, probe: ErrNoTracking,
			says: "protocol 2",
		},
		{
			name: "repeats the password in any error",
			reply: func(message []byte) []byte {
				if bytes.Contains(message, []byte("proto")) {
					return []byte("-ERR no HELLO 3 AUTH default hunter2 here\r\n")
				}
				return message
			},
			open: ErrLinkDown, probe: ErrLinkDown,
			says: "AUTH default ***",
		},
		{
			name: "does not let CLIENT TRACKING through",
			reply: func(message []byte) []byte {
				if hello.Swap(bytes.Contains(message, []byte("proto"))) && string(message) == "+OK\r\n" {
					return []byte("-ERR unknown command 'CLIENT', with args beginning with: 'TRACKING'\r\n")
				}
				return message
			},
			open: ErrNoTracking, probe: ErrNoTracking,
			says: "CLIENT TRACKING",
		},
		{
			name: "loses the prefixes",
			reply: func(message []byte) []byte {
				return bytes.Replace(message, []byte("$2\r\nk:\r\n"), []byte("$2\r\nx:\r\n"), 1)
			},
			open: ErrNoTracking, probe: ErrNoTracking,
			says: "prefixes",
		},
		{
			name: "loses BCAST",
			reply: func(message []byte) []byte {
				return bytes.Replace(message, []byte("bcast"), []byte("optin"), 1)
			},
			open: ErrNoTracking, probe: ErrNoTracking,
			says: "broadcast",
		},
		{
			name: "does not know the role",
			reply: func(message []byte) []byte {
				if bytes.HasPrefix(message, []byte("*3\r\n$6\r\nmaster")) {
					return []byte("-ERR unknown command 'ROLE'\r\n")
				}
				return message
			},
			open: ErrNoTracking, probe: ErrNoTracking,
			says: "role",
		},
		{
			name: "says something else for a role",
			reply: func(message []byte) []byte {
				return bytes.Replace(message, []byte("*3\r\n$6\r\nmaster"), []byte("*3\r\n$6\r\nproxy!"), 1)
			},
			open: ErrNotPrimary, probe: ErrNotPrimary,
			says: "proxy!",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := startProxy(t, s.Addr(), test.reply)
			o := options(s, newRecorder(t))
			o.Redis.InitAddress = []string{p.address()}
			tracker, err := Open(t.Context(), o)
			if !errors.Is(err, test.open) || err != nil && !strings.Contains(err.Error(), test.says) {
				t.Errorf("open: %v", err)
			}
			if err != nil && strings.Contains(fmt.Sprintf("%v %+v", err, err), "hunter2") {
				t.Errorf("the error has the password: %v", err)
			}
			for inner := err; inner != nil; inner = errors.Unwrap(inner) {
				if strings.Contains(inner.Error(), "hunter2") {
					t.Errorf("a wrapped error has the password: %v", inner)
				}
			}
			if err == nil {
				closeTracker(t, tracker)
			}
			err = Probe(t.Context(), o.Redis, "k:")
			if !errors.Is(err, test.probe) || err != nil && !strings.Contains(err.Error(), test.says) {
				t.Errorf("probe: %v", err)
			}
		})
	}
}

// The context may end, and the tracker be given up, while any command of the handshake is waited for, or the dial.
func TestOpenIsCancelledAtEveryStep(t *testing.T) {
	for _, step := range []string{"dial", "HELLO 1", "HELLO 2", "CLIENT TRACKING", "CLIENT TRACKINGINFO", "ROLE"} {
		for _, timeout := range []bool{false, true} { // by Dialer.Timeout instead of the context
			t.Run(fmt.Sprintf("%s/timeout=%t", step, timeout), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					f, r := newFakeServer(t), newRecorder(t)
					f.answer = func(c *fakeConnection, command []string) (string, bool) {
						name := command[0]
						switch name {
						case "HELLO":
							name += " " + strconv.Itoa(len(c.commands("HELLO")))
						case "CLIENT":
							name += " " + command[1]
						}
						return silence, name == step
					}
					o := f.options(r)
					if step == "dial" {
						o.Redis.DialCtxFn = func(ctx context.Context, _ string, _ *net.Dialer, _ *tls.Config) (net.Conn, error) {
							<-ctx.Done()
							return nil, ctx.Err()
						}
					}
					reason := errors.New("no patience")
					ctx, cancel := context.WithCancelCause(t.Context())
					want := 3 * time.Second
					if timeout {
						want = rueidis.DefaultDialTimeout
					} else {
						time.AfterFunc(want, func() { cancel(reason) })
					}
					began := time.Now()
					_, err := Open(ctx, o)
					if took := time.Since(began); took != want {
						t.Errorf("took %v, want %v", took, want)
					}
					if timeout && (!errors.Is(err, ErrLinkDown) || !strings.Contains(err.Error(), "no answer within 5s")) || !timeout && !errors.Is(err, reason) {
						t.Errorf("open: %v", err)
					}
					failure, ok := errors.AsType[*LinkError](err)
					if wanted, _, _ := strings.Cut(strings.Replace(step, "dial", "connect", 1), " "); !ok || !strings.HasPrefix(failure.Step, wanted) {
						t.Errorf("the error does not name the step %s: %v", wanted, err)
					}
					if len(r.all()) != 0 {
						t.Errorf("calls %v", r.all())
					}
					cancel(nil)
				})
			})
		}
	}
}

// What does not obey a context delays Open by a moment only, and is left behind.
func TestOpenDoesNotWaitForABlockedCallback(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, r := newFakeServer(t), newRecorder(t)
		o := f.options(r)
		unblock := make(chan struct{})
		o.Redis.AuthCredentialsFn = func(rueidis.AuthCredentialsContext) (rueidis.AuthCredentials, error) {
			<-unblock
			return rueidis.AuthCredentials{}, nil
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		if _, err := Open(ctx, o); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("open: %v", err)
		}
		if took := time.Since(began); took > 3*time.Second {
			t.Errorf("took %v", took)
		}
		close(unblock)
	})
}
