package main

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestRun(t *testing.T) {
	var out bytes.Buffer
	if err := run(t.Context(), "", "", nil, &out); err != nil {
		t.Fatalf("%v\n%s", err, &out)
	}
	for _, part := range []string{`"ready": true`, `"airports": {`, `"holds": "value"`, `"holds": "nothing"`, `"tier": "source"`} {
		if !strings.Contains(out.String(), part) {
			t.Errorf("no %s in:\n%s", part, &out)
		}
	}
}

func TestWhatIsNoAnswer(t *testing.T) {
	service := httptest.NewServer(http.NotFoundHandler())
	defer service.Close()
	defer http.DefaultClient.CloseIdleConnections()
	var out bytes.Buffer
	if err := run(t.Context(), service.URL, "", []string{"users", "42"}, &out); err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("not found: %v", err)
	}
	if err := run(t.Context(), service.URL, "", []string{"users"}, &out); err == nil || !strings.Contains(err.Error(), "key") {
		t.Errorf("a cache without a key: %v", err)
	}
}
