package nearcache

import (
	"context"
	"errors"
	"strconv"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/go-nearcache/nearcache/internal/redistest"
)

// enterMany fills the round trips that may be under way, and returns the fetches of the keys that come after.
func enterMany(t *testing.T, c *combiner, keys ...string) []*fetching {
	t.Helper()
	for range roundTripsAtOnce {
		if c.enter("first") != nil {
			t.Fatal("one of the first has to wait for others")
		}
	}
	var waiting []*fetching
	for _, key := range keys {
		f := c.enter(key)
		if f == nil {
			t.Fatalf("%q makes a round trip of its own", key)
		}
		waiting = append(waiting, f)
	}
	return waiting
}

// What comes while enough round trips are under way shares the next, and no round trip is forgotten.
func TestFetchesThatWaitTravelTogether(t *testing.T) {
	t.Parallel()
	var c combiner
	waiting := enterMany(t, &c, "a", "b", "c")
	var sent [][]string
	send := func(batch []*fetching) error {
		var keys []string
		for _, f := range batch {
			keys = append(keys, f.key)
		}
		sent = append(sent, keys)
		deliver(batch, nil)
		return nil
	}
	c.leave(nil, send)
	for _, f := range waiting {
		if <-f.done; f.err != nil {
			t.Errorf("%q: %v", f.key, f.err)
		}
	}
	c.close()
	if len(sent) != 1 || len(sent[0]) != 3 {
		t.Errorf("sent: %q", sent)
	}
	if c.running != roundTripsAtOnce-1 {
		t.Errorf("%d round trips are thought to be under way, of %d", c.running, roundTripsAtOnce-1)
	}
}

func TestFetchesThatWaitShareTheErrorOfAServerThatIsAway(t *testing.T) {
	t.Parallel()
	var c combiner
	waiting := enterMany(t, &c, "a", "b")
	away := errors.New("away")
	c.leave(away, func([]*fetching) error {
		t.Error("sent to a server that is away")
		return nil
	})
	for _, f := range waiting {
		if <-f.done; !errors.Is(f.err, away) {
			t.Errorf("%q: %v", f.key, f.err)
		}
	}
	if c.enter("later") != nil {
		t.Error("the round trip that has ended is not free for the next")
	}
}

func TestFetchesTogetherAreBounded(t *testing.T) {
	t.Parallel()
	var c combiner
	keys := make([]string, 2*fetchesTogether+1)
	for i := range keys {
		keys[i] = strconv.Itoa(i)
	}
	waiting := enterMany(t, &c, keys...)
	var sizes []int
	c.leave(nil, func(batch []*fetching) error {
		sizes = append(sizes, len(batch))
		deliver(batch, nil)
		return nil
	})
	for _, f := range waiting {
		<-f.done
	}
	c.close()
	if len(sizes) != 3 || sizes[0] != fetchesTogether || sizes[1] != fetchesTogether || sizes[2] != 1 {
		t.Errorf("sizes: %d", sizes)
	}
}

func TestFetchesDoNotOutliveTheirCombiner(t *testing.T) {
	t.Parallel()
	var c combiner
	waiting := enterMany(t, &c, "a")
	c.close()
	c.leave(nil, func([]*fetching) error {
		t.Error("sent after the end")
		return nil
	})
	if <-waiting[0].done; !errors.Is(waiting[0].err, ErrClosed) {
		t.Errorf("the one that waited: %v", waiting[0].err)
	}
	if c.enter("late") != nil {
		t.Error("who comes after the end waits for others")
	}
}

// Readers who wait for a slow server are not held up by each other: the one who gives up goes at once, and a key of the wrong type is the
// trouble of its own reader.
func TestReadersThatWaitTogetherAnswerForThemselves(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{})
	client, err := Open(t.Context(), Options{
		Redis:        rueidis.ClientOption{InitAddress: []string{server.Addr()}},
		Prefixes:     []string{"test:"},
		MaxStaleness: 10 * time.Minute, RemoteTimeout: time.Minute,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close(context.Background())
	cache, err := New(client, Config[string]{Name: "test", Prefix: "test:", Codec: String()})
	if err != nil {
		t.Fatal(err)
	}
	keys := []string{"0", "1", "2", "3", "4", "5", "6", "7"}
	for _, key := range keys {
		server.Do(t, "SET", "test:"+key, "value of "+key)
	}
	server.Do(t, "LPUSH", "test:list", "v")

	type answer struct {
		key, value string
		err        error
	}
	answers := make(chan answer, len(keys))
	read := func(ctx context.Context, key string, to chan<- answer) {
		value, err := cache.Get(ctx, key)
		to <- answer{key, value, err}
	}
	fetches := &client.servers()[0].fetches
	await := func(running, waiting int) {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
			fetches.mu.Lock()
			reached := fetches.running == running && len(fetches.waiting) == waiting
			fetches.mu.Unlock()
			if reached {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("not within a minute: %d round trips under way and %d fetches that wait", running, waiting)
			}
		}
	}
	if err := server.Pause(); err != nil {
		t.Fatal(err)
	}
	for _, key := range keys {
		go read(t.Context(), key, answers)
	}
	await(roundTripsAtOnce, len(keys)-roundTripsAtOnce)
	list, impatient := make(chan answer, 1), make(chan answer, 1)
	go read(t.Context(), "list", list)
	ctx, cancel := context.WithCancel(t.Context())
	go read(ctx, "impatient", impatient)
	await(roundTripsAtOnce, len(keys)-roundTripsAtOnce+2)
	cancel()
	if a := <-impatient; !errors.Is(a.err, context.Canceled) {
		t.Errorf("the one who gave up: %+v", a)
	}
	if err := server.Resume(); err != nil {
		t.Error(err)
	}
	for range keys {
		if a := <-answers; a.err != nil || a.value != "value of "+a.key {
			t.Errorf("%+v", a)
		}
	}
	var wrong *WrongTypeError
	if a := <-list; !errors.As(a.err, &wrong) || wrong.Key != "test:list" {
		t.Errorf("%+v", a)
	}
}
