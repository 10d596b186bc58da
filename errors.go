package nearcache

import (
	"errors"
	"fmt"

	"github.com/go-nearcache/nearcache/tracking"
)

var (
	// ErrNotFound says that there is no such item. A loader returns it (or an error that wraps it) when its source has
	// nothing under the key; Get returns it then, and for a key that Redis does not hold when the cache has no loader.
	ErrNotFound = errors.New("nearcache: not found")

	// ErrClosed is returned by every call on a client after Close, and on the caches of that client.
	ErrClosed = errors.New("nearcache: the client is closed: open a new one")

	// ErrNoTracking says that the server, a proxy before it or the user's rights do not allow invalidation tracking. The error
	// that wraps it names the command that failed and what to change.
	ErrNoTracking = tracking.ErrNoTracking

	// ErrDisconnected is returned by reads under the policy FailReads while the invalidation link is down.
	ErrDisconnected = errors.New("nearcache: the invalidation link is down and OnDisconnect is FailReads: read again once Health().Ready is true")

	// ErrUnavailable says that Redis did not answer and that the cache has no loader to serve the read instead. The error that
	// wraps it holds the reason.
	ErrUnavailable = errors.New("nearcache: Redis is unavailable")

	// ErrConflict is returned by Update when other writers came first each time that it tried.
	ErrConflict = errors.New("nearcache: others write the key all the time: try again later")

	// ErrInvalidKey is returned for a key that Redis cannot hold or that cannot be told from a prefix: the empty key, and one that
	// is longer than 512 MB together with its prefix.
	ErrInvalidKey = errors.New("nearcache: invalid key")

	// ErrInvalidValue is returned for a value that cannot be stored: one whose encoding is longer than 512 MB or starts with the bytes
	// that this package reserves for its markers, and a nil pointer from a loader that returned no error.
	ErrInvalidValue = errors.New("nearcache: invalid value")
)

// A WrongTypeError says that the key holds something other than a string, so that it cannot hold a cached value.
type WrongTypeError struct {
	Key  string // as Redis knows it, prefix included
	Type string // what TYPE answered: hash, list, set, zset, stream …
}

func (e *WrongTypeError) Error() string {
	return fmt.Sprintf("nearcache: the key %q holds a %s, not a string: delete it, or give the cache a prefix of its own", e.Key, e.Type)
}

// A PanicError is what the readers of a key get when its loader panicked. The process goes on.
type PanicError struct {
	Value any    // what was passed to panic; nil if the loader called runtime.Goexit
	Stack []byte // the stack of the loader's goroutine
}

func (e *PanicError) Error() string {
	if e.Value == nil {
		return "nearcache: the loader ended its goroutine (runtime.Goexit)"
	}
	return fmt.Sprintf("nearcache: the loader panicked: %v", e.Value)
}

// Unwrap returns the value of the panic if it was an error.
func (e *PanicError) Unwrap() error {
	err, _ := e.Value.(error)
	return err
}

// A KeyError is one failure among those that GetMany, SetMany or DeleteMany joined.
type KeyError struct {
	Key string // as the caller gave it
	Err error
}

// Error shows the beginning of the key alone: that it is far too long may be what failed.
func (e *KeyError) Error() string { return fmt.Sprintf("nearcache: key %.100q: %v", e.Key, e.Err) }

// Unwrap returns the failure without its key.
func (e *KeyError) Unwrap() error { return e.Err }

// oversizedError is the ErrInvalidValue of a value longer than Config.MaxValueBytes.
type oversizedError struct {
	key          string
	bytes, limit int
}

func (e *oversizedError) Error() string {
	return fmt.Sprintf("%v: that of %q has %d bytes encoded, and Config.MaxValueBytes is %d", ErrInvalidValue, e.key, e.bytes, e.limit)
}

func (e *oversizedError) Unwrap() error { return ErrInvalidValue }
