package main

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"

	"github.com/go-nearcache/nearcache/internal/oracle"
)

// writers change the keys: the nodes through the library, and outsiders as any program would.
type writers struct {
	oracle *oracle.Oracle
	nodes  []*node // of this process
	source *memorySource
	redis  rueidis.Client // an outsider's, past all wires

	// gate is held for reading around each write, so that whoever holds it for writing knows that none is under way.
	gate sync.RWMutex

	acknowledged, refused, unknown, denied atomic.Uint64
}

// writeTimeout bounds one write; what takes longer is unknown. It is more than the library's own.
const writeTimeout = 2 * time.Second

// run writes until ctx ends. It returns once no write is under way.
func (w *writers) run(ctx context.Context, seed uint64) {
	var all sync.WaitGroup
	defer all.Wait()
	repeat := func(stream uint64, pause time.Duration, write func(context.Context, *picker)) {
		pick := newPicker(seed, 1<<32|stream)
		all.Go(func() {
			for ctx.Err() == nil {
				w.gate.RLock()
				// Not ctx itself: a write that has begun is carried through.
				write(context.WithoutCancel(ctx), pick)
				w.gate.RUnlock()
				time.Sleep(time.Duration(pick.rng.Int64N(2 * int64(pause))))
			}
		})
	}
	for i, n := range w.nodes {
		repeat(uint64(i), 10*time.Millisecond, func(ctx context.Context, pick *picker) { w.byNode(ctx, n, pick) })
	}
	for i := range uint64(2) {
		repeat(100+i, 6*time.Millisecond, w.byOutsider)
	}
	// One writer for each sourced key: a database orders the writes of a record too.
	const sourceWriters = 3
	for i := range sourceWriters {
		repeat(200+uint64(i), 8*time.Millisecond, func(ctx context.Context, pick *picker) {
			key := pick.any(sourced)
			key += i - (key-sourced.first())%sourceWriters
			if key < sourced.first()+classCounts[sourced] {
				w.atSource(ctx, key, pick)
			}
		})
		repeat(300+uint64(i), 40*time.Millisecond, func(ctx context.Context, pick *picker) {
			key := pick.any(tagged)
			key += i - (key-tagged.first())%sourceWriters
			if key >= tagged.first() && key < tagged.first()+classCounts[tagged] {
				w.byTag(ctx, key, pick)
			}
		})
	}
}

// byTag changes an item in the source and then invalidates its tag, until that is acknowledged.
func (w *writers) byTag(ctx context.Context, key int, pick *picker) {
	n := w.nodes[pick.rng.IntN(len(w.nodes))]
	change := oracle.Change{Absent: pick.rng.IntN(8) == 0}
	for _, write := range w.begin(n.ID, change, key) {
		version := write.Version()
		if change.Absent {
			version = 0
		}
		w.source.commit(key, version)
		w.end(write, untilAcknowledged(ctx, func(ctx context.Context) error { return n.tagged.InvalidateTag(ctx, tagOf(keyNames[key])) }))
	}
}

// end tells the oracle how a write ended.
func (w *writers) end(write oracle.Write, err error) {
	switch {
	case err == nil:
		w.acknowledged.Add(1)
		write.Acknowledged()
	case refusedByRedis(err):
		w.refused.Add(1)
		write.Refused()
	default:
		w.unknown.Add(1)
		write.Unknown()
	}
}

// refusedByRedis reports whether Redis answered that it did not carry a command out.
func refusedByRedis(err error) bool {
	_, ok := errors.AsType[*rueidis.RedisError](err)
	return ok
}

// begin announces a write of each key; those that take none for now are left out.
func (w *writers) begin(node int, change oracle.Change, keys ...int) (writes []oracle.Write) {
	for _, key := range keys {
		write, ok := w.oracle.Begin(node, key, change)
		if !ok {
			w.denied.Add(1)
			continue
		}
		writes = append(writes, write)
	}
	return writes
}

// byNode writes plain and expiring keys through a node's cache.
func (w *writers) byNode(ctx context.Context, n *node, pick *picker) {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	c, change := plain, oracle.Change{}
	if pick.rng.IntN(5) == 0 {
		c, change.Life = expiring, expiringLife
	}
	// A removed key costs its readers much, and shows little.
	switch pick.rng.IntN(100) {
	case 0:
		for _, write := range w.begin(n.ID, oracle.Change{Absent: true}, pick.any(c)) {
			w.end(write, n.caches[c].Delete(ctx, keyNames[write.Key()]))
		}
	case 1:
		writes := w.begin(n.ID, oracle.Change{Absent: true}, distinct(pick, c, 3)...)
		names := make([]string, 0, len(writes))
		for _, write := range writes {
			names = append(names, keyNames[write.Key()])
		}
		err := n.caches[c].DeleteMany(ctx, names)
		for _, write := range writes {
			w.end(write, err)
		}
	case 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13:
		for _, write := range w.begin(n.ID, change, pick.any(commanded)) {
			w.end(write, n.writeByCommand(ctx, pick, write.Key(), write.Version(), change.Life))
		}
	default:
		for _, write := range w.begin(n.ID, change, pick.any(c)) {
			w.end(write, n.caches[c].Set(ctx, keyNames[write.Key()], &item{key: write.Key(), version: write.Version()}))
		}
	}
}

func distinct(pick *picker, c class, n int) (keys []int) {
	taken := map[int]bool{}
	for range n {
		if key := pick.any(c); !taken[key] {
			taken[key] = true
			keys = append(keys, key)
		}
	}
	return keys
}

// writeMany writes several keys at one instant.
var writeMany = rueidis.NewLuaScript(`for i, key in ipairs(KEYS) do redis.call('SET', key, ARGV[i]) end return #KEYS`)

// byOutsider writes plain and expiring keys with commands of many kinds.
func (w *writers) byOutsider(ctx context.Context, pick *picker) {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	b := w.redis.B()
	switch pick.rng.IntN(32) {
	case 0:
		for _, write := range w.begin(oracle.Outside, oracle.Change{Absent: true}, pick.any(plain)) {
			w.end(write, w.redis.Do(ctx, b.Unlink().Key(fullNames[write.Key()]).Build()).Error())
		}
	case 1:
		writes := w.begin(oracle.Outside, oracle.Change{}, distinct(pick, plain, 20)...)
		keys, values := make([]string, len(writes)), make([]string, len(writes))
		for i, write := range writes {
			keys[i], values[i] = fullNames[write.Key()], string(encode(write.Key(), write.Version()))
		}
		err := writeMany.Exec(ctx, w.redis, keys, values).Error()
		for _, write := range writes {
			w.end(write, err)
		}
	case 2:
		writes := w.begin(oracle.Outside, oracle.Change{}, distinct(pick, plain, 8)...)
		var commands rueidis.Commands
		for _, write := range writes {
			commands = append(commands, b.Set().Key(fullNames[write.Key()]).Value(string(encode(write.Key(), write.Version()))).Build())
		}
		if len(commands) == 0 {
			return
		}
		for i, result := range w.redis.DoMulti(ctx, commands...) {
			w.end(writes[i], result.Error())
		}
	case 3, 4, 5, 6, 7, 8:
		life := time.Duration(200+pick.rng.IntN(1500)) * time.Millisecond
		for _, write := range w.begin(oracle.Outside, oracle.Change{Life: life}, pick.any(expiring)) {
			value := string(encode(write.Key(), write.Version()))
			w.end(write, w.redis.Do(ctx, b.Set().Key(fullNames[write.Key()]).Value(value).PxMilliseconds(life.Milliseconds()).Build()).Error())
		}
	default:
		c := plain
		if pick.rng.IntN(4) == 0 {
			c = commanded
		}
		for _, write := range w.begin(oracle.Outside, oracle.Change{}, pick.any(c)) {
			value := string(encode(write.Key(), write.Version()))
			w.end(write, w.redis.Do(ctx, b.Set().Key(fullNames[write.Key()]).Value(value).Build()).Error())
		}
	}
}

// atSource changes an item in the source and then tells the cache: mostly by removing it, until that is acknowledged; at times by
// writing the new value through a node, or by another program. One node writes the source itself.
func (w *writers) atSource(ctx context.Context, key int, pick *picker) {
	change := oracle.Change{Absent: pick.rng.IntN(8) == 0}
	how := pick.rng.IntN(6)
	n := w.nodes[pick.rng.IntN(len(w.nodes))]
	by := n.ID
	if how == 0 {
		by = oracle.Outside
	}
	for _, write := range w.begin(by, change, key) {
		version := write.Version()
		if by == n.ID && n.Through {
			w.end(write, untilAcknowledged(ctx, func(ctx context.Context) error {
				if change.Absent {
					return n.caches[sourced].Delete(ctx, keyNames[key])
				}
				return n.caches[sourced].Set(ctx, keyNames[key], &item{key: key, version: version})
			}))
			return
		}
		if change.Absent {
			version = 0
		}
		w.source.commit(key, version)
		if how == 1 && !change.Absent {
			ctx, cancel := context.WithTimeout(ctx, writeTimeout)
			defer cancel()
			err := n.caches[sourced].Set(ctx, keyNames[key], &item{key: key, version: version})
			if !refusedByRedis(err) {
				// If it is unknown, so is what Redis will hold: a removal now could be undone by a late arrival.
				w.end(write, err)
				return
			}
		}
		w.end(write, w.invalidate(ctx, by, n, key))
	}
}

// invalidate removes a sourced key from Redis.
func (w *writers) invalidate(ctx context.Context, by int, n *node, key int) error {
	return untilAcknowledged(ctx, func(ctx context.Context) error {
		if by == oracle.Outside {
			return w.redis.Do(ctx, w.redis.B().Del().Key(fullNames[key]).Build()).Error()
		}
		return n.caches[sourced].Delete(ctx, keyNames[key])
	})
}

// untilAcknowledged tries until it has succeeded: invalidating twice does no harm. After a while it gives up, and the key stays as it is
// until the writer comes by again.
func untilAcknowledged(ctx context.Context, try func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		attempt, cancel := context.WithTimeout(ctx, writeTimeout)
		err := try(attempt)
		cancel()
		if err == nil || ctx.Err() != nil {
			return err
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// restock writes all plain keys: a missing one costs its readers much, and shows little.
func (w *writers) restock(ctx context.Context) error {
	return errors.Join(w.writeAll(ctx, plain, 0), w.writeAll(ctx, commanded, 0))
}

// fill gives every key a first value, except that the expiring ones wait for their writers.
func (w *writers) fill(ctx context.Context) error {
	for i := range classCounts[sourced] + classCounts[tagged] {
		for _, write := range w.begin(oracle.Outside, oracle.Change{}, sourced.first()+i) {
			w.source.commit(write.Key(), write.Version())
			w.end(write, nil) // Redis holds nothing that would have to go
		}
	}
	return w.restock(ctx)
}

// storm gives all expiring keys the same end.
func (w *writers) storm(ctx context.Context, life time.Duration) error {
	return w.writeAll(ctx, expiring, life)
}

// writeAll writes all keys of a class.
func (w *writers) writeAll(ctx context.Context, c class, life time.Duration) error {
	w.gate.RLock()
	defer w.gate.RUnlock()
	if err := w.reconnect(ctx); err != nil {
		return err
	}
	keys := make([]int, classCounts[c])
	for i := range keys {
		keys[i] = c.first() + i
	}
	writes := w.begin(oracle.Outside, oracle.Change{Life: life}, keys...)
	var commands rueidis.Commands
	for _, write := range writes {
		set := w.redis.B().Set().Key(fullNames[write.Key()]).Value(string(encode(write.Key(), write.Version())))
		if life > 0 {
			commands = append(commands, set.PxMilliseconds(life.Milliseconds()).Build())
		} else {
			commands = append(commands, set.Build())
		}
	}
	if len(commands) == 0 {
		return nil
	}
	for i, result := range w.redis.DoMulti(ctx, commands...) {
		w.end(writes[i], result.Error())
	}
	return nil
}

// reconnect sees to it that the outsider's connections are whole: nothing that it sends is sent again.
func (w *writers) reconnect(ctx context.Context) error {
	for {
		err := w.redis.Do(ctx, w.redis.B().Ping().Build()).Error()
		if err == nil || ctx.Err() != nil {
			return err
		}
		time.Sleep(time.Millisecond)
	}
}

// bulk writes 100,000 keys that no reader reads, and some that they do, in one script: one push of them all.
func (w *writers) bulk(ctx context.Context, pick *picker) error {
	w.gate.RLock()
	defer w.gate.RUnlock()
	if err := w.reconnect(ctx); err != nil {
		return err
	}
	writes := w.begin(oracle.Outside, oracle.Change{}, distinct(pick, plain, 64)...)
	keys, values := make([]string, len(writes)), make([]string, len(writes))
	for i, write := range writes {
		keys[i], values[i] = fullNames[write.Key()], string(encode(write.Key(), write.Version()))
	}
	err := bulkAndMany.Exec(ctx, w.redis, keys, append([]string{strconv.Itoa(bulkKeys), keySpace + "bulk:"}, values...)).Error()
	for _, write := range writes {
		w.end(write, err)
	}
	return err
}

const bulkKeys = 100_000

var bulkAndMany = rueidis.NewLuaScript(`
for i = 1, tonumber(ARGV[1]) do redis.call('SET', ARGV[2] .. i, i) end
for i, key in ipairs(KEYS) do redis.call('SET', key, ARGV[i + 2]) end
return #KEYS`)
