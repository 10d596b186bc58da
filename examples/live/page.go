package main

import (
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"slices"
	"time"
)

//go:embed page
var files embed.FS

// interval is the time between two states that the page is told.
const interval = 100 * time.Millisecond

// newPage serves the page, the stream of states that it shows, and what its buttons do.
func newPage(f *fleet) http.Handler {
	static, err := fs.Sub(files, "page")
	if err != nil {
		panic(err) // the folder is embedded above
	}
	mux := http.NewServeMux()
	mux.Handle("GET /", http.FileServerFS(static))
	mux.HandleFunc("GET /events", f.events)
	act := func(pattern string, do func(*http.Request) error) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			switch err := do(r); {
			case errors.Is(err, errNoNode):
				http.Error(w, err.Error(), http.StatusNotFound)
			case errors.Is(err, errNoKey):
				http.Error(w, err.Error(), http.StatusBadRequest)
			case err != nil:
				http.Error(w, err.Error(), http.StatusServiceUnavailable)
			default:
				w.WriteHeader(http.StatusNoContent)
			}
		})
	}
	act("POST /freeze", func(*http.Request) error { return f.freeze(true) })
	act("POST /thaw", func(*http.Request) error { return f.freeze(false) })
	act("POST /flush", func(r *http.Request) error { return f.flush(r.Context()) })
	act("POST /write", func(r *http.Request) error {
		key, err := keyOf(r)
		if err != nil {
			return err
		}
		return f.writeOutside(r.Context(), key)
	})
	act("POST /nodes/{node}/cut", func(r *http.Request) error { return f.setCut(r.PathValue("node"), true) })
	act("POST /nodes/{node}/mend", func(r *http.Request) error { return f.setCut(r.PathValue("node"), false) })
	act("POST /nodes/{node}/write", func(r *http.Request) error {
		n := f.node(r.PathValue("node"))
		if n == nil {
			return errNoNode
		}
		key, err := keyOf(r)
		if err != nil {
			return err
		}
		return f.write(r.Context(), n, key)
	})
	// Another site's page must not press the buttons, nor frame the page.
	return http.NewCrossOriginProtection().Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Security-Policy", "default-src 'self'; frame-ancestors 'none'")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("Cache-Control", "no-store")
		mux.ServeHTTP(w, r)
	}))
}

var (
	errNoNode = errors.New("there is no such node")
	errNoKey  = errors.New("there is no such key")
)

// keyOf is the key that a request names, or any.
func keyOf(r *http.Request) (string, error) {
	key := r.URL.Query().Get("key")
	if key == "" {
		return keys[rand.IntN(len(keys))], nil //nolint:gosec // no secret
	}
	if !slices.Contains(keys, key) {
		return "", errNoKey
	}
	return key, nil
}

func (f *fleet) setCut(name string, cut bool) error {
	n := f.node(name)
	if n == nil {
		return errNoNode
	}
	if n.wire.isCut() == cut {
		return nil
	}
	n.wire.setCut(cut)
	if cut {
		f.log.add("link", "The link of node "+name+" is cut: its memory is not served from this moment on")
	} else {
		f.log.add("link", "The link of node "+name+" is mended")
	}
	return nil
}

// events streams the state as server-sent events, until the browser or the program ends it.
func (f *fleet) events(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	controller := http.NewResponseController(w)
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		data, err := json.Marshal(f.state())
		if err != nil {
			return
		}
		if _, err := fmt.Fprintf(w, "data: %s\n\n", data); err != nil || controller.Flush() != nil {
			return
		}
		select {
		case <-tick.C:
		case <-r.Context().Done():
			return
		}
	}
}
