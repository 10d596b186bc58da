package tracking

import (
	"slices"
	"testing"
)

func TestParseRole(t *testing.T) {
	for _, test := range []struct {
		reply any
		role  string // "" for an error
	}{
		{[]any{"master", int64(3129659), []any{}}, "master"},
		{[]any{"slave", "10.0.0.1", int64(6379), "connected", int64(1)}, "slave"},
		{[]any{"sentinel", []any{"main"}}, "sentinel"},
		{[]any{}, ""},
		{[]any{int64(1)}, ""},
		{"master", ""},
		{nil, ""},
		{map[string]any{"master": int64(1)}, ""},
	} {
		if role, err := parseRole(test.reply); role != test.role || (err == nil) != (test.role != "") {
			t.Errorf("%v: got %q, %v", test.reply, role, err)
		}
	}
}

func TestParseHello(t *testing.T) {
	want := helloReply{product: "valkey", version: "8.1.1", protocol: 3, connection: 12}
	for _, reply := range []any{
		map[string]any{"server": "valkey", "version": "8.1.1", "proto": int64(3), "id": int64(12), "modules": []any{}},
		[]any{"server", "valkey", "version", "8.1.1", "proto", int64(3), "id", int64(12)},
	} {
		if got, err := parseHello(reply); err != nil || got != want {
			t.Errorf("%v: got %+v, %v", reply, got, err)
		}
	}
	for _, reply := range []any{nil, "OK", []any{"proto"}, []any{int64(1), int64(2)}, map[string]any{"proto": "3"}} {
		if got, err := parseHello(reply); err == nil {
			t.Errorf("%v: got %+v", reply, got)
		}
	}
}

func TestCheckTracking(t *testing.T) {
	prefixes := []string{"b:", "a:"}
	reply := func(flags, prefixes []any) any {
		return map[string]any{"flags": flags, "redirect": int64(0), "prefixes": prefixes}
	}
	if err := checkTracking(reply([]any{"on", "bcast"}, []any{"a:", "b:"}), prefixes); err != nil {
		t.Error(err)
	}
	if !slices.Equal(prefixes, []string{"b:", "a:"}) {
		t.Error("the argument was changed")
	}
	for _, wrong := range []any{
		nil,
		reply([]any{"off"}, []any{"a:", "b:"}),
		reply([]any{"on", "bcast"}, []any{"a:"}),
		reply([]any{"on", "bcast"}, []any{"a:", "c:"}),
		reply([]any{"on", "bcast"}, []any{"a:", int64(1)}),
	} {
		if err := checkTracking(wrong, prefixes); err == nil {
			t.Errorf("%v passed", wrong)
		}
	}
}

// tree makes a reply out of bytes: what a server, or whatever answers in its place, might say.
type tree struct {
	rest []byte
}

func (r *tree) next() byte {
	if len(r.rest) == 0 {
		return 0
	}
	b := r.rest[0]
	r.rest = r.rest[1:]
	return b
}

func (r *tree) text() string {
	words := []string{"master", "slave", "proto", "server", "version", "id", "flags", "prefixes", "bcast", "noloop", "k:", ""}
	if b := int(r.next()); b < len(words) {
		return words[b]
	}
	n := min(int(r.next()), len(r.rest))
	text := string(r.rest[:n])
	r.rest = r.rest[n:]
	return text
}

func (r *tree) reply(depth int) any {
	kind := r.next() % 7
	if depth == 0 && kind >= 5 {
		return nil
	}
	switch kind {
	case 0:
		return nil
	case 1:
		return int64(r.next())
	case 2:
		return r.next() > 127
	case 3:
		return float64(r.next())
	case 4:
		return r.text()
	case 5:
		elements := make([]any, r.next()%8)
		for i := range elements {
			elements[i] = r.reply(depth - 1)
		}
		return elements
	default:
		fields := map[string]any{}
		for range r.next() % 8 {
			fields[r.text()] = r.reply(depth - 1)
		}
		return fields
	}
}

func FuzzReplies(f *testing.F) {
	f.Add([]byte{5, 3, 4, 0, 1, 9, 5, 0})
	f.Add([]byte{6, 2, 2, 1, 3, 3, 4, 200, 5, 'r', 'e', 'd', 'i', 's'})
	f.Add([]byte{6, 2, 6, 5, 1, 4, 8, 7, 5, 1, 4, 10})
	f.Fuzz(func(t *testing.T, data []byte) {
		reply := (&tree{rest: data}).reply(4)
		bounded := func(err error) {
			if len(err.Error()) > 1000 {
				t.Errorf("the error repeats the reply: %d bytes", len(err.Error()))
			}
		}
		if role, err := parseRole(reply); err != nil {
			bounded(err)
		} else if elements, ok := reply.([]any); !ok || elements[0] != role {
			t.Errorf("the role of %v is %q", reply, role)
		}
		if hello, err := parseHello(reply); err != nil {
			bounded(err)
		} else if fields, err := asMap(reply); err != nil || fields["proto"] != hello.protocol {
			t.Errorf("the protocol of %v is %d", reply, hello.protocol)
		}
		if _, position, err := parseReplication(reply); err == nil && position.History == "" {
			t.Errorf("%v is a position", reply)
		}
		if err := checkTracking(reply, []string{"k:"}); err != nil {
			bounded(err)
		} else {
			fields, err := asMap(reply)
			if err != nil || !slices.Contains(asStrings(fields["flags"]), "bcast") || !slices.Equal(asStrings(fields["prefixes"]), []string{"k:"}) {
				t.Errorf("%v passed", reply)
			}
		}
	})
}
