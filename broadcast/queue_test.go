package broadcast

import (
	"fmt"
	"slices"
	"testing"
)

// tryPop takes the next item, if there is one.
func tryPop(q *queue) (item, bool) {
	q.mu.Lock()
	empty := q.count == 0
	q.mu.Unlock()
	if empty {
		return item{}, false
	}
	return q.pop()
}

func contents(q *queue) []string {
	var items []string
	for i, ok := tryPop(q); ok; i, ok = tryPop(q) {
		if i.gap.Reason != 0 {
			items = append(items, i.gap.Reason.String())
		} else {
			items = append(items, fmt.Sprint(i.message.Seq))
		}
	}
	return items
}

func TestQueueOverflow(t *testing.T) {
	q := newQueue(4, 1<<20)
	for n := range uint64(10) {
		q.pushMessage(Message{Seq: n})
	}
	q.pushState(Gap{Reason: Reconnect, Open: true})
	q.pop() // three are left, more than half: still overflowing
	if q.pushMessage(Message{Seq: 10}) != dropped {
		t.Error("a message was taken while the queue was more than half full")
	}
	q.pop()
	if q.pushMessage(Message{Seq: 11}) != kept {
		t.Error("a message was dropped although half the queue was free")
	}
	if got, want := contents(q), []string{"2", "3", "overflow", "reconnect", "11"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestQueueIsBoundedByBytes(t *testing.T) {
	q := newQueue(1000, 100)
	if q.pushMessage(Message{Payload: make([]byte, 1000)}) != kept {
		t.Error("a message larger than the queue was not taken although the queue was empty")
	}
	if q.pushMessage(Message{Payload: make([]byte, 1)}) != overflowed {
		t.Error("a message was taken beyond the bound")
	}
	contents(q)
	if q.bytes != 0 || q.messages != 0 {
		t.Errorf("an empty queue counts %d bytes and %d messages", q.bytes, q.messages)
	}
}

func TestQueueMergesGaps(t *testing.T) {
	q := newQueue(10, 1<<20)
	for range 10 * maxGaps {
		q.pushGap(Gap{Reason: SeqHole, Origin: "a", From: 1, To: 2})
		q.pushState(Gap{Reason: Reconnect, Open: true})
		q.pushState(Gap{Reason: Resumed})
	}
	if q.count > maxGaps+1 {
		t.Fatalf("%d gaps wait, at most %d were allowed", q.count, maxGaps+1)
	}
	var last item
	for q.count > 0 {
		last, _ = q.pop()
	}
	if !last.gap.MustFlush() || !last.gap.Covers("a", 1) {
		t.Errorf("the merged gap is %v: it must call for a flush", last.gap)
	}
}

func TestMergedGapsSayNoLess(t *testing.T) {
	hole := Gap{Reason: SeqHole, Origin: "a", From: 3, To: 4}
	open := Gap{Reason: Reconnect, Open: true}
	for _, c := range []struct{ earlier, later, want Gap }{
		{hole, Gap{Reason: SeqHole, Origin: "a", From: 7, To: 9}, Gap{Reason: SeqHole, Origin: "a", From: 3, To: 9}},
		{hole, Gap{Reason: SeqHole, Origin: "b", From: 7, To: 9}, Gap{Reason: SeqHole}},
		{hole, Gap{Reason: OriginLost, Origin: "a", From: 5}, Gap{Reason: SeqHole, Origin: "a", From: 3}},
		{hole, Gap{Reason: Resumed}, hole},
		{Gap{Reason: Resumed}, hole, hole},
		{open, Gap{Reason: Reconnect}, Gap{Reason: Reconnect}},
		{open, Gap{Reason: Resumed}, Gap{Reason: Resumed}},
		{open, open, open},
	} {
		if got := mergeGaps(c.earlier, c.later); got != c.want {
			t.Errorf("%v and %v make %v, want %v", c.earlier, c.later, got, c.want)
		}
	}
}

// TestLossWhileDown: a gap found while the link is down does not say that it is live, and its flush is not forgotten.
func TestLossWhileDown(t *testing.T) {
	hole := Gap{Reason: SeqHole, Origin: "a", From: 1, To: 1}
	for _, c := range []struct {
		found  bool
		closes Reason
		want   Reason
	}{{false, Resumed, Resumed}, {true, Resumed, Reconnect}, {true, Trimmed, Trimmed}} {
		q := newQueue(10, 1<<20)
		q.pushState(Gap{Reason: Reconnect, Open: true})
		if c.found {
			q.pushGap(hole)
		}
		q.pushState(Gap{Reason: c.closes})
		q.pushGap(hole)
		var got []Gap
		for q.count > 0 {
			i, _ := q.pop()
			got = append(got, i.gap)
		}
		if closing := got[len(got)-2]; closing.Reason != c.want || closing.Open {
			t.Errorf("%+v: closed with %v", c, closing)
		}
		if c.found && !got[1].Open {
			t.Errorf("%+v: %v says that the link is live", c, got[1])
		}
		if got[len(got)-1].Open {
			t.Errorf("%+v: the link is still said to be down after it was live again", c)
		}
	}
}

func TestQueueGrowsAndWraps(t *testing.T) {
	q := newQueue(1000, 1<<20)
	next := uint64(0)
	for n := range uint64(500) {
		q.pushMessage(Message{Seq: n})
		if n%3 == 0 {
			if i, _ := q.pop(); i.message.Seq != next {
				t.Fatalf("got %d, want %d", i.message.Seq, next)
			}
			next++
		}
	}
	for q.count > 0 {
		if i, _ := q.pop(); i.message.Seq != next {
			t.Fatalf("got %d, want %d", i.message.Seq, next)
		}
		next++
	}
}

func BenchmarkQueue(b *testing.B) {
	q := newQueue(1000, 1<<20)
	m := Message{Payload: make([]byte, 200)}
	b.ReportAllocs()
	for b.Loop() {
		q.pushMessage(m)
		q.pop()
	}
}
