package nearcache

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"sync"
	"time"

	"github.com/redis/rueidis"
)

// BulkOptions are for Warm and Clear, which go through many keys, and must not take the server from its other users.
type BulkOptions struct {
	// KeysPerSecond bounds the pace. Default 10,000; up to 10 million.
	KeysPerSecond int

	// Progress is told after each portion, of up to 500 keys, how many are done. It runs on the caller's goroutine, which waits for it.
	// Default nil.
	Progress func(done int)
}

const (
	defaultKeysPerSecond = 10_000
	mostKeysPerSecond    = 10_000_000
)

// pace lets through as many keys a second as the options say.
type pace struct {
	options BulkOptions
	began   time.Time
	done    int
}

func (c *Cache[V]) newPace(options BulkOptions) (*pace, error) {
	if options.KeysPerSecond == 0 {
		options.KeysPerSecond = defaultKeysPerSecond
	}
	if options.KeysPerSecond < 0 || options.KeysPerSecond > mostKeysPerSecond {
		return nil, fmt.Errorf("nearcache: cache %q: BulkOptions.KeysPerSecond is %d: it must be from 1 to %d", c.config.Name, options.KeysPerSecond, mostKeysPerSecond)
	}
	return &pace{options: options, began: time.Now()}, nil
}

// passed counts a portion, and waits until it is time for the next.
func (p *pace) passed(ctx context.Context, keys int) error {
	p.done += keys
	if p.options.Progress != nil {
		p.options.Progress(p.done)
	}
	due := p.began.Add(time.Duration(float64(p.done) / float64(p.options.KeysPerSecond) * float64(time.Second)))
	select {
	case <-time.After(time.Until(due)):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Warm reads the items into L1, and from the source into Redis if need be, as GetMany does, in portions and at a pace: for a node that
// should not meet its first readers with an empty memory. Items that do not exist are passed over. If some fail the others are read all the
// same, and the error joins a KeyError for each of the first hundred.
func (c *Cache[V]) Warm(ctx context.Context, keys iter.Seq[string], options BulkOptions) error {
	pace, err := c.newPace(options)
	if err != nil {
		return err
	}
	var failures []error
	portion := make([]string, 0, batchKeys)
	read := func() error {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if _, err := c.GetMany(ctx, portion); err != nil {
			if errors.Is(err, ErrClosed) {
				return ErrClosed
			}
			failures = append(failures, err)
			failures = failures[:min(len(failures), mostFailures)]
		}
		n := len(portion)
		portion = portion[:0]
		return pace.passed(ctx, n)
	}
	for key := range keys {
		if portion = append(portion, key); len(portion) == batchKeys {
			if err := read(); err != nil {
				return errors.Join(append(failures, err)...)
			}
		}
	}
	if len(portion) > 0 {
		if err := read(); err != nil {
			return errors.Join(append(failures, err)...)
		}
	}
	return errors.Join(failures...)
}

// mostFailures is how many errors Warm returns.
const mostFailures = 100

// Clear removes all items of the cache from Redis, and so from every node: it scans the server, or each of them, for the prefix, and unlinks what
// it finds, at a pace. Keys of another cache of this client whose prefix is longer are spared. An item that is written while it
// runs may or may not survive. It returns how many keys it removed, also with an error; calling it again goes on. Config.Remove is not called.
func (c *Cache[V]) Clear(ctx context.Context, options BulkOptions) (removed int64, err error) {
	pace, err := c.newPace(options)
	if err != nil {
		return 0, err
	}
	if c.client.closed.Load() {
		return 0, ErrClosed
	}
	if c.client.bus != nil {
		return 0, fmt.Errorf("nearcache: cache %q: Clear needs Redis: use Client.Flush, which makes all nodes forget everything", c.config.Name)
	}
	for _, server := range c.client.servers() {
		n, err := c.clearServer(ctx, server, pace)
		removed += n
		if err != nil {
			return removed, fmt.Errorf("nearcache: cache %q: clear: %w", c.config.Name, err)
		}
	}
	return removed, nil
}

func (c *Cache[V]) clearServer(ctx context.Context, s *server, pace *pace) (removed int64, err error) {
	spared := c.longerPrefixes()
	var scan rueidis.ScanEntry
	for {
		err := c.client.remote.asking(ctx, s, "SCAN", 1, func(ctx context.Context) (err error) {
			scan, err = s.redis.Do(ctx, s.redis.B().Scan().Cursor(scan.Cursor).Match(pattern(c.config.Prefix)).Count(batchKeys).Build()).AsScanEntry()
			return err
		})
		if err != nil {
			return removed, err
		}
		var mine []string
		for _, key := range scan.Elements {
			if !underOneOf(key, spared) {
				mine = append(mine, key)
			}
		}
		n, err := c.unlink(ctx, mine)
		removed += n
		if err != nil {
			return removed, err
		}
		if scan.Cursor == 0 {
			return removed, nil
		}
		if err := pace.passed(ctx, len(mine)); err != nil {
			return removed, err
		}
	}
}

func (c *Cache[V]) unlink(ctx context.Context, full []string) (removed int64, err error) {
	if len(full) == 0 {
		return 0, nil
	}
	forget := func() {
		for _, key := range full {
			c.client.overwritten(key)
		}
	}
	forget()
	defer forget()
	if n := c.client.nodes; n != nil {
		defer n.announce(ctx, full)
	}
	var mu sync.Mutex
	byKey := make(map[string]*string, len(full))
	for i := range full {
		byKey[full[i]] = &full[i]
	}
	eachKey(ctx, &c.client.remote, "PIPELINE UNLINK", byKey, func(redis rueidis.Client, key *string) rueidis.Completed {
		return redis.B().Unlink().Key(*key).Build()
	}, func(_ *string, result rueidis.RedisResult, failed error) {
		mu.Lock()
		defer mu.Unlock()
		var n int64
		if failed == nil {
			n, failed = result.AsInt64()
		}
		removed += n
		if err == nil {
			err = failed
		}
	})
	return removed, err
}

// longerPrefixes are those of other caches that lie under this one's.
func (c *Cache[V]) longerPrefixes() (longer []string) {
	for _, other := range c.client.caches.all() {
		if _, prefix := other.describe(); prefix != c.config.Prefix && strings.HasPrefix(prefix, c.config.Prefix) {
			longer = append(longer, prefix)
		}
	}
	return longer
}

// pattern is what SCAN matches for a prefix, in which nothing is a wildcard.
func pattern(prefix string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`, `]`, `\]`).Replace(prefix) + "*"
}
