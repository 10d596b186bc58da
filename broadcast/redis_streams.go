package broadcast

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/rueidis"
)

// RedisStreamsOptions configure [NewRedisStreams].
type RedisStreamsOptions struct {
	RedisOptions

	// MaxLength is how many frames a topic's stream keeps, about: what a node can be behind, or miss while it is cut off,
	// and still get. A frame holds one message or, under load, hundreds. Default 10000; at least 1000.
	MaxLength int64
}

const (
	defaultStreamLength = 10000
	minStreamLength     = 1000 // well above streamBatch: a batch that is not full then proves that nothing was trimmed
	controlLength       = 1000
	streamBatch         = 128 // entries per topic and read
	streamBlock         = time.Second
	streamField         = "f"
)

// redisStreams carries frames over Redis Streams, one stream a topic, and one beside it for heartbeats, which would push
// messages out otherwise. One goroutine reads all of them with one blocking XREAD.
type redisStreams struct {
	redis
	length int64

	ctx     context.Context
	stop    context.CancelFunc
	running sync.WaitGroup

	mu        sync.Mutex
	listeners map[*streamListener]struct{}
	interrupt context.CancelFunc // ends the read under way, so that a changed set of topics takes effect
	changed   chan struct{}
	started   bool
	closed    bool
}

// NewRedisStreams makes the transport over Redis Streams: at least once from the moment of Subscribe, in order, stored. A node
// whose connection is lost goes on from the position it holds, and is told [Resumed] when it has caught up, or
// [Trimmed] if the stream had dropped what it had not read. Nothing is kept over a restart of the node.
//
// All streams of one prefix live in one slot of a cluster, since one XREAD reads them: "{nearcache:bus:}stream:topic".
//
// A user with ACLs needs +xadd, +xread, +xinfo|stream, +multi, +exec, +client|unblock, +ping and ~{nearcache:bus:}* (the prefix).
func NewRedisStreams(options RedisStreamsOptions) (Transport, error) {
	if options.MaxLength == 0 {
		options.MaxLength = defaultStreamLength
	}
	if options.MaxLength < minStreamLength {
		return nil, fmt.Errorf("broadcast: RedisStreamsOptions.MaxLength is %d: at least %d is required", options.MaxLength, minStreamLength)
	}
	r, err := newRedis(options.RedisOptions)
	if err != nil {
		return nil, err
	}
	if !strings.Contains(r.prefix, "{") {
		r.prefix = "{" + r.prefix + "}"
	}
	t := &redisStreams{
		redis: r, length: options.MaxLength,
		listeners: make(map[*streamListener]struct{}), changed: make(chan struct{}, 1),
	}
	t.ctx, t.stop = context.WithCancel(context.Background())
	return t, nil
}

// Capabilities implements [Transport].
func (t *redisStreams) Capabilities() Capabilities {
	return Capabilities{System: "redis", Ordered: true, Replay: true, Signals: true, Echo: true}
}

func (t *redisStreams) dataKey(topic string) string    { return t.prefix + "stream:" + topic }
func (t *redisStreams) controlKey(topic string) string { return t.prefix + "control:" + topic }

// Send implements [Transport].
func (t *redisStreams) Send(ctx context.Context, frame Frame) error {
	key, length := t.dataKey(frame.Topic), t.length
	if frame.Control {
		key, length = t.controlKey(frame.Topic), controlLength
	}
	// The data is copied, since rueidis may still hold the command after ctx has ended.
	command := t.publisher.B().Xadd().Key(key).Maxlen().Almost().Threshold(strconv.FormatInt(length, 10)).
		Id("*").FieldValue().FieldValue(streamField, string(frame.Data)).Build()
	return redisError(t.publisher.Do(ctx, command).Error())
}

// Listen implements [Transport]. The topic is live as soon as the position is known: what is added after it will be read.
func (t *redisStreams) Listen(ctx context.Context, topic string, receiver Receiver) (Listener, error) {
	l := &streamListener{transport: t, data: t.dataKey(topic), control: t.controlKey(topic), receiver: receiver}
	var pause backoff
	for {
		err := t.locate(ctx, l)
		if err == nil {
			break
		}
		switch {
		case errors.Is(err, rueidis.ErrClosing):
			return nil, ErrClosed
		case errors.Is(err, ErrRejected):
			return nil, err
		}
		if !pause.wait(ctx) {
			return nil, fmt.Errorf("%w: %w", context.Cause(ctx), err)
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil, ErrClosed
	}
	t.listeners[l] = struct{}{}
	if !t.started {
		t.started = true
		t.running.Go(t.run)
	}
	t.changedLocked()
	return l, nil
}

// locate finds the concrete position of the streams' ends. The ID "$" would be resolved anew by each read, and miss what is
// added between two of them.
func (t *redisStreams) locate(ctx context.Context, l *streamListener) error {
	for _, stream := range []struct {
		key      string
		position *string
		index    *uint64
	}{{l.data, &l.position, &l.index}, {l.control, &l.controlAfter, new(uint64)}} {
		attempt, cancel := context.WithTimeout(ctx, sendTimeout)
		info, err := parseStreamInfo(t.subscriber.Do(attempt, t.subscriber.B().XinfoStream().Key(stream.key).Build()))
		cancel()
		if err != nil {
			return redisError(err)
		}
		*stream.position, *stream.index = info.lastID, info.added
	}
	return nil
}

func (t *redisStreams) changedLocked() {
	if t.interrupt != nil {
		t.interrupt()
	}
	select {
	case t.changed <- struct{}{}:
	default:
	}
}

// run reads until the transport is closed.
func (t *redisStreams) run() {
	var pause backoff
	for t.ctx.Err() == nil {
		listeners, ctx, cancel := t.next()
		err := t.read(ctx, listeners)
		interrupted := ctx.Err() != nil
		cancel()
		switch {
		case t.ctx.Err() != nil:
			return
		case err == nil:
			pause.reset()
		case !interrupted:
			for _, l := range listeners {
				l.lost()
			}
			if !pause.wait(t.ctx) {
				return
			}
		}
	}
}

// next returns what to read, and a context that a change of it ends.
func (t *redisStreams) next() ([]*streamListener, context.Context, context.CancelFunc) {
	t.mu.Lock()
	defer t.mu.Unlock()
	select {
	case <-t.changed:
	default:
	}
	listeners := make([]*streamListener, 0, len(t.listeners))
	for l := range t.listeners {
		listeners = append(listeners, l)
	}
	ctx, cancel := context.WithCancel(t.ctx)
	t.interrupt = cancel
	return listeners, ctx, cancel
}

// read reads once. What may have been trimmed is read with the stream's counts, without blocking; if there is none of that,
// all streams are waited for together.
func (t *redisStreams) read(ctx context.Context, listeners []*streamListener) error {
	if len(listeners) == 0 {
		select {
		case <-t.changed:
		case <-ctx.Done():
		}
		return nil
	}
	verified := false
	for _, l := range listeners {
		if !l.verify {
			continue
		}
		verified = true
		if err := t.readVerified(t.ctx, l); err != nil {
			return err
		}
	}
	if verified {
		return nil
	}
	return t.readTail(ctx, listeners)
}

// readTail waits for entries on all streams.
func (t *redisStreams) readTail(ctx context.Context, listeners []*streamListener) error {
	keys := make([]string, 0, 2*len(listeners))
	positions := make([]string, 0, 2*len(listeners))
	for _, l := range listeners {
		keys = append(keys, l.data, l.control)
		positions = append(positions, l.position, l.controlAfter)
	}
	// The time limit is what notices a connection that has silently died: rueidis does not ping while a command blocks.
	reading, cancel := context.WithTimeout(ctx, streamBlock+defaultConnTimeout)
	defer cancel()
	command := t.subscriber.B().Xread().Count(streamBatch).Block(streamBlock.Milliseconds()).
		Streams().Key(keys...).Id(positions...).Build().UnblockOnCancel()
	entries, err := t.subscriber.Do(reading, command).AsXReadSlices()
	if rueidis.IsRedisNil(err) {
		return nil
	}
	if err != nil {
		return redisError(err)
	}
	for _, l := range listeners {
		data := entries[l.data]
		if len(data) >= streamBatch {
			l.verify = true // far behind: what comes first may not be what is next
			continue
		}
		l.deliver(data, entries[l.control])
	}
	return nil
}

// readVerified reads a stream and its counts at one moment, so that what was trimmed unread is known exactly.
func (t *redisStreams) readVerified(ctx context.Context, l *streamListener) error {
	ctx, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
	b := t.subscriber.B
	answers := t.subscriber.DoMulti(ctx,
		b().Multi().Build(),
		b().XinfoStream().Key(l.data).Build(),
		b().Xread().Count(streamBatch).Streams().Key(l.data, l.control).Id(l.position, l.controlAfter).Build(),
		b().Exec().Build(),
	)
	results, err := answers[len(answers)-1].ToArray()
	if err != nil {
		for _, answer := range answers { // what was refused says more than the EXEC that was aborted for it
			if refusal := answer.Error(); refusal != nil {
				return redisError(refusal)
			}
		}
		return redisError(err)
	}
	if len(results) != 2 {
		return fmt.Errorf("broadcast: EXEC answered %d results instead of 2", len(results))
	}
	info, err := infoOf(results[0])
	if err != nil {
		return err
	}
	entries, err := results[1].AsXReadSlices()
	if err != nil && !rueidis.IsRedisNil(err) {
		return err
	}
	l.catchUp(info, entries[l.data], entries[l.control])
	return nil
}

// Close implements [Transport].
func (t *redisStreams) Close(ctx context.Context) error {
	t.mu.Lock()
	t.closed = true
	clear(t.listeners)
	t.mu.Unlock()
	t.stop()
	err := t.close(ctx)
	if err == nil {
		t.running.Wait()
	}
	return err
}
