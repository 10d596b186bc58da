package nearcachetest

import (
	"bytes"
	"errors"
	"io"
	"reflect"
	"strings"
	"testing"
)

const push = ">2\r\n$10\r\ninvalidate\r\n*2\r\n$3\r\nk:a\r\n$5\r\nk:\r\nb\r\n"

func TestFrames(t *testing.T) {
	t.Parallel()
	messages := []string{
		"+OK\r\n", "-ERR no\r\n", ":1\r\n", "_\r\n", "#t\r\n", ",1.5\r\n", "(12345678901234567890\r\n",
		"$5\r\na\r\nb\n\r\n", "$0\r\n\r\n", "$-1\r\n", "*-1\r\n", "*0\r\n", "=5\r\ntxt:a\r\n", "!5\r\nERR a\r\n",
		"%1\r\n+a\r\n*2\r\n:1\r\n%1\r\n:1\r\n:2\r\n", "~2\r\n:1\r\n:2\r\n", "|1\r\n+ttl\r\n:3\r\n+OK\r\n",
		push, ">2\r\n$10\r\ninvalidate\r\n_\r\n", "+" + strings.Repeat("long", 5000) + "\r\n",
	}
	f := newFrames(strings.NewReader(strings.Join(messages, "")))
	for _, want := range messages {
		got, err := f.next()
		if err != nil || string(got) != want {
			t.Fatalf("%q, %v; want %q", got, err, want)
		}
	}
	if rest, err := f.next(); len(rest) != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("%q, %v", rest, err)
	}
}

func TestPushes(t *testing.T) {
	t.Parallel()
	for message, want := range map[string]*Push{
		push:                                      {Keys: []string{"k:a", "k:\r\nb"}},
		">2\r\n$10\r\ninvalidate\r\n_\r\n":        {Everything: true},
		">2\r\n+invalidate\r\n*1\r\n$1\r\nk\r\n":  {Keys: []string{"k"}},
		">3\r\n$7\r\nmessage\r\n+topic\r\n+m\r\n": nil,
		"*2\r\n$10\r\ninvalidate\r\n*1\r\n+k\r\n": nil,
		">0\r\n": nil,
		">2\r\n$10\r\ninvalidate\r\n*1\r\n$-1\r\n": {Everything: true},
	} {
		got, ok := asPush([]byte(message))
		if ok != (want != nil) || ok && (len(got.Keys) != len(want.Keys) || len(want.Keys) > 0 && !reflect.DeepEqual(got, *want) || got.Everything != want.Everything) {
			t.Errorf("%q is %+v, %v; want %+v", message, got, ok, want)
		}
	}
	p := Push{Keys: []string{"a", "b"}}
	if !p.concerns(nil) || !p.concerns([]string{"x", "b"}) || p.concerns([]string{"x"}) || (Push{Everything: true}).concerns([]string{"a"}) {
		t.Error("keys pick other pushes than those that name them")
	}
}

func TestStartsTracking(t *testing.T) {
	t.Parallel()
	for command, want := range map[string]bool{
		"*3\r\n$6\r\nCLIENT\r\n$8\r\nTRACKING\r\n$2\r\nON\r\n":                                      true,
		"*4\r\n$6\r\nclient\r\n$8\r\ntracking\r\n$2\r\non\r\n$5\r\nBCAST\r\n":                       true,
		"*3\r\n$6\r\nCLIENT\r\n$8\r\nTRACKING\r\n$3\r\nOFF\r\n":                                     false,
		"*2\r\n$6\r\nCLIENT\r\n$12\r\nTRACKINGINFO\r\n":                                             false,
		"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n":                                                            false,
		"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1000\r\n" + strings.Repeat("CLIENT TRACKING ON", 60)[:1000]: false,
	} {
		if got := startsTracking([]byte(command)); got != want {
			t.Errorf("%q: %v", command, got)
		}
	}
}

// FuzzFrames shows that whatever a connection brings is passed on, byte for byte.
func FuzzFrames(f *testing.F) {
	for _, seed := range []string{push, "*1\r\n$4\r\nPING\r\n", "GET / HTTP/1.1\r\n\r\n", "$99999999999\r\nx", "|1\r\n:1\r\n:2\r\n:3\r\n", "*2\r\n", "\r\n", "+\n"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, sent []byte) {
		frames := newFrames(bytes.NewReader(sent))
		var passed []byte
		for {
			message, err := frames.next()
			if len(message) == 0 && err == nil {
				t.Fatal("neither bytes nor an error")
			}
			if len(message) > 0 {
				asPush(message)
				startsTracking(message)
			}
			passed = append(passed, message...)
			if err != nil {
				break
			}
		}
		if !bytes.Equal(passed, sent) {
			t.Errorf("%q became %q", sent, passed)
		}
	})
}
