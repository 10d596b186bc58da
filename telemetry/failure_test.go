package telemetry

import (
	"regexp"
	"testing"
)

// FuzzStatusCode feeds it what servers, scripts and proxies may send as an error. Its result names a series: it must be a short
// upper-case word, and must hold no more of the text than the code.
func FuzzStatusCode(f *testing.F) {
	for _, message := range []string{
		"", " ", "WRONGTYPE Operation against a key", "READONLY", "unknown command 'GET'", "MOVED 3999 127.0.0.1:6381",
		"NOPERM this user has no permissions", "user:42 is locked", "ERR", "\x00\xff",
	} {
		f.Add(message)
	}
	code := regexp.MustCompile(`^[A-Z_]{1,32}$`)
	f.Fuzz(func(t *testing.T, message string) {
		if got := statusCode(message); !code.MatchString(got) {
			t.Errorf("statusCode(%q) = %q", message, got)
		}
	})
}
