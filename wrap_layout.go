package nearcache

import (
	"errors"
	"slices"
	"strings"
	"unsafe"

	"github.com/redis/rueidis"
)

// rueidis offers no way to give a message that is not from a cache the end of its life in one, nor to make an array of messages. Both are
// written into the memory of a message. Where they are is not assumed but looked up, by what rueidis itself writes there.

const (
	messageBytes = int64(unsafe.Sizeof(rueidis.RedisMessage{}))
	expiryBytes  = 7
	wordBytes    = int(unsafe.Sizeof(uintptr(0)))
)

var (
	expiryOffset              = expiryAt()
	arrayOffset, lengthOffset = arrayAt()
)

func layoutKnown() bool { return expiryOffset >= 0 && arrayOffset >= 0 && lengthOffset >= 0 }

var errLayout = errors.New("nearcache: this version of rueidis keeps messages in a form that this version of nearcache does not know: use the version of rueidis that nearcache's go.mod names")

// setExpiry writes the seven bytes in which a message has the end of its life in the cache, a Unix time in milliseconds: CacheTTL,
// CachePTTL and CachePXAT read them.
func setExpiry(message *rueidis.RedisMessage, pxat int64) {
	bytes := unsafe.Slice((*byte)(unsafe.Pointer(message)), messageBytes)[expiryOffset:]
	for i := range expiryBytes {
		bytes[i] = byte(pxat >> (8 * i))
	}
}

// arrayOf returns an array of values, which it shares with the caller. It is marked as a hit or not, and the values are what they are.
func arrayOf(values []rueidis.RedisMessage, hit bool) rueidis.RedisMessage {
	array := fetchedArray
	if hit {
		array = heldArray
	}
	at := unsafe.Pointer(&array)
	*(*unsafe.Pointer)(unsafe.Add(at, arrayOffset)) = unsafe.Pointer(unsafe.SliceData(values))
	*(*int)(unsafe.Add(at, lengthOffset)) = len(values)
	return array
}

var (
	heldArray    = unserialized(noLife + arrayForm + nullForm + nullForm)
	fetchedArray = inner(unserialized(noLife + arrayForm + arrayForm + nullForm + nullForm + nullForm)) // rueidis marks the outer one
	nothing      = unserialized(noLife + nullForm)
)

// The serialized form of a message begins with its expiry. Then come type and length, and the elements.
const (
	noLife    = "\x00\x00\x00\x00\x00\x00\x00"
	nullForm  = "_\x00\x00\x00\x00\x00\x00\x00\x00"
	arrayForm = "*\x00\x00\x00\x00\x00\x00\x00\x02" // of two
)

func unserialized(form string) (message rueidis.RedisMessage) {
	_ = message.CacheUnmarshalView([]byte(form))
	return message
}

// inner returns the first element, if there is one.
func inner(array rueidis.RedisMessage) (first rueidis.RedisMessage) {
	if all, err := array.ToArray(); err == nil && len(all) > 0 {
		first = all[0]
	}
	return first
}

// expiryAt returns -1 if it does not find what it looks for, as arrayAt does.
func expiryAt() int {
	const expiry = "\x01\x02\x03\x04\x05\x06\x07"
	message := unserialized(expiry + nullForm)
	if message.CachePXAT() != 0x07_06_05_04_03_02_01 {
		return -1
	}
	return strings.Index(string(unsafe.Slice((*byte)(unsafe.Pointer(&message)), messageBytes)), expiry)
}

func arrayAt() (array, length int) {
	message := unserialized(noLife + arrayForm + nullForm + nullForm)
	all, err := message.ToArray()
	if err != nil || len(all) != 2 {
		return -1, -1
	}
	words := unsafe.Slice((*uintptr)(unsafe.Pointer(&message)), int(messageBytes)/wordBytes)
	at := func(word uintptr) int {
		if i := slices.Index(words, word); i >= 0 {
			return i * wordBytes
		}
		return -1
	}
	return at(uintptr(unsafe.Pointer(unsafe.SliceData(all)))), at(uintptr(len(all)))
}
