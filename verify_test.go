package nearcache_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"

	"github.com/go-nearcache/nearcache"
	"github.com/go-nearcache/nearcache/internal/redistest"
	"github.com/go-nearcache/nearcache/nearcachetest"
)

// histograms is a MeterProvider that keeps what is recorded in histograms, by name.
type histograms struct {
	noop.MeterProvider
	mu       sync.Mutex
	recorded map[string][]float64
}

func newHistograms() *histograms { return &histograms{recorded: make(map[string][]float64)} }

func (h *histograms) Meter(string, ...metric.MeterOption) metric.Meter { return meter{histograms: h} }

func (h *histograms) of(name string) []float64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.recorded[name]
}

type meter struct {
	noop.Meter
	histograms *histograms
}

func (m meter) Float64Histogram(name string, _ ...metric.Float64HistogramOption) (metric.Float64Histogram, error) {
	return histogram{histograms: m.histograms, name: name}, nil
}

type histogram struct {
	noop.Float64Histogram
	histograms *histograms
	name       string
}

func (h histogram) Enabled(context.Context) bool { return true }

func (h histogram) Record(_ context.Context, value float64, _ ...metric.RecordOption) {
	h.histograms.mu.Lock()
	defer h.histograms.mu.Unlock()
	h.histograms.recorded[h.name] = append(h.histograms.recorded[h.name], value)
}

// verified is a node that compares as much of what it serves as it may, behind faults.
type verified struct {
	server   *redistest.Server
	faults   *nearcachetest.Faults
	client   *nearcache.Client
	cache    *nearcache.Cache[string]
	log      *logs
	recorded *histograms
}

func newVerified(t *testing.T, change func(*nearcache.Options), load func(context.Context, string) (string, error)) *verified {
	t.Helper()
	v := &verified{server: redistest.Start(t, redistest.Config{}), faults: nearcachetest.NewFaults(t), log: new(logs), recorded: newHistograms()}
	options := optionsFor(v.server)
	options.Redis.DialCtxFn = v.faults.Dial
	options.Verify = nearcache.Verify{SampleRate: 1, MaxPerSecond: 1000}
	options.Logger, options.MeterProvider = v.log.logger(), v.recorded
	if change != nil {
		change(&options)
	}
	v.client = open(t, options)
	v.cache = newCache(t, v.client, nearcache.Config[string]{Codec: nearcache.String(), NegativeTTL: time.Hour, Load: load})
	return v
}

func (v *verified) stats() nearcache.VerifyStats { return statsOf(v.client).Verify }

// poison makes L1 miss the announcement of a change of the item "k".
func (v *verified) poison(t *testing.T, args ...string) {
	t.Helper()
	fence(t, v.client)
	v.faults.DropPushes(1, prefix+"k")
	v.server.Do(t, args...)
	v.faults.AwaitDropped(1)
}

// awaitWrong reads until what is wrong has been found. What is read after that may be long in coming.
func (v *verified) awaitWrong(t *testing.T) {
	t.Helper()
	eventually(t, "the comparison finds it", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		_, _ = v.cache.Get(ctx, "k")
		return v.stats().Wrong > 0
	})
}

func fromSource(_ context.Context, key string) (string, error) {
	if key == "absent" {
		return "", nearcache.ErrNotFound
	}
	return "of " + key, nil
}

// leaseOfNobody is what a key holds while it is loaded.
const leaseOfNobody = "\x00nearcache\x00lease\x00of nobody"

// L1 misses an announcement, and nobody can know. The comparison finds it, whatever the change was.
func TestVerifyFindsALostInvalidation(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		change []string
		redis  string // what the log says of it
		next   string // what is read next
	}{
		"overwritten": {[]string{"SET", prefix + "k", "a secret"}, `"another value"`, "a secret"},
		"deleted":     {[]string{"DEL", prefix + "k"}, "nothing", "of k"},
		"expired":     {[]string{"EXPIRE", prefix + "k", "-1"}, "nothing", "of k"},
		"of another type": {[]string{"EVAL", `redis.call("DEL", KEYS[1]); redis.call("LPUSH", KEYS[1], "v")`, "1", prefix + "k"},
			`"another type"`, ""},
		"being loaded": {[]string{"SET", prefix + "k", leaseOfNobody, "PX", "3600000"}, `"the mark of a load"`, "of k"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := newVerified(t, nil, fromSource)
			warm(t, v.cache, "k", "of k")
			v.poison(t, test.change...)
			if value, err := v.cache.Get(t.Context(), "k"); value != "of k" || err != nil {
				t.Fatalf("L1 is not poisoned: %q, %v", value, err)
			}
			v.awaitWrong(t)
			if n := v.stats(); n.Wrong != 1 || n.Consistency() >= 1 {
				t.Errorf("%+v", n)
			}
			if inLocal(v.cache, "k") {
				t.Error("what was wrong is served on")
			}
			eventually(t, "it is logged", func() bool { return strings.Contains(v.log.String(), "evicted now") })
			mentions(t, errors.New(v.log.String()), "level=ERROR", "cache=test", "wrong=1", "redis="+test.redis)
			if text := v.log.String(); strings.Contains(text, prefix+"k") || strings.Contains(text, "secret") {
				t.Errorf("a key or a value is logged:\n%s", text)
			}
			ages := v.recorded.of("nearcache.verification.age")
			if len(ages) != 1 || ages[0] <= 0 || ages[0] > patience.Seconds() {
				t.Errorf("ages: %v", ages)
			}
			if name == "being loaded" {
				v.server.Do(t, "DEL", prefix+"k")
			}
			var wrongType *nearcache.WrongTypeError
			switch value, err := v.cache.Get(t.Context(), "k"); {
			case test.next == "" && !errors.As(err, &wrongType), test.next != "" && (value != test.next || err != nil):
				t.Errorf("the next read: %q, %v", value, err)
			}
			if !v.client.Health().Ready {
				t.Error("Health is touched")
			}
		})
	}
}

// That there is no item is served like a value, and can be as wrong.
func TestVerifyFindsAWrongAbsence(t *testing.T) {
	t.Parallel()
	var exists atomic.Bool
	v := newVerified(t, func(o *nearcache.Options) { o.Verify.LogKeys = true }, func(context.Context, string) (string, error) {
		if exists.Load() {
			return "v", nil
		}
		return "", nearcache.ErrNotFound
	})
	eventually(t, "it is known and compared that there is none", func() bool {
		if _, err := v.cache.Get(t.Context(), "k"); !errors.Is(err, nearcache.ErrNotFound) {
			t.Fatal(err)
		}
		return v.stats().Coherent > 0
	})
	exists.Store(true)
	v.poison(t, "SET", prefix+"k", "v")
	v.awaitWrong(t)
	want(t, v.cache, "k", "v")
	mentions(t, errors.New(v.log.String()), "evicted now", `redis="another value"`, "key="+prefix+"k")
}

// The reads of GetMany, and those that L1 answers after a fence, are reads like others.
func TestVerifyCoversAllReads(t *testing.T) {
	t.Parallel()
	for name, read := range map[string]func(*testing.T, *verified){
		"GetMany": func(t *testing.T, v *verified) {
			items, err := v.cache.GetMany(t.Context(), []string{"k"})
			if err != nil || items["k"] != "of k" {
				t.Errorf("%v, %v", items, err)
			}
		},
		"Fresh": func(t *testing.T, v *verified) { want(t, v.cache, "k", "of k", nearcache.Fresh()) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := newVerified(t, nil, fromSource)
			warm(t, v.cache, "k", "of k")
			eventually(t, "the reads so far are compared", func() bool { return compared(v.stats()) > 0 })
			before := compared(v.stats())
			eventually(t, "this one is", func() bool {
				read(t, v)
				return compared(v.stats()) > before
			})
			if v.stats().Wrong != 0 {
				t.Errorf("%+v", v.stats())
			}
		})
	}
}

// every calls do at a pace that leaves the processor to others, until the context ends.
func every(ctx context.Context, pace time.Duration, do func(i int)) {
	tick := time.NewTicker(pace)
	defer tick.Stop()
	for i := 0; ; i++ {
		select {
		case <-tick.C:
			do(i)
		case <-ctx.Done():
			return
		}
	}
}

func compared(n nearcache.VerifyStats) uint64 { return n.Coherent + n.Wrong }

// The bytes in Redis differ from what the codec would write, and the value does not.
func TestVerifyComparesValues(t *testing.T) {
	t.Parallel()
	type item struct{ Tags map[string]int }
	for name, codec := range map[string]nearcache.Codec[item]{
		"another program's spacing": nearcache.JSON[item](),
		"a codec that is never the same twice": {
			Encode: func(value item) ([]byte, error) {
				data, err := json.Marshal(value)
				return append(data, strings.Repeat(" ", rand.IntN(1000))...), err
			},
			Decode: nearcache.JSON[item]().Decode,
		},
		"a codec that cannot encode what it decodes": {
			Encode: func(value item) ([]byte, error) { return nil, errors.New("read-only") },
			Decode: nearcache.JSON[item]().Decode,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t, redistest.Config{})
			options := optionsFor(server)
			options.Verify = nearcache.Verify{SampleRate: 1, MaxPerSecond: 1000}
			client := open(t, options)
			cache := newCache(t, client, nearcache.Config[item]{Codec: codec})
			server.Do(t, "SET", prefix+"k", `{ "Tags": {"b": 2,   "a": 1} }`)
			eventually(t, "some reads are compared", func() bool {
				if value := get(t, cache, "k"); value.Tags["b"] != 2 {
					t.Fatalf("%+v", value)
				}
				return compared(statsOf(client).Verify) >= 10
			})
			if n := statsOf(client).Verify; n.Wrong != 0 {
				t.Errorf("%+v", n)
			}
		})
	}

	t.Run("what the program has changed", func(t *testing.T) {
		t.Parallel()
		server := redistest.Start(t, redistest.Config{})
		options := optionsFor(server)
		options.Verify = nearcache.Verify{SampleRate: 1, MaxPerSecond: 1000}
		options.SettleFills = true
		client := open(t, options)
		cache := newCache(t, client, nearcache.Config[*item]{})
		server.Do(t, "SET", prefix+"k", `{"Tags":{"a":1}}`)
		fence(t, client)
		get(t, cache, "k").Tags = nil // before anybody else gets it
		eventually(t, "it is found", func() bool {
			get(t, cache, "k")
			return statsOf(client).Verify.Wrong > 0
		})
		eventually(t, "the value is whole again", func() bool { return get(t, cache, "k").Tags["a"] == 1 })
	})
}

// Whatever nodes and outsiders write, and however links come and go, nothing is wrong, and nothing is said to be.
func TestVerifyRaisesNoFalseAlarm(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{})
	log := new(logs)
	const nodes, items, comparisonsEach = 3, 8, 20
	var source sync.Map
	type node struct {
		client *nearcache.Client
		cache  *nearcache.Cache[string]
		faults *nearcachetest.Faults
	}
	var all [nodes]node
	for i := range all {
		n := &all[i]
		n.faults = nearcachetest.NewFaults(t)
		options := optionsFor(server)
		options.Redis.DialCtxFn = n.faults.Dial
		options.MaxStaleness = 200 * time.Millisecond
		options.Verify = nearcache.Verify{SampleRate: 1, MaxPerSecond: 1000}
		options.Logger = log.logger()
		n.client = open(t, options)
		n.cache = newCache(t, n.client, nearcache.Config[string]{
			Codec: nearcache.String(), TTL: 200 * time.Millisecond, NegativeTTL: 20 * time.Millisecond,
			Load: func(_ context.Context, key string) (string, error) {
				if value, ok := source.Load(key); ok {
					return value.(string), nil
				}
				return "", nearcache.ErrNotFound
			},
		})
	}
	outsider := server.Client(t)
	ctx, stop := context.WithCancel(t.Context())
	var reading, writing sync.WaitGroup
	for _, n := range all {
		reading.Go(func() {
			keys := make([]string, items)
			for i := range keys {
				keys[i] = fmt.Sprint(i)
			}
			every(ctx, time.Millisecond, func(i int) {
				if i%items == 0 {
					_, _ = n.cache.GetMany(ctx, keys)
				}
				_, _ = n.cache.Get(ctx, keys[i%items])
			})
		})
	}
	for w, n := range all {
		writing.Go(func() {
			every(ctx, 5*time.Millisecond, func(i int) {
				key, value := fmt.Sprint(rand.IntN(items)), fmt.Sprint(w, " wrote ", i)
				switch rand.IntN(6) {
				case 0:
					source.Store(key, value)
					_ = n.cache.Delete(ctx, key)
				case 1:
					source.Delete(key)
					_ = n.cache.Delete(ctx, key)
				case 2:
					_ = n.cache.Set(ctx, key, value)
				case 3:
					_ = outsider.Do(ctx, outsider.B().Set().Key(prefix+key).Value(value).Px(20*time.Millisecond).Build()).Error()
				default:
					_ = outsider.Do(ctx, outsider.B().Set().Key(prefix+key).Value(value).Build()).Error()
				}
				switch rand.IntN(200) {
				case 0:
					n.faults.Cut(nearcachetest.Links)
				case 1:
					_ = outsider.Do(ctx, outsider.B().Flushall().Build()).Error()
				}
			})
		})
	}
	eventually(t, "each node has compared some", func() bool {
		for _, n := range all {
			if compared(statsOf(n.client).Verify) < comparisonsEach {
				return false
			}
		}
		return true
	})
	stop()
	writing.Wait()
	reading.Wait()
	for _, n := range all {
		s := statsOf(n.client).Verify
		if s.Wrong != 0 || s.Consistency() != 1 {
			t.Errorf("%+v\n%s", s, log)
		}
		t.Logf("%+v of %d hits", s, statsOf(n.client).LocalHits)
	}
}

// newCompared returns a node that serves "of k" and has compared that, and does nothing more by itself.
func newCompared(t *testing.T) *verified {
	t.Helper()
	v := newVerified(t, func(o *nearcache.Options) { o.MaxStaleness, o.SettleFills = endless, true }, fromSource)
	warm(t, v.cache, "k", "of k")
	eventually(t, "reads are compared", func() bool {
		want(t, v.cache, "k", "of k")
		return v.stats().Coherent > 0
	})
	eventually(t, "every read so far has been compared or skipped", func() bool {
		n := v.stats()
		return compared(n)+n.Unresolved+n.Skipped == statsOf(v.client).LocalHits
	})
	return v
}

// What was served has been evicted and fetched anew before it could be compared: the new entry answers for itself alone.
func TestVerifyTellsEntriesApart(t *testing.T) {
	t.Parallel()
	v := newCompared(t)
	before, evicted := v.stats(), v.client.Stats().Local.Invalidations.Tracking.Evicted
	v.faults.Stall(nearcachetest.Data, nearcachetest.ToServer)
	want(t, v.cache, "k", "of k")
	elapse(100 * time.Millisecond) // Redis is being asked
	v.server.Do(t, "SET", prefix+"k", "new")
	eventually(t, "L1 is told", func() bool { return v.client.Stats().Local.Invalidations.Tracking.Evicted > evicted })
	v.faults.Stall(nearcachetest.Links, nearcachetest.ToClient) // the fence waits
	v.faults.Resume(nearcachetest.Data, nearcachetest.ToServer)
	want(t, v.cache, "k", "new")
	v.faults.Resume(nearcachetest.Links, nearcachetest.ToClient)
	eventually(t, "the comparison ends", func() bool { return v.stats() != before })
	if n := v.stats(); n.Wrong != 0 || n.Unresolved != before.Unresolved+1 {
		t.Errorf("%+v, before %+v", n, before)
	}
}

// A write that is carried out just before Redis is asked, and whose announcement is slow, is no lost one: the fence waits for it.
func TestVerifyLooksBeforeItFences(t *testing.T) {
	t.Parallel()
	v := newCompared(t)
	before, asked := v.stats(), calls(t, v.server, "get")

	v.faults.Stall(nearcachetest.Data, nearcachetest.ToServer)
	want(t, v.cache, "k", "of k")
	elapse(100 * time.Millisecond) // a fence that came first would be over
	v.faults.Stall(nearcachetest.Links, nearcachetest.ToClient)
	v.server.Do(t, "SET", prefix+"k", "new")
	v.faults.Resume(nearcachetest.Data, nearcachetest.ToServer)
	eventually(t, "Redis is asked", func() bool { return calls(t, v.server, "get") > asked })
	elapse(100 * time.Millisecond) // and has answered
	v.faults.Resume(nearcachetest.Links, nearcachetest.ToClient)
	eventually(t, "the comparison ends", func() bool { return v.stats() != before })
	if n := v.stats(); n.Wrong != 0 || n.Unresolved != before.Unresolved+1 {
		t.Errorf("%+v, before %+v", n, before)
	}
}

// However much is served, no more is compared than allowed, and the rest is counted.
func TestVerifyKeepsToItsRate(t *testing.T) {
	t.Parallel()
	v := newVerified(t, func(o *nearcache.Options) { o.Verify.MaxPerSecond = 10 }, fromSource)
	began := time.Now()
	warm(t, v.cache, "k", "of k")
	for v.stats().Coherent < 5 {
		want(t, v.cache, "k", "of k")
	}
	n := v.stats()
	most := 1 + uint64(10*time.Since(began).Seconds())
	if looks := compared(n) + n.Unresolved; looks > most || n.Skipped < 100 {
		t.Errorf("%+v, and %d comparisons were allowed", n, most)
	}
	if hits := statsOf(v.client).LocalHits; compared(n)+n.Unresolved+n.Skipped > hits {
		t.Errorf("%+v are more than %d hits", n, hits)
	}
}

// Without Verify nothing runs and nothing is counted.
func TestVerifyOffByDefault(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{})
	client := open(t, optionsFor(server))
	cache := stringCache(t, client, fromSource)
	warm(t, cache, "k", "of k")
	for range 1000 {
		want(t, cache, "k", "of k")
	}
	if n := statsOf(client).Verify; n != (nearcache.VerifyStats{}) || n.Consistency() != 1 {
		t.Errorf("%+v", n)
	}
}

// A comparison that cannot be made is none, and does not hold up Close.
func TestVerifyWithoutAnAnswer(t *testing.T) {
	t.Parallel()
	v := newVerified(t, func(o *nearcache.Options) { o.MaxStaleness = endless }, fromSource)
	warm(t, v.cache, "k", "of k")
	eventually(t, "reads are compared", func() bool {
		want(t, v.cache, "k", "of k")
		return v.stats().Coherent > 0
	})
	v.faults.RefuseConnections()
	v.faults.Cut(nearcachetest.Data)
	before := v.stats().Unresolved
	eventually(t, "comparisons fail", func() bool {
		want(t, v.cache, "k", "of k")
		return v.stats().Unresolved > before
	})
	v.faults.AcceptConnections()
	v.faults.Stall(nearcachetest.Data, nearcachetest.ToClient)
	for range 100 {
		want(t, v.cache, "k", "of k")
	}
	began := time.Now()
	closeNode(t, v.client)
	if took := time.Since(began); took > slow+patience/2 {
		t.Errorf("Close took %v", took)
	}
	if n := v.stats(); n.Wrong != 0 {
		t.Errorf("%+v", n)
	}
}

func TestVerifyOptionsThatAreRefused(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		verify nearcache.Verify
		canary time.Duration
		words  []string
	}{
		{verify: nearcache.Verify{SampleRate: -0.1}, words: []string{"Verify.SampleRate", "-0.1", "from 0 to 1"}},
		{verify: nearcache.Verify{SampleRate: 1.1}, words: []string{"Verify.SampleRate", "1.1", "from 0 to 1"}},
		{verify: nearcache.Verify{LogKeys: true}, words: []string{"Verify.SampleRate", "positive"}},
		{verify: nearcache.Verify{MaxPerSecond: 5}, words: []string{"Verify.SampleRate", "positive"}},
		{verify: nearcache.Verify{SampleRate: 0.1, MaxPerSecond: -1}, words: []string{"Verify.MaxPerSecond", "-1", "1000"}},
		{verify: nearcache.Verify{SampleRate: 0.1, MaxPerSecond: 1001}, words: []string{"Verify.MaxPerSecond", "1001"}},
		{canary: -time.Second, words: []string{"Canary", "-1s", "10ms", "1h"}},
		{canary: time.Millisecond, words: []string{"Canary", "1ms", "10ms"}},
	} {
		options := optionsAt("127.0.0.1:1")
		options.Verify, options.Canary = test.verify, test.canary
		_, err := nearcache.Open(t.Context(), options)
		mentions(t, err, test.words...)
	}
}
