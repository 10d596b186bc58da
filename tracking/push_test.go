package tracking

import (
	"slices"
	"strconv"
	"testing"

	"github.com/go-nearcache/nearcache/internal/redistest"
)

func TestWriteIsAnnounced(t *testing.T) {
	s := redistest.Start(t, redistest.Config{})
	r := newRecorder(t)
	tracker := open(t, options(s, r))
	if status := tracker.Status(); !status.Live || status.Epoch != 1 || status.Server.Address != s.Addr() || status.AsOf.IsZero() {
		t.Errorf("status %+v", status)
	}
	s.Do(t, "SET", "k:1", "v")
	r.awaitKey("k:1", 0)
	s.Do(t, "SET", "other", "v")
	fence(t, tracker)
	if got := r.keys(0); !slices.Equal(got, []string{"k:1"}) {
		t.Errorf("announced: %q", got)
	}
}

// Server fact 1: one push per prefix and turn of the event loop, each key once, in order.
func TestScriptOfAHundredThousandKeysIsOnePush(t *testing.T) {
	const n = 100_000
	s := redistest.Start(t, redistest.Config{})
	r := newRecorder(t)
	tracker := open(t, options(s, r, "k:", "l:"))
	s.Do(t, "EVAL", `for i = 1, tonumber(ARGV[1]) do
		redis.call("SET", "k:" .. i, "a"); redis.call("SET", "k:" .. i, "b")
	end
	redis.call("SET", "l:1", "a")`, "0", strconv.Itoa(n))
	fence(t, tracker)
	got := r.keys(0)
	if len(got) != n+1 {
		t.Fatalf("%d keys announced, want %d", len(got), n+1)
	}
	slices.Sort(got)
	if duplicate := len(slices.Compact(got)); duplicate != n+1 {
		t.Errorf("only %d different keys", duplicate)
	}
	if n := r.count("flush"); n != 0 {
		t.Errorf("%d flushes", n)
	}
}
