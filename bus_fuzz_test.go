package nearcache

import (
	"slices"
	"testing"
)

func FuzzDecodeKeys(f *testing.F) {
	f.Add([]byte(nil))
	f.Add(appendKey(appendKey(nil, "user:1"), ""))
	f.Add([]byte{200, 1, 'x'})
	f.Fuzz(func(t *testing.T, payload []byte) {
		keys, err := decodeKeys(payload)
		if err != nil {
			return
		}
		var again []byte
		for _, key := range keys {
			again = appendKey(again, key)
		}
		back, err := decodeKeys(again)
		if err != nil || !slices.Equal(keys, back) {
			t.Fatalf("%q came back as %q, %v", keys, back, err)
		}
	})
}
