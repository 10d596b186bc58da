package telemetry

import (
	"maps"
	"sync/atomic"
)

// memoLimit bounds a memo. Names of caches, topics, commands and classes of errors are few, but nothing stops a fleet from
// moving through thousands of server addresses in a process's life.
const memoLimit = 1024

// memo keeps what is built once per key and read on every measurement. Readers take no lock and allocate nothing; a writer
// copies the map, which is rare, and starts it afresh at the limit, which only means that values are built again.
type memo[K comparable, V any] struct {
	entries atomic.Pointer[map[K]V]
}

func (m *memo[K, V]) get(key K, build func(K) V) V {
	if entries := m.entries.Load(); entries != nil {
		if value, ok := (*entries)[key]; ok {
			return value
		}
	}
	value := build(key)
	for {
		old := m.entries.Load()
		entries := make(map[K]V)
		if old != nil && len(*old) < memoLimit {
			maps.Copy(entries, *old)
		}
		entries[key] = value
		if m.entries.CompareAndSwap(old, &entries) {
			return value
		}
	}
}
