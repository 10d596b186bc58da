package mutant

import (
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/go-nearcache/nearcache/internal/oracle"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestMutants runs in the time of a bubble: what is caught within seconds there takes less of real ones.
func TestMutants(t *testing.T) {
	for _, m := range All() {
		t.Run(m.Name, func(t *testing.T) {
			for seed := range uint64(3) {
				synctest.Test(t, func(t *testing.T) {
					limit := time.Minute
					if m.Breaks == oracle.Kept {
						limit = 10 * time.Second
					}
					r := Try(t.Context(), m, seed, limit)
					if !r.Right() {
						t.Errorf("seed %d: %v", seed, r)
					}
					if m.Breaks != oracle.Kept {
						t.Logf("seed %d: %v", seed, r)
					}
				})
			}
		})
	}
}
