package nearcache_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"testing"

	"github.com/redis/rueidis"

	"github.com/go-nearcache/nearcache"
)

// byteSink stands for groupcache's sinks.
type byteSink interface{ SetString(string) error }

type sliceSink struct{ to *[]byte }

func (s sliceSink) SetString(text string) error {
	*s.to = []byte(text)
	return nil
}

func newSliceSink(to *[]byte) byteSink { return sliceSink{to} }

// A group of groupcache becomes a cache with the same getter.
func ExampleLoadFromGetter() {
	server := startRedis()
	defer server.Close()
	ctx := context.Background()

	// As for groupcache.NewGroup; newSliceSink stands for groupcache.AllocatingByteSliceSink.
	getter := func(_ context.Context, key string, destination byteSink) error {
		return destination.SetString("the thumbnail of " + key)
	}
	client, err := nearcache.Open(ctx, nearcache.Options{
		Redis:    rueidis.ClientOption{InitAddress: []string{server.Addr()}},
		Prefixes: []string{"thumbnail:"},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close(ctx)
	thumbnails, err := nearcache.New(client, nearcache.Config[[]byte]{
		Name:   "thumbnails",
		Prefix: "thumbnail:",
		Load:   nearcache.LoadFromGetter(getter, newSliceSink),
		Codec:  nearcache.Bytes(),
	})
	if err != nil {
		log.Fatal(err)
	}
	thumbnail, err := thumbnails.Get(ctx, "cat.jpg")
	fmt.Println(string(thumbnail), err)
	// Output: the thumbnail of cat.jpg <nil>
}

func TestLoadFromGetter(t *testing.T) {
	failure := errors.New("failure")
	for name, test := range map[string]struct {
		get  func(context.Context, string, byteSink) error
		want string
		err  error
	}{
		"a value": {func(_ context.Context, key string, d byteSink) error { return d.SetString(key) }, "k", nil},
		"nothing": {func(context.Context, string, byteSink) error { return nil }, "", nil},
		"failure": {func(_ context.Context, _ string, d byteSink) error { return errors.Join(d.SetString("half"), failure) }, "", failure},
	} {
		value, err := nearcache.LoadFromGetter(test.get, newSliceSink)(t.Context(), "k")
		if string(value) != test.want || !errors.Is(err, test.err) || (err == nil) == (value == nil) {
			t.Errorf("%s: %q, %v", name, value, err)
		}
	}
}
