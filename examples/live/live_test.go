package main

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/go-nearcache/nearcache/internal/redistest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience ends the wait for what has to happen. It is long because the machine may be busy.
const patience = 2 * time.Minute

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// start runs the program until the test ends, and returns where its page is.
func start(t *testing.T, o options) (url string) {
	t.Helper()
	o.listen = "127.0.0.1:0"
	ctx, cancel := context.WithCancel(t.Context())
	out, say := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		ended <- run(ctx, o, say, slog.New(slog.NewTextHandler(t.Output(), nil)))
		_ = say.Close()
	}()
	t.Cleanup(func() {
		http.DefaultClient.CloseIdleConnections()
		cancel()
		check(t, <-ended)
	})
	lines := bufio.NewReader(out)
	for {
		line, err := lines.ReadString('\n')
		check(t, err)
		if match := regexp.MustCompile(`^live: (\S+)\n$`).FindStringSubmatch(line); match != nil {
			go func() { _, _ = io.Copy(io.Discard, lines) }() // it may have more to say
			return match[1]
		}
	}
}

// watch reads states until one fulfils the condition.
func watch(t *testing.T, url, what string, condition func(state) bool) state {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/events", nil)
	check(t, err)
	response, err := http.DefaultClient.Do(request)
	check(t, err)
	defer response.Body.Close()
	lines := bufio.NewReader(response.Body)
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			t.Fatalf("not within %v: %s: %v", patience, what, err)
		}
		data, ok := strings.CutPrefix(line, "data: ")
		if !ok {
			continue
		}
		var s state
		check(t, json.Unmarshal([]byte(data), &s))
		if condition(s) {
			return s
		}
	}
}

func post(t *testing.T, url string, want int, header ...string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, nil)
	check(t, err)
	for i := 0; i < len(header); i += 2 {
		request.Header.Set(header[i], header[i+1])
	}
	response, err := http.DefaultClient.Do(request)
	check(t, err)
	check(t, response.Body.Close())
	if response.StatusCode != want {
		t.Errorf("POST %s: %d, want %d", url, response.StatusCode, want)
	}
}

// every cell of every node fulfils the condition.
func everyCell(s state, condition func(node nodeState, c cell) bool) bool {
	for _, n := range s.Nodes {
		for _, c := range n.Cells {
			if !condition(n, c) {
				return false
			}
		}
	}
	return true
}

func isHeld(_ nodeState, c cell) bool { return c.State == held }

func TestStates(t *testing.T) {
	url := start(t, options{})
	full := func(s state) bool { return everyCell(s, isHeld) }
	watch(t, url, "all nodes hold everything", full)

	post(t, url+"/write?key=SIN", http.StatusNoContent)
	s := watch(t, url, "all nodes have been told and read again", func(s state) bool {
		return full(s) && everyCell(s, func(_ nodeState, c cell) bool { return c.Key != "SIN" || c.Version == 2 && c.Pushes > 0 })
	})
	if last := s.Journal[len(s.Journal)-1].Text; !regexp.MustCompile(`^Outside wrote SIN v2: pushed out of the memory of .*, .*, .*, .* within [0-9.]+ ms$`).MatchString(last) {
		t.Errorf("the journal says %q", last)
	}
	post(t, url+"/nodes/A/write?key=VIE", http.StatusNoContent)
	watch(t, url, "the others have been told", func(s state) bool {
		return strings.HasPrefix(s.Journal[len(s.Journal)-1].Text, "Node A wrote VIE v2: pushed out of the memory of ")
	})

	post(t, url+"/nodes/B/cut", http.StatusNoContent)
	s = watch(t, url, "the link is cut", func(s state) bool { return s.Nodes[1].Cut && !s.Nodes[1].Live && s.Nodes[1].AgeMS > s.BoundMS })
	for i, n := range s.Nodes {
		if i != 1 && (!n.Live || n.Cut) {
			t.Errorf("node %s: %+v", n.Name, n)
		}
	}
	post(t, url+"/nodes/B/mend", http.StatusNoContent)
	watch(t, url, "the link is live", func(s state) bool { return s.Nodes[1].Live && s.Nodes[1].Reconnects == 1 && full(s) })

	post(t, url+"/freeze", http.StatusNoContent)
	post(t, url+"/write?key=SIN", http.StatusServiceUnavailable)
	watch(t, url, "no node is certain", func(s state) bool {
		return s.Frozen && everyCell(s, func(n nodeState, c cell) bool { return n.AgeMS > s.BoundMS && c.State != held && c.State != older })
	})
	post(t, url+"/thaw", http.StatusNoContent)
	watch(t, url, "all is well again", func(s state) bool { return !s.Frozen && full(s) })

	post(t, url+"/flush", http.StatusNoContent)
	watch(t, url, "the journal tells of the flush", func(s state) bool {
		return strings.HasPrefix(s.Journal[len(s.Journal)-1].Text, "FLUSHALL")
	})
	watch(t, url, "all is read again", full)
}

func TestRequestsThatAreRefused(t *testing.T) {
	server := redistest.Start(t, redistest.Config{})
	url := start(t, options{redis: server.Addr(), writes: 10 * time.Millisecond})
	post(t, url+"/nodes/E/cut", http.StatusNotFound)
	post(t, url+"/nodes/E/write", http.StatusNotFound)
	post(t, url+"/nodes/A/write?key=none", http.StatusBadRequest)
	post(t, url+"/write?key=none", http.StatusBadRequest)
	// A server that is not the program's own is left alone.
	post(t, url+"/freeze", http.StatusServiceUnavailable)
	post(t, url+"/flush", http.StatusServiceUnavailable)
	// Nor does a page of somebody else press buttons here.
	post(t, url+"/nodes/A/cut", http.StatusForbidden, "Sec-Fetch-Site", "cross-site")
	s := watch(t, url, "a node writes", func(s state) bool { return len(s.Journal) > 0 })
	if s.Private || s.Nodes[0].Cut {
		t.Errorf("%+v", s)
	}
}

func TestRate(t *testing.T) {
	var r rate
	if _, ok := r.recent(); ok {
		t.Error("a share of no reads")
	}
	for i := range 10 {
		r.add(i < 9)
	}
	if recent, ok := r.recent(); !ok || recent != 0.9 || r.total != 10 || r.saved != 9 {
		t.Errorf("%v of %d reads, %d saved", recent, r.total, r.saved)
	}
	r.second -= 2 * rateSeconds // as if so long ago
	if recent, ok := r.recent(); ok {
		t.Errorf("reads of long ago are counted: %v", recent)
	}
}

func TestPlain(t *testing.T) {
	for reason, want := range map[string]string{
		"": "",
		"the invalidation link is down: tracking: link to 127.0.0.1:6379: connection: EOF": "EOF",
	} {
		if got := plain(reason); got != want {
			t.Errorf("%q: %q, want %q", reason, got, want)
		}
	}
}

// The program that shows pages is asked to show this one; where there is none, the page is served all the same.
func TestOpensABrowser(t *testing.T) {
	bin := t.TempDir()
	asked := filepath.Join(bin, "asked")
	for _, name := range []string{"xdg-open", "open"} {
		check(t, os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\necho \"$1\" > "+asked+"\n"), 0o700)) //nolint:gosec // it is to be run
	}
	t.Setenv("PATH", bin+string(os.PathListSeparator)+os.Getenv("PATH"))
	url := start(t, options{open: true, writes: time.Hour})
	deadline := time.After(patience)
	for {
		if text, err := os.ReadFile(asked); err == nil && len(text) > 0 { //nolint:gosec // the test's own file
			if got := strings.TrimSpace(string(text)); got != url {
				t.Errorf("%q was shown and not %q", got, url)
			}
			break
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-deadline:
			t.Fatal("no page was shown")
		}
	}
}

func TestWithoutABrowser(t *testing.T) {
	server := redistest.Start(t, redistest.Config{})
	t.Setenv("PATH", t.TempDir())
	url := start(t, options{open: true, writes: time.Hour, redis: server.Addr()})
	response, err := http.Get(url) //nolint:gosec,noctx // our own page
	check(t, err)
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		t.Errorf("the page is answered with %s", response.Status)
	}
}
