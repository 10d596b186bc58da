package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/redis/rueidis"

	"github.com/go-nearcache/nearcache"
	"github.com/go-nearcache/nearcache/examples/data"
)

// A service is one node: an HTTP API over airports that are read through the cache.
type service struct {
	client   *nearcache.Client
	airports *nearcache.Cache[data.Airport]
	database *data.Database
	logger   *slog.Logger
}

const prefix = "nearcache-http:"

func newService(ctx context.Context, redis rueidis.ClientOption, database *data.Database, logger *slog.Logger) (*service, error) {
	client, err := nearcache.Open(ctx, nearcache.Options{
		Redis:    redis,
		Prefixes: []string{prefix},
		Logger:   logger,
	})
	if err != nil {
		return nil, err
	}
	airports, err := nearcache.New(client, nearcache.Config[data.Airport]{
		Name:        "airports",
		Prefix:      prefix + "airport:",
		TTL:         10 * time.Minute,
		NegativeTTL: 10 * time.Second, // somebody who asks for an unknown code again and again does not reach the database
		Load: func(ctx context.Context, code string) (data.Airport, error) {
			airport, err := database.Airport(ctx, code)
			if errors.Is(err, data.ErrNotFound) {
				err = fmt.Errorf("%w: %w", nearcache.ErrNotFound, err)
			}
			return airport, err
		},
	})
	if err != nil {
		return nil, errors.Join(err, client.Close(ctx))
	}
	return &service{client: client, airports: airports, database: database, logger: logger}, nil
}

func (s *service) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /airports/{code}", s.getAirport)
	mux.HandleFunc("PUT /airports/{code}", s.putAirport)
	// For a load balancer that prefers nodes whose L1 works. A node that is not ready still answers, from Redis or the database: it would be
	// wrong to restart it for that.
	mux.Handle("/health", s.client.HealthHandler())
	mux.HandleFunc("GET /stats", s.getStats)
	return mux
}

// getAirport answers from the cache. A request with "Cache-Control: no-cache" gets what is true at this moment, on whichever node
// it arrives; L1 still answers it if nothing has changed.
func (s *service) getAirport(w http.ResponseWriter, r *http.Request) {
	code, ok := airportCode(w, r)
	if !ok {
		return
	}
	var options []nearcache.ReadOption
	if strings.Contains(r.Header.Get("Cache-Control"), "no-cache") {
		options = append(options, nearcache.Fresh())
	}
	began := time.Now()
	airport, err := s.airports.Get(r.Context(), code, options...)
	// For people who try it with curl -i: microseconds from L1, a fraction of a millisecond from Redis, more from the database.
	w.Header().Set("Server-Timing", fmt.Sprintf("cache;dur=%.4f", time.Since(began).Seconds()*1000))
	if err != nil {
		s.fail(w, r, err)
		return
	}
	writeJSON(w, http.StatusOK, airport)
}

// putAirport stores an airport in the database, and then makes every node forget what it has of it.
//
// Delete and not Set: when two requests change an airport at once, their Sets may reach Redis in another order than their updates
// reached the database, and the older one would stay. Whichever Delete comes last, the next read loads what the database has.
func (s *service) putAirport(w http.ResponseWriter, r *http.Request) {
	code, ok := airportCode(w, r)
	if !ok {
		return
	}
	var airport data.Airport
	decoder := json.NewDecoder(http.MaxBytesReader(w, r.Body, 64<<10))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&airport); err != nil {
		writeError(w, http.StatusBadRequest, "the body must be an airport, as GET returns it: "+err.Error())
		return
	}
	if airport.IATA = cmp.Or(airport.IATA, code); airport.IATA != code {
		writeError(w, http.StatusBadRequest, fmt.Sprintf("the body is of %q and the path of %q", airport.IATA, code))
		return
	}
	if err := s.database.Update(r.Context(), airport); err != nil {
		s.fail(w, r, err)
		return
	}
	// Once the database has changed, the caches must hear of it, even if the client has hung up meanwhile.
	if err := s.airports.Delete(context.WithoutCancel(r.Context()), code); err != nil {
		// Nodes may go on with the old airport until its TTL ends. The client is told to repeat the request, which may be
		// carried out any number of times.
		w.Header().Set("Retry-After", "1")
		s.fail(w, r, err)
		return
	}
	writeJSON(w, http.StatusOK, airport)
}

func (s *service) getStats(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, s.client.Stats())
}

// airportCode returns the code in the path, in upper case. Nothing but a code becomes a key: otherwise anybody could fill Redis with
// marks of what does not exist.
func airportCode(w http.ResponseWriter, r *http.Request) (code string, ok bool) {
	code = strings.ToUpper(r.PathValue("code"))
	if len(code) != 3 || strings.Trim(code, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") != "" {
		writeError(w, http.StatusBadRequest, fmt.Sprintf("%q is not an airport code: three letters", code))
		return "", false
	}
	return code, true
}

// fail answers a request whose work failed. What went wrong inside is for the log.
func (s *service) fail(w http.ResponseWriter, r *http.Request, err error) {
	switch {
	case errors.Is(err, nearcache.ErrNotFound):
		writeError(w, http.StatusNotFound, "no such airport")
		return
	case r.Context().Err() != nil:
		return // the client has gone
	}
	s.logger.ErrorContext(r.Context(), "request failed", "method", r.Method, "path", r.URL.Path, "error", err)
	writeError(w, http.StatusServiceUnavailable, "try again later")
}

func writeError(w http.ResponseWriter, status int, message string) {
	writeJSON(w, status, map[string]string{"error": message})
}

func writeJSON(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ") // for people with curl
	_ = encoder.Encode(body)    // fails only if the client has gone
}
