package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/model/textparse"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/tsdb"
	metricscollector "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	tracecollector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"github.com/go-nearcache/nearcache"
	"github.com/go-nearcache/nearcache/internal/redistest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience ends the wait for what has to happen. It is long because the machine may be busy.
const patience = time.Minute

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !condition() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", patience, what)
		}
		<-time.After(5 * time.Millisecond)
	}
}

// prometheusServer is as much of Prometheus as looks at the example: it scrapes, keeps and evaluates. Its clock is the test's: what is scraped
// one after another is kept as if so much time had passed between.
type prometheusServer struct {
	t       *testing.T
	db      *tsdb.DB
	engine  *promql.Engine
	handler http.Handler
	now     time.Time
}

const scrapeInterval = 5 * time.Second

func newPrometheus(t *testing.T, handler http.Handler) *prometheusServer {
	t.Helper()
	db, err := tsdb.Open(t.TempDir(), nil, nil, tsdb.DefaultOptions(), nil)
	check(t, err)
	engine := promql.NewEngine(promql.EngineOpts{MaxSamples: 1e7, Timeout: time.Minute, Parser: parser.NewParser(parser.Options{})})
	t.Cleanup(func() {
		check(t, engine.Close())
		check(t, db.Close())
	})
	return &prometheusServer{t: t, db: db, engine: engine, handler: handler, now: time.Now()}
}

// scrape takes what the exporter says now, and lets the clock go on.
func (p *prometheusServer) scrape() {
	p.t.Helper()
	p.now = p.now.Add(scrapeInterval)
	request := httptest.NewRequestWithContext(p.t.Context(), http.MethodGet, "/metrics", nil)
	request.Header.Set("Accept", "application/openmetrics-text; version=1.0.0; charset=utf-8")
	response := httptest.NewRecorder()
	p.handler.ServeHTTP(response, request)
	parse, err := textparse.New(response.Body.Bytes(), response.Header().Get("Content-Type"), labels.NewSymbolTable(), textparse.ParserOptions{})
	check(p.t, err)
	appender := p.db.Appender(p.t.Context())
	for {
		entry, err := parse.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		check(p.t, err)
		if entry != textparse.EntrySeries {
			continue
		}
		_, _, value := parse.Series()
		var series labels.Labels
		parse.Labels(&series)
		builder := labels.NewBuilder(series)
		builder.Set("job", "nearcache")
		builder.Set("instance", "localhost:9464")
		_, err = appender.Append(0, builder.Labels(), p.now.UnixMilli(), value)
		check(p.t, err)
	}
	check(p.t, appender.Commit())
}

// query evaluates an expression now.
func (p *prometheusServer) query(expression string) promql.Vector {
	p.t.Helper()
	query, err := p.engine.NewInstantQuery(p.t.Context(), p.db, nil, expression, p.now)
	if err != nil {
		p.t.Fatalf("%v in %s", err, expression)
	}
	defer query.Close()
	vector, err := query.Exec(p.t.Context()).Vector()
	if err != nil {
		p.t.Fatalf("%v in %s", err, expression)
	}
	return slices.Clone(vector)
}

// selectors are the series that an expression asks for, each with its own matchers.
func selectors(t *testing.T, expression string) []*parser.VectorSelector {
	t.Helper()
	parsed, err := parser.NewParser(parser.Options{}).ParseExpr(expression)
	if err != nil {
		t.Fatalf("%v in %s", err, expression)
	}
	var found []*parser.VectorSelector
	parser.Inspect(parsed, func(node parser.Node, _ []parser.Node) error {
		if selector, ok := node.(*parser.VectorSelector); ok {
			found = append(found, selector)
		}
		return nil
	})
	return found
}

// exists fails the test unless the exporter has each metric that the expression asks for, each label by which it selects or groups on one of
// them, and each value that it selects.
func (p *prometheusServer) exists(expression string) {
	p.t.Helper()
	known := make(map[string]bool)
	for _, selector := range selectors(p.t, expression) {
		series := p.query(selector.Name)
		if len(series) == 0 {
			p.t.Errorf("the exporter has no %s, which is asked for in %s", selector.Name, expression)
		}
		for _, s := range series {
			s.Metric.Range(func(l labels.Label) { known[l.Name] = true })
		}
		for _, matcher := range selector.LabelMatchers {
			if matcher.Name == model.MetricNameLabel {
				continue
			}
			if !known[matcher.Name] {
				p.t.Errorf("%s has no label %s, by which it is selected in %s", selector.Name, matcher.Name, expression)
			}
			values := matcher.SetMatches() // of a regular expression that is a list, and of nothing else
			if matcher.Type == labels.MatchEqual {
				values = []string{matcher.Value}
			}
			for _, value := range values {
				if value != "" && len(p.query(selector.Name+`{`+matcher.Name+`="`+value+`"}`)) == 0 {
					p.t.Errorf("%s has no series whose %s is %q, as asked for in %s", selector.Name, matcher.Name, value, expression)
				}
			}
		}
	}
	parsed, err := parser.NewParser(parser.Options{}).ParseExpr(expression)
	check(p.t, err)
	parser.Inspect(parsed, func(node parser.Node, _ []parser.Node) error {
		if aggregate, ok := node.(*parser.AggregateExpr); ok {
			for _, label := range aggregate.Grouping {
				if !known[label] {
					p.t.Errorf("no series has the label %s, by which is grouped in %s", label, expression)
				}
			}
		}
		return nil
	})
}

// example is a fleet at work under the eyes of Prometheus.
type example struct {
	*prometheusServer
	server *redistest.Server
	fleet  fleet
}

func startExample(t *testing.T) *example {
	t.Helper()
	server := redistest.Start(t, redistest.Config{})
	providers, err := newProviders(t.Context(), "")
	check(t, err)
	nodes, err := openFleet(t.Context(), server.ClientOption(), providers, slog.New(slog.NewTextHandler(t.Output(), nil)))
	check(t, err)
	e := &example{server: server, fleet: nodes, prometheusServer: newPrometheus(t, providers.metricsHandler())}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		check(t, nodes.close(ctx))
		check(t, providers.shutdown(ctx))
	})
	return e
}

// work has the fleet work for a moment between any two of so many scrapes.
func (e *example) work(scrapes int) {
	for range scrapes {
		ctx, cancel := context.WithTimeout(e.t.Context(), 150*time.Millisecond)
		e.fleet.work(ctx)
		cancel()
		e.scrape()
	}
}

// fail makes what is asked of Redis, and what is loaded, fail with every node.
func (e *example) fail() {
	for _, n := range e.fleet {
		broken, err := nearcache.New(n.client, nearcache.Config[string]{
			Name: "broken", Prefix: prefix + "broken:", Codec: nearcache.String(),
			Load: func(context.Context, string) (string, error) { return "", errors.New("the database is on fire") },
		})
		check(e.t, err)
		if _, err := broken.Get(e.t.Context(), "1"); err == nil {
			e.t.Error("a broken loader has answered")
		}
	}
	e.server.Kill()
	for _, n := range e.fleet {
		eventually(e.t, "the loss is seen", func() bool { return !n.client.Health().Ready })
		ended, cancel := context.WithCancel(e.t.Context())
		cancel()
		_, _ = n.airports.Get(ended, "LHR")
		_, _ = n.airports.Get(e.t.Context(), "CDG")
	}
}

type dashboard struct {
	Panels []struct {
		Title, Description, Type string
		Targets                  []struct{ Expr, LegendFormat string }
	}
	Templating struct {
		List []struct{ Name, Definition string }
	}
}

// substitute puts in what Grafana puts in.
func substitute(expression string) string {
	return strings.NewReplacer("$__rate_interval", "1m", "$__range", "5m", "$client", ".*", "$cache", ".*", "$instance", ".*").Replace(expression)
}

var legendLabel = regexp.MustCompile(`\{\{(\w+)\}\}`)

// TestDashboardFitsTheExporter evaluates every query of the dashboard on what the exporter really says: each finds something.
func TestDashboardFitsTheExporter(t *testing.T) {
	text, err := os.ReadFile("dashboard.json")
	check(t, err)
	var board dashboard
	check(t, json.Unmarshal(text, &board))

	e := startExample(t)
	for _, n := range e.fleet {
		eventually(t, "a canary has been heard", func() bool { return n.client.Stats().Link.CanaryLag > 0 })
	}
	e.work(8)
	e.scrape()
	e.fail()
	check(t, e.server.Restart(t.Context()))
	for range 2 {
		e.scrape()
	}

	queries := 0
	for _, panel := range board.Panels {
		if panel.Type == "row" {
			continue
		}
		if panel.Description == "" {
			t.Errorf("the panel %q does not say what a good value is", panel.Title)
		}
		for _, target := range panel.Targets {
			queries++
			expression := substitute(target.Expr)
			e.exists(expression)
			found := e.query(expression)
			if len(found) == 0 {
				t.Errorf("the panel %q is empty: %s", panel.Title, expression)
			}
			for _, series := range found {
				for _, label := range legendLabel.FindAllStringSubmatch(target.LegendFormat, -1) {
					if !series.Metric.Has(label[1]) {
						t.Errorf("the panel %q names its lines by %s, which they lack: %v", panel.Title, label[1], series.Metric)
					}
				}
			}
		}
	}
	if queries < 20 {
		t.Errorf("the dashboard has %d queries", queries)
	}
	values := regexp.MustCompile(`^label_values\((\w+), (\w+)\)$`)
	for _, variable := range board.Templating.List[1:] {
		match := values.FindStringSubmatch(variable.Definition)
		if match == nil {
			t.Errorf("the variable %s is %s", variable.Name, variable.Definition)
			continue
		}
		if found := e.query("count by (" + match[2] + ") (" + match[1] + ")"); len(found) == 0 || !found[0].Metric.Has(match[2]) {
			t.Errorf("the variable %s has no values: %v", variable.Name, found)
		}
	}
}

func alerts(t *testing.T) map[string]rulefmt.Rule {
	t.Helper()
	text, err := os.ReadFile("alerts.yaml")
	check(t, err)
	groups, errs := rulefmt.Parse(text, false, model.UTF8Validation, parser.NewParser(parser.Options{}), slog.New(slog.DiscardHandler))
	for _, err := range errs {
		t.Error(err)
	}
	rules := make(map[string]rulefmt.Rule)
	for _, group := range groups.Groups {
		for _, rule := range group.Rules {
			rules[rule.Alert] = rule
		}
	}
	return rules
}

// TestAlerts has each thing happen that an alert is for, where it can be made to happen, and shows that none of them speaks before.
func TestAlerts(t *testing.T) {
	rules := alerts(t)
	guide, err := os.ReadFile("../../docs/observability.md")
	check(t, err)
	e := startExample(t)
	e.work(8)
	for name, rule := range rules {
		for _, annotation := range []string{"summary", "description", "action"} {
			if rule.Annotations[annotation] == "" {
				t.Errorf("%s has no %s", name, annotation)
			}
		}
		if severity := rule.Labels["severity"]; severity == "" || !regexp.MustCompile("`"+name+"`.*\\| "+severity+" \\|").Match(guide) {
			t.Errorf("docs/observability.md has no %s of severity %q", name, severity)
		}
		switch name {
		case "NearcacheLoadsFail", "NearcacheReplicaUnused": // no loader has failed yet, and no node reads a replica
		default:
			e.exists(rule.Expr)
		}
		if found := e.query(rule.Expr); len(found) != 0 && name != "NearcacheFillsRejected" {
			t.Errorf("%s speaks while all is well: %v", name, found)
		}
	}
	fires := func(name string) {
		t.Helper()
		rule, ok := rules[name]
		if !ok {
			t.Fatalf("there is no alert %s", name)
		}
		if found := e.query(rule.Expr); len(found) == 0 {
			t.Errorf("%s says nothing: %s", name, rule.Expr)
		}
	}

	// A server that hangs: knowledge grows old.
	check(t, e.server.Pause())
	eventually(t, "knowledge is old", func() bool { return e.fleet[0].client.Stats().Link.Staleness > 850*time.Millisecond })
	e.scrape()
	fires("NearcacheStalenessNearBound")
	check(t, e.server.Resume())

	check(t, e.server.Command(t.Context(), "FLUSHALL").Error())
	for _, n := range e.fleet {
		eventually(t, "the flush is applied", func() bool { return n.client.Fence(t.Context()) == nil })
	}
	e.scrape()
	fires("NearcacheFlushedByHand")

	for i := range 6 {
		check(t, e.server.Command(t.Context(), "CLIENT", "KILL", "TYPE", "normal").Error())
		eventually(t, "the link is live again", func() bool {
			return e.fleet[0].client.Stats().Link.Reconnects > uint64(i) && e.fleet[0].client.Health().Ready
		})
		e.scrape()
	}
	fires("NearcacheLinkFlapping")

	// Everything by hand from here: what would take an hour.
	bypassing := *e
	bypassing.handler = synthetic{
		`nearcache_requests_total{nearcache_cache="airports",nearcache_name="node-1",nearcache_tier="local",nearcache_result="hit"}`:                   {1000, 100},
		`nearcache_requests_total{nearcache_cache="airports",nearcache_name="node-1",nearcache_tier="local",nearcache_result="bypass"}`:                {0, 900},
		`nearcache_requests_total{nearcache_cache="airports",nearcache_name="node-1",nearcache_tier="remote",nearcache_result="hit"}`:                  {0, 900},
		`nearcache_fills_rejected_total{nearcache_name="node-1",nearcache_reason="invalidated"}`:                                                       {0, 800},
		`nearcache_flushes_total{nearcache_name="node-1",nearcache_reason="gap"}`:                                                                      {0, 1},
		`nearcache_verifications_total{nearcache_name="node-1",nearcache_cache="airports",nearcache_result="wrong"}`:                                   {0, 1},
		`nearcache_load_duration_seconds_count{nearcache_name="node-1",nearcache_cache="airports"}`:                                                    {10, 10},
		`nearcache_load_duration_seconds_count{nearcache_name="node-1",nearcache_cache="airports",error_type="timeout"}`:                               {0, 10},
		`nearcache_tracking_staleness_seconds{nearcache_name="node-1",nearcache_role="primary",server_address="127.0.0.1",server_port="6379"}`:         {0, 1},
		`nearcache_tracking_staleness_seconds{nearcache_name="node-2",nearcache_role="replica",server_address="127.0.0.1",server_port="6380"}`:         {0, 1},
		`nearcache_tracking_mode{nearcache_name="node-1",nearcache_mode="ttl",nearcache_role="primary",server_address="127.0.0.1",server_port="6379"}`: {0, 1},
	}.handler()
	e = &bypassing
	e.now = e.now.Add(2 * time.Hour) // so that nothing of what was is looked at
	for range int(80 * time.Minute / scrapeInterval) {
		e.scrape()
	}
	for _, name := range []string{
		"NearcacheHitRatioDropped", "NearcacheFillsRejected", "NearcacheGaps", "NearcacheWrongAnswer", "NearcacheLoadsFail", "NearcacheLinkDown",
		"NearcacheDegraded", "NearcacheReplicaUnused",
	} {
		fires(name)
	}
	if found := e.query(rules["NearcacheLinkDown"].Expr); len(found) != 1 || found[0].Metric.Get("nearcache_name") != "node-1" {
		t.Errorf("NearcacheLinkDown speaks of a replica: %v", found)
	}
	if len(rules) != 11 {
		t.Errorf("%d alerts, of which 11 are tried here", len(rules))
	}
}

// synthetic is an exporter whose series grow by one amount each scrape for the first 75 minutes, and by another after that.
type synthetic map[string][2]float64

func (s synthetic) handler() http.Handler {
	scrapes := 0
	values := make(map[string]float64)
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		scrapes++
		phase := 0
		if scrapes > int(75*time.Minute/scrapeInterval) {
			phase = 1
		}
		w.Header().Set("Content-Type", "text/plain; version=0.0.4")
		for name, steps := range s {
			values[name] += steps[phase]
			_, _ = io.WriteString(w, name+" "+model.SampleValue(values[name]).String()+"\n")
		}
	})
}

func TestConfigurationOfPrometheus(t *testing.T) {
	loaded, err := config.LoadFile("prometheus.yaml", false, slog.New(slog.DiscardHandler))
	check(t, err)
	if len(loaded.ScrapeConfigs) != 1 || !strings.HasSuffix(loaded.RuleFiles[0], "alerts.yaml") {
		t.Errorf("%+v", loaded)
	}
}

// collector is an OTLP receiver.
type collector struct {
	mu      sync.Mutex
	metrics map[string]bool
	spans   map[string]bool
}

func (c *collector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch r.URL.Path {
	case "/v1/metrics":
		var request metricscollector.ExportMetricsServiceRequest
		if err = proto.Unmarshal(body, &request); err == nil {
			for _, resource := range request.ResourceMetrics {
				for _, scope := range resource.ScopeMetrics {
					for _, metric := range scope.Metrics {
						c.metrics[metric.Name] = true
					}
				}
			}
		}
	case "/v1/traces":
		var request tracecollector.ExportTraceServiceRequest
		if err = proto.Unmarshal(body, &request); err == nil {
			for _, resource := range request.ResourceSpans {
				for _, scope := range resource.ScopeSpans {
					for _, span := range scope.Spans {
						c.spans[span.Name] = true
					}
				}
			}
		}
	default:
		http.NotFound(w, r)
		return
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
	}
}

// TestRun runs the program from end to end: it serves, exports over OTLP and shows a complete trace.
func TestRun(t *testing.T) {
	received := &collector{metrics: map[string]bool{}, spans: map[string]bool{}}
	otlp := httptest.NewServer(received)
	defer otlp.Close()
	server := redistest.Start(t, redistest.Config{})
	var out bytes.Buffer
	check(t, run(t.Context(), options{listen: "localhost:0", otlp: otlp.URL, redis: server.Addr(), duration: time.Second}, &out, slog.New(slog.NewTextHandler(t.Output(), nil))))
	http.DefaultClient.CloseIdleConnections()

	text := out.String()
	t.Log(text)
	last := 0
	for _, part := range []string{"trace ", "GET /airports/", "└─ get airports", "PIPELINE", "SET", "load airports", "EVALSHA"} {
		i := strings.Index(text[last:], part)
		if i < 0 {
			t.Fatalf("the trace does not go on with %q", part)
		}
		last += i
	}
	if !regexp.MustCompile(`wait airports .*nearcache.scope=fleet → span \w{16} of trace \w{32}`).MatchString(text) {
		t.Error("the other node's trace does not lead to the one that it waited for")
	}
	received.mu.Lock()
	defer received.mu.Unlock()
	for _, name := range []string{"nearcache.requests", "nearcache.tracking.staleness", "nearcache.load.duration", "db.client.operation.duration"} {
		if !received.metrics[name] {
			t.Errorf("the collector has not been told of %s", name)
		}
	}
	for _, name := range []string{"get airports", "load airports", "PIPELINE"} {
		if !received.spans[name] {
			t.Errorf("the collector has no span %q", name)
		}
	}
}
