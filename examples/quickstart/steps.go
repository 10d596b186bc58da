package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/redis/rueidis"

	"github.com/go-nearcache/nearcache"
	"github.com/go-nearcache/nearcache/examples/data"
	"github.com/go-nearcache/nearcache/examples/internal/measure"
)

// A step shows one thing. It returns the evidence that it was seen, or an error that says what was seen instead.
type step struct {
	title   string
	promise string
	run     func(context.Context) (evidence string, err error)
}

func (d *demo) steps() []step {
	return []step{
		{"Everybody wants the same airport, and nobody has it", "one load of a cold key in the whole fleet", d.coldKey},
		{"Many airports: from the database, from Redis, from memory", "loaded by one node, read by all", d.tiers},
		{"One node writes", "a write evicts on every other node", d.write},
		{"The link of one node is cut, and the airport changes at that moment", "a missed change is never served", d.cutLink},
		{"Redis is flushed", "a flush empties every L1", d.flush},
		{"A program that knows nothing of all this writes to Redis", "anybody's write is caught", d.outsideWrite},
	}
}

// errLeftOut is returned by a step that would harm a server that is not the demo's own.
var errLeftOut = errors.New("left out")

// coldKey lets many readers on all nodes ask for one airport at once.
func (d *demo) coldKey(ctx context.Context) (string, error) {
	readers := len(d.nodes) * readersPerNode
	began := time.Now()
	queries, err := d.stampede(ctx)
	if err != nil {
		return "", err
	}
	took := time.Since(began)
	d.measure("load from the database", took)
	d.event("A B C", took, "%d readers have %s, the database was asked %s", readers, airport, times(queries))
	if queries != 1 {
		return "", fmt.Errorf("%d readers made %d queries", readers, queries)
	}
	record, err := d.nodes[0].airports.Get(ctx, airport)
	if err != nil {
		return "", err
	}
	d.event("A", 0, "%s, %s: %v ft above the sea", record.Name, record.City, record.Elevation)
	return fmt.Sprintf("%d readers, 1 query", readers), nil
}

// stampede reads the airport on all nodes at once, and returns how often the database was asked.
func (d *demo) stampede(ctx context.Context) (queries int64, err error) {
	before := d.database.Queries()
	var readers sync.WaitGroup
	failures := make(chan error, len(d.nodes)*readersPerNode)
	for _, n := range d.nodes {
		for range readersPerNode {
			readers.Go(func() {
				if _, err := n.airports.Get(ctx, airport); err != nil {
					failures <- err
				}
			})
		}
	}
	readers.Wait()
	close(failures)
	return d.database.Queries() - before, <-failures
}

// tiers reads the same airports on each node in turn.
func (d *demo) tiers(ctx context.Context) (string, error) {
	a, b, c := d.nodes[0], d.nodes[1], d.nodes[2]
	some := codes()[:manyAirports]

	before := d.database.Queries()
	began := time.Now()
	if _, err := a.airports.GetMany(ctx, some); err != nil {
		return "", err
	}
	d.event(a.name, time.Since(began), "GetMany of %d airports: the database was asked %s", len(some), times(d.database.Queries()-before))

	before = d.database.Queries()
	began = time.Now()
	if _, err := b.airports.GetMany(ctx, some); err != nil {
		return "", err
	}
	d.event(b.name, time.Since(began), "GetMany of the same: one round trip to Redis")

	var misses measure.Samples
	for _, code := range some {
		began = time.Now()
		_, from, err := c.get(ctx, code)
		took := time.Since(began)
		if err != nil {
			return "", err
		}
		if from == fromRedis {
			misses = append(misses, took)
		}
	}
	d.event(c.name, misses.Median(), "Get of one after the other, each from Redis: median")
	d.measure("miss, answered by Redis", misses...)
	if queries := d.database.Queries() - before; queries != 0 || len(misses) != len(some) {
		return "", fmt.Errorf("%d of %d were read from Redis, and the database was asked %s", len(misses), len(some), times(queries))
	}

	if _, err := c.warm(ctx, airport); err != nil {
		return "", err
	}
	hits, answered, err := c.readLocally(ctx)
	if err != nil {
		return "", err
	}
	d.event(c.name, hits.Median(), "Get of %s again and again, %d times, from memory: each", airport, localReads)
	d.measure("hit in L1", hits...)
	if answered < localReads*9/10 {
		return "", fmt.Errorf("of %d reads on a warm node, L1 answered only %d", localReads, answered)
	}
	return fmt.Sprintf("%d airports: no second query, L1 hit in %v", len(some), measure.Round(hits.Median())), nil
}

// readLocally reads the airport often. A single hit is too short for a clock, so a sample is the mean of a batch.
func (n *node) readLocally(ctx context.Context) (hits measure.Samples, answered uint64, err error) {
	const batch = 1000
	before := n.counts().LocalHits
	for range localReads / batch {
		began := time.Now()
		for range batch {
			if _, err := n.airports.Get(ctx, airport); err != nil {
				return nil, 0, err
			}
		}
		hits = append(hits, time.Since(began)/batch)
	}
	return hits, n.counts().LocalHits - before, nil
}

// write changes the airport on A, many times.
func (d *demo) write(ctx context.Context) (string, error) {
	a, b, c := d.nodes[0], d.nodes[1], d.nodes[2]
	var evictions measure.Samples
	for i := range writes {
		var record data.Airport
		for _, n := range d.nodes {
			var err error
			if record, err = n.warm(ctx, airport); err != nil {
				return "", err
			}
		}
		record.Elevation++
		if err := d.database.Update(ctx, record); err != nil {
			return "", err
		}

		// A is the only writer here. Where several nodes may write an item at once, Delete it after the update instead: two Sets may
		// reach Redis in another order than their updates reached the database.
		began := time.Now()
		if err := a.airports.Set(ctx, airport, record); err != nil {
			return "", err
		}
		wrote := time.Since(began)
		own, _, err := a.get(ctx, airport)
		if err != nil {
			return "", err
		}
		if own != record {
			return "", fmt.Errorf("node A read %v ft after it had written %v ft", own.Elevation, record.Elevation)
		}
		if i == 0 {
			d.event(a.name, wrote, "Set %s: elevation %v ft; its own next read returns that", airport, record.Elevation)
		}
		for _, n := range []*node{b, c} {
			took, err := d.sees(ctx, n, record, began, i == 0)
			if err != nil {
				return "", err
			}
			evictions = append(evictions, took)
		}
	}
	d.event("B C", evictions.Median(), "the same %d times more: evicted after, median of %d", writes-1, len(evictions))
	d.measure("write to evict", evictions...)
	return fmt.Sprintf("%d of %d evictions, median %v", len(evictions), 2*writes, measure.Round(evictions.Median())), nil
}

// sees checks that a change made after began has evicted the airport on the node, and that its next read returns the changed record.
func (d *demo) sees(ctx context.Context, n *node, changed data.Airport, began time.Time, aloud bool) (time.Duration, error) {
	took, err := n.evictedAfter(ctx, airport, began)
	if err != nil {
		return 0, err
	}
	start := time.Now()
	record, from, err := n.get(ctx, airport)
	reloaded := time.Since(start)
	if err != nil {
		return 0, err
	}
	if record != changed {
		return 0, fmt.Errorf("node %s still reads %v ft, and it is %v ft", n.name, record.Elevation, changed.Elevation)
	}
	if aloud {
		d.event(n.name, took, "evicted, this long after the write began")
		d.event(n.name, reloaded, "reads %v ft, from %s", record.Elevation, from)
	}
	return took, nil
}

// cutLink closes the tracking connection of B, and changes the airport in the same instant.
func (d *demo) cutLink(ctx context.Context) (string, error) {
	b := d.nodes[1]
	record, err := b.warm(ctx, airport)
	if err != nil {
		return "", err
	}
	record.Elevation++
	value, err := json.Marshal(record)
	if err != nil {
		return "", err
	}
	link, err := d.trackingConnection(ctx, b)
	if err != nil {
		return "", err
	}
	reconnects := b.client.Stats().Link.Reconnects

	// In one transaction, so no connection of B is there to be told of the change.
	began := time.Now()
	if err := d.transaction(ctx, []string{"CLIENT", "KILL", "ID", link}, []string{"SET", d.key(), string(value)}); err != nil {
		return "", err
	}
	d.event("Redis", time.Since(began), "CLIENT KILL of B's link, and %s becomes %v ft: B is not told", airport, record.Elevation)

	start := time.Now()
	fresh, from, err := b.get(ctx, airport, nearcache.Fresh())
	if err != nil {
		return "", err
	}
	d.event(b.name, time.Since(start), "a Fresh read at that moment returns %v ft, from %s", fresh.Elevation, from)
	if fresh != record {
		return "", fmt.Errorf("the Fresh read returned %v ft, and it is %v ft", fresh.Elevation, record.Elevation)
	}

	err = await(ctx, "the link of B is live again", func() (bool, error) {
		return b.client.Stats().Link.Reconnects > reconnects && b.client.Health().Ready, nil
	})
	if err != nil {
		return "", err
	}
	healed := b.client.Health().Since.Sub(began)
	d.event(b.name, healed, "the link is live again: what L1 held is from another epoch, and gone")
	d.measure("link cut to live again", healed)
	again, err := b.warm(ctx, airport)
	if err != nil {
		return "", err
	}
	d.event(b.name, 0, "reads %v ft, from L1 as before", again.Elevation)
	if again != record {
		return "", fmt.Errorf("the healed node reads %v ft, and it is %v ft", again.Elevation, record.Elevation)
	}
	return fmt.Sprintf("healed in %v, old value never read", measure.Round(healed)), nil
}

// trackingConnection returns the id of the node's link, as the server knows it.
func (d *demo) trackingConnection(ctx context.Context, n *node) (string, error) {
	list, err := d.outsider.Do(ctx, d.outsider.B().ClientList().Build()).ToString()
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(list) {
		fields := make(map[string]string)
		for field := range strings.FieldsSeq(line) {
			name, value, _ := strings.Cut(field, "=")
			fields[name] = value
		}
		// B: the connection tracks in broadcasting mode.
		if fields["name"] == clientName(n.name) && strings.Contains(fields["flags"], "B") {
			return fields["id"], nil
		}
	}
	return "", fmt.Errorf("CLIENT LIST shows no tracking connection of node %s", n.name)
}

// transaction runs the commands one after the other with nothing between them.
func (d *demo) transaction(ctx context.Context, commands ...[]string) error {
	return d.outsider.Dedicated(func(c rueidis.DedicatedClient) error {
		all := rueidis.Commands{c.B().Multi().Build()}
		for _, command := range commands {
			all = append(all, c.B().Arbitrary(command...).Build())
		}
		results := c.DoMulti(ctx, append(all, c.B().Exec().Build())...)
		for _, result := range results {
			if err := result.Error(); err != nil {
				return err
			}
		}
		replies, err := results[len(results)-1].ToArray()
		if err != nil {
			return err
		}
		for i := range replies {
			if err := replies[i].Error(); err != nil {
				return err
			}
		}
		return nil
	})
}

// flush empties Redis.
func (d *demo) flush(ctx context.Context) (string, error) {
	if !d.server.Private {
		return "", fmt.Errorf("%w: FLUSHDB would empty your Redis", errLeftOut)
	}
	for _, n := range d.nodes {
		if _, err := n.warm(ctx, airport); err != nil {
			return "", err
		}
	}
	began := time.Now()
	if err := d.outsider.Do(ctx, d.outsider.B().Flushdb().Build()).Error(); err != nil {
		return "", err
	}
	d.event("Redis", time.Since(began), "FLUSHDB")
	for _, n := range d.nodes {
		if err := n.client.Fence(ctx); err != nil {
			return "", fmt.Errorf("node %s: %w", n.name, err)
		}
		if n.airports.Explain(ctx, airport).Local.Servable {
			return "", fmt.Errorf("node %s still serves from L1", n.name)
		}
	}
	d.event("A B C", time.Since(began), "every L1 is empty")

	began = time.Now()
	queries, err := d.stampede(ctx)
	if err != nil {
		return "", err
	}
	d.event("A B C", time.Since(began), "%d readers have %s again, the database was asked %s", len(d.nodes)*readersPerNode, airport, times(queries))
	if queries != 1 {
		return "", fmt.Errorf("the readers made %d queries after the flush", queries)
	}
	return "3 of 3 empty, then 1 query", nil
}

// outsideWrite changes the airport as redis-cli would.
func (d *demo) outsideWrite(ctx context.Context) (string, error) {
	var record data.Airport
	for _, n := range d.nodes {
		var err error
		if record, err = n.warm(ctx, airport); err != nil {
			return "", err
		}
	}
	record.Name = "Idlewild Airport" // as it was called until 1963
	value, err := json.Marshal(record)
	if err != nil {
		return "", err
	}
	began := time.Now()
	if err := d.outsider.Do(ctx, d.outsider.B().Set().Key(d.key()).Value(string(value)).Build()).Error(); err != nil {
		return "", err
	}
	d.event("Redis", time.Since(began), `redis-cli SET …:%s '{"iata":"JFK", … "name":%q, …}'`, airport, record.Name)
	var slowest time.Duration
	for _, n := range d.nodes {
		took, err := n.evictedAfter(ctx, airport, began)
		if err != nil {
			return "", err
		}
		slowest = max(slowest, took)
		got, from, err := n.get(ctx, airport)
		if err != nil {
			return "", err
		}
		d.event(n.name, took, "evicted; reads %q, from %s", got.Name, from)
		if got != record {
			return "", fmt.Errorf("node %s reads %q", n.name, got.Name)
		}
	}
	return fmt.Sprintf("3 of 3 nodes, the last after %v", measure.Round(slowest)), nil
}

// key is the airport's key in Redis: nothing but the prefix and the code, so any program can name it.
func (d *demo) key() string { return d.prefix + "airport:" + airport }

func (d *demo) event(who string, took time.Duration, format string, args ...any) {
	d.timeline.event(who, took, fmt.Sprintf(format, args...))
}

func (d *demo) measure(what string, samples ...time.Duration) {
	d.measured = append(d.measured, measurement{what, samples})
}

func codes() []string {
	airports := data.Airports()
	all := make([]string, len(airports))
	for i, a := range airports {
		all[i] = a.IATA
	}
	return all
}

func times(n int64) string {
	if n == 1 {
		return "once"
	}
	return fmt.Sprintf("%d times", n)
}
