package broadcast

import (
	"fmt"
	"slices"
	"testing"

	"github.com/redis/rueidis"
)

// log is a Receiver that writes down what it is called with.
type log struct{ calls []string }

func (l *log) Frame(data []byte) { l.calls = append(l.calls, string(data)) }
func (l *log) Gap(gap Gap) {
	if gap.Open {
		l.calls = append(l.calls, "open")
		return
	}
	l.calls = append(l.calls, gap.Reason.String())
}

func entries(ids ...int) []rueidis.XRangeSlice {
	var all []rueidis.XRangeSlice
	for _, id := range ids {
		all = append(all, rueidis.XRangeSlice{
			ID:          fmt.Sprint(id, "-0"),
			FieldValues: []rueidis.XRangeFieldValue{{Field: streamField, Value: fmt.Sprint(id)}},
		})
	}
	return all
}

// TestStreamCatchUp starts from entry 10, the tenth of its stream, after a lost link, and looks at what a first verified read
// makes of what the server tells.
func TestStreamCatchUp(t *testing.T) {
	stream := func(first, last string, length, added uint64) streamInfo {
		return streamInfo{firstID: first, lastID: last, length: length, added: added, counted: true}
	}
	uncounted := func(first, last string, length uint64) streamInfo {
		return streamInfo{firstID: first, lastID: last, length: length}
	}
	batch := make([]int, streamBatch)
	for i := range batch {
		batch[i] = 11 + i
	}
	for name, c := range map[string]struct {
		info     streamInfo
		data     []int
		control  []int
		want     []string
		position string
		index    uint64
	}{
		"nothing new":              {stream("1-0", "10-0", 10, 10), nil, nil, []string{"resumed"}, "10-0", 10},
		"new entries":              {stream("1-0", "12-0", 12, 12), []int{11, 12}, []int{99}, []string{"11", "12", "99", "resumed"}, "12-0", 12},
		"trimmed, but read before": {stream("11-0", "12-0", 2, 12), []int{11, 12}, nil, []string{"11", "12", "resumed"}, "12-0", 12},
		"trimmed unread":           {stream("14-0", "15-0", 2, 15), []int{14, 15}, nil, []string{"trimmed", "14", "15"}, "15-0", 15},
		"trimmed to nothing":       {stream("0-0", "15-0", 0, 15), nil, nil, []string{"trimmed"}, "10-0", 15},
		"deleted":                  {noStream, nil, nil, []string{"trimmed"}, firstID, 0},
		"deleted and made anew":    {stream("20-0", "21-0", 2, 2), []int{20, 21}, nil, []string{"trimmed", "20", "21"}, "21-0", 2},
		"lost its end":             {stream("1-0", "8-0", 8, 8), nil, nil, []string{"trimmed"}, "8-0", 8},
		"more than one batch":      {stream("1-0", "900-0", 900, 900), batch, []int{999}, nil, fmt.Sprint(10+streamBatch, "-0"), 10 + streamBatch},
		"uncounted, new entries":   {uncounted("1-0", "12-0", 12), []int{11, 12}, nil, []string{"11", "12", "resumed"}, "12-0", 12},
		"uncounted, trimmed":       {uncounted("14-0", "15-0", 2), []int{14, 15}, nil, []string{"trimmed", "14", "15"}, "15-0", 2},
		"uncounted, to nothing":    {uncounted("0-0", "15-0", 0), nil, nil, []string{"trimmed"}, "10-0", 0},
	} {
		t.Run(name, func(t *testing.T) {
			var got log
			l := &streamListener{receiver: &got, position: "10-0", controlAfter: firstID, index: 10, verify: true, down: true}
			l.catchUp(c.info, entries(c.data...), entries(c.control...))
			if c.want != nil && !slices.Equal(got.calls, c.want) {
				t.Errorf("got %v, want %v", got.calls, c.want)
			}
			if l.position != c.position || l.index != c.index {
				t.Errorf("the position is %s, entry %d; want %s, %d", l.position, l.index, c.position, c.index)
			}
			if full := len(c.data) == streamBatch; l.verify != full || l.down != full {
				t.Errorf("verify %v, down %v; want both %v", l.verify, l.down, full)
			}
			if slices.Contains(got.calls, "999") && len(c.data) == streamBatch {
				t.Error("a heartbeat overtook messages that are still to be read")
			}
		})
	}
}

func TestStreamEntryOfSomebodyElse(t *testing.T) {
	var got log
	l := &streamListener{receiver: &got}
	l.deliver([]rueidis.XRangeSlice{{ID: "1-0", FieldValues: []rueidis.XRangeFieldValue{{Field: "other", Value: "x"}}}}, nil)
	if !slices.Equal(got.calls, []string{""}) {
		t.Errorf("got %q, want an empty frame, which is counted as foreign", got.calls)
	}
}

func TestCompareIDs(t *testing.T) {
	ordered := []string{"0-0", "0-1", "9-0", "9-9", "9-10", "10-0", "1700000000000-3"}
	for i, a := range ordered {
		for j, b := range ordered {
			want := 0
			switch {
			case i < j:
				want = -1
			case i > j:
				want = 1
			}
			if got := compareIDs(a, b); got != want {
				t.Errorf("compareIDs(%s, %s) is %d, want %d", a, b, got, want)
			}
		}
	}
}
