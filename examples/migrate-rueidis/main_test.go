package main

import (
	"bytes"
	"regexp"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestRun(t *testing.T) {
	var out bytes.Buffer
	if err := run(t.Context(), "", &out); err != nil {
		t.Fatalf("%v\n%s", err, &out)
	}
	for _, row := range []string{
		`(?m)^a hit,.* \d.*s +\d.*s$`,
		`(?m)^GETRANGE .* ""$`,
		`(?m)^reads after an own write .* 0$`,
		`(?m)^an old value, .* for \d[.\d]*m?s$`,
	} {
		if !regexp.MustCompile(row).Match(out.Bytes()) {
			t.Errorf("no row %s in:\n%s", row, &out)
		}
	}
}
