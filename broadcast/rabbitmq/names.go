package rabbitmq

import (
	"crypto/sha256"
	"encoding/base32"
	"strings"
)

// Names of exchanges and queues. RabbitMQ takes up to 255 bytes, removes line ends from them without a word, and its
// tools show anything but plain text badly, so topics are encoded.
const (
	topicName  = "topic."  // the fanout exchange of a topic
	nodeName   = "node."   // the queue of a node
	nodesName  = "nodes"   // the exchange by which a node reaches its own queue
	streamName = "stream." // the stream of a topic, and the exchange before it

	maxPrefix  = 60
	maxEncoded = 180
	maxNode    = 100
	hashLength = 52 // of a SHA-256 sum in base 32
)

const hexDigits = "0123456789ABCDEF"

// encode maps a name of any bytes to one of at most limit plain characters, one to one: a different name gives a
// different result. What is too long ends in a hash of the whole, after the tilde that is nowhere else.
func encode(name string, limit int) string {
	var encoded strings.Builder
	for i := range len(name) {
		if b := name[i]; isPlain(b) {
			encoded.WriteByte(b)
		} else {
			encoded.Write([]byte{'%', hexDigits[b>>4], hexDigits[b&15]})
		}
	}
	if encoded.Len() <= limit {
		return encoded.String()
	}
	sum := sha256.Sum256([]byte(name))
	hash := base32.HexEncoding.WithPadding(base32.NoPadding).EncodeToString(sum[:])
	return encoded.String()[:limit-1-hashLength] + "~" + hash
}

func isPlain(b byte) bool {
	return 'a' <= b && b <= 'z' || 'A' <= b && b <= 'Z' || '0' <= b && b <= '9' || strings.IndexByte("-_.:", b) >= 0
}
