package compress_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/go-nearcache/nearcache"
	"github.com/go-nearcache/nearcache/compress"
)

func codec(t testing.TB, options compress.Options) nearcache.Codec[[]byte] {
	t.Helper()
	codec, err := compress.Zstd(nearcache.Bytes(), options)
	if err != nil {
		t.Fatal(err)
	}
	return codec
}

func TestRoundTrip(t *testing.T) {
	t.Parallel()
	c := codec(t, compress.Options{})
	noise := make([]byte, 10_000)
	source := rand.NewChaCha8([32]byte{1})
	_, _ = source.Read(noise)
	text := []byte(strings.Repeat("all work and no play ", 1000))
	frame := zstdFrame(t, text)
	for name, test := range map[string]struct {
		plain      []byte
		compressed bool
	}{
		"empty":                     {[]byte{}, false},
		"short":                     {text[:100], false},
		"long":                      {text, true},
		"noise":                     {noise, false},
		"begins like a frame":       {frame[:4], true},
		"is a frame":                {frame, true},
		"as long as the threshold":  {text[:compress.DefaultThreshold], true},
		"shorter than it by a byte": {text[:compress.DefaultThreshold-1], false},
	} {
		data, err := c.Encode(test.plain)
		if err != nil {
			t.Fatal(name, err)
		}
		if !bytes.Equal(data, test.plain) != test.compressed {
			t.Errorf("%s: %d bytes became %d", name, len(test.plain), len(data))
		}
		back, err := c.Decode(data)
		if err != nil || !bytes.Equal(back, test.plain) {
			t.Errorf("%s: %v, %d bytes came back of %d", name, err, len(back), len(test.plain))
		}
	}
	// What was stored before compression was switched on.
	if back, err := c.Decode(text); err != nil || !bytes.Equal(back, text) {
		t.Errorf("an old value: %v", err)
	}
}

func zstdFrame(t testing.TB, data []byte) []byte {
	t.Helper()
	encoder, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return encoder.EncodeAll(data, nil)
}

func TestWhatIsRefused(t *testing.T) {
	t.Parallel()
	c := codec(t, compress.Options{MaxBytes: 1 << 20})
	frame := zstdFrame(t, bytes.Repeat([]byte("ab"), 10_000))
	for n := 4; n < len(frame); n++ {
		if _, err := c.Decode(frame[:n]); err == nil {
			t.Errorf("a frame cut to %d of %d bytes is accepted", n, len(frame))
		}
	}
	bomb := zstdFrame(t, make([]byte, 32<<20))
	if len(bomb) > 10_000 {
		t.Fatalf("the bomb has %d bytes", len(bomb))
	}
	if _, err := c.Decode(bomb); err == nil {
		t.Error("a bomb is accepted")
	}
	many := bytes.Repeat(zstdFrame(t, make([]byte, 1<<19)), 100) // each of them small
	if back, err := c.Decode(many); err == nil {
		t.Errorf("a bomb of many frames is accepted: %d bytes", len(back))
	}
	if _, err := c.Encode(make([]byte, 1<<20+1)); !errors.Is(err, nearcache.ErrInvalidValue) {
		t.Errorf("%v", err)
	}
	for _, test := range []struct {
		codec   nearcache.Codec[[]byte]
		options compress.Options
		word    string
	}{
		{nearcache.Codec[[]byte]{}, compress.Options{}, "Encode"},
		{nearcache.Bytes(), compress.Options{Threshold: -1}, "Threshold"},
		{nearcache.Bytes(), compress.Options{MaxBytes: 1 << 30}, "MaxBytes"},
	} {
		if _, err := compress.Zstd(test.codec, test.options); err == nil || !strings.Contains(err.Error(), test.word) {
			t.Errorf("%v does not say %q", err, test.word)
		}
	}
}

func TestManyGoroutines(t *testing.T) {
	t.Parallel()
	c := codec(t, compress.Options{})
	var working sync.WaitGroup
	for i := range 16 {
		working.Go(func() {
			plain := []byte(strings.Repeat(fmt.Sprint(i, " "), 2000))
			for range 50 {
				data, err := c.Encode(plain)
				if err != nil {
					t.Error(err)
				}
				if back, err := c.Decode(data); err != nil || !bytes.Equal(back, plain) {
					t.Errorf("%v", err)
				}
			}
		})
	}
	working.Wait()
}

func FuzzDecode(f *testing.F) {
	c := codec(f, compress.Options{MaxBytes: 1 << 16})
	f.Add(zstdFrame(f, bytes.Repeat([]byte("seed"), 100)))
	f.Add([]byte("plain"))
	f.Fuzz(func(t *testing.T, data []byte) {
		back, err := c.Decode(data)
		if err == nil && len(back) > max(1<<16, len(data)) {
			t.Errorf("%d bytes became %d", len(data), len(back))
		}
	})
}

func ExampleZstd() {
	codec, err := compress.Zstd(nearcache.JSON[[]string](), compress.Options{})
	if err != nil {
		panic(err)
	}
	// nearcache.Config[[]string]{Codec: codec, …}
	data, err := codec.Encode(make([]string, 10_000))
	fmt.Println(len(data) < 100, err)
	value, err := codec.Decode(data)
	fmt.Println(len(value), err)
	// Output:
	// true <nil>
	// 10000 <nil>
}
