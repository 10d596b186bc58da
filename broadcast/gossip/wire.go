package gossip

import "encoding/binary"

// What members say to each other. All integers are unsigned varints.
//
//	message = kind:8 body
//	frames  = { size frame }                            kind 1
//	frame   = sender number topic data                  data is the rest
//	digest  = teller { sender highest oldest flags:8 }  kind 2; oldest is 0 unless the teller is the sender
//	want    = asker flags:8 { sender from to }          kind 3
//	string  = size bytes
//
// Sender, teller and asker are names of members. A sender numbers its frames from 1, over all topics. Integrity and secrecy are
// memberlist's: it adds a checksum to packets, and encrypts. A change that older nodes would misread raises
// protocolVersion, with which memberlist keeps members apart that do not understand each other.
const (
	protocolVersion = 1

	kindFrames = 1
	kindDigest = 2
	kindWant   = 3

	flagLeft     = 1 // digest: the sender has left, or is about to
	flagReliable = 1 // want: answer over TCP, since packets seem to get lost

	maxString = 255
)

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// appendFrame encodes a frame.
func appendFrame(b []byte, sender string, number uint64, topic string, data []byte) []byte {
	b = appendString(b, sender)
	b = binary.AppendUvarint(b, number)
	b = appendString(b, topic)
	return append(b, data...)
}

// appendSized adds an encoded frame to a message of kind frames.
func appendSized(b, frame []byte) []byte {
	return append(binary.AppendUvarint(b, uint64(len(frame))), frame...)
}

// frame is a decoded frame; its slices alias the bytes it was decoded from.
type frame struct {
	sender []byte
	number uint64
	topic  []byte
	data   []byte
}

func parseFrame(b []byte) (frame, bool) {
	r := reader{rest: b}
	f := frame{sender: r.bytes(maxString), number: r.uvarint(), topic: r.bytes(maxString)}
	f.data = r.rest
	return f, !r.failed && f.number > 0 && f.number < maxNumber && len(f.sender) > 0
}

// maxNumber keeps arithmetic on what others say from running over.
const maxNumber = 1 << 62

// state is what a digest says of one sender.
type state struct {
	sender          string
	highest, oldest uint64
	left            bool
}

func appendState(b []byte, s state) []byte {
	b = appendString(b, s.sender)
	b = binary.AppendUvarint(b, s.highest)
	b = binary.AppendUvarint(b, s.oldest)
	if s.left {
		return append(b, flagLeft)
	}
	return append(b, 0)
}

func (r *reader) state() (state, bool) {
	s := state{sender: string(r.bytes(maxString)), highest: r.uvarint(), oldest: r.uvarint(), left: r.byte()&flagLeft != 0}
	return s, !r.failed && s.sender != "" && s.highest < maxNumber && s.oldest <= s.highest
}

// span is a range of numbers that is asked for, both ends included.
type span struct {
	sender   string
	from, to uint64
}

func appendSpan(b []byte, s span) []byte {
	b = appendString(b, s.sender)
	b = binary.AppendUvarint(b, s.from)
	return binary.AppendUvarint(b, s.to)
}

func (r *reader) span() (span, bool) {
	s := span{sender: string(r.bytes(maxString)), from: r.uvarint(), to: r.uvarint()}
	return s, !r.failed && s.sender != "" && 0 < s.from && s.from <= s.to && s.to < maxNumber
}

// reader decodes what came from outside. After a failure it yields zero values, so that one check at the end is enough.
type reader struct {
	rest   []byte
	failed bool
}

func (r *reader) fail() {
	r.failed = true
	r.rest = nil
}

func (r *reader) byte() byte {
	if len(r.rest) == 0 {
		r.fail()
		return 0
	}
	b := r.rest[0]
	r.rest = r.rest[1:]
	return b
}

func (r *reader) uvarint() uint64 {
	n, size := binary.Uvarint(r.rest)
	if size <= 0 {
		r.fail()
		return 0
	}
	r.rest = r.rest[size:]
	return n
}

func (r *reader) bytes(limit int) []byte {
	size := r.uvarint()
	if size > uint64(limit) || size > uint64(len(r.rest)) {
		r.fail()
		return nil
	}
	b := r.rest[:size:size]
	r.rest = r.rest[size:]
	return b
}
