package nearcache

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
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

// sizes makes a combiner send nothing and note how many it would have.
func sizes(c *combiner) (noted func() []int) {
	var all []int
	c.send = func(batch []*fetching) {
		all = append(all, len(batch)) // in one goroutine at a time in these tests, and read after close
		deliver(batch, nil)
	}
	return func() []int {
		c.close()
		return all
	}
}

// What comes while enough round trips are under way shares the next, and no round trip is forgotten.
func TestFetchesThatWaitTravelTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c combiner
		sent := sizes(&c)
		waiting := enterMany(t, &c, "a", "b", "c")
		c.leave()
		for _, f := range waiting {
			if <-f.done; f.err != nil {
				t.Errorf("%q: %v", f.key, f.err)
			}
		}
		synctest.Wait()
		if c.running != roundTripsAtOnce-1 {
			t.Errorf("%d round trips are thought to be under way, of %d", c.running, roundTripsAtOnce-1)
		}
		if got := sent(); !slices.Equal(got, []int{3}) {
			t.Errorf("sent together: %d", got)
		}
	})
}

// Round trips that hang hold nobody up for longer than the patience.
func TestFetchesDoNotWaitForWhatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c combiner
		sent := sizes(&c)
		began := time.Now()
		for _, f := range enterMany(t, &c, "a", "b") {
			<-f.done
		}
		if took := time.Since(began); took != combinePatience {
			t.Errorf("they waited for %v", took)
		}
		again := c.enter("c")
		<-again.done
		if took := time.Since(began); took != 2*combinePatience {
			t.Errorf("the next one waited until %v", took)
		}
		synctest.Wait()
		if c.running != roundTripsAtOnce {
			t.Errorf("%d round trips are thought to be under way, of %d", c.running, roundTripsAtOnce)
		}
		if got := sent(); !slices.Equal(got, []int{2, 1}) {
			t.Errorf("sent together: %d", got)
		}
	})
}

func TestFetchesTogetherAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c combiner
		sent := sizes(&c)
		keys := make([]string, roundTripsAtOnce*mostTogether+1)
		for i := range keys {
			keys[i] = strconv.Itoa(i)
		}
		waiting := enterMany(t, &c, keys...)
		c.leave()
		for _, f := range waiting {
			<-f.done
		}
		if got := sent(); !slices.Equal(got, []int{mostTogether, mostTogether / 2, leastTogether, leastTogether, 1}) {
			t.Errorf("sent together: %d", got)
		}
	})
}

func TestFetchesDoNotOutliveTheirCombiner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c combiner
		sent := sizes(&c)
		waiting := enterMany(t, &c, "a")
		if got := sent(); got != nil {
			t.Errorf("sent: %d", got)
		}
		if <-waiting[0].done; !errors.Is(waiting[0].err, ErrClosed) {
			t.Errorf("the one that waited: %v", waiting[0].err)
		}
		if c.enter("late") != nil {
			t.Error("who comes after the end waits for others")
		}
	})
}

// Readers who wait for a slow server are not held up by each other: the one who gives up goes at once, and a key of the wrong type, or one that
// the user has no right to, is the trouble of its own reader.
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
	server.Do(t, "SET", "test:forbidden", "v")
	server.Do(t, "ACL", "SETUSER", "default", "resetkeys", "~test:?", "~test:list", "~test:impatient")

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
	underWay := func(atLeast int) {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
			fetches.mu.Lock()
			running := fetches.running
			fetches.mu.Unlock()
			if running >= atLeast {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("not within a minute: %d round trips under way", running)
			}
		}
	}
	if err := server.Pause(); err != nil {
		t.Fatal(err)
	}
	for _, key := range keys {
		go read(t.Context(), key, answers)
	}
	underWay(roundTripsAtOnce) // so that nobody else makes one of his own
	list, forbidden, impatient := make(chan answer, 1), make(chan answer, 1), make(chan answer, 1)
	go read(t.Context(), "list", list)
	go read(t.Context(), "forbidden", forbidden)
	ctx, cancel := context.WithCancel(t.Context())
	go read(ctx, "impatient", impatient)
	underWay(roundTripsAtOnce + 1)
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
	if a := <-forbidden; !errors.Is(a.err, ErrUnavailable) || !strings.Contains(a.err.Error(), "NOPERM") {
		t.Errorf("%+v", a)
	}
}
