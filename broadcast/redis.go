package broadcast

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"
	"unsafe"

	"github.com/redis/rueidis"
)

// RedisOptions configure the Redis transports. The zero value of every field but Client.InitAddress means its default.
type RedisOptions struct {
	// Client says how to reach Redis or Valkey: one server, Sentinel or a cluster. Client.InitAddress is required. The
	// transport makes clients of its own from it, one to publish and one to subscribe: subscriptions that share a
	// connection with commands would stall them and fall under the server's output limit for subscribers.
	//
	// Its timeouts decide how soon a connection that has silently died is noticed: after Client.Dialer.KeepAlive and
	// Client.ConnWriteTimeout together. The defaults are 1 s and 3 s here, instead of rueidis's 1 s and 10 s.
	Client rueidis.ClientOption

	// Prefix begins the names of channels and keys, so that several fleets can share a server. Default "nearcache:bus:".
	// Must be the same on all nodes.
	Prefix string
}

const (
	defaultRedisPrefix  = "nearcache:bus:"
	defaultKeepAlive    = time.Second
	defaultConnTimeout  = 3 * time.Second
	subscriberBuffer    = 64 << 10 // bytes of rueidis's read and write buffers; its default of 512 KiB each is for bulk traffic
	subscriberRingScale = 8        // 2^8 commands in flight; few commands are sent on these connections

	minReconnectDelay = 10 * time.Millisecond
	maxReconnectDelay = time.Second
)

// redis is what the Redis transports share: two clients and a prefix.
type redis struct {
	prefix     string
	publisher  rueidis.Client
	subscriber rueidis.Client
}

func newRedis(options RedisOptions) (redis, error) {
	option := options.Client
	if len(option.InitAddress) == 0 {
		return redis{}, errors.New("broadcast: RedisOptions.Client.InitAddress is empty: it needs at least one address of a server")
	}
	if option.Dialer.KeepAlive == 0 {
		option.Dialer.KeepAlive = defaultKeepAlive
	}
	if option.ConnWriteTimeout == 0 {
		option.ConnWriteTimeout = defaultConnTimeout
	}
	for _, size := range []*int{&option.ReadBufferEachConn, &option.WriteBufferEachConn} {
		if *size == 0 {
			*size = subscriberBuffer
		}
	}
	if option.RingScaleEachConn == 0 {
		option.RingScaleEachConn = subscriberRingScale
	}
	option.DisableCache = true
	option.OnInvalidations = nil
	option.PipelineMultiplex = -1 // one connection: frames of a topic must not overtake each other
	option.DisableRetry = true    // the bus tries again by itself, and must see every loss
	option.ConnLifetime = 0       // rueidis would resubscribe without a word

	r := redis{prefix: options.Prefix}
	if r.prefix == "" {
		r.prefix = defaultRedisPrefix
	}
	var err error
	if r.publisher, err = rueidis.NewClient(option); err != nil {
		return redis{}, fmt.Errorf("broadcast: connect to Redis at %s: %w", strings.Join(option.InitAddress, ", "), err)
	}
	if r.subscriber, err = rueidis.NewClient(option); err != nil {
		r.publisher.Close()
		return redis{}, fmt.Errorf("broadcast: connect to Redis at %s: %w", strings.Join(option.InitAddress, ", "), err)
	}
	return r, nil
}

// close closes both clients. A client whose connection hangs takes until its timeout to close; it is not waited for then.
func (r *redis) close(ctx context.Context) error {
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		r.publisher.Close()
		r.subscriber.Close()
	}()
	select {
	case <-closed:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("broadcast: connections to Redis are still closing: %w", context.Cause(ctx))
	}
}

// refusals are what a server answers when trying again is of no use. Everything else may pass: LOADING, READONLY,
// CLUSTERDOWN, OOM and so on.
var refusals = []string{"NOPERM", "NOAUTH", "WRONGPASS", "WRONGTYPE", "ERR unknown command", "ERR unknown subcommand"}

// redisError marks errors that trying again cannot cure.
func redisError(err error) error {
	if err == nil {
		return nil
	}
	if answer, ok := rueidis.IsRedisErr(err); ok {
		for _, refusal := range refusals {
			if strings.HasPrefix(answer.Error(), refusal) {
				return fmt.Errorf("%w: %w", ErrRejected, err)
			}
		}
	}
	return err
}

// frameBytes gives a frame to a receiver without copying it: rueidis makes a new string of each message and keeps none.
func frameBytes(message string) []byte {
	return unsafe.Slice(unsafe.StringData(message), len(message))
}

// backoff is the pause before the next attempt to connect, growing with each failure.
type backoff struct{ delay time.Duration }

// wait pauses; false means that ctx has ended.
func (b *backoff) wait(ctx context.Context) bool {
	b.delay = min(max(2*b.delay, minReconnectDelay), maxReconnectDelay)
	timer := time.NewTimer(b.delay/2 + rand.N(b.delay/2))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func (b *backoff) reset() { b.delay = 0 }
