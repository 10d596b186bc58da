package rabbitmq

import (
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

func TestOptionsDefaults(t *testing.T) {
	fanout, err := FanoutOptions{Options: Options{URLs: []string{"amqp://localhost"}}}.validate()
	if err != nil {
		t.Fatal(err)
	}
	if fanout.Expires != 10*time.Minute || fanout.MaxBytes != 64<<20 || fanout.Prefix != "nearcache.bus." ||
		fanout.Config.Heartbeat != 5*time.Second || fanout.Node == "" {
		t.Errorf("defaults are %+v", fanout)
	}
	streams, err := StreamsOptions{Options: Options{URLs: []string{"amqp://localhost"}}}.validate()
	if err != nil {
		t.Fatal(err)
	}
	if streams.MaxAge != time.Hour || streams.MaxBytes != 128<<20 {
		t.Errorf("defaults are %+v", streams)
	}
}

func TestOptionsRules(t *testing.T) {
	for name, test := range map[string]struct {
		vary func(*FanoutOptions)
		want string
	}{
		"no URL":          {func(o *FanoutOptions) { o.URLs = nil }, "FanoutOptions.URLs is empty"},
		"bad URL":         {func(o *FanoutOptions) { o.URLs = []string{"http://user:hidden@host"} }, "no AMQP URL"},
		"recovery":        {func(o *FanoutOptions) { o.Config.Recovery = &amqp.Recovery{} }, "Config.Recovery is set"},
		"quick heartbeat": {func(o *FanoutOptions) { o.Config.Heartbeat = time.Millisecond }, "Config.Heartbeat is 1ms"},
		"long prefix":     {func(o *FanoutOptions) { o.Prefix = strings.Repeat("x", 61) }, "Prefix is"},
		"reserved prefix": {func(o *FanoutOptions) { o.Prefix = "amq.bus" }, "Prefix is"},
		"odd prefix":      {func(o *FanoutOptions) { o.Prefix = "büs" }, "Prefix is"},
		"short expiry":    {func(o *FanoutOptions) { o.Expires = time.Second }, "Expires is 1s"},
		"long expiry":     {func(o *FanoutOptions) { o.Expires = 50 * 24 * time.Hour }, "Expires is 1200h0m0s"},
		"little room":     {func(o *FanoutOptions) { o.MaxBytes = 1 }, "FanoutOptions.MaxBytes is 1"},
	} {
		t.Run(name, func(t *testing.T) {
			options := FanoutOptions{Options: Options{URLs: []string{"amqp://localhost"}}}
			test.vary(&options)
			_, err := NewFanout(options)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("NewFanout gave %v, want an error with %q", err, test.want)
			}
			if err != nil && strings.Contains(err.Error(), "hidden") {
				t.Errorf("the error tells the password: %v", err)
			}
		})
	}
	for name, options := range map[string]StreamsOptions{
		"StreamsOptions.MaxAge is 1s":  {MaxAge: time.Second},
		"StreamsOptions.MaxBytes is 5": {MaxBytes: 5},
	} {
		options.URLs = []string{"amqp://localhost"}
		if _, err := NewStreams(options); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("NewStreams gave %v, want an error with %q", err, name)
		}
	}
}

func TestEncode(t *testing.T) {
	for name, want := range map[string]string{
		"prices":     "prices",
		"a-b_c.d:e":  "a-b_c.d:e",
		"a b/c":      "a%20b%2Fc",
		"~%":         "%7E%25",
		"\n\x00\xff": "%0A%00%FF",
	} {
		if got := encode(name, maxEncoded); got != want {
			t.Errorf("encode(%q) = %q, want %q", name, got, want)
		}
	}
}

// FuzzEncode: names are plain, short enough for the broker, and as different as the topics.
func FuzzEncode(f *testing.F) {
	f.Add("prices", "price")
	f.Add("a b", "a%20b")
	f.Add(strings.Repeat("x", 255), strings.Repeat("x", 254)+"y")
	f.Fuzz(func(t *testing.T, a, b string) {
		x, y := encode(a, maxEncoded), encode(b, maxEncoded)
		if (a == b) != (x == y) {
			t.Errorf("encode(%q) = %q and encode(%q) = %q", a, x, b, y)
		}
		if len(x) > maxEncoded {
			t.Errorf("encode(%q) is %d bytes long", a, len(x))
		}
		if i := strings.IndexFunc(x, func(r rune) bool { return r > 127 || !isPlain(byte(r)) && r != '%' && r != '~' }); i >= 0 {
			t.Errorf("encode(%q) = %q holds %q", a, x, x[i])
		}
	})
}
