package tracking

import (
	"context"
	"fmt"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/go-nearcache/nearcache/internal/redistest"
)

// counter counts keys, and passes on what it was told for one key at a time.
type counter struct {
	keys atomic.Int64
	told chan struct{} // if not nil, gets a token for each key
}

func (c *counter) Invalidate(string) {
	c.keys.Add(1)
	if c.told != nil {
		c.told <- struct{}{}
	}
}
func (c *counter) Live(time.Time)    {}
func (c *counter) Flush()            {}
func (c *counter) Lost(error)        {}
func (c *counter) Confirm(time.Time) {}

// From the sending of a write by another client to the handler being told: the write's own round trip included.
func BenchmarkWriteToPush(b *testing.B) {
	write := func(b *testing.B, client rueidis.Client, told <-chan struct{}) {
		b.ReportAllocs()
		for b.Loop() {
			if err := client.Do(b.Context(), client.B().Set().Key("k:1").Value("v").Build()).Error(); err != nil {
				b.Fatal(err)
			}
			<-told
		}
	}
	b.Run("tracker", func(b *testing.B) {
		s := redistest.Start(b, redistest.Config{})
		h := &counter{told: make(chan struct{}, 1)}
		open(b, options(s, h))
		write(b, s.Client(b), h.told)
	})
	// The least that rueidis does for a push, to compare with.
	b.Run("bare", func(b *testing.B) {
		s := redistest.Start(b, redistest.Config{})
		told := make(chan struct{}, 1)
		dedicated, release := s.Client(b).Dedicate()
		defer release()
		defer dedicated.Close()
		dedicated.SetOnInvalidations(func(keys []rueidis.RedisMessage) {
			for range keys {
				told <- struct{}{}
			}
		})
		if err := dedicated.Do(b.Context(), dedicated.B().ClientTracking().On().Prefix().Prefix("k:").Bcast().Build()).Error(); err != nil {
			b.Fatal(err)
		}
		write(b, s.Client(b), told)
	})
}

// How many invalidated keys a second a link drains, the server's work of writing them included.
func BenchmarkDrain(b *testing.B) {
	for _, perPush := range []int{1, 100, 5_000} {
		b.Run(fmt.Sprintf("keys=%d", perPush), func(b *testing.B) {
			s := redistest.Start(b, redistest.Config{})
			h := new(counter)
			tracker := open(b, options(s, h))
			client := s.Client(b)
			script := rueidis.NewLuaScript(`for i = 1, tonumber(ARGV[1]) do redis.call("SET", ARGV[2] .. i, "") end`)
			const pipelined = 16
			runs := make([]rueidis.LuaExec, pipelined)
			for i := range runs {
				// Different keys, for a turn of the event loop names each once.
				runs[i] = rueidis.LuaExec{Args: []string{strconv.Itoa(perPush), fmt.Sprintf("k:%d:", i)}}
			}
			b.ReportAllocs()
			for b.Loop() {
				for _, result := range script.ExecMulti(b.Context(), client, runs...) {
					if err := result.Error(); err != nil && !rueidis.IsRedisNil(err) {
						b.Fatal(err)
					}
				}
				if err := tracker.Fence(b.Context()); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(h.keys.Load())/b.Elapsed().Seconds(), "keys/s")
		})
	}
}

// What one key costs from the bytes of a push to the end of the handler's call, without a server's work: the number behind
// MaxPushKeys.
func BenchmarkPushKey(b *testing.B) {
	const keys = 10_000
	names := make([]string, keys)
	for i := range names {
		names[i] = fmt.Sprintf("k:%020d", i)
	}
	push := pushOf(names...)
	f := newFakeServer(b)
	h := new(counter)
	tracker := open(b, f.options(h))
	b.ReportAllocs()
	for b.Loop() {
		f.last().send(push)
		if err := tracker.Fence(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(h.keys.Load()), "ns/key")
}

// The part of that which is ours: a lock, a check and a call.
func BenchmarkDeliverKey(b *testing.B) {
	f := newFakeServer(b)
	h := new(counter)
	tracker := open(b, f.options(h))
	l := tracker.current.Load()
	b.ReportAllocs()
	for b.Loop() {
		l.deliverKey("k:1")
	}
}

func BenchmarkFence(b *testing.B) {
	s := redistest.Start(b, redistest.Config{})
	tracker := open(b, options(s, new(counter)))
	b.Run("alone", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := tracker.Fence(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("parallel", func(b *testing.B) {
		b.ReportAllocs()
		b.SetParallelism(500)
		b.RunParallel(func(p *testing.PB) {
			for p.Next() {
				if err := tracker.Fence(context.Background()); err != nil {
					b.Error(err)
				}
			}
		})
	})
}
