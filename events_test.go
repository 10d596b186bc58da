package nearcache_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/go-nearcache/nearcache"
	"github.com/go-nearcache/nearcache/internal/redistest"
)

func TestEvents(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{})
	options := optionsFor(server)
	options.SettleFills = true
	client := open(t, options)
	cache := stringCache(t, client, newSource(map[string]string{"a": "1"}).load)
	ctx, cancel := context.WithCancel(bounded(t))
	defer cancel()
	events := cache.Events(ctx, 1000)
	next := func(kind nearcache.EventKind, key string) nearcache.Event {
		t.Helper()
		for {
			event := receive(t, kind.String(), events)
			if event.Kind == kind && event.Key == key {
				return event
			}
		}
	}
	want(t, cache, "a", "1")
	next(nearcache.EventMiss, "a")
	if event := next(nearcache.EventLoad, "a"); event.Err != nil || event.At.IsZero() {
		t.Errorf("load: %+v", event)
	}
	warm(t, cache, "a", "1")
	want(t, cache, "a", "1")
	next(nearcache.EventHit, "a")
	server.Do(t, "SET", prefix+"a", "2")
	if event := next(nearcache.EventEvict, "a"); event.Cause != "tracking" {
		t.Errorf("evicted by another program: %+v", event)
	}
	warm(t, cache, "a", "2")
	check(t, cache.Delete(ctx, "a"))
	if event := next(nearcache.EventEvict, "a"); event.Cause != "local" {
		t.Errorf("evicted by a write of this node: %+v", event)
	}
	if _, err := cache.Get(ctx, "absent"); !errors.Is(err, nearcache.ErrNotFound) {
		t.Error(err)
	}
	if event := next(nearcache.EventLoad, "absent"); !errors.Is(event.Err, nearcache.ErrNotFound) {
		t.Errorf("the loader had nothing: %+v", event)
	}
	check(t, client.Flush(ctx))
	if event := next(nearcache.EventFlush, ""); event.Cause != "manual" {
		t.Errorf("flush: %+v", event)
	}
	server.Do(t, "FLUSHALL")
	if event := next(nearcache.EventFlush, ""); event.Cause != "flush_all" {
		t.Errorf("flush: %+v", event)
	}

	// One who does not read loses events, and neither the cache nor another waits.
	slow := cache.Events(ctx, 0)
	for range 50 {
		want(t, cache, "a", "1")
	}
	if lost := statsOf(client).EventsLost; lost == 0 || cap(slow) != 1 {
		t.Errorf("%d events lost, with room for %d", lost, cap(slow))
	}
	cancel()
	for range events { // until it is closed
	}
	eventually(t, "nobody listens any more", func() bool {
		<-slow
		lost := statsOf(client).EventsLost
		want(t, cache, "a", "1")
		return statsOf(client).EventsLost == lost
	})
	last := cache.Events(context.Background(), 1)
	closeNode(t, client)
	for range last {
	}
	if _, open := <-cache.Events(context.Background(), 1); open {
		t.Error("a closed client has events")
	}
}

func TestHitsDoNotAllocateWhileNobodyListens(t *testing.T) {
	server := redistest.Start(t, redistest.Config{})
	options := optionsFor(server)
	options.MaxStaleness *= 600
	cache := stringCache(t, open(t, options), nil)
	server.Do(t, "SET", prefix+"a", "1")
	warm(t, cache, "a", "1")
	ctx, cancel := context.WithCancel(bounded(t))
	events := cache.Events(ctx, 1)
	cancel()
	for range events {
	}
	if n := testing.AllocsPerRun(1000, func() { _, _ = cache.Get(ctx, "a") }); n != 0 {
		t.Errorf("%v allocations a hit", n)
	}
}

func TestExplainSaysWhyNothingWasKept(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{})
	client := open(t, optionsFor(server))
	cache := newCache(t, client, nearcache.Config[string]{Name: "test", Prefix: prefix, Codec: nearcache.String(), MaxValueBytes: 3})
	server.Do(t, "SET", prefix+"long", "too long", "EX", "600")
	want(t, cache, "long", "too long")
	e := cache.Explain(bounded(t), "long")
	if e.LastRejection == nil || !strings.Contains(e.LastRejection.Reason, "MaxValueBytes") || !strings.Contains(e.String(), "MaxValueBytes") {
		t.Errorf("%v", e)
	}
	if e := cache.Explain(bounded(t), "another"); e.LastRejection != nil {
		t.Errorf("%v", e)
	}

	loading := newCheckpoint(t)
	written := newCache(t, client, nearcache.Config[string]{Name: "written", Prefix: prefix + "w:", Codec: nearcache.String(), Load: func(context.Context, string) (string, error) {
		loading.pass()
		return "old", nil
	}})
	loading.arm()
	answers := reading(bounded(t), written, "a")
	receive(t, "the load", loading.reached)
	server.Do(t, "SET", prefix+"w:a", "new")
	loading.release()
	receive(t, "the answer", answers)
	if e := written.Explain(bounded(t), "a"); e.LastRejection == nil || !strings.Contains(e.LastRejection.Reason, "written while it was loaded") {
		t.Errorf("%v", e)
	}
}

func TestInspectHandler(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{})
	client := open(t, optionsFor(server))
	cache := stringCache(t, client, nil)
	server.Do(t, "SET", prefix+"a b", "1", "EX", "600")
	warm(t, cache, "a b", "1")
	handler := nearcache.InspectHandler(client)
	ask := func(method, query string) (int, map[string]any) {
		t.Helper()
		recorder := httptest.NewRecorder()
		handler.ServeHTTP(recorder, httptest.NewRequestWithContext(bounded(t), method, "/?"+query, nil))
		var body map[string]any
		if recorder.Code == http.StatusOK {
			check(t, json.Unmarshal(recorder.Body.Bytes(), &body))
		}
		return recorder.Code, body
	}
	if code, body := ask(http.MethodGet, ""); code != http.StatusOK || body["health"].(map[string]any)["ready"] != true || body["stats"].(map[string]any)["caches"].(map[string]any)["test"] == nil {
		t.Errorf("%d %v", code, body)
	}
	code, body := ask(http.MethodGet, url.Values{"cache": {"test"}, "key": {"a b"}}.Encode())
	if code != http.StatusOK || body["key"] != prefix+"a b" || body["tier"] != "local" {
		t.Fatalf("%d %v", code, body)
	}
	local, remote, link := body["local"].(map[string]any), body["remote"].(map[string]any), body["link"].(map[string]any)
	if local["ttl_ns"].(float64) <= 0 || local["bytes"].(float64) <= 0 || local["epoch"].(float64) == 0 || local["state"] != "servable" ||
		remote["holds"] != "value" || remote["bytes"] != 1.0 || link["server"] == "" {
		t.Errorf("%v", body)
	}
	server.Do(t, "DEL", prefix+"a b")
	fence(t, client)
	if _, body := ask(http.MethodGet, "cache=test&key=a+b"); body["tier"] != "source" || body["local"] != nil || body["last_invalidation"].(map[string]any)["why"] != "tracking" {
		t.Errorf("%v", body)
	}
	for query, want := range map[string]int{"cache=another&key=a": http.StatusNotFound, "key=a": http.StatusNotFound, "cache=test": http.StatusBadRequest} {
		if code, _ := ask(http.MethodGet, query); code != want {
			t.Errorf("%s: %d, want %d", query, code, want)
		}
	}
	if code, _ := ask(http.MethodPost, ""); code != http.StatusMethodNotAllowed {
		t.Errorf("POST: %d", code)
	}
}
