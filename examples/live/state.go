package main

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/go-nearcache/nearcache/localcache"
)

// state is what the page shows, all of it, ten times a second.
type state struct {
	BoundMS float64     `json:"boundMs"`
	Frozen  bool        `json:"frozen"`
	Private bool        `json:"private"` // it may be frozen and flushed
	Redis   []stored    `json:"redis"`
	Nodes   []nodeState `json:"nodes"`
	Journal []entry     `json:"journal"`
}

type stored struct {
	Key     string `json:"key"`
	Version string `json:"version"` // empty: Redis does not hold it
}

type nodeState struct {
	Name       string  `json:"name"`
	Live       bool    `json:"live"`
	Cut        bool    `json:"cut"`
	Reason     string  `json:"reason"`
	AgeMS      float64 `json:"ageMs"` // of what the node knows of Redis
	Reconnects uint64  `json:"reconnects"`
	Recent     float64 `json:"recent"` // share of hits in the last seconds; -1: no reads
	Reads      int     `json:"reads"`
	Hits       int     `json:"hits"`
	Cells      []cell  `json:"cells"`
}

// A cell is an item as a node sees it.
type cell struct {
	Key     string    `json:"key"`
	State   cellState `json:"state"`
	Version int       `json:"version"`
	Pushes  int       `json:"pushes"` // how often the key was pushed out of memory
}

type cellState string

const (
	empty  cellState = "empty"  // memory does not hold it
	held   cellState = "held"   // memory serves it, and it is the newest
	older  cellState = "older"  // memory serves it within the bound, and somebody has overwritten it meanwhile
	bypass cellState = "bypass" // memory does not serve it, because of the link; the version is what the node read elsewhere
)

// eviction is the last push of a key that met it in memory.
type eviction struct {
	at    time.Time
	count int
}

// looking has Explain look at memory and not ask Redis.
var looking = func() context.Context {
	ctx, end := context.WithCancel(context.Background())
	end()
	return ctx
}()

// notice looks for what pushes have evicted since the last look.
func (f *fleet) notice() {
	for _, n := range f.nodes {
		for _, key := range keys {
			last := n.cache.Explain(looking, key).LastInvalidation
			if last == nil || last.Cause != localcache.Tracking {
				continue
			}
			n.mu.Lock()
			seen := n.evicted[key]
			isNew := last.At.After(seen.at)
			if isNew {
				n.evicted[key] = eviction{at: last.At, count: seen.count + 1}
			}
			n.mu.Unlock()
			if isNew {
				f.log.heard(n.name, key, last.At)
			}
		}
	}
}

func (f *fleet) state() state {
	s := state{
		BoundMS: milliseconds(bound),
		Private: f.redis.Private,
		Journal: f.log.all(),
	}
	f.mu.Lock()
	s.Frozen = f.frozen
	for _, key := range keys {
		s.Redis = append(s.Redis, stored{Key: key, Version: f.stored[key]})
	}
	f.mu.Unlock()
	for _, n := range f.nodes {
		s.Nodes = append(s.Nodes, n.state(&f.source))
	}
	return s
}

func (n *node) state(source *source) nodeState {
	health := n.client.Health()
	s := nodeState{
		Name: n.name, Live: health.Ready, Cut: n.wire.isCut(), Reason: plain(health.Reason),
		AgeMS: milliseconds(health.Link.Staleness), Reconnects: health.Link.Reconnects, Recent: -1,
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if recent, ok := n.rate.recent(); ok {
		s.Recent = recent
	}
	s.Reads, s.Hits = n.rate.total, n.rate.saved
	for _, key := range keys {
		c := cell{Key: key, State: empty, Version: n.read[key].version, Pushes: n.evicted[key].count}
		switch local := n.cache.Explain(looking, key).Local; {
		case local.Servable && c.Version == source.version(key):
			c.State = held
		case local.Servable:
			c.State = older
		case !health.Ready || local.Present:
			c.State = bypass
		}
		s.Cells = append(s.Cells, c)
	}
	return s
}

// plain cuts a reason down to what a page has room for: the last part says what happened.
func plain(reason string) string {
	if i := strings.LastIndex(reason, ": "); i >= 0 {
		return reason[i+2:]
	}
	return reason
}

func milliseconds(d time.Duration) float64 {
	rounded, _ := strconv.ParseFloat(strconv.FormatFloat(d.Seconds()*1000, 'f', 2, 64), 64)
	return rounded
}
