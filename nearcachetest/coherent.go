package nearcachetest

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// EventuallyCoherent reads the key on each node, over and over, until all return want in one round, and ends the test if they
// have not done so within the time. Values are compared with reflect.DeepEqual.
func EventuallyCoherent[V any](t testing.TB, within time.Duration, key string, want V, nodes ...Reader[V]) {
	t.Helper()
	if len(nodes) == 0 {
		t.Fatalf("nearcachetest: EventuallyCoherent needs a node to read from")
	}
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	tick := time.NewTicker(pace(within))
	defer tick.Stop()
	answers := slices.Repeat([]string{"no answer"}, len(nodes))
	for {
		coherent := true
		for i, node := range nodes {
			value, err := node.Get(ctx, key)
			if ctx.Err() != nil {
				break // what was cut off says nothing: the round before does
			}
			coherent = coherent && err == nil && reflect.DeepEqual(value, want)
			answers[i] = describe(value, err)
		}
		if coherent && ctx.Err() == nil {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			var b strings.Builder
			for i, answer := range answers {
				fmt.Fprintf(&b, "\n\tnode %d: %s", i, answer)
			}
			t.Fatalf("nearcachetest: not within %v: %.100q is %s on every node; in the end it was%s", within, key, describe(want, nil), &b)
		}
	}
}

// pace is the time between two reads: short for what is watched, and long enough to leave the processor to others.
func pace(of time.Duration) time.Duration {
	return min(max(of/100, 100*time.Microsecond), 10*time.Millisecond)
}

// describe shows the beginning of a value, or an error.
func describe(value any, err error) string {
	if err != nil {
		return fmt.Sprintf("%.200v", err)
	}
	if text, ok := value.(string); ok {
		return fmt.Sprintf("%.200q", text)
	}
	return fmt.Sprintf("%.200s", fmt.Sprintf("%+v", value))
}
