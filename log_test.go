package nearcache_test

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-nearcache/nearcache"
)

// logbook keeps what is logged, as JSON lines.
type logbook struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logbook) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logbook) logger() *slog.Logger {
	return slog.New(slog.NewJSONHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// messages counts the records by message, and fails the test if one holds any of what must not be in a log.
func (l *logbook) messages(t *testing.T, secrets ...string) map[string]int {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	counts := make(map[string]int)
	for line := range strings.Lines(l.text.String()) {
		var record struct {
			Message string `json:"msg"`
		}
		check(t, json.Unmarshal([]byte(line), &record))
		counts[record.Message]++
		for _, secret := range secrets {
			if strings.Contains(line, secret) {
				t.Errorf("%q is in the log: %s", secret, line)
			}
		}
	}
	return counts
}

// What reads and writes do is not logged, however they go; what changes the state of the client is, once for each change; and what could
// repeat itself endlessly does not. No line holds a key, a value or a prefix.
func TestLogTellsOfChangesOfStateAlone(t *testing.T) {
	t.Parallel()
	book := new(logbook)
	n := startNetwork(t, func(o *nearcache.Options) { o.Logger = book.logger() })
	const secret = "hunter2"
	secrets := []string{secret, prefix}
	failing := newCache(t, n.client, nearcache.Config[int]{
		Name: "numbers", Prefix: prefix + "n:",
		Load: func(context.Context, string) (int, error) { return 0, nearcache.ErrNotFound },
	})

	const reads = 200
	for range reads {
		n.server.Do(t, "SET", prefix+secret, secret)
		_, _ = n.cache.Get(t.Context(), secret)
		check(t, n.cache.Set(t.Context(), secret, secret))
		_, _ = n.cache.Get(t.Context(), "k", nearcache.Fresh())
	}
	n.server.Do(t, "FLUSHALL")
	fence(t, n.client)
	if got := book.messages(t, secrets...); len(got) != 1 || got["tracking: link is live"] != 1 {
		t.Errorf("reads and writes are logged: %v", got)
	}

	// Whoever writes what does not decode can do so a thousand times a second.
	began := time.Now()
	for range reads {
		n.server.Do(t, "SET", prefix+"n:"+secret, secret)
		_, _ = failing.Get(t.Context(), secret)
	}
	took := time.Since(began)
	const undecodable = "nearcache: a value in Redis does not decode and is loaded again"
	if got := book.messages(t, secrets...)[undecodable]; got < 1 || float64(got) > took.Seconds()+1 {
		t.Errorf("%d values in %v that do not decode have left %d lines", reads, took, got)
	}
	if counted := n.client.Stats().Caches["numbers"].Undecodable; counted != reads {
		t.Errorf("%d values that do not decode are counted as %d", reads, counted)
	}

	// A link that cannot be made is tried again and again, and told of once for each reason.
	n.proxy.refuseLinks(true)
	awaitDown(t, n.client)
	for range reads {
		_, _ = n.cache.Get(t.Context(), secret)
	}
	n.proxy.refuseLinks(false)
	awaitReady(t, n.client)
	got := book.messages(t, secrets...)
	if got["tracking: link is lost; will try again"] != 1 || got["tracking: link is live"] != 2 || got["tracking: no link; will try again"] > 2 {
		t.Errorf("one loss of the link: %v", got)
	}

	closeNode(t, n.client)
	if got := book.messages(t, secrets...); got["tracking: link is closed"] != 1 {
		t.Errorf("the end: %v", got)
	}
}
