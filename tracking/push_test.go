package tracking

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/go-nearcache/nearcache/internal/redistest"
)

func TestWriteIsAnnounced(t *testing.T) {
	s := redistest.Start(t, redistest.Config{})
	r := newRecorder(t)
	tracker := open(t, options(s, r))
	if status := tracker.Status(); !status.Live || status.Epoch != 1 || status.Reconnects != 0 || status.LastError != nil || status.AsOf.IsZero() {
		t.Errorf("status %+v", status)
	}
	if server := tracker.Status().Server; server.Address != s.Addr() || !strings.Contains(s.Version().String(), server.Version) || server.Product == "" {
		t.Errorf("server %+v", server)
	}
	s.Do(t, "SET", "k:1", "v")
	r.awaitKey("k:1", 0)
	s.Do(t, "SET", "other", "v")
	fence(t, tracker)
	if got := r.keys(0); !slices.Equal(got, []string{"k:1"}) {
		t.Errorf("announced: %q", got)
	}
}

func TestStatusConnectionIsTheLinkOnTheServer(t *testing.T) {
	s := redistest.Start(t, redistest.Config{})
	tracker := open(t, options(s, newRecorder(t)))
	list, err := s.Command(t.Context(), "CLIENT", "LIST", "ID", strconv.FormatInt(tracker.Status().Server.Connection, 10)).ToString()
	check(t, err)
	// One connection per tracker, of client class normal: t tracks, B broadcasts.
	if !strings.Contains(list, "name=nearcache-tracking") || !strings.Contains(list, "flags=tB") {
		t.Errorf("CLIENT LIST: %s", list)
	}
	info, err := s.Command(t.Context(), "INFO", "clients").ToString()
	check(t, err)
	if n := redistest.InfoField(info, "connected_clients"); n != "2" { // and the one that asks
		t.Errorf("%s clients are connected", n)
	}
}

// Server fact 1: pushes are collected per prefix and sent once per turn of the event loop, each key once.
func TestKeysAreNamedOncePerTurn(t *testing.T) {
	s := redistest.Start(t, redistest.Config{})
	r := newRecorder(t)
	tracker := open(t, options(s, r))
	s.Do(t, "EVAL", `for _, key in ipairs({"k:b", "k:a", "k:b", "k:c", "k:a"}) do redis.call("SET", key, "v") end`, "0")
	fence(t, tracker)
	got := r.keys(0)
	slices.Sort(got)
	if !slices.Equal(got, []string{"k:a", "k:b", "k:c"}) {
		t.Errorf("announced: %q", got)
	}
}

func TestPushesComeInTheOrderOfTheWrites(t *testing.T) {
	const n = 200
	s := redistest.Start(t, redistest.Config{})
	r := newRecorder(t)
	tracker := open(t, options(s, r))
	client := s.Client(t)
	var want []string
	for i := range n {
		key := fmt.Sprintf("k:%d", i)
		want = append(want, key)
		// Each write is acknowledged before the next is sent, so no two share a turn.
		check(t, client.Do(t.Context(), client.B().Set().Key(key).Value("v").Build()).Error())
	}
	fence(t, tracker)
	if got := r.keys(0); !slices.Equal(got, want) {
		t.Errorf("announced: %q", got)
	}
}

// Server fact 1: a script is one turn, however many keys it writes.
func TestScriptOfAHundredThousandKeysIsPassedOnWhole(t *testing.T) {
	const n = 100_000
	s := redistest.Start(t, redistest.Config{})
	h := newTally()
	tracker := open(t, options(s, h, "k:", "l:"))
	s.Do(t, "EVAL", `for i = 1, tonumber(ARGV[1]) do
		redis.call("SET", "k:" .. i, "a"); redis.call("SET", "k:" .. i, "b")
	end
	redis.call("SET", "l:1", "a")`, "0", strconv.Itoa(n))
	fence(t, tracker)
	if len(h.keys) != n+1 || h.flushes != 0 {
		t.Errorf("%d keys announced, want %d; %d flushes", len(h.keys), n+1, h.flushes)
	}
	for key, times := range h.keys {
		if times != 1 {
			t.Fatalf("%s was announced %d times", key, times)
		}
	}
}

func TestPushOfTooManyKeysIsAFlush(t *testing.T) {
	for _, n := range []int{MaxPushKeys, MaxPushKeys + 1} {
		s := redistest.Start(t, redistest.Config{})
		h := newTally()
		tracker := open(t, options(s, h))
		s.Do(t, "EVAL", `for i = 1, tonumber(ARGV[1]) do redis.call("SET", "k:" .. i, "") end`, "0", strconv.Itoa(n))
		fence(t, tracker)
		wantKeys, wantFlushes := n, 0
		if n > MaxPushKeys {
			wantKeys, wantFlushes = 0, 1
		}
		if len(h.keys) != wantKeys || h.flushes != wantFlushes {
			t.Errorf("%d keys in a push: %d announced, %d flushes", n, len(h.keys), h.flushes)
		}
	}
}

func TestKeysOfAnyBytes(t *testing.T) {
	s := redistest.Start(t, redistest.Config{})
	r := newRecorder(t)
	tracker := open(t, options(s, r, "\x00\xff\r\n"))
	for _, rest := range []string{"", "\r\n", "$-1\r\n", "\xc3\x28 ' \"", strings.Repeat("x", 1<<20)} {
		from := len(r.all())
		s.Do(t, "SET", "\x00\xff\r\n"+rest, "v")
		fence(t, tracker)
		if got := r.keys(from); len(got) != 1 || got[0] != "\x00\xff\r\n"+rest {
			t.Errorf("announced: %.100q", got)
		}
	}
}

// Server fact 5: pushes name the key, not the database.
func TestWriteToAnotherDatabaseIsAnnounced(t *testing.T) {
	s := redistest.Start(t, redistest.Config{})
	r := newRecorder(t)
	tracker := open(t, options(s, r))
	option := s.ClientOption()
	option.SelectDB = 3
	client := newClient(t, option)
	check(t, client.Do(t.Context(), client.B().Set().Key("k:1").Value("v").Build()).Error())
	fence(t, tracker)
	if got := r.keys(0); !slices.Equal(got, []string{"k:1"}) {
		t.Errorf("announced: %q", got)
	}
	// And flushing that database, or all of them, flushes.
	for _, command := range []string{"FLUSHDB", "FLUSHALL"} {
		before := r.count("flush")
		check(t, client.Do(t.Context(), client.B().Arbitrary(command).Build()).Error())
		fence(t, tracker)
		if n := r.count("flush") - before; n != 1 {
			t.Errorf("%s: %d flushes", command, n)
		}
	}
}

func TestDebugReloadIsAFlush(t *testing.T) {
	s := redistest.Start(t, redistest.Config{})
	r := newRecorder(t)
	tracker := open(t, options(s, r))
	s.Do(t, "SET", "k:1", "v")
	s.Do(t, "DEBUG", "RELOAD")
	fence(t, tracker)
	if n := r.count("flush"); n == 0 {
		t.Errorf("calls %v", r.all())
	}
}

// Server fact 4: an expired key is announced when it is deleted, here because somebody asks for it.
func TestExpiryIsAnnouncedWhenTheKeyIsDeleted(t *testing.T) {
	s := redistest.Start(t, redistest.Config{})
	s.Do(t, "DEBUG", "SET-ACTIVE-EXPIRE", "0")
	r := newRecorder(t)
	tracker := open(t, options(s, r))
	s.Do(t, "SET", "k:1", "v", "PX", "20")
	from := r.awaitKey("k:1", 0) + 1
	for tick := time.NewTicker(5 * time.Millisecond); ; <-tick.C {
		if reply := s.Do(t, "PTTL", "k:1"); isInteger(reply, -2) { // asking deletes it
			tick.Stop()
			break
		}
	}
	fence(t, tracker)
	if got := r.keys(from); !slices.Equal(got, []string{"k:1"}) {
		t.Errorf("announced since the write: %q", got)
	}
}

func TestEvictionIsAnnounced(t *testing.T) {
	s := redistest.Start(t, redistest.Config{})
	r := newRecorder(t)
	tracker := open(t, options(s, r))
	s.Do(t, "SET", "k:1", "v")
	from := r.awaitKey("k:1", 0) + 1
	s.Do(t, "CONFIG", "SET", "maxmemory-policy", "allkeys-random")
	s.Do(t, "CONFIG", "SET", "maxmemory", "1")
	s.Do(t, "DBSIZE") // eviction goes on while commands are executed
	r.awaitKey("k:1", from)
	if !tracker.Status().Live {
		t.Error("the link is down")
	}
}

// Server fact 10: the server refuses prefixes that overlap, which is why they are checked before they are sent.
func TestCheckPrefixes(t *testing.T) {
	for _, test := range []struct {
		prefixes []string
		offence  string // "" if there is none
	}{
		{[]string{"user:", "product:"}, ""},
		{[]string{"a", "b", "c"}, ""},
		{[]string{"\x00", "\xff"}, ""},
		{nil, "no prefixes"},
		{[]string{}, "no prefixes"},
		{[]string{"user:", ""}, "empty"},
		{[]string{"a", "b", "a"}, `"a" is given twice`},
		{[]string{"user:admin:", "product:", "user:"}, `"user:admin:" begins with prefix "user:"`},
		{[]string{"ab", "aa", "a", "ac"}, `begins with prefix "a"`},
		{[]string{"a", "a!", "ab"}, `"a!" begins with prefix "a"`},
	} {
		switch err := CheckPrefixes(test.prefixes); {
		case test.offence == "" && err != nil:
			t.Errorf("%q: %v", test.prefixes, err)
		case test.offence != "" && (err == nil || !strings.Contains(err.Error(), test.offence)):
			t.Errorf("%q: %v, want %q", test.prefixes, err, test.offence)
		}
	}
}

func FuzzCheckPrefixes(f *testing.F) {
	f.Add("a:", "b:", "ab:")
	f.Add("", "x", "x")
	f.Fuzz(func(t *testing.T, a, b, c string) {
		prefixes := []string{a, b, c}
		overlap := slices.Contains(prefixes, "")
		for i := range prefixes {
			for j := range prefixes {
				overlap = overlap || i != j && strings.HasPrefix(prefixes[i], prefixes[j])
			}
		}
		if err := CheckPrefixes(prefixes); (err != nil) != overlap {
			t.Errorf("%q: %v", prefixes, err)
		}
		if prefixes[0] != a || prefixes[1] != b || prefixes[2] != c {
			t.Error("the argument was changed")
		}
	})
}
