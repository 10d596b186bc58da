package nearcache

import (
	"encoding/binary"
	"strings"
	"unsafe"

	"github.com/redis/rueidis"

	"github.com/go-nearcache/nearcache/localcache"
)

// replies is what L1 holds for a key of Redis: what it answered to one command or several that read this key alone. One entry for all
// of them, because a push names the key. It is immutable: a reply is added by filling a copy.
type replies struct {
	first cachedReply // most keys are read by one command
	more  *[]cachedReply
}

type cachedReply struct {
	command  string // see commandOf
	message  rueidis.RedisMessage
	deadline localcache.Instant
}

// mostReplies is how many commands of one key L1 remembers: a copy of all is made for each that is added.
const mostReplies = 32

// find returns the reply to a command that reads the key parts[at], or nil.
func (r *replies) find(parts []string, at int, now localcache.Instant) *cachedReply {
	if r.more == nil { // and the entry has the deadline of its only reply
		if r.first.answers(parts, at) {
			return &r.first
		}
		return nil
	}
	if r.first.answers(parts, at) && now < r.first.deadline {
		return &r.first
	}
	for i := range *r.more {
		if reply := &(*r.more)[i]; reply.answers(parts, at) && now < reply.deadline {
			return reply
		}
	}
	return nil
}

// to returns the reply to a command in the form in which it was stored, or nil.
func (r *replies) to(command string) *cachedReply {
	if r.first.command == command {
		return &r.first
	}
	if r.more != nil {
		for i := range *r.more {
			if reply := &(*r.more)[i]; reply.command == command {
				return reply
			}
		}
	}
	return nil
}

// with returns the replies and another one, in place of an earlier one to the same command.
func (r *replies) with(added cachedReply, now localcache.Instant) replies {
	kept := make([]cachedReply, 0, mostReplies)
	keep := func(old cachedReply) {
		if old.command != added.command && now < old.deadline && len(kept) < mostReplies-1 {
			kept = append(kept, old)
		}
	}
	keep(r.first)
	if r.more != nil {
		for _, old := range *r.more {
			keep(old)
		}
	}
	if len(kept) == 0 {
		return replies{first: added}
	}
	more := append([]cachedReply(nil), kept...)
	return replies{first: added, more: &more}
}

// deadline is that of the last reply to end.
func (r *replies) deadline() localcache.Instant {
	last := r.first.deadline
	if r.more != nil {
		for _, reply := range *r.more {
			last = max(last, reply.deadline)
		}
	}
	return last
}

// cost is what the replies occupy besides the entry.
func (r *replies) cost() int64 {
	cost := r.first.cost()
	if r.more != nil {
		for _, reply := range *r.more {
			cost += reply.cost() + int64(unsafe.Sizeof(reply))
		}
	}
	return cost
}

func (r *cachedReply) cost() int64 {
	cost := sizeOf(&r.message)
	if strings.IndexByte(r.command, 0) >= 0 { // else the string is the builder's own constant
		cost += int64(len(r.command))
	}
	return cost
}

// sizeOf is what a message occupies besides itself. Elements are counted from above: nothing tells how many there are in a map without
// making one, and each takes nine bytes of the serialized form.
func sizeOf(message *rueidis.RedisMessage) int64 {
	size := int64(message.CacheSize())
	if message.IsArray() { // else ToArray takes the time to make an error
		elements, _ := message.ToArray()
		for i := range elements {
			size += sizeOf(&elements[i]) - int64(elements[i].CacheSize())
		}
		return size + int64(len(elements))*messageBytes
	}
	if message.IsMap() {
		size += size / 9 * messageBytes
	}
	return size
}

// answers reports whether this is the reply to the command with these parts, which reads the key parts[at]. It compares with the form
// of commandOf without making it.
func (r *cachedReply) answers(parts []string, at int) bool {
	name := parts[0]
	if len(parts) == 2 {
		return r.command == name
	}
	rest, ok := strings.CutPrefix(r.command, name)
	if !ok {
		return false
	}
	for i := 1; i < len(parts); i++ {
		if i == at {
			continue
		}
		n := len(parts[i])
		if len(rest) < partHeader+n || rest[0] != 0 || rest[partHeader:partHeader+n] != parts[i] ||
			int(rest[1])|int(rest[2])<<8|int(rest[3])<<16|int(rest[4])<<24 != n {
			return false
		}
		rest = rest[partHeader+n:]
	}
	return rest == ""
}

// partHeader is a zero and the length in four bytes: Redis takes no longer argument.
const partHeader = 5

// commandOf is a command without its key: its name, and its other arguments, each with its length. So no two commands have one form, and
// that of a command without other arguments is its name, which costs no memory.
func commandOf(parts []string, at int) string {
	if len(parts) == 2 {
		return parts[0]
	}
	size := len(parts[0])
	for i, part := range parts[1:] {
		if i+1 != at {
			size += partHeader + len(part)
		}
	}
	form := make([]byte, 0, size)
	form = append(form, parts[0]...)
	for i, part := range parts[1:] {
		if i+1 != at {
			form = append(form, 0)
			form = binary.LittleEndian.AppendUint32(form, uint32(len(part)))
			form = append(form, part...)
		}
	}
	return unsafe.String(unsafe.SliceData(form), len(form)) // nobody changes the bytes
}

// cached returns a message as rueidis returns one from its cache: marked as a hit, with its end, which is a Unix time in milliseconds. It
// shares no memory with the reply it came in, which may be a part of something much larger.
func cached(message *rueidis.RedisMessage, pxat int64) (rueidis.RedisMessage, error) {
	var copied rueidis.RedisMessage
	if err := copied.CacheUnmarshalView(message.CacheMarshal(nil)); err != nil {
		return copied, err
	}
	setExpiry(&copied, pxat)
	return copied, nil
}
