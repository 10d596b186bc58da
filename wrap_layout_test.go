package nearcache

import (
	"slices"
	"testing"

	"github.com/redis/rueidis"
)

// An array that is made of values is to rueidis what one is that it has read.
func TestArrayOf(t *testing.T) {
	text := unserialized(noLife + "$\x00\x00\x00\x00\x00\x00\x00\x04text")
	for _, n := range []int{1, 2, 100} {
		for _, hit := range []bool{true, false} {
			values := make([]rueidis.RedisMessage, n)
			want := make([]string, n)
			for i := range values {
				values[i] = nothing
			}
			values[n-1], want[n-1] = text, "text"
			array := arrayOf(values, hit)
			if got, err := array.AsStrSlice(); err != nil || !slices.Equal(got, want) {
				t.Errorf("%d values: %q, %v", n, got, err)
			}
			if array.IsCacheHit() != hit {
				t.Errorf("%d values: a hit: %t", n, array.IsCacheHit())
			}
			var copied rueidis.RedisMessage
			if err := copied.CacheUnmarshalView(array.CacheMarshal(nil)); err != nil {
				t.Fatal(err)
			}
			if got, err := copied.AsStrSlice(); err != nil || !slices.Equal(got, want) {
				t.Errorf("%d values, copied: %q, %v", n, got, err)
			}
		}
	}
	if !layoutKnown() {
		t.Error(errLayout)
	}
}
