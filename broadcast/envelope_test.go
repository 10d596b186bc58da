package broadcast

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"maps"
	"strings"
	"testing"
	"time"
)

func sampleMessages() []Message {
	return []Message{
		{Time: time.Unix(1, 2), Payload: []byte("one")},
		{Time: time.Unix(3, 4), Type: "price", Version: 65535, Headers: map[string]string{"a": "b", "empty": ""}},
		{Time: time.Unix(0, -1), Payload: bytes.Repeat([]byte{0xff}, 300)},
	}
}

func dataFrame(origin string, epoch uint64, topic string, first uint64, messages ...Message) []byte {
	frame := appendDataStart(frameLead(kindData, origin, epoch, topic), first, len(messages))
	for _, m := range messages {
		frame = appendSizedRecord(frame, appendRecord(nil, &m))
	}
	return seal(frame)
}

func heartbeatFrame(origin string, epoch uint64, topic string, flags byte, last uint64, interval time.Duration) []byte {
	frame := append(frameLead(kindHeartbeat, origin, epoch, topic), flags)
	frame = binary.AppendUvarint(frame, last)
	return seal(binary.AppendUvarint(frame, uint64(interval/time.Millisecond)))
}

func TestEnvelopeCarriesEverything(t *testing.T) {
	messages := sampleMessages()
	f, err := parseFrame(dataFrame("node", 7, "topic", 41, messages...))
	if err != nil {
		t.Fatal(err)
	}
	if string(f.origin) != "node" || f.epoch != 7 || string(f.topic) != "topic" || f.first != 41 || f.count != len(messages) {
		t.Fatalf("got %+v", f)
	}
	var names interner
	for i, want := range messages {
		record, err := f.next()
		if err != nil {
			t.Fatal(err)
		}
		var got Message
		if err := parseRecord(record, &got, &names); err != nil {
			t.Fatal(err)
		}
		if !got.Time.Equal(want.Time) || got.Type != want.Type || got.Version != want.Version ||
			!maps.Equal(got.Headers, want.Headers) || !bytes.Equal(got.Payload, want.Payload) {
			t.Errorf("message %d: got %+v, want %+v", i, got, want)
		}
	}
	if _, err := f.next(); err == nil {
		t.Error("a record too many")
	}

	f, err = parseFrame(heartbeatFrame("node", 7, "topic", flagListening|flagLeaving, 99, 3*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	if f.last != 99 || f.interval != 3*time.Second || f.flags != flagListening|flagLeaving {
		t.Errorf("got %+v", f)
	}
}

// TestEnvelopeRefusesEveryDamage cuts a frame at every length and flips every bit of it.
func TestEnvelopeRefusesEveryDamage(t *testing.T) {
	whole := dataFrame("node", 7, "topic", 1, sampleMessages()...)
	for size := range whole {
		if _, err := parseFrame(whole[:size]); err == nil {
			t.Fatalf("the first %d of %d bytes were accepted", size, len(whole))
		}
	}
	for i := range whole {
		for bit := range 8 {
			damaged := bytes.Clone(whole)
			damaged[i] ^= 1 << bit
			_, err := parseFrame(damaged)
			var want error
			switch i {
			case 0, 1:
				want = errForeign
			case 2:
				want = errFuture
			default:
				want = errCorrupted
			}
			if !errors.Is(err, want) {
				t.Fatalf("bit %d of byte %d flipped: got %v, want %v", bit, i, err, want)
			}
		}
	}
}

// TestEnvelopeRefusesImpossibleContents has the checksum right and the contents wrong, as a faulty or hostile peer might.
func TestEnvelopeRefusesImpossibleContents(t *testing.T) {
	lead := frameLead(kindData, "node", 7, "topic")
	for name, frame := range map[string][]byte{
		"no messages":        seal(appendDataStart(bytes.Clone(lead), 1, 0)),
		"number 0":           seal(appendDataStart(bytes.Clone(lead), 0, 1)),
		"too many messages":  seal(appendDataStart(bytes.Clone(lead), 1, maxFrameRecords+1)),
		"numbers run over":   seal(appendDataStart(bytes.Clone(lead), ^uint64(0), 2)),
		"no origin":          seal(appendDataStart(frameLead(kindData, "", 7, "topic"), 1, 1)),
		"no topic":           seal(appendDataStart(frameLead(kindData, "node", 7, ""), 1, 1)),
		"origin too long":    seal(appendDataStart(frameLead(kindData, strings.Repeat("x", maxName+1), 7, "topic"), 1, 1)),
		"nothing but a lead": seal(bytes.Clone(lead)),
	} {
		if _, err := parseFrame(frame); !errors.Is(err, errCorrupted) {
			t.Errorf("%s: got %v, want %v", name, err, errCorrupted)
		}
	}
	unknown := seal(frameLead(9, "node", 7, "topic"))
	if _, err := parseFrame(unknown); !errors.Is(err, errFuture) {
		t.Errorf("an unknown kind: got %v, want %v", err, errFuture)
	}
	var names interner
	for name, record := range map[string][]byte{
		"empty":            {},
		"version too high": binary.AppendUvarint(make([]byte, 8), 1<<16),
		"too many headers": binary.AppendUvarint(append(make([]byte, 8), 0, 0), maxHeaders+1),
		"header cut short": append(make([]byte, 8), 0, 0, 1, 5, 'x'),
	} {
		if err := parseRecord(record, new(Message), &names); !errors.Is(err, errCorrupted) {
			t.Errorf("record %s: got %v, want %v", name, err, errCorrupted)
		}
	}
}

func TestInternerIsBounded(t *testing.T) {
	var names interner
	for i := range 10 * maxInterned {
		want := strings.Repeat("x", i%100) + string(rune('a'+i%26)) + string(rune(i))
		if got := names.name([]byte(want)); got != want {
			t.Fatalf("got %q, want %q", got, want)
		}
	}
	if len(names.known) > maxInterned {
		t.Errorf("%d names are kept, at most %d were allowed", len(names.known), maxInterned)
	}
}

func addSeeds(f *testing.F) {
	whole := dataFrame("node", 7, "topic", 1, sampleMessages()...)
	f.Add(whole)
	f.Add(whole[:len(whole)/2])
	f.Add(heartbeatFrame("node", 7, "topic", flagListening, 3, time.Second))
	f.Add([]byte("nc\x02\x01 from the future"))
	f.Add([]byte("PING"))
}

// resealed puts a right checksum on arbitrary bytes, so that fuzzing gets past it.
func resealed(data []byte) []byte {
	if len(data) < minFrame {
		return data
	}
	data = bytes.Clone(data)
	body := data[:len(data)-checksumBytes]
	binary.LittleEndian.PutUint32(data[len(body):], crc32.Checksum(body, castagnoli))
	return data
}

// FuzzParseFrame demands that no bytes make the decoder panic, or yield what breaks its limits.
func FuzzParseFrame(f *testing.F) {
	addSeeds(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		var names interner
		for _, candidate := range [][]byte{data, resealed(data)} {
			frame, err := parseFrame(candidate)
			if err != nil {
				continue
			}
			if len(frame.origin) > maxName || len(frame.topic) > maxName || frame.count > maxFrameRecords {
				t.Fatalf("limits are broken: %+v", frame)
			}
			for range frame.count {
				record, err := frame.next()
				if err != nil {
					break
				}
				var m Message
				if parseRecord(record, &m, &names) == nil && len(m.Headers) > maxHeaders {
					t.Fatalf("%d headers", len(m.Headers))
				}
			}
		}
	})
}

// FuzzReceiver demands the same of the whole way of a frame up to the subscription's queue, on both kinds of transport.
func FuzzReceiver(f *testing.F) {
	addSeeds(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, unordered := range []bool{false, true} {
			r, s := testReceiver(t, NetworkOptions{Unordered: unordered})
			r.Frame(dataFrame("node", 7, r.topic, 1, sampleMessages()...))
			r.Frame(bytes.Clone(data))
			r.Frame(resealed(data))
			r.Frame(dataFrame("other", 7, r.topic, 1, sampleMessages()...))
			found := false
			for i, ok := tryPop(s.queue); ok; i, ok = tryPop(s.queue) {
				found = found || i.message.Origin == "other"
			}
			if !found {
				t.Fatal("a good frame behind a bad one was not delivered")
			}
		}
	})
}

func BenchmarkParseFrame(b *testing.B) {
	messages := make([]Message, 100)
	for i := range messages {
		messages[i] = Message{Time: time.Now(), Type: "invalidate", Payload: make([]byte, 200)}
	}
	data := dataFrame("node", 7, "topic", 1, messages...)
	var names interner
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		f, err := parseFrame(data)
		if err != nil {
			b.Fatal(err)
		}
		for range f.count {
			record, _ := f.next()
			var m Message
			if err := parseRecord(record, &m, &names); err != nil {
				b.Fatal(err)
			}
		}
	}
}
