package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/go-nearcache/nearcache"
	"github.com/go-nearcache/nearcache/examples/data"
	"github.com/go-nearcache/nearcache/examples/internal/measure"
)

// A load is a closed loop: each worker sends its next request when it has the answer to the last. So a service that slows down gets fewer
// requests, and the percentiles are those of the requests that were sent, not of those that a public would have sent.
type load struct {
	targets  []string
	duration time.Duration
	workers  int
	writes   float64
}

// popularity is the exponent of the Zipf distribution of the keys: a few airports get most requests.
const popularity = 1.1

// tally is what one worker has seen.
type tally struct {
	reads, writes measure.Samples
	failures      int
	failure       error // the first
}

// run puts the load on the targets and prints what came of it.
func (l load) run(ctx context.Context, out io.Writer) error {
	if l.duration <= 0 || l.workers <= 0 || l.writes < 0 || l.writes > 1 {
		return fmt.Errorf("-load %v and -workers %d must be positive, and -writes %v from 0 to 1", l.duration, l.workers, l.writes)
	}
	transport := &http.Transport{MaxIdleConnsPerHost: l.workers}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	airports := data.Airports()
	fmt.Fprintf(out, "load for %v on %d nodes: %d workers, %.1f %% writes, %d airports by Zipf (s = %v)\n\n",
		l.duration, len(l.targets), l.workers, 100*l.writes, len(airports), popularity)

	before, err := l.counts(ctx, client)
	if err != nil {
		return err
	}
	tallies := make([]tally, l.workers)
	began := time.Now()
	loadContext, cancel := context.WithTimeout(ctx, l.duration)
	defer cancel()
	var workers sync.WaitGroup
	for i := range tallies {
		workers.Go(func() {
			l.work(loadContext, client, airports, rand.New(rand.NewPCG(uint64(i), 0)), &tallies[i])
		})
	}
	workers.Wait()
	took := time.Since(began)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	after, err := l.counts(ctx, client)
	if err != nil {
		return err
	}
	return report(out, took, tallies, before, after)
}

// work sends requests until ctx ends.
func (l load) work(ctx context.Context, client *http.Client, airports []data.Airport, random *rand.Rand, t *tally) {
	zipf := rand.NewZipf(random, popularity, 1, uint64(len(airports)-1))
	for ctx.Err() == nil {
		airport := airports[zipf.Uint64()]
		target := l.targets[random.IntN(len(l.targets))] + "/airports/" + airport.IATA
		samples, method, body := &t.reads, http.MethodGet, []byte(nil)
		if random.Float64() < l.writes {
			airport.Elevation += float64(random.IntN(100))
			samples, method = &t.writes, http.MethodPut
			body, _ = json.Marshal(airport) // a struct of strings and finite numbers
		}
		began := time.Now()
		err := send(ctx, client, method, target, body, nil)
		took := time.Since(began)
		switch {
		case ctx.Err() != nil: // cut off by the end of the test
		case err != nil:
			t.failures++
			if t.failure == nil {
				t.failure = err
			}
		default:
			*samples = append(*samples, took)
		}
	}
}

// send does one request, and decodes the answer into result if there is one to fill.
func send(ctx context.Context, client *http.Client, method, url string, body []byte, result any) error {
	request, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body) // to the end, so that the connection can be used again
	switch {
	case err != nil:
		return err
	case response.StatusCode != http.StatusOK:
		return fmt.Errorf("%s %s: %s: %s", method, url, response.Status, bytes.TrimSpace(answer))
	case result != nil:
		return json.Unmarshal(answer, result)
	}
	return nil
}

// counts adds up what the targets say of their caches.
func (l load) counts(ctx context.Context, client *http.Client) (sum nearcache.CacheStats, err error) {
	for _, target := range l.targets {
		var stats nearcache.Stats
		if err := send(ctx, client, http.MethodGet, target+"/stats", nil, &stats); err != nil {
			return sum, err
		}
		cache := stats.Caches["airports"]
		sum.LocalHits += cache.LocalHits
		sum.LocalMisses += cache.LocalMisses
		sum.RemoteHits += cache.RemoteHits
		sum.Coalesced += cache.Coalesced
		sum.Loads += cache.Loads
	}
	return sum, nil
}

func report(out io.Writer, took time.Duration, tallies []tally, before, after nearcache.CacheStats) error {
	var all tally
	for _, t := range tallies {
		all.reads = append(all.reads, t.reads...)
		all.writes = append(all.writes, t.writes...)
		all.failures += t.failures
		if all.failure == nil {
			all.failure = t.failure
		}
	}
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "\trequests\ta second\tp50\tp90\tp99\tp99.9\tmax\t")
	for _, row := range []struct {
		name    string
		samples measure.Samples
	}{{"GET", all.reads}, {"PUT", all.writes}} {
		fmt.Fprintf(table, "%s\t%d\t%.0f\t", row.name, len(row.samples), float64(len(row.samples))/took.Seconds())
		for _, q := range []float64{0.5, 0.9, 0.99, 0.999, 1} {
			fmt.Fprintf(table, "%v\t", measure.Round(row.samples.Quantile(q)))
		}
		fmt.Fprintln(table)
	}
	if err := table.Flush(); err != nil {
		return err
	}

	hits, misses := after.LocalHits-before.LocalHits, after.LocalMisses-before.LocalMisses
	fmt.Fprintf(out, "\nhit ratio %.2f %%: %d reads from L1, %d not; of those, %d from Redis, %d with another's, %d loads from the database\n",
		100*float64(hits)/float64(max(hits+misses, 1)), hits, misses,
		after.RemoteHits-before.RemoteHits, after.Coalesced-before.Coalesced, after.Loads-before.Loads)
	if all.failures > 0 {
		return fmt.Errorf("%d requests failed, the first with: %w", all.failures, all.failure)
	}
	if len(all.reads) == 0 {
		return errors.New("no request was answered in time")
	}
	return nil
}
