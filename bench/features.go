package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/go-nearcache/nearcache"
	"github.com/go-nearcache/nearcache/internal/redistest"
)

// features compares hits of caches that have one option each with those of a cache that has none: what is set, and has nothing to do for a hit,
// must cost next to nothing.
func features(ctx context.Context, server *redistest.Server, rounds int) ([]row, error) {
	const n = 1024
	data, err := bare(server)
	if err != nil {
		return nil, err
	}
	defer data.Close()
	if _, err := seed(ctx, data, n); err != nil {
		return nil, err
	}
	ids := make([]string, n)
	for i := range ids {
		ids[i] = id(i)
	}
	load := func(context.Context, string) (*product, error) { return nil, errors.New("nothing is to be loaded") }
	cases := []struct {
		name   string
		works  bool // does something for a hit, and is not bound
		config nearcache.Config[*product]
		set    func(*nearcache.Cache[*product])
	}{
		{name: "nothing"},
		{name: "Entry, Jitter, NegativeTTL, MaxValueBytes", config: nearcache.Config[*product]{
			Jitter: 0.1, NegativeTTL: time.Minute, MaxValueBytes: 1 << 20, Load: load,
			Entry: func(string, *product) nearcache.EntryOptions { return nearcache.EntryOptions{} },
		}},
		{name: "FailSafe", config: nearcache.Config[*product]{FailSafe: nearcache.FailSafe{MaxAge: time.Hour}, Load: load}},
		{name: "RefreshAhead, not due", config: nearcache.Config[*product]{RefreshAhead: 0.01, Load: load}},
		{name: "StaleWhileRevalidate, not due", config: nearcache.Config[*product]{StaleWhileRevalidate: time.Second, Load: load}},
		{name: "SetBypass, ended", set: func(c *nearcache.Cache[*product]) {
			c.SetBypass(nearcache.BypassL1)
			c.SetBypass(0)
		}},
		{name: "Events, ended", set: func(c *nearcache.Cache[*product]) {
			listening, stop := context.WithCancel(ctx)
			events := c.Events(listening, 1)
			stop()
			for range events { // until it is closed
			}
		}},
		{name: "Events, to one who does not read", works: true, set: func(c *nearcache.Cache[*product]) {
			c.Events(ctx, 1)
		}},
		{name: "RefreshInvalidated", works: true, config: nearcache.Config[*product]{RefreshInvalidated: 100}},
		{name: "Shadow, of one in a million", works: true, config: nearcache.Config[*product]{Shadow: nearcache.Shadow{SampleRate: 1e-6}, Load: load}},
	}
	contenders := make([]contender, len(cases))
	for i, feature := range cases {
		client, cache, err := open(ctx, server, 0, feature.config)
		if err != nil {
			return nil, err
		}
		defer client.Close(ctx)
		if err := warm(ctx, client, cache, n); err != nil {
			return nil, err
		}
		if feature.set != nil {
			feature.set(cache)
		}
		contenders[i] = contender{feature.name, func(worker, count int) {
			for i := range count {
				if p, err := cache.Get(ctx, ids[(i+worker*n/2)&(n-1)]); err != nil || p.Name == "" {
					panic(err)
				}
			}
		}}
	}
	client, _, err := open(ctx, server, 0, nearcache.Config[*product]{})
	if err != nil {
		return nil, err
	}
	defer client.Close(ctx)
	tagged, err := warmTagged(ctx, client, ids)
	if err != nil {
		return nil, err
	}
	contenders = append(contenders, contender{"an item of a Tagged, with one tag", func(worker, count int) {
		for i := range count {
			if p, err := tagged.Get(ctx, ids[(i+worker*n/2)&(n-1)]); err != nil || p.Name == "" {
				panic(err)
			}
		}
	}})
	medians := race(contenders, 1, rounds)
	plain := medians[cases[0].name]
	rows := []row{{what: "a hit with nothing set", figure: thousandths(plain)}}
	for i, feature := range cases[1:] {
		more, objects := float64(medians[feature.name]-plain)/1000, allocations(contenders[i+1])
		r := row{what: feature.name, figure: fmt.Sprintf("%+.1f ns, %.2f allocations", more, objects)}
		if !feature.works {
			r.bound, r.kept = "10 ns, 0 allocations", more < 10 && objects < 0.01
		}
		rows = append(rows, r)
	}
	last := contenders[len(contenders)-1]
	return append(rows, row{what: last.name, figure: fmt.Sprintf("%+.1f ns, %.2f allocations", float64(medians[last.name]-plain)/1000, allocations(last))}), nil
}

// warmTagged returns a cache with one tag for each sixteen items, all of which L1 serves.
func warmTagged(ctx context.Context, client *nearcache.Client, ids []string) (*nearcache.Tagged[*product], error) {
	tags := make(map[string][]string, len(ids))
	items := make(map[string]*product, len(ids))
	for i, id := range ids {
		tags[id] = []string{fmt.Sprint("tag ", i/16)}
		items[id] = &product{ID: i, Name: "a thing of use"}
	}
	tagged, err := nearcache.NewTagged(client, nearcache.Config[*product]{Name: "tagged", Prefix: prefix + "tagged:"}, func(key string) []string { return tags[key] })
	if err != nil {
		return nil, err
	}
	if err := tagged.SetMany(ctx, items); err != nil {
		return nil, err
	}
	hits := func() uint64 {
		caches := client.Stats().Caches
		return caches["tagged"].LocalHits + caches["tagged tags"].LocalHits
	}
	for range 50 {
		before := hits()
		for _, id := range ids {
			if _, err := tagged.Get(ctx, id); err != nil {
				return nil, err
			}
		}
		if hits()-before == uint64(3*len(ids)) { // the item, its tag, and what stands for all
			return tagged, nil
		}
	}
	return nil, errors.New("L1 does not hold the tagged products")
}
