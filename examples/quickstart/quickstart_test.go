package main

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"go.uber.org/goleak"

	"github.com/go-nearcache/nearcache"
	"github.com/go-nearcache/nearcache/internal/redistest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// outcomes reads the summary back: promise → seen.
func outcomes(t *testing.T, output string) map[string]outcome {
	t.Helper()
	_, table, ok := strings.Cut(output, "promised ")
	if !ok {
		t.Fatalf("no summary in:\n%s", output)
	}
	found := make(map[string]outcome)
	for line := range strings.Lines(table) {
		for _, s := range (&demo{}).steps() {
			if rest, ok := strings.CutPrefix(line, s.promise); ok {
				found[s.promise] = outcome(strings.Fields(rest)[0])
			}
		}
	}
	if want := len((&demo{}).steps()); len(found) != want {
		t.Fatalf("%d of %d promises in the summary:\n%s", len(found), want, output)
	}
	return found
}

func TestOwnServer(t *testing.T) {
	var output bytes.Buffer
	if err := run(t.Context(), "", &timeline{out: &output}); err != nil {
		t.Errorf("run = %v", err)
	}
	for promise, got := range outcomes(t, output.String()) {
		if got != seen {
			t.Errorf("%s: %s", promise, got)
		}
	}
	for _, measured := range []string{"load from the database", "miss, answered by Redis", "hit in L1", "write to evict", "link cut to live again"} {
		if !strings.Contains(output.String(), "\n"+measured) {
			t.Errorf("the summary lacks %q", measured)
		}
	}
	for line := range strings.Lines(output.String()) {
		if n := utf8.RuneCountInString(strings.TrimRight(line, "\n")); n > 100 {
			t.Errorf("%d columns: %s", n, line)
		}
	}
	if strings.Contains(output.String(), "\x1b") {
		t.Error("colours were not asked for")
	}
	t.Log(output.String())
}

func TestUsersServer(t *testing.T) {
	server := redistest.Start(t, redistest.Config{})
	server.Do(t, "SET", "precious", "data")

	var output bytes.Buffer
	if err := run(t.Context(), server.Addr(), &timeline{out: &output}); err != nil {
		t.Errorf("run = %v", err)
	}
	for promise, got := range outcomes(t, output.String()) {
		want := seen
		if strings.Contains(promise, "flush") {
			want = leftOut
		}
		if got != want {
			t.Errorf("%s: %s, want %s", promise, got, want)
		}
	}
	keys := server.Do(t, "KEYS", "*")
	if left, err := keys.AsStrSlice(); err != nil || len(left) != 1 || left[0] != "precious" {
		t.Errorf("afterwards the server holds %q, %v; want the user's key alone", left, err)
	}
	if t.Failed() {
		t.Log(output.String())
	}
}

// A user who may not do what a step needs is a way to let exactly that step fail.
func TestPromiseNotSeen(t *testing.T) {
	server := redistest.Start(t, redistest.Config{Users: []string{"demo on >secret ~* &* +@all -client|kill"}})
	var output bytes.Buffer
	err := run(t.Context(), "redis://demo:secret@"+server.Addr(), &timeline{out: &output, colour: true})
	if !errors.Is(err, errNotSeen) {
		t.Errorf("run = %v, want errNotSeen", err)
	}
	if !strings.Contains(output.String(), "\x1b[31mNO") || !strings.Contains(output.String(), "NOPERM") {
		t.Errorf("the summary does not say what was not seen:\n%s", output.String())
	}
}

func TestNoTracking(t *testing.T) {
	server := redistest.Start(t, redistest.Config{Users: []string{"demo on >secret ~* &* +@all -client|tracking"}})
	err := run(t.Context(), "redis://demo:secret@"+server.Addr(), &timeline{out: t.Output()})
	if !errors.Is(err, nearcache.ErrNoTracking) {
		t.Errorf("run = %v, want ErrNoTracking", err)
	}
}

func TestNoServer(t *testing.T) {
	server := redistest.Start(t, redistest.Config{})
	server.Kill()
	if err := run(t.Context(), server.Addr(), &timeline{out: t.Output()}); err == nil {
		t.Error("no error without a server")
	}
}

func TestInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	// The third step is the longest.
	output := &cancelAt{text: "\n3  ", cancel: cancel}
	if err := run(ctx, "", &timeline{out: output}); !errors.Is(err, context.Canceled) {
		t.Errorf("run = %v, want Canceled", err)
	}
}

// cancelAt cancels when it has been written a text.
type cancelAt struct {
	text   string
	cancel context.CancelFunc
}

func (c *cancelAt) Write(p []byte) (int, error) {
	if strings.Contains(string(p), c.text) {
		c.cancel()
	}
	return len(p), nil
}

func TestAwaitGivesUp(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	err := await(ctx, "pigs fly", func() (bool, error) { return false, nil })
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "pigs fly") {
		t.Errorf("await = %v", err)
	}
}
