package nearcachetest

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"slices"
	"strconv"
	"strings"
)

// A Push is an invalidation message: what one turn of the server's event loop changed under one prefix.
type Push struct {
	Keys       []string // in the order of the server
	Everything bool     // FLUSHALL and the like: no keys are named
}

// concerns reports whether the push is one that a fault for these keys is about; without keys it is about every push.
func (p Push) concerns(keys []string) bool {
	return len(keys) == 0 || slices.ContainsFunc(p.Keys, func(key string) bool { return slices.Contains(keys, key) })
}

// frames cuts what a connection brings into messages. From the first thing that is none on it hands out whatever comes, as it
// comes: the other side will know what to make of it.
type frames struct {
	from    *bufio.Reader
	foreign bool
}

func newFrames(from io.Reader) *frames { return &frames{from: bufio.NewReader(from)} }

// next returns bytes, or an error, or both.
func (f *frames) next() ([]byte, error) {
	var b bytes.Buffer
	if !f.foreign {
		err := readFrame(&b, f.from)
		if !errors.Is(err, errNotRESP) {
			return b.Bytes(), err
		}
		f.foreign = true
	} else if _, err := f.from.Peek(1); err != nil {
		return nil, err
	}
	rest, _ := f.from.Peek(f.from.Buffered())
	b.Write(rest)
	_, err := f.from.Discard(len(rest))
	return b.Bytes(), err
}

var errNotRESP = errors.New("nearcachetest: not RESP3")

// maxElements is more than any message has, and few enough that the sums below do not overflow.
const maxElements = 1 << 40

// readFrame appends the next message, command or reply, to b as it is on the wire. On an error b holds what was read of it.
func readFrame(b *bytes.Buffer, from *bufio.Reader) error {
	for values := int64(1); values > 0; values-- {
		line, err := readLine(b, from)
		if err != nil {
			return err
		}
		switch line[0] {
		case '+', '-', ':', '_', '#', ',', '(':
		case '$', '=', '!':
			size, err := length(line)
			if err != nil {
				return err
			}
			if size >= 0 {
				if _, err := io.CopyN(b, from, size+int64(len(lineEnd))); err != nil {
					return err
				}
			}
		case '*', '~', '>':
			n, err := length(line)
			if err != nil {
				return err
			}
			values += max(n, 0)
		case '%':
			n, err := length(line)
			if err != nil {
				return err
			}
			values += 2 * max(n, 0)
		case '|': // goes before a value, and is none itself
			n, err := length(line)
			if err != nil {
				return err
			}
			values += 2*max(n, 0) + 1
		default:
			return errNotRESP
		}
		if values > maxElements {
			return errNotRESP
		}
	}
	return nil
}

// readLine appends a line to b and returns it without its end.
func readLine(b *bytes.Buffer, from *bufio.Reader) ([]byte, error) {
	start := b.Len()
	for {
		part, err := from.ReadSlice('\n')
		b.Write(part)
		if err == nil {
			break
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return nil, err
		}
	}
	line, ok := bytes.CutSuffix(b.Bytes()[start:], lineEnd)
	if !ok || len(line) == 0 {
		return nil, errNotRESP
	}
	return line, nil
}

// length reads the number behind the type; -1 is the null of RESP2. Of streams, whose length is a question mark, no server makes use.
func length(line []byte) (int64, error) {
	n, err := strconv.ParseInt(string(line[1:]), 10, 64)
	if err != nil || n < -1 || n > maxElements {
		return 0, errNotRESP
	}
	return n, nil
}

var lineEnd = []byte("\r\n")

// stringsOf takes the strings out of a message or the beginning of one, whatever they are nested in, up to limit of them.
func stringsOf(message []byte, limit int) (found []string) {
	for len(found) < limit {
		line, rest, ok := bytes.Cut(message, lineEnd)
		if !ok || len(line) == 0 {
			break
		}
		message = rest
		switch line[0] {
		case '+':
			found = append(found, string(line[1:]))
		case '$':
			size, err := length(line)
			if err != nil || size > int64(len(message)-len(lineEnd)) {
				return found
			}
			if size >= 0 {
				found = append(found, string(message[:size]))
				message = message[size+int64(len(lineEnd)):]
			}
		}
	}
	return found
}

// asPush returns the invalidation that a message is, if it is one: ">2 invalidate [key …]" or ">2 invalidate null".
func asPush(frame []byte) (Push, bool) {
	if frame[0] != '>' {
		return Push{}, false
	}
	words := stringsOf(frame, len(frame))
	if len(words) == 0 || words[0] != "invalidate" {
		return Push{}, false
	}
	return Push{Keys: words[1:], Everything: len(words) == 1}, true
}

// startsTracking reports whether a command is CLIENT TRACKING ON.
func startsTracking(frame []byte) bool {
	words := []string{"CLIENT", "TRACKING", "ON"}
	return slices.EqualFunc(stringsOf(frame[:min(len(frame), 128)], len(words)), words, strings.EqualFold)
}
