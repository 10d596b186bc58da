package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/redis/rueidis"

	"github.com/go-nearcache/nearcache"
	"github.com/go-nearcache/nearcache/internal/oracle"
)

// recoveryLimit is how long nodes may take to be whole again once nothing is wrong any more.
const recoveryLimit = 30 * time.Second

// auditLimit is how long a whole audit may take.
const auditLimit = 5 * time.Minute

// audit stops all writes and compares what the nodes serve, what Redis holds and what the oracle knows. Nothing may be older than the
// last write, or than one of which nobody knows.
func (f *fleet) audit(ctx context.Context) error {
	f.journal.note("audit")
	f.writers.gate.Lock()
	defer f.writers.gate.Unlock()
	ctx, cancel := context.WithTimeout(ctx, auditLimit)
	defer cancel()
	if err := f.settle(ctx); err != nil {
		return err
	}
	for _, n := range f.nodes {
		if err := f.auditNode(ctx, n); err != nil {
			return err
		}
	}
	err := f.child.audit(ctx)
	f.journal.note("audit is over")
	return err
}

func (f *fleet) auditNode(ctx context.Context, n *node) error {
	ready, cancel := context.WithTimeout(ctx, recoveryLimit)
	defer cancel()
	fenced, err := n.fence(ready)
	if err != nil {
		return err
	}
	before, err := f.direct.all(ctx)
	if err != nil {
		return err
	}
	reader := f.oracle.Reader(n.ID, oracle.Fenced, 0)
	served := make([]uint64, keyCount)
	if err := n.sweep(ctx, func(key int, version uint64, began, ended oracle.Instant) {
		reader.Since(fenced, key, version, began, ended)
		served[key] = version
	}); err != nil {
		return err
	}
	after, err := f.direct.all(ctx)
	if err != nil {
		return err
	}
	for key := range keyCount {
		// A value may expire between two looks, and a missing one be loaded.
		if before[key] != 0 && before[key] == after[key] && served[key] != before[key] && classOf(key) != expiring && classOf(key) != commanded {
			f.oracle.Disagreement(n.ID, key, fmt.Sprintf("nobody writes key %d, Redis holds version %d, and node %d serves version %d after a fence", key, before[key], n.ID, served[key]))
		}
	}
	return nil
}

// sweep reads every key, by the default bound, and passes on its version: 0 if there is nothing. Reads that fail are done again: the
// audit has just cut the connections.
func (n *node) sweep(ctx context.Context, visit func(key int, version uint64, began, ended oracle.Instant)) error {
	const batch = 64
	for c := range classes {
		var left []int
		for i := range classCounts[c] {
			left = append(left, c.first()+i)
		}
		for len(left) > 0 {
			part := left[:min(batch, len(left))]
			left = left[len(part):]
			began := oracle.Now()
			answers := n.getMany(ctx, c, part)
			ended := oracle.Now()
			for _, a := range answers {
				switch {
				case a.err == nil && a.value.key != a.key:
					visit(a.key, foreignVersion, began, ended)
				case a.err == nil:
					visit(a.key, a.value.version, began, ended)
				case errors.Is(a.err, nearcache.ErrNotFound):
					visit(a.key, 0, began, ended)
				case ctx.Err() != nil:
					return fmt.Errorf("chaos: sweep of node %d: %w", n.ID, a.err)
				default:
					left = append(left, a.key)
				}
			}
		}
	}
	return nil
}

// auditAsChild is what the audit asks of a child.
func (n *node) auditAsChild(ctx context.Context, out *recorder) error {
	ctx, cancel := context.WithTimeout(ctx, auditLimit)
	defer cancel()
	fenced, err := n.fence(ctx)
	if err != nil {
		return err
	}
	if err := n.sweep(ctx, func(key int, version uint64, began, ended oracle.Instant) {
		out.write(record{
			Demand: oracle.Fenced, Key: key, Version: version,
			NotBefore: int64(fenced.Add(out.offset - out.uncertainty)),
		}, began, ended)
	}); err != nil {
		return err
	}
	out.write(record{Done: true}, oracle.Now(), oracle.Now())
	return nil
}

// A direct reads Redis itself, past the caches, and watches the leases there.
type direct struct {
	oracle *oracle.Oracle
	redis  rueidis.Client
	reader *oracle.Reader
}

func newDirect(f *fleet) (*direct, error) {
	client, err := rueidis.NewClient(f.outsideOption())
	if err != nil {
		return nil, err
	}
	return &direct{oracle: f.oracle, redis: client, reader: f.oracle.Reader(oracle.Outside, oracle.Direct, 0)}, nil
}

// leaseMark begins what a key holds while it is loaded or known to be absent: see the documentation of package nearcache.
const leaseMark = "\x00nearcache\x00"

// leaseLife is what Config.LoadTimeout and Options.RemoteTimeout allow a lease.
const leaseLife = loadTimeout + remoteTimeout

// read looks at keys in Redis until ctx ends.
func (d *direct) read(ctx context.Context, seed uint64) {
	pick := newPicker(seed, 2<<32)
	const batch = 16
	for ctx.Err() == nil {
		keys := make([]int, batch)
		commands := make(rueidis.Commands, 0, 2*batch)
		for i := range keys {
			keys[i] = pick.hot(pick.class())
			if i%2 == 0 {
				keys[i] = pick.any(sourced)
			}
			commands = append(commands, d.redis.B().Get().Key(fullNames[keys[i]]).Build(), d.redis.B().Pttl().Key(fullNames[keys[i]]).Build())
		}
		d.look(ctx, keys, commands)
		time.Sleep(burstPause)
	}
}

func (d *direct) look(ctx context.Context, keys []int, commands rueidis.Commands) {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	began := oracle.Now()
	results := d.redis.DoMulti(ctx, commands...)
	ended := oracle.Now()
	for i, key := range keys {
		value, err := results[2*i].ToString()
		switch {
		case rueidis.IsRedisNil(err):
			if !atSource(key) { // of such it says nothing about the source
				d.reader.Missing(key, began, ended)
			}
		case err != nil:
		case strings.HasPrefix(value, leaseMark+"lease"):
			if life, err := results[2*i+1].AsInt64(); err == nil && life != -2 {
				d.oracle.Lease(key, value, time.Duration(life)*time.Millisecond, leaseLife, began)
			}
		case strings.HasPrefix(value, leaseMark):
			d.reader.Missing(key, began, ended)
		default:
			d.reader.Value(key, versionIn(value, key), began, ended, oracle.Remote)
		}
	}
}

// versionIn returns the version in a value, or one that no write has if it is not a value of the key.
func versionIn(value string, key int) uint64 {
	i, err := decode([]byte(value))
	if err != nil || i.key != key {
		return foreignVersion
	}
	return i.version
}

// all returns the versions that Redis holds: 0 if there is none, or a mark of the library.
func (d *direct) all(ctx context.Context) ([]uint64, error) {
	values, err := d.redis.Do(ctx, d.redis.B().Mget().Key(fullNames...).Build()).ToArray()
	if err != nil {
		// The audit has cut this connection too.
		if values, err = d.redis.Do(ctx, d.redis.B().Mget().Key(fullNames...).Build()).ToArray(); err != nil {
			return nil, fmt.Errorf("chaos: direct read: %w", err)
		}
	}
	versions := make([]uint64, len(values))
	for key, message := range values {
		value, err := message.ToString()
		if err == nil && !strings.HasPrefix(value, leaseMark) {
			versions[key] = versionIn(value, key)
		}
	}
	return versions, nil
}
