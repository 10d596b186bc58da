package nearcache

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/go-nearcache/nearcache/localcache"
)

func TestCommandForms(t *testing.T) {
	commands := [][]string{
		{"GET", "k"},
		{"GETRANGE", "k", "1", "23"},
		{"GETRANGE", "k", "12", "3"},
		{"GETRANGE", "k", "123", ""},
		{"HGET", "k", "f"},
		{"HGET", "k", ""},
		{"HMGET", "k", "f", "g"},
		{"HMGET", "k", "f\x00\x01\x00\x00\x00g"},
		{"HGETALL", "k"},
		{"HGET", "k", "ALL"},
		{"EVAL_RO", "return 1", "1", "k"},
		{"EVAL_RO", "return 1", "1", "k", "a"},
	}
	for i, a := range commands {
		reply := cachedReply{command: commandOf(a, keyAt(a))}
		for j, b := range commands {
			if reply.answers(b, keyAt(b)) != (i == j) {
				t.Errorf("%q answers %q: %v", a, b, i != j)
			}
		}
		other := slices.Clone(a)
		other[keyAt(a)] = "another key" // which is not a part of the form
		if !reply.answers(other, keyAt(other)) {
			t.Errorf("%q does not answer %q", a, other)
		}
	}
}

func FuzzCommandForms(f *testing.F) {
	f.Add("GET", "a", "b", "c", "d")
	f.Fuzz(func(t *testing.T, name, a, b, c, d string) {
		if len(name) == 0 {
			return
		}
		one, two := []string{name, "k", a, b}, []string{name, "k", c, d}
		reply := cachedReply{command: commandOf(one, 1)}
		if !reply.answers(one, 1) || reply.answers(two, 1) != slices.Equal(one, two) || reply.answers(two[:3], 1) || reply.answers(one[:2], 1) {
			t.Errorf("%q, %q", one, two)
		}
	})
}

func TestRepliesOfAKey(t *testing.T) {
	now := localcache.Now()
	in := func(d time.Duration) localcache.Instant { return now.Add(d) }
	all := replies{first: cachedReply{command: "GET", deadline: in(time.Second)}}
	if all.more != nil || all.deadline() != in(time.Second) {
		t.Fatalf("%+v", all)
	}
	for i := range 2 * mostReplies {
		name := fmt.Sprint("COMMAND", i)
		all = all.with(cachedReply{command: name, deadline: in(time.Minute)}, now)
		if all.find([]string{name, "k"}, 1, now) == nil {
			t.Fatalf("%s was added and is not there", name)
		}
	}
	if n := len(*all.more) + 1; n != mostReplies {
		t.Errorf("%d replies, want %d", n, mostReplies)
	}
	small := replies{first: cachedReply{command: "GET", deadline: in(time.Second)}}
	small = small.with(cachedReply{command: "STRLEN", deadline: in(time.Minute)}, now)
	if small.find([]string{"GET", "k"}, 1, in(2*time.Second)) != nil || small.find([]string{"STRLEN", "k"}, 1, in(2*time.Second)) == nil {
		t.Error("each reply has an end of its own")
	}
	if small.deadline() != in(time.Minute) {
		t.Errorf("the entry ends at %v", small.deadline())
	}
	small = small.with(cachedReply{command: "STRLEN", deadline: in(time.Hour)}, in(2*time.Second))
	if small.more != nil {
		t.Errorf("what has ended and what is replaced are kept: %+v", *small.more)
	}
}

func TestMessageLives(t *testing.T) {
	var message, copied rueidis.RedisMessage
	if message.CacheUnmarshalView([]byte{0, 0, 0, 0, 0, 0, 0, '+', 0, 0, 0, 0, 0, 0, 0, 2, 'O', 'K'}) != nil {
		t.Fatal("the serialized form of rueidis has changed")
	}
	const end = 1<<55 - 3
	copied, err := cached(&message, end)
	if value, _ := copied.ToString(); err != nil || value != "OK" || !copied.IsCacheHit() || copied.CachePXAT() != end {
		t.Errorf("%v, %v, ends at %d", &copied, err, copied.CachePXAT())
	}
	var raw rueidis.RedisMessage
	setExpiry(&raw, end)
	if raw.IsCacheHit() || raw.CachePXAT() != end {
		t.Errorf("a message that is not from a cache: hit %v, ends at %d", raw.IsCacheHit(), raw.CachePXAT())
	}
	setExpiry(&raw, 0)
	if raw != (rueidis.RedisMessage{}) {
		t.Error("more than the end was changed")
	}
}
