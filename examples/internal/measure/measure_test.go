package measure

import (
	"testing"
	"time"
)

func TestQuantile(t *testing.T) {
	var none Samples
	if got := none.Quantile(0.5); got != 0 {
		t.Errorf("of no samples = %v, want 0", got)
	}
	hundred := make(Samples, 100)
	for i := range hundred {
		hundred[i] = time.Duration(100 - i)
	}
	for q, want := range map[float64]time.Duration{0: 1, 0.5: 50, 0.99: 99, 0.995: 100, 1: 100} {
		if got := hundred.Quantile(q); got != want {
			t.Errorf("Quantile(%v) of 1 to 100 = %v, want %v", q, got, want)
		}
	}
	if hundred[0] != 100 {
		t.Error("the samples were sorted in place")
	}
}

func TestRound(t *testing.T) {
	for exact, want := range map[time.Duration]time.Duration{
		0:                          0,
		84:                         84,
		1234:                       1230,
		142_499:                    142_000,
		26_449 * time.Microsecond:  26_400 * time.Microsecond,
		999_900 * time.Microsecond: time.Second,
	} {
		if got := Round(exact); got != want {
			t.Errorf("Round(%v) = %v, want %v", exact, got, want)
		}
	}
}
