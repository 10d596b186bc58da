package broadcast

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"time"
)

// The envelope. All integers are unsigned varints unless a width is given; widths are little-endian.
//
//	frame     = "nc" version:8 kind:8 origin epoch:64 topic body checksum:32
//	data      = first count { size record }          kind 1; record i has the sequence number first+i
//	record    = time:64 version type headers { name value } payload
//	heartbeat = flags last interval                  kind 2; last: highest number published; interval in milliseconds
//	string    = size bytes
//
// The checksum is CRC-32C over everything before it. A change that older nodes would misread raises the version; they
// then count the frame as from the future and report a gap, instead of guessing.
const (
	envelopeVersion = 1

	kindData      = 1
	kindHeartbeat = 2

	frameStart    = 4 // magic, version, kind
	checksumBytes = 4
	minFrame      = frameStart + 1 + 8 + 1 + checksumBytes

	maxName         = 255
	maxHeaders      = 64
	maxHeaderValue  = 8 << 10
	maxFrameRecords = 1024
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// frameLead encodes what every frame of one kind, origin, epoch and topic begins with.
func frameLead(kind byte, origin string, epoch uint64, topic string) []byte {
	lead := make([]byte, 0, frameStart+len(origin)+len(topic)+2*binary.MaxVarintLen16+8)
	lead = append(lead, 'n', 'c', envelopeVersion, kind)
	lead = appendString(lead, origin)
	lead = binary.LittleEndian.AppendUint64(lead, epoch)
	return appendString(lead, topic)
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// seal appends the checksum.
func seal(frame []byte) []byte {
	return binary.LittleEndian.AppendUint32(frame, crc32.Checksum(frame, castagnoli))
}

// validateMessage checks the limits of the fields that the publisher filled.
func validateMessage(m *Message) error {
	if m.Topic == "" || len(m.Topic) > maxName {
		return invalid("Topic is %d bytes long: 1 to %d are allowed", len(m.Topic), maxName)
	}
	if len(m.Type) > maxName {
		return invalid("Type is %d bytes long: at most %d are allowed", len(m.Type), maxName)
	}
	if len(m.Headers) > maxHeaders {
		return invalid("%d Headers: at most %d are allowed", len(m.Headers), maxHeaders)
	}
	for name, value := range m.Headers {
		if name == "" || len(name) > maxName {
			return invalid("the header name %q is %d bytes long: 1 to %d are allowed", name, len(name), maxName)
		}
		if len(value) > maxHeaderValue {
			return invalid("the header %q is %d bytes long: at most %d are allowed", name, len(value), maxHeaderValue)
		}
	}
	return nil
}

// appendRecord encodes what a message carries besides what its frame says.
func appendRecord(b []byte, m *Message) []byte {
	b = binary.LittleEndian.AppendUint64(b, uint64(m.Time.UnixNano()))
	b = binary.AppendUvarint(b, uint64(m.Version))
	b = appendString(b, m.Type)
	b = binary.AppendUvarint(b, uint64(len(m.Headers)))
	for name, value := range m.Headers {
		b = appendString(b, name)
		b = appendString(b, value)
	}
	return append(b, m.Payload...)
}

// appendDataStart encodes the body of a data frame up to its first record.
func appendDataStart(frame []byte, first uint64, count int) []byte {
	frame = binary.AppendUvarint(frame, first)
	return binary.AppendUvarint(frame, uint64(count))
}

func appendSizedRecord(frame, record []byte) []byte {
	return append(binary.AppendUvarint(frame, uint64(len(record))), record...)
}

// frameOverhead is how many bytes a data frame needs at most besides its records.
func frameOverhead(lead []byte) int {
	return len(lead) + 2*binary.MaxVarintLen64 + checksumBytes
}

// recordOverhead bounds the size that precedes a record.
const recordOverhead = binary.MaxVarintLen32

// frame is a decoded envelope. Its slices alias the bytes it was parsed from.
type frame struct {
	kind   byte
	origin []byte
	epoch  uint64
	topic  []byte

	first   uint64 // data: number of the first record
	count   int    // data: number of records
	records []byte // data: the records, sized

	last     uint64        // heartbeat: highest number published
	interval time.Duration // heartbeat: when the next is due at the latest
	flags    byte          // heartbeat
}

const (
	flagListening = 1 << iota // the origin has a subscription on the topic
	flagLeaving               // the origin has closed: this is its last frame
)

// parseFrame decodes everything but the records, which [frame.next] yields. It refuses what is foreign, truncated, of a
// newer version or corrupted, each with an error of its own.
func parseFrame(data []byte) (frame, error) {
	var f frame
	if len(data) < 2 || data[0] != 'n' || data[1] != 'c' {
		return f, errForeign
	}
	if len(data) < minFrame {
		return f, errTruncated
	}
	// The version is looked at before the checksum: a later version may place it elsewhere.
	if data[2] != envelopeVersion {
		return f, fmt.Errorf("%w: version %d, this one reads %d", errFuture, data[2], envelopeVersion)
	}
	body := data[:len(data)-checksumBytes]
	if crc32.Checksum(body, castagnoli) != binary.LittleEndian.Uint32(data[len(body):]) {
		return f, errCorrupted
	}
	f.kind = body[3]
	r := reader{rest: body[frameStart:]}
	f.origin = r.bytes(maxName)
	f.epoch = r.uint64()
	f.topic = r.bytes(maxName)
	switch f.kind {
	case kindData:
		f.first = r.uvarint()
		f.count = int(min(r.uvarint(), maxFrameRecords+1))
		f.records = r.rest
		if f.first == 0 || f.count == 0 || f.count > maxFrameRecords || f.first+uint64(f.count) < f.first {
			r.failed = true
		}
	case kindHeartbeat:
		f.flags = r.byte()
		f.last = r.uvarint()
		f.interval = time.Duration(min(r.uvarint(), uint64(time.Hour/time.Millisecond))) * time.Millisecond
	default:
		return f, fmt.Errorf("%w: kind %d is not known", errFuture, f.kind)
	}
	if r.failed || len(f.origin) == 0 || len(f.topic) == 0 {
		return f, errCorrupted
	}
	return f, nil
}

// next cuts the next record off the frame.
func (f *frame) next() ([]byte, error) {
	r := reader{rest: f.records}
	record := r.bytes(len(f.records))
	if r.failed {
		return nil, errCorrupted
	}
	f.records = r.rest
	return record, nil
}

// parseRecord fills in what a record carries. The payload aliases the record.
func parseRecord(record []byte, m *Message, names *interner) error {
	r := reader{rest: record}
	m.Time = time.Unix(0, int64(r.uint64()))
	version := r.uvarint()
	m.Version = uint16(version)
	m.Type = names.name(r.bytes(maxName))
	headers := r.uvarint()
	if r.failed || version > 1<<16-1 || headers > maxHeaders {
		return errCorrupted
	}
	m.Headers = nil
	if headers > 0 {
		m.Headers = make(map[string]string, headers)
		for range headers {
			name := names.name(r.bytes(maxName))
			m.Headers[name] = string(r.bytes(maxHeaderValue))
		}
		if r.failed {
			return errCorrupted
		}
	}
	m.Payload = r.rest
	return nil
}

// reader decodes from outside bytes. After a failure it yields zero values, so that one check at the end is enough.
type reader struct {
	rest   []byte
	failed bool
}

func (r *reader) fail() {
	r.failed = true
	r.rest = nil
}

func (r *reader) byte() byte {
	if len(r.rest) < 1 {
		r.fail()
		return 0
	}
	b := r.rest[0]
	r.rest = r.rest[1:]
	return b
}

func (r *reader) uint64() uint64 {
	if len(r.rest) < 8 {
		r.fail()
		return 0
	}
	n := binary.LittleEndian.Uint64(r.rest)
	r.rest = r.rest[8:]
	return n
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

// interner gives back one string for equal bytes, for the few type and header names that a topic sees again and again.
type interner struct{ known map[string]string }

const maxInterned = 256

func (i *interner) name(b []byte) string {
	if len(b) == 0 {
		return ""
	}
	if s, ok := i.known[string(b)]; ok {
		return s
	}
	s := string(b)
	if i.known == nil {
		i.known = make(map[string]string)
	}
	if len(i.known) < maxInterned {
		i.known[s] = s
	}
	return s
}
