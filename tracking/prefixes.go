package tracking

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// CheckPrefixes returns an error that names the offender unless there is at least one prefix, none is empty, none occurs twice
// and none begins with another. The server refuses overlapping prefixes too, but older ones (up to Redis 7.4 and Valkey 9.0)
// answer twice, which no client survives; so they must never be sent.
func CheckPrefixes(prefixes []string) error {
	if len(prefixes) == 0 {
		return errors.New("tracking: no prefixes: name the beginnings of the keys to follow, such as \"user:\"")
	}
	sorted := slices.Sorted(slices.Values(prefixes))
	for i, prefix := range sorted {
		if prefix == "" {
			return errors.New("tracking: a prefix is empty: it would announce every write on the server; name the beginnings of the keys to follow")
		}
		if i == 0 {
			continue
		}
		// Everything that begins with a prefix sorts right behind it, so that an overlap always shows between neighbours.
		switch before := sorted[i-1]; {
		case prefix == before:
			return fmt.Errorf("tracking: prefix %q is given twice: drop one", prefix)
		case strings.HasPrefix(prefix, before):
			return fmt.Errorf("tracking: prefix %q begins with prefix %q: drop %q, which the other covers", prefix, before, prefix)
		}
	}
	return nil
}
