package nearcache

import (
	"context"
	"sync"
	"time"

	"github.com/redis/rueidis"

	"github.com/go-nearcache/nearcache/localcache"
)

// A combiner sends the fetches of many readers together. The first few go out at once, each on its reader's goroutine; what comes while
// those are under way shares the next round trip. A reader that is alone waits for nobody, and many readers cost each other, the
// connection and the server a fraction of what they would cost one by one. Nobody waits for long: round trips may hang on one connection while
// others are well.
type combiner struct {
	send  func([]*fetching) // and deliver
	spare sync.Pool         // of *fetching

	mu         sync.Mutex
	running    int         // round trips under way
	waiting    []*fetching // while running is at least roundTripsAtOnce
	impatience *time.Timer // set while any wait
	closed     bool
	loops      sync.WaitGroup
}

const (
	roundTripsAtOnce = 2

	// A round trip takes its share of what waits, so that one is made ready while the server answers the other.
	leastTogether, mostTogether = 32, 128

	// combinePatience is how long fetches wait for a round trip to end before they have one more. It is longer than a round trip takes in a
	// data centre.
	combinePatience = 5 * time.Millisecond
)

// fetching is one fetch that waits for others to be sent with.
type fetching struct {
	key       string
	done      chan struct{}        // receives when what follows is set
	value     rueidis.RedisMessage // nil if the key holds nothing, or if it holds no string and was asked for by an MGET
	pttl      int64
	began     localcache.Instant // before the request was sent
	elsewhere bool               // another server than the one that was asked has answered
	err       error
}

// enter returns nil if the caller is to make the round trip, and to call leave after it. Otherwise somebody makes it for the caller.
func (c *combiner) enter(key string) *fetching {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.running < roundTripsAtOnce || c.closed {
		c.running++
		return nil
	}
	f, ok := c.spare.Get().(*fetching)
	if !ok {
		f = &fetching{done: make(chan struct{}, 1)}
	}
	f.key = key
	c.waiting = append(c.waiting, f)
	if len(c.waiting) == 1 {
		c.arm()
	}
	return f
}

// leave ends a round trip, and has those who have waited for it sent.
func (c *combiner) leave() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.run(c.next())
}

// run sends a batch, and then what has come to wait meanwhile. The caller holds the lock.
func (c *combiner) run(batch []*fetching) {
	if batch == nil {
		return
	}
	c.loops.Go(func() {
		for batch != nil {
			c.send(batch)
			c.mu.Lock()
			batch = c.next()
			c.mu.Unlock()
		}
	})
}

// next returns the fetches to send instead of the round trip that has ended, or nil. The caller holds the lock.
func (c *combiner) next() []*fetching {
	if len(c.waiting) == 0 {
		c.running--
		return nil
	}
	n := min(len(c.waiting), max(leastTogether, min(len(c.waiting)/roundTripsAtOnce, mostTogether)))
	batch := c.waiting[:n:n]
	c.waiting = c.waiting[n:]
	if len(c.waiting) > 0 {
		c.arm()
	}
	return batch
}

// arm has those that wait now sent later, unless a round trip ends before. The caller holds the lock.
func (c *combiner) arm() {
	if c.impatience == nil {
		c.impatience = time.AfterFunc(combinePatience, c.lose)
	} else {
		c.impatience.Reset(combinePatience)
	}
}

// lose gives those that wait a round trip beyond the number.
func (c *combiner) lose() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.waiting) > 0 {
		c.running++
		c.run(c.next())
	}
}

// deliver ends the waiting of all fetches of the batch; err is what went wrong with the round trip, if anything.
func deliver(batch []*fetching, err error) {
	for _, f := range batch {
		if err != nil {
			f.err = err
		}
		f.done <- struct{}{}
	}
}

// close lets nobody wait any more, and returns when no round trip of several fetches is under way.
func (c *combiner) close() {
	c.mu.Lock()
	c.closed = true
	deliver(c.waiting, ErrClosed)
	c.waiting = nil
	if c.impatience != nil {
		c.impatience.Stop()
	}
	c.mu.Unlock()
	c.loops.Wait()
}

// fetch reads a value and what is left of its life in one round trip. The two are not read at one instant, and need not be: a
// write between them is pushed, and the push ends the token that was taken before. The life is counted from before the
// request, so it ends no later here than there.
func (r *remote) fetch(ctx context.Context, key string) reply {
	answer := r.fetchAt(ctx, r.client.serverOf("", key), key)
	r.client.floors.raise(key)
	return answer
}

// fetchFor is fetch at the server that was chosen for a reader: what a replica cannot say, its primary is asked for.
func (r *remote) fetchFor(ctx context.Context, s *server, key string) reply {
	if s.primary != nil {
		if answer := r.fetchAt(ctx, s, key); s.knows(answer) || ctx.Err() != nil {
			return answer
		}
	}
	return r.fetch(ctx, key)
}

func (r *remote) fetchAt(ctx context.Context, s *server, key string) reply {
	if s.redis == nil {
		return reply{state: nowhere}
	}
	if err := r.paused(s); err != nil {
		return reply{state: unavailable, err: err}
	}
	f := s.fetches.enter(key)
	if f == nil {
		return r.fetchAlone(ctx, s, key)
	}
	span := r.telemetry.StartSharedRedis(ctx, "PIPELINE", s.name, 2)
	select {
	case <-f.done:
		answer, err := r.answer(ctx, s, f)
		span.End(err)
		*f = fetching{done: f.done}
		s.fetches.spare.Put(f)
		return answer
	case <-ctx.Done():
		span.End(ctx.Err())
		return reply{state: unavailable, err: ctx.Err()}
	}
}

func (r *remote) fetchAlone(ctx context.Context, s *server, key string) reply {
	f := fetching{key: key}
	if err := r.send(ctx, s, []*fetching{&f}); err != nil {
		f.err = err
	}
	s.fetches.leave()
	answer, _ := r.answer(ctx, s, &f)
	return answer
}

func (r *remote) sendTogether(s *server, batch []*fetching) {
	deliver(batch, r.send(context.Background(), s, batch))
}

// send makes one round trip for all fetches of the batch, and another to whom it may concern for the keys that turn out to have moved. Its
// error is theirs.
func (r *remote) send(ctx context.Context, s *server, batch []*fetching) error {
	return r.try(ctx, s, "PIPELINE", 2*len(batch), func(ctx context.Context) error {
		if err := r.ask(ctx, s, batch); err != nil {
			return err
		}
		var moved []*fetching
		for _, f := range batch {
			if f.elsewhere = s.redirects(f.err); f.elsewhere {
				moved = append(moved, f)
			}
		}
		if len(moved) > 0 {
			if err := r.askEach(ctx, s, r.client.redis, moved); err != nil {
				return err
			}
		}
		if len(batch) == 1 {
			return batch[0].err
		}
		return nil // an error of one command is its reader's
	})
}

// ask makes a round trip for the batch. Its error is of the network.
func (r *remote) ask(ctx context.Context, s *server, batch []*fetching) error {
	redis := s.redis
	if len(batch) == 1 || r.client.slotted() { // where the keys of a command must be of one slot
		return r.askEach(ctx, s, redis, batch)
	}
	began := localcache.Now()
	keys := make([]string, len(batch))
	for i, f := range batch {
		keys[i] = f.key
	}
	commands := make(rueidis.Commands, 0, 1+len(batch))
	commands = append(commands, redis.B().Mget().Key(keys...).Build())
	for _, key := range keys {
		commands = append(commands, redis.B().Arbitrary("PTTL").Args(key).Build()) // Args, because Keys hashes the key for its slot
	}
	results := s.doMulti(ctx, redis, commands...)
	values, err := results[0].ToArray()
	switch {
	case isNetworkError(err):
		return err
	case err != nil || len(values) != len(batch): // for the sake of one key, maybe, to which the user has no right
		return r.askEach(ctx, s, redis, batch)
	}
	for i, f := range batch {
		f.value, f.began = values[i], began
		if f.pttl, f.err = results[1+i].AsInt64(); isNetworkError(f.err) {
			return f.err
		}
	}
	return nil
}

// askEach is ask with a command for each value.
func (r *remote) askEach(ctx context.Context, s *server, redis rueidis.Client, batch []*fetching) error {
	began := localcache.Now()
	commands := make(rueidis.Commands, 0, 2*len(batch))
	for _, f := range batch {
		commands = append(commands, redis.B().Get().Key(f.key).Build(), redis.B().Pttl().Key(f.key).Build())
	}
	results := s.doMulti(ctx, redis, commands...)
	for i, f := range batch {
		var getErr, pttlErr error
		f.value, getErr = results[2*i].ToMessage()
		f.pttl, pttlErr = results[2*i+1].AsInt64()
		f.began, f.err = began, firstError(getErr, pttlErr)
		if isNetworkError(f.err) {
			return f.err
		}
	}
	return nil
}

// answer makes sense of what came back; err is what went wrong with it, if anything.
func (r *remote) answer(ctx context.Context, s *server, f *fetching) (answer reply, err error) {
	switch {
	case f.err != nil:
		err = r.client.secrets.Redact(f.err)
		return r.failure(ctx, s, f.key, err), err
	case !f.value.IsNil():
		answer = classify(f.value, f.pttl, f.began)
		answer.shard = r.answered(s, !f.elsewhere, f.key)
		return answer, nil
	case f.pttl != absentKey: // it came in between, or is no string
		replies := []reply{{state: missing, fetched: f.began}}
		if err := r.refuseOtherTypes(ctx, []string{f.key}, replies); isNetworkError(err) {
			return reply{state: unavailable, err: err}, err
		}
		return replies[0], replies[0].err
	}
	return reply{state: missing, fetched: f.began}, nil
}
