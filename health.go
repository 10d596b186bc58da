package nearcache

import (
	"encoding/json"
	"net/http"
	"time"
)

// HealthHandler returns a handler that answers with the client's health: 200 if it is ready, 503 if it is not, and either way Health as
// JSON, whose field "reason" says what is wrong:
//
//	{"ready":false,"mode":"tracking","reason":"the invalidation link is down: …","since":"2026-01-02T15:04:05Z","links":[{"server":"10.0.0.7:6379","live":false,…}]}
//
// It answers GET and HEAD, from memory, without asking Redis. The reason may name the server's address, so it is for a probe or an operator and
// not for the public. A node that is not ready still serves every read, as Options.OnDisconnect says: have a balancer prefer other nodes,
// or let a new node wait for its first traffic, but do not restart a node for it.
func (c *Client) HealthHandler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "use GET or HEAD", http.StatusMethodNotAllowed)
			return
		}
		health := c.Health()
		body, err := json.Marshal(health)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		header := w.Header()
		header.Set("Content-Type", "application/json")
		header.Set("Cache-Control", "no-store")
		if health.Ready {
			w.WriteHeader(http.StatusOK)
		} else {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		_, _ = w.Write(append(body, '\n')) // fails only if the caller has gone
	})
}

// MarshalJSON writes the statistics with field names that stay: "caches" by name, "local", and "links" as a list. Durations are in
// nanoseconds, under names that end in _ns.
func (s Stats) MarshalJSON() ([]byte, error) {
	caches := s.Caches
	if caches == nil {
		caches = map[string]CacheStats{}
	}
	return json.Marshal(struct {
		Caches map[string]CacheStats `json:"caches"`
		Local  any                   `json:"local"`
		Links  []LinkStats           `json:"links"`
	}{caches, s.Local, s.Links})
}

// MarshalJSON writes the health with field names that stay; see Client.HealthHandler.
func (h Health) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		Ready  bool        `json:"ready"`
		Mode   Mode        `json:"mode"`
		Reason string      `json:"reason,omitempty"`
		Since  time.Time   `json:"since"`
		Links  []LinkStats `json:"links"`
	}{h.Ready, h.Mode, h.Reason, h.Since, h.Links})
}
