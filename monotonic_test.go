package nearcache_test

import (
	"testing"
	"time"

	"github.com/go-nearcache/nearcache"
	"github.com/go-nearcache/nearcache/internal/redistest"
)

// TestReadsOfANodeAreMonotonic forces the one order in which a reader could be shown an older value than one before it: a fetch that is
// held up between its answer and L1, while a later fetch of the key, which did not wait for it, has stored what is newer, and the push
// that would end the first one's right to store is still on its way.
func TestReadsOfANodeAreMonotonic(t *testing.T) {
	server := redistest.Start(t, redistest.Config{})
	network := startProxy(t, server)
	options := optionsAt(network.addr())
	// That the link falls silent is not what this is about.
	options.MaxStaleness, options.RemoteTimeout = 5*time.Minute, time.Minute
	options.SettleFills = true
	client := open(t, options)
	slow := newCheckpoint(t)
	cache := newCache(t, client, nearcache.Config[string]{Codec: hooked(slow, nil)})
	server.Do(t, "SET", prefix+"k", "old")
	fence(t, client)

	slow.arm()
	late := reading(t.Context(), cache, "k")
	receive(t, "the first fetch's answer", slow.reached)
	network.hold(linkReplies)
	defer network.release(linkReplies)
	server.Do(t, "SET", prefix+"k", "new")
	want(t, cache, "k", "new", nearcache.MaxStaleness(time.Nanosecond))
	want(t, cache, "k", "new")
	slow.release()
	if a := receive(t, "the first reader's answer", late); a.err != nil || a.value != "old" {
		t.Errorf("the first reader, who began before the write, got %+v", a)
	}
	want(t, cache, "k", "new")
}
