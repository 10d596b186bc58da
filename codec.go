package nearcache

import (
	"encoding/json"
	"fmt"

	"github.com/redis/rueidis"
)

// A Codec turns values into what Redis stores and back. What Encode returns is stored as it is, so any program can read it.
//
// Both functions are called from many goroutines at once. Decode may keep the bytes it is given and must not change them.
type Codec[V any] struct {
	Encode func(V) ([]byte, error)
	Decode func([]byte) (V, error)
}

// JSON is the codec of a Config that names none: encoding/json.
func JSON[V any]() Codec[V] {
	return Codec[V]{
		Encode: func(value V) ([]byte, error) { return json.Marshal(value) },
		Decode: func(data []byte) (value V, err error) {
			err = json.Unmarshal(data, &value)
			return value, err
		},
	}
}

// String stores a string as its bytes.
func String() Codec[string] {
	return Codec[string]{
		Encode: func(value string) ([]byte, error) { return []byte(value), nil },
		Decode: func(data []byte) (string, error) { return rueidis.BinaryString(data), nil }, // nobody changes the bytes
	}
}

// Bytes stores a slice of bytes as it is. A hit returns the slice that L1 holds: treat it as read-only.
func Bytes() Codec[[]byte] {
	return Codec[[]byte]{
		Encode: func(value []byte) ([]byte, error) { return value, nil },
		Decode: func(data []byte) ([]byte, error) { return data, nil },
	}
}

// encode calls the user's function and keeps its panic away from the caller's goroutine.
func (c Codec[V]) encode(value V) (data []byte, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("nearcache: the codec's Encode panicked: %v", r)
		}
	}()
	return c.Encode(value)
}

func (c Codec[V]) decode(data []byte) (value V, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("nearcache: the codec's Decode panicked: %v", r)
		}
	}()
	return c.Decode(data)
}
