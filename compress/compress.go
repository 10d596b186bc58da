// Package compress makes a codec of a nearcache cache compress what is large. It is a module of its own, so that who does not use it does not
// depend on the library behind it.
//
// What it writes is a plain zstd frame, which any program can read (zstd -d), or, below the threshold and where compression saves nothing,
// exactly what the inner codec wrote. Values from before compression was switched on stay readable; so a fleet has to be able to
// read compressed values, on all its nodes, before the first node writes one.
//
// What comes from Redis may be anything: cut and forged frames are errors, and one that would become longer than Options.MaxBytes is refused
// before it does. The cache counts such values as undecodable and loads them again.
package compress

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/klauspost/compress/zstd"

	"github.com/go-nearcache/nearcache"
)

// Defaults of Options.
const (
	DefaultThreshold = 1024
	DefaultMaxBytes  = 64 << 20
)

// Options configure Zstd. The zero value of each field means its default.
type Options struct {
	// Threshold is the length in bytes from which values are compressed. Default 1024. Shorter ones cost more time than they save.
	Threshold int

	// MaxBytes bounds a value before compression and after decompression. Default 64 MiB; up to 512 MiB.
	MaxBytes int
}

// frameMagic is what a zstd frame begins with.
var frameMagic = []byte{0x28, 0xb5, 0x2f, 0xfd}

// Zstd returns a codec that compresses what another one writes. The error names the field that is wrong. A plain value in Redis that happens
// to begin like a zstd frame, which no text does, is taken for one; what this codec itself writes is never mistaken.
func Zstd[V any](codec nearcache.Codec[V], options Options) (nearcache.Codec[V], error) {
	if options.Threshold == 0 {
		options.Threshold = DefaultThreshold
	}
	if options.MaxBytes == 0 {
		options.MaxBytes = DefaultMaxBytes
	}
	switch {
	case codec.Encode == nil || codec.Decode == nil:
		return nearcache.Codec[V]{}, errors.New("compress: the codec lacks Encode or Decode: pass a whole one, such as nearcache.JSON")
	case options.Threshold < 0:
		return nearcache.Codec[V]{}, fmt.Errorf("compress: Options.Threshold is %d: it must not be negative", options.Threshold)
	case options.MaxBytes < 0 || options.MaxBytes > 512<<20:
		return nearcache.Codec[V]{}, fmt.Errorf("compress: Options.MaxBytes is %d: it must be from 1 to 512 MiB", options.MaxBytes)
	}
	encoder, err := zstd.NewWriter(nil)
	if err != nil {
		return nearcache.Codec[V]{}, fmt.Errorf("compress: %w", err)
	}
	decoder, err := zstd.NewReader(nil, zstd.WithDecoderMaxMemory(uint64(options.MaxBytes)))
	if err != nil {
		return nearcache.Codec[V]{}, fmt.Errorf("compress: %w", err)
	}
	return nearcache.Codec[V]{
		Encode: func(value V) ([]byte, error) {
			data, err := codec.Encode(value)
			if err != nil {
				return nil, err
			}
			if len(data) > options.MaxBytes {
				return nil, fmt.Errorf("%w: it has %d bytes, and compress.Options.MaxBytes is %d", nearcache.ErrInvalidValue, len(data), options.MaxBytes)
			}
			mistakable := bytes.HasPrefix(data, frameMagic)
			if len(data) < options.Threshold && !mistakable {
				return data, nil
			}
			compressed := encoder.EncodeAll(data, nil)
			if len(compressed) >= len(data) && !mistakable {
				return data, nil
			}
			return compressed, nil
		},
		Decode: func(data []byte) (V, error) {
			if bytes.HasPrefix(data, frameMagic) {
				plain, err := decoder.DecodeAll(data, nil)
				if err != nil {
					var none V
					return none, fmt.Errorf("compress: %d bytes are no zstd frame of up to %d bytes: %w", len(data), options.MaxBytes, err)
				}
				data = plain
			}
			return codec.Decode(data)
		},
	}, nil
}
