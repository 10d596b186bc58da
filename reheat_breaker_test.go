package nearcache

import (
	"testing"

	"github.com/go-nearcache/nearcache/localcache"
)

// A breaker is open until a whole second has brought no more than the budget.
func TestBreaker(t *testing.T) {
	t.Parallel()
	var b breaker
	at := localcache.Instant(0).Add(10 * stormAfter)
	for i, want := range []bool{true, true, false, false} {
		if b.allow(at, 2) != want {
			t.Errorf("number %d of the first second: %t", i, !want)
		}
	}
	at = at.Add(stormAfter)
	if b.allow(at, 2) {
		t.Error("closed in the second after a storm, before it is known to be over")
	}
	if at = at.Add(stormAfter); !b.allow(at, 2) {
		t.Error("open after a second within the budget")
	}
	b.seen = 100
	if at = at.Add(5 * stormAfter); !b.allow(at, 2) {
		t.Error("open long after a storm")
	}
}
