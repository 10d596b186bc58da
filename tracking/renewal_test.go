package tracking

import (
	"bytes"
	"errors"
	"log/slog"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/go-nearcache/nearcache/internal/redistest"
)

// An issuer is an AuthCredentialsFn that a test can change.
type issuer struct {
	answer atomic.Pointer[func() (rueidis.AuthCredentials, error)]
	asked  atomic.Int32
}

func (i *issuer) say(answer func() (rueidis.AuthCredentials, error)) { i.answer.Store(&answer) }

func (i *issuer) issue(rueidis.AuthCredentialsContext) (rueidis.AuthCredentials, error) {
	i.asked.Add(1)
	return (*i.answer.Load())()
}

// awaitAsked waits until the function has been called a number of times more.
func (i *issuer) awaitAsked(t *testing.T, more int32) {
	t.Helper()
	until := i.asked.Load() + more
	eventually(t, "credentials are asked for", func() bool { return i.asked.Load() >= until })
}

// short are credentials that have to be renewed soon.
func short(user, password string) func() (rueidis.AuthCredentials, error) {
	return func() (rueidis.AuthCredentials, error) {
		return rueidis.AuthCredentials{Username: user, Password: password, RefreshAfter: time.Now().Add(20 * time.Millisecond)}, nil
	}
}

func TestRenewal(t *testing.T) {
	s := redistest.Start(t, redistest.Config{Users: []string{"u on >first " + minimal, "v on >other " + minimal}})
	var log bytes.Buffer
	var credentials issuer
	credentials.say(short("u", "first"))
	r := newRecorder(t)
	o := options(s, r)
	o.MaxBackoff = 50 * time.Millisecond
	o.Logger = slog.New(slog.NewTextHandler(&lockedWriter{w: &log}, nil))
	o.Redis.AuthCredentialsFn = credentials.issue
	tracker := open(t, o)
	whoami := func() string {
		list, err := s.Command(t.Context(), "CLIENT", "LIST", "ID", strconv.FormatInt(tracker.Status().Server.Connection, 10)).ToString()
		check(t, err)
		_, rest, _ := strings.Cut(list, " user=")
		user, _, _ := strings.Cut(rest, " ")
		return user
	}

	n := 0
	announced := func() { // everything that is written meanwhile, and a fence
		t.Helper()
		n++
		s.Do(t, "SET", "k:"+strconv.Itoa(n), "v")
		fence(t, tracker)
		if keys := r.keys(0); len(keys) != n || keys[n-1] != "k:"+strconv.Itoa(n) {
			t.Fatalf("%d keys were written, and announced: %v", n, keys)
		}
	}
	credentials.awaitAsked(t, 3)
	announced()

	s.Do(t, "ACL", "SETUSER", "u", ">second")
	credentials.say(short("u", "second"))
	credentials.awaitAsked(t, 2) // the second time after the first has been heeded
	s.Do(t, "ACL", "SETUSER", "u", "<first")
	announced()

	credentials.say(short("v", "other")) // another user altogether
	eventually(t, "the link belongs to the other user", func() bool { return whoami() == "v" })
	announced()

	// What fails leaves the link as it is, and is tried again.
	credentials.say(short("v", "wrong-secret"))
	credentials.awaitAsked(t, 3)
	credentials.say(func() (rueidis.AuthCredentials, error) {
		return rueidis.AuthCredentials{}, errors.New("the vault is closed")
	})
	credentials.awaitAsked(t, 3)
	announced()
	blocked := make(chan struct{})
	credentials.say(func() (rueidis.AuthCredentials, error) {
		<-blocked
		return short("u", "second")()
	})
	credentials.awaitAsked(t, 1)
	confirmed := r.count("confirm")
	eventually(t, "the heartbeat goes on while the function takes its time", func() bool { return r.count("confirm") > confirmed+5 })
	announced()
	close(blocked)
	eventually(t, "the link belongs to the first user again", func() bool { return whoami() == "u" })

	// Credentials without an end are not asked for again.
	credentials.say(func() (rueidis.AuthCredentials, error) {
		return rueidis.AuthCredentials{Username: "v", Password: "other"}, nil
	})
	eventually(t, "the link has credentials without an end", func() bool { return whoami() == "v" })
	asked := credentials.asked.Load()
	confirmed = r.count("confirm")
	eventually(t, "several heartbeats have passed", func() bool { return r.count("confirm") > confirmed+10 })
	if credentials.asked.Load() != asked {
		t.Error("credentials without an end were asked for again")
	}
	announced()

	if r.count("live") != 1 || r.count("lost") != 0 || r.count("flush") != 0 {
		t.Errorf("the link was not left as it was: %v", r.all())
	}
	closeTracker(t, tracker)
	text := log.String()
	for _, said := range []string{"WRONGPASS", "the vault is closed"} {
		if got := strings.Count(text, said); got != 1 {
			t.Errorf("%d lines say %q:\n%s", got, said, text)
		}
	}
	for _, secret := range []string{"first", "second", "wrong-secret", "other"} {
		if strings.Contains(text, secret) {
			t.Errorf("the log has a password:\n%s", text)
		}
	}
}
