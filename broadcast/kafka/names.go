package kafka

import (
	"crypto/sha256"
	"encoding/base32"
	"strings"
)

// Kafka allows letters, digits, "-", "." and "_" in the name of a topic, up to 249 of them, and refuses a topic whose
// name differs from another's only in "." and "_".
const (
	maxPrefix  = 60
	maxEncoded = 180
	hashLength = 52 // of a SHA-256 sum in base 32
)

const hexDigits = "0123456789ABCDEF"

// encode maps a name of any bytes to one that Kafka allows, one to one: different names give different results, even to
// Kafka. Letters, digits and "-" are kept, so is "." where it cannot be mistaken for an "_" of ours, and any other byte
// becomes "_" and two digits. What is too long ends in a hash of the whole, after the "__" that is nowhere else.
func encode(name string, limit int) string {
	var encoded strings.Builder
	for i := range len(name) {
		if b := name[i]; isPlain(b) || b == '.' && keepsDot(name[i+1:]) {
			encoded.WriteByte(b)
		} else {
			encoded.Write([]byte{'_', hexDigits[b>>4], hexDigits[b&15]})
		}
	}
	if encoded.Len() <= limit {
		return encoded.String()
	}
	sum := sha256.Sum256([]byte(name))
	hash := base32.HexEncoding.WithPadding(base32.NoPadding).EncodeToString(sum[:])
	return encoded.String()[:limit-2-hashLength] + "__" + hash
}

func isPlain(b byte) bool {
	return 'a' <= b && b <= 'z' || 'A' <= b && b <= 'Z' || '0' <= b && b <= '9' || b == '-'
}

// keepsDot reports whether a dot with this behind it looks unlike anything that begins with "_".
func keepsDot(rest string) bool {
	if rest == "" || !isPlain(rest[0]) {
		return false
	}
	return len(rest) < 2 || !isHex(rest[0]) || !isHex(rest[1])
}

func isHex(b byte) bool { return strings.IndexByte(hexDigits, b) >= 0 }
