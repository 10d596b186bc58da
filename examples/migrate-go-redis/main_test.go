package main

import (
	"bytes"
	"regexp"
	"strconv"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestRun(t *testing.T) {
	var out bytes.Buffer
	if err := run(t.Context(), "", &out); err != nil {
		t.Fatalf("%v\n%s", err, &out)
	}
	row := regexp.MustCompile(`(?m)^GET commands .* (\d+) +(\d+)$`).FindSubmatch(out.Bytes())
	if row == nil {
		t.Fatalf("no count of commands in:\n%s", &out)
	}
	before, _ := strconv.Atoi(string(row[1]))
	after, _ := strconv.Atoi(string(row[2]))
	if before < reads || after < items || after > reads/2 {
		t.Errorf("%d GETs before, %d after:\n%s", before, after, &out)
	}
	if !regexp.MustCompile(`(?m)^a price that the old code wrote .* later$`).Match(out.Bytes()) {
		t.Errorf("the old code's write was not heard:\n%s", &out)
	}
}
