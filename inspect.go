package nearcache

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/go-nearcache/nearcache/localcache"
)

// InspectHandler returns a handler that shows a running node to its operators, as JSON. Without parameters it answers with Health and Stats:
//
//	{"health":{…},"stats":{…}}
//
// With the parameters cache, a Config.Name, and key it answers with the [Explanation] of that item, for which it asks Redis, and with 404 if there
// is no cache of that name. It answers GET and HEAD, never with a value. Keys and addresses are in it, and each request for a key is a round trip to Redis: serve it on an
// internal address or behind authentication, never to the public.
func InspectHandler(client *Client) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "use GET or HEAD", http.StatusMethodNotAllowed)
			return
		}
		query := r.URL.Query()
		var answer any = struct {
			Health Health `json:"health"`
			Stats  Stats  `json:"stats"`
		}{client.Health(), client.Stats()}
		if query.Has("cache") || query.Has("key") {
			cache, ok := client.explainer(query.Get("cache"))
			switch {
			case !ok:
				http.Error(w, fmt.Sprintf("there is no cache %q", query.Get("cache")), http.StatusNotFound)
				return
			case !query.Has("key"):
				http.Error(w, "give the key of an item, too", http.StatusBadRequest)
				return
			}
			answer = cache.Explain(r.Context(), query.Get("key"))
		}
		body, err := json.Marshal(answer)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		_, _ = w.Write(append(body, '\n')) // fails only if the caller has gone
	})
}

type explainer interface {
	Explain(ctx context.Context, key string) Explanation
}

func (c *Client) explainer(name string) (explainer, bool) {
	for _, cache := range c.caches.all() {
		if itsName, _ := cache.describe(); itsName == name {
			e, ok := cache.(explainer)
			return e, ok
		}
	}
	return nil, false
}

// Tier is where a read under Options.MaxStaleness would find the item now: "local", "redis", or "source" if neither has it.
func (e Explanation) Tier() string {
	switch {
	case e.Local.Servable:
		return "local"
	case e.Remote.Present || e.Remote.Negative:
		return "redis"
	}
	return "source"
}

// MarshalJSON writes the explanation with field names that stay. Durations are in nanoseconds, under names that end in _ns; one that is
// negative has no end. It holds no value.
func (e Explanation) MarshalJSON() ([]byte, error) {
	type local struct {
		Servable bool          `json:"servable"`
		State    string        `json:"state"`
		Age      time.Duration `json:"age_ns"`
		TTL      time.Duration `json:"ttl_ns"`
		Epoch    uint64        `json:"epoch"`
		Bytes    int64         `json:"bytes"`
	}
	type remote struct {
		Holds string        `json:"holds"` // value, negative, lease or nothing
		Bytes int           `json:"bytes"`
		TTL   time.Duration `json:"ttl_ns"`
		Error string        `json:"error,omitempty"`
	}
	type event struct {
		Why string    `json:"why"`
		At  time.Time `json:"at"`
	}
	out := struct {
		Key              string    `json:"key"`
		Tags             []string  `json:"tags,omitempty"`
		Tier             string    `json:"tier"`
		Local            *local    `json:"local"` // null if L1 has nothing
		Remote           remote    `json:"remote"`
		Link             LinkStats `json:"link"` // of the shard, by the address of its server
		LastInvalidation *event    `json:"last_invalidation,omitempty"`
		LastRejection    *event    `json:"last_rejection,omitempty"`
	}{Key: e.Key, Tags: e.Tags, Tier: e.Tier(), Link: e.Link, Remote: remote{Holds: "nothing", Bytes: e.Remote.Bytes, TTL: e.Remote.TTL}}
	if e.Local.Present {
		left := time.Duration(-1)
		if e.Local.Deadline != localcache.Never {
			left = max(e.Local.Deadline.Sub(localcache.Now()), 0)
		}
		out.Local = &local{Servable: e.Local.Servable, State: e.Local.State.String(), Age: e.Local.Age, TTL: left, Epoch: e.Local.Epoch, Bytes: e.Local.Cost}
	}
	switch {
	case e.Remote.Err != nil:
		out.Remote.Error = e.Remote.Err.Error()
	case e.Remote.Present:
		out.Remote.Holds = "value"
	case e.Remote.Negative:
		out.Remote.Holds = "negative"
	case e.Remote.Leased:
		out.Remote.Holds = "lease"
	}
	if e.LastInvalidation != nil {
		out.LastInvalidation = &event{e.LastInvalidation.Cause.String(), e.LastInvalidation.At}
	}
	if e.LastRejection != nil {
		out.LastRejection = &event{e.LastRejection.Reason, e.LastRejection.At}
	}
	return json.Marshal(out)
}
