package nearcache

import "context"

// LoadFromGetter makes a Config.Load of a function in the shape of groupcache's Getter, which hands its value to a sink instead of returning it. The
// second argument is how to make a sink that leaves a value in a slice of bytes:
//
//	Load: nearcache.LoadFromGetter(getter.Get, groupcache.AllocatingByteSliceSink),
//	Codec: nearcache.Bytes(),
//
// The error is the getter's. If it says in its own way that there is no such item, wrap it: only ErrNotFound is remembered as that.
func LoadFromGetter[Sink any](get func(ctx context.Context, key string, destination Sink) error, sink func(*[]byte) Sink) func(context.Context, string) ([]byte, error) {
	return func(ctx context.Context, key string) ([]byte, error) {
		var value []byte
		if err := get(ctx, key, sink(&value)); err != nil {
			return nil, err
		}
		if value == nil {
			value = []byte{} // a getter may well set nothing: that is an empty value
		}
		return value, nil
	}
}
