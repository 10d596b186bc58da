package kafka

import (
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

func TestOptionsDefaults(t *testing.T) {
	options, err := Options{Brokers: []string{"localhost"}}.validate()
	if err != nil {
		t.Fatal(err)
	}
	if options.Prefix != "nearcache.bus." || options.Retention != time.Hour || options.RetentionBytes != 128<<20 ||
		options.TopicName("prices") != "nearcache.bus.prices" {
		t.Errorf("defaults are %+v", options)
	}
}

func TestOptionsRules(t *testing.T) {
	for name, test := range map[string]struct {
		vary func(*Options)
		want string
	}{
		"no broker":       {func(o *Options) { o.Brokers = nil }, "Brokers is empty"},
		"long prefix":     {func(o *Options) { o.Prefix = strings.Repeat("x", 61) }, "Prefix is"},
		"odd prefix":      {func(o *Options) { o.Prefix = "a_b" }, "Prefix is"},
		"replication":     {func(o *Options) { o.ReplicationFactor = -1 }, "ReplicationFactor is -1"},
		"short retention": {func(o *Options) { o.Retention = time.Second }, "Retention is 1s"},
		"little room":     {func(o *Options) { o.RetentionBytes = 1 }, "RetentionBytes is 1"},
		"client's own":    {func(o *Options) { o.Client = []kgo.Opt{kgo.MaxBufferedRecords(-1)} }, "Options.Client"},
	} {
		t.Run(name, func(t *testing.T) {
			options := Options{Brokers: []string{"localhost"}}
			test.vary(&options)
			if _, err := New(options); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("New gave %v, want an error with %q", err, test.want)
			}
		})
	}
}

func TestEncode(t *testing.T) {
	for name, want := range map[string]string{
		"prices":        "prices",
		"config.reload": "config.reload",
		"a-b_c":         "a-b_5Fc",
		"x/":            "x_2F",
		"x.2F":          "x_2E2F",
		".":             "_2E",
		"a..b":          "a_2E.b",
		"\n\x00\xff":    "_0A_00_FF",
	} {
		if got := encode(name, maxEncoded); got != want {
			t.Errorf("encode(%q) = %q, want %q", name, got, want)
		}
	}
}

// FuzzEncode: names are what Kafka allows, and as different to it as the topics.
func FuzzEncode(f *testing.F) {
	f.Add("prices", "price")
	f.Add("x/", "x.2F")
	f.Add("a..", "a__")
	f.Add(strings.Repeat("x", 255), strings.Repeat("x", 254)+"y")
	f.Fuzz(func(t *testing.T, a, b string) {
		x, y := encode(a, maxEncoded), encode(b, maxEncoded)
		// Kafka takes "." and "_" for the same.
		if alike := strings.ReplaceAll(x, ".", "_") == strings.ReplaceAll(y, ".", "_"); (a == b) != alike {
			t.Errorf("encode(%q) = %q and encode(%q) = %q", a, x, b, y)
		}
		if len(x) > maxEncoded {
			t.Errorf("encode(%q) is %d bytes long", a, len(x))
		}
		if i := strings.IndexFunc(x, func(r rune) bool { return r > 127 || !isPlain(byte(r)) && r != '.' && r != '_' }); i >= 0 {
			t.Errorf("encode(%q) = %q holds %q", a, x, x[i])
		}
	})
}
