package demoserver

import (
	"testing"

	"github.com/redis/rueidis"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestPrivate(t *testing.T) {
	server, err := Open(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	client, err := rueidis.NewClient(server.Option)
	if err != nil {
		t.Fatal(err)
	}
	err = client.Do(t.Context(), client.B().Ping().Build()).Error()
	client.Close()
	if err != nil || !server.Private {
		t.Errorf("Private is %v, PING: %v", server.Private, err)
	}
	for _, act := range []func() error{server.Pause, server.Resume, server.Close} {
		if err := act(); err != nil {
			t.Error(err)
		}
	}
}

func TestNamed(t *testing.T) {
	for address, want := range map[string]string{
		"127.0.0.1:6379":                   "127.0.0.1:6379",
		"redis://user:secret@example:7000": "example:7000",
	} {
		server, err := Open(t.Context(), address)
		if err != nil || server.Private || server.String() != want {
			t.Errorf("Open(%q) = %v, %v; want %s, not private", address, server, err, want)
			continue
		}
		if server.Pause() == nil || server.Resume() == nil {
			t.Error("a server of somebody else can be frozen")
		}
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := Open(t.Context(), "redis://127.0.0.1:port"); err == nil {
		t.Error("a URL with a bad port: no error")
	}
}
