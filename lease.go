package nearcache

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"
)

// A lease is the right to load one key, for the whole fleet: a marker in the key itself, so that any write to the key, by any program,
// ends it. What was loaded is stored by comparing with the marker, so a load never overwrites what was written while it ran.
//
// No value may start with reservedPrefix; Set refuses such a one.
const (
	reservedPrefix = "\x00nearcache\x00"
	leasePrefix    = reservedPrefix + "lease\x00"
	absentMarker   = reservedPrefix + "absent"
)

// newLease returns a marker that no other load has. After a zero byte it holds the traceparent of the load's trace, unless that is empty, so
// that the trace of a node that waits for the load leads to it.
func newLease(traceParent string) string {
	lease := leasePrefix + rand.Text()
	if traceParent != "" {
		lease += "\x00" + traceParent
	}
	return lease
}

// leaseTrace returns the traceparent of a marker, or nothing.
func leaseTrace(lease []byte) string {
	_, traceParent, _ := bytes.Cut(bytes.TrimPrefix(lease, []byte(leasePrefix)), []byte{0})
	return string(traceParent)
}

func isLease(data []byte) bool { return bytes.HasPrefix(data, []byte(leasePrefix)) }

func isReserved(data []byte) bool { return bytes.HasPrefix(data, []byte(reservedPrefix)) }

// acquire takes the lease on a key that held nothing; false if it holds something by now.
func (r *remote) acquire(ctx context.Context, key, lease string, life time.Duration) (acquired bool, err error) {
	_, err = r.once(ctx, r.client.serverOf("", key), "SET", func(ctx context.Context, redis rueidis.Client) error {
		err := redis.Do(ctx, redis.B().Set().Key(key).Value(lease).Nx().Px(life).Build()).Error()
		acquired = err == nil
		return err
	})
	return acquired, err
}

// replaceSource stores ARGV[2] for ARGV[3] milliseconds, or nothing if that is 0, if the key still holds ARGV[1].
const replaceSource = `
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if ARGV[3] == '0' then redis.call('DEL', KEYS[1]) else redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) end
return 1`

var replaceScript = rueidis.NewLuaScript(replaceSource)

func replaceMilliseconds(ttl time.Duration) int64 {
	if ttl > 0 {
		return max(ttl.Milliseconds(), 1)
	}
	return 0
}

// replace stores data in place of what the key was known to hold; false if it holds something else by now. A ttl of 0 deletes the key.
func (r *remote) replace(ctx context.Context, key, expected string, data []byte, ttl time.Duration) (replaced bool, err error) {
	arguments := []string{expected, rueidis.BinaryString(data), strconv.FormatInt(replaceMilliseconds(ttl), 10)}
	_, err = r.once(ctx, r.client.serverOf("", key), "EVALSHA", func(ctx context.Context, redis rueidis.Client) error {
		result := replaceScript.Exec(ctx, redis, []string{key}, arguments)
		n, err := result.AsInt64()
		replaced = n == 1
		return scriptError(err, "+get +set +del")
	})
	return replaced, err
}

// scriptError adds to an error what a script needs, if that is what it lacks: servers do not say it.
func scriptError(err error, rights string) error {
	reply, ok := rueidis.IsRedisErr(err)
	if !ok || !strings.Contains(reply.Error(), "can't run this command") && !strings.Contains(reply.Error(), "ACL failure") {
		return err
	}
	return fmt.Errorf("%w: grant the user %s", err, rights)
}
