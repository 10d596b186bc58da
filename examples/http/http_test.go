package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/go-nearcache/nearcache"
	"github.com/go-nearcache/nearcache/examples/data"
	"github.com/go-nearcache/nearcache/internal/redistest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A fleet is a run of the program that serves.
type fleet struct {
	urls []string
	stop func() error // ends it as Ctrl-C does, and returns what run returned
}

func serve(t *testing.T, redis string, latency time.Duration) *fleet {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	reader, writer := io.Pipe()
	done := make(chan struct{})
	var result error
	go func() {
		defer close(done)
		o := options{address: "127.0.0.1:0", nodes: 2, redis: redis, latency: latency}
		result = run(ctx, o, writer, slog.New(slog.NewTextHandler(t.Output(), nil)))
		_ = writer.Close()
	}()
	f := &fleet{stop: func() error {
		cancel()
		<-done
		return result
	}}
	t.Cleanup(func() {
		if err := f.stop(); err != nil {
			t.Errorf("run = %v", err)
		}
	})
	for lines := bufio.NewScanner(reader); len(f.urls) < 2; {
		if !lines.Scan() {
			t.Fatal("the service ended before it served")
		}
		if url := regexp.MustCompile(`http://[^/]+`).FindString(lines.Text()); url != "" {
			f.urls = append(f.urls, url)
		}
	}
	return f
}

// A curl is a client of the service.
type curl struct {
	t      *testing.T
	client *http.Client
}

func newCurl(t *testing.T) curl {
	client := &http.Client{Transport: &http.Transport{}}
	t.Cleanup(client.CloseIdleConnections)
	return curl{t, client}
}

// do sends a request, checks the status and decodes the answer into result unless that is nil.
func (c curl) do(method, url, body string, status int, result any, header ...string) http.Header {
	c.t.Helper()
	response, answer := c.send(method, url, body, header...)
	if response.StatusCode != status {
		c.t.Fatalf("%s %s: %s, want %d: %s", method, url, response.Status, status, answer)
	}
	if result != nil {
		if err := json.Unmarshal(answer, result); err != nil {
			c.t.Fatalf("%s %s: %v: %s", method, url, err, answer)
		}
	}
	return response.Header
}

func (c curl) send(method, url, body string, header ...string) (*http.Response, []byte) {
	c.t.Helper()
	request, err := http.NewRequestWithContext(c.t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		request.Header.Set(header[i], header[i+1])
	}
	response, err := c.client.Do(request)
	if err != nil {
		c.t.Fatal(err)
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	return response, answer
}

func await(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.NewTimer(30 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

func TestService(t *testing.T) {
	redis := redistest.Start(t, redistest.Config{})
	f := serve(t, redis.Addr(), 5*time.Millisecond)
	a, b := f.urls[0], f.urls[1]
	c := newCurl(t)

	var airport data.Airport
	header := c.do("GET", a+"/airports/SIN", "", 200, &airport)
	if airport.City != "Singapore" || !strings.HasPrefix(header.Get("Server-Timing"), "cache;dur=") {
		t.Errorf("GET SIN = %+v, Server-Timing %q", airport, header.Get("Server-Timing"))
	}
	await(t, "L1 answers", func() bool {
		c.do("GET", a+"/airports/sin", "", 200, nil)
		var stats nearcache.Stats
		c.do("GET", a+"/stats", "", 200, &stats)
		return stats.Caches["airports"].LocalHits > 0
	})
	c.do("GET", b+"/airports/SIN", "", 200, nil)

	airport.Name = "Changi"
	body, err := json.Marshal(airport)
	if err != nil {
		t.Fatal(err)
	}
	c.do("PUT", b+"/airports/SIN", string(body), 200, nil)
	var got data.Airport
	if c.do("GET", b+"/airports/SIN", "", 200, &got); got != airport {
		t.Errorf("the node that wrote returns %+v", got)
	}
	if c.do("GET", a+"/airports/SIN", "", 200, &got, "Cache-Control", "no-cache"); got != airport {
		t.Errorf("another node returns %+v to one who wants it fresh", got)
	}
	if c.do("GET", a+"/airports/SIN", "", 200, &got); got != airport {
		t.Errorf("and %+v after that", got)
	}

	// An airport that does not exist yet: all nodes remember that, and forget it when it is made.
	for _, node := range f.urls {
		c.do("GET", node+"/airports/QQQ", "", 404, nil)
	}
	c.do("PUT", a+"/airports/QQQ", `{"name":"Nowhere"}`, 200, nil)
	if c.do("GET", b+"/airports/QQQ", "", 200, &got, "Cache-Control", "no-cache"); got.Name != "Nowhere" {
		t.Errorf("a new airport = %+v", got)
	}

	for _, bad := range []struct{ method, path, body string }{
		{"GET", "/airports/SING", ""},
		{"GET", "/airports/S%00N", ""},
		{"PUT", "/airports/SIN", "not JSON"},
		{"PUT", "/airports/SIN", `{"runways":2}`},
		{"PUT", "/airports/SIN", `{"iata":"JFK"}`},
		{"PUT", "/airports/SIN", `{"name":"` + strings.Repeat("x", 1<<20) + `"}`},
	} {
		c.do(bad.method, a+bad.path, bad.body, 400, nil)
	}
	c.do("GET", a+"/airports/SIN", "", 200, &got)
	if got != airport {
		t.Errorf("a bad request changed the airport: %+v", got)
	}
}

func TestServiceWithoutRedis(t *testing.T) {
	redis := redistest.Start(t, redistest.Config{})
	node := serve(t, redis.Addr(), time.Millisecond).urls[0]
	c := newCurl(t)
	var health nearcache.Health
	if c.do("GET", node+"/health", "", 200, &health); !health.Ready {
		t.Errorf("health = %+v", health)
	}

	redis.Kill()
	await(t, "the node is not ready", func() bool {
		response, answer := c.send("GET", node+"/health", "")
		return response.StatusCode == http.StatusServiceUnavailable && bytes.Contains(answer, []byte("link is down"))
	})
	var airport data.Airport
	if c.do("GET", node+"/airports/SIN", "", 200, &airport); airport.City != "Singapore" {
		t.Errorf("without Redis, SIN = %+v", airport)
	}
	if header := c.do("PUT", node+"/airports/SIN", `{"name":"Changi"}`, 503, nil); header.Get("Retry-After") == "" {
		t.Error("the client is not told to repeat its request")
	}

	if err := redis.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	await(t, "the node is ready again", func() bool {
		response, _ := c.send("GET", node+"/health", "")
		return response.StatusCode == http.StatusOK
	})
	c.do("PUT", node+"/airports/SIN", `{"name":"Changi"}`, 200, nil)
}

// A request that has begun is answered although the service ends.
func TestGracefulEnd(t *testing.T) {
	redis := redistest.Start(t, redistest.Config{})
	f := serve(t, redis.Addr(), 200*time.Millisecond)
	c := newCurl(t)
	answered := make(chan error)
	go func() {
		answered <- send(t.Context(), c.client, "GET", f.urls[0]+"/airports/SIN", nil, nil)
	}()
	await(t, "the database is asked", func() bool {
		var stats nearcache.Stats
		c.do("GET", f.urls[0]+"/stats", "", 200, &stats)
		return stats.Caches["airports"].Loads == 1
	})
	stopped := make(chan error)
	go func() { stopped <- f.stop() }()
	if err := <-answered; err != nil {
		t.Errorf("the request that had begun: %v", err)
	}
	if err := <-stopped; err != nil {
		t.Errorf("run = %v", err)
	}
}

func TestLoad(t *testing.T) {
	redis := redistest.Start(t, redistest.Config{})
	quick := load{duration: 300 * time.Millisecond, workers: 4, writes: 0.05}
	discard := slog.New(slog.DiscardHandler)
	figures := regexp.MustCompile(`(?s)p99\.9.*GET +[1-9].*PUT .*hit ratio [0-9.]+ %`)

	t.Run("on itself", func(t *testing.T) {
		var output bytes.Buffer
		o := options{address: "127.0.0.1:0", nodes: 2, redis: redis.Addr(), load: quick}
		if err := run(t.Context(), o, &output, discard); err != nil || !figures.Match(output.Bytes()) {
			t.Errorf("run = %v:\n%s", err, output.String())
		}
	})
	t.Run("on others", func(t *testing.T) {
		var output bytes.Buffer
		o := options{target: strings.Join(serve(t, redis.Addr(), 0).urls, ","), load: quick}
		if err := run(t.Context(), o, &output, discard); err != nil || !figures.Match(output.Bytes()) {
			t.Errorf("run = %v:\n%s", err, output.String())
		}
	})
	t.Run("on nobody", func(t *testing.T) {
		if err := run(t.Context(), options{target: "http://127.0.0.1:1", load: quick}, io.Discard, discard); err == nil {
			t.Error("no error")
		}
	})
	t.Run("of no workers", func(t *testing.T) {
		if err := run(t.Context(), options{target: "http://127.0.0.1:1", load: load{duration: time.Second}}, io.Discard, discard); err == nil {
			t.Error("no error")
		}
	})
}

func TestAddresses(t *testing.T) {
	for _, c := range []struct {
		address string
		i       int
		want    string
	}{
		{"localhost:8080", 0, "localhost:8080"},
		{"localhost:8080", 2, "localhost:8082"},
		{":8080", 1, ":8081"},
		{"[::1]:0", 1, "[::1]:0"},
	} {
		if got, err := nextPort(c.address, c.i); err != nil || got != c.want {
			t.Errorf("nextPort(%q, %d) = %q, %v; want %q", c.address, c.i, got, err, c.want)
		}
	}
	for _, bad := range []string{"localhost", "localhost:http", "localhost:65536"} {
		if _, err := nextPort(bad, 0); err == nil {
			t.Errorf("nextPort(%q): no error", bad)
		}
	}
}
