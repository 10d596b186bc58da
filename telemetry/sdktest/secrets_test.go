package sdktest

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/go-nearcache/nearcache"
)

// No span, event, attribute or metric holds a password, whether it is taken or refused, nor the error of a server that repeats it.
func TestNoSecretInSpansAndMetrics(t *testing.T) {
	f := newFleet(t)
	const right, wrong = "correct-horse-battery", "staple-incorrect"
	f.server.Do(t, "ACL", "SETUSER", "node", "on", ">"+right, "~*", "+@all")
	options := nearcache.Options{Prefixes: []string{"test:"}, TracerProvider: f.options.TracerProvider, MeterProvider: f.options.MeterProvider, TraceKeys: true}
	options.Redis = f.server.ClientOption()
	options.Redis.Username, options.Redis.Password = "node", wrong
	if _, err := nearcache.Open(t.Context(), options); err == nil || strings.Contains(err.Error(), wrong) {
		t.Errorf("with a wrong password: %v", err)
	}
	options.Redis.Password = ""
	options.Redis.AuthCredentialsFn = func(rueidis.AuthCredentialsContext) (rueidis.AuthCredentials, error) {
		return rueidis.AuthCredentials{Username: "node", Password: right, RefreshAfter: time.Now().Add(100 * time.Millisecond)}, nil
	}
	client, err := nearcache.Open(t.Context(), options)
	check(t, err)
	cache, err := nearcache.New(client, nearcache.Config[string]{Name: "users", Prefix: "test:", Codec: nearcache.String()})
	check(t, err)
	check(t, cache.Set(t.Context(), "k", "v"))
	_, err = cache.Get(t.Context(), "k")
	check(t, err)
	f.server.Do(t, "ACL", "SETUSER", "node", "-get", "-set")
	_, _ = cache.Get(t.Context(), "l")
	_ = cache.Set(t.Context(), "k", "w")
	f.server.Do(t, "ACL", "DELUSER", "node")
	eventually(t, "the client is down", func() bool { return !client.Health().Ready })
	_, _ = cache.Get(t.Context(), "k")
	_ = cache.Set(t.Context(), "k", "w")
	_ = client.Fence(t.Context())

	metrics := strings.Join(f.series(t), "\n")
	check(t, client.Close(t.Context()))
	spans := f.recorder.Ended()
	if len(spans) == 0 || len(metrics) < 1000 {
		t.Fatalf("%d spans and %d bytes of metrics", len(spans), len(metrics))
	}
	texts := []string{metrics}
	for _, span := range spans {
		texts = append(texts, fmt.Sprintf("%s %+v %+v %+v %+v", span.Name(), span.Attributes(), span.Events(), span.Status(), span.Links()))
	}
	for _, text := range texts {
		if strings.Contains(text, right) || strings.Contains(text, wrong) {
			t.Errorf("a password is out: %s", text)
		}
	}
}
