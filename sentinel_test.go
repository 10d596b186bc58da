package nearcache_test

import (
	"context"
	"testing"
	"time"

	"github.com/go-nearcache/nearcache"
	"github.com/go-nearcache/nearcache/internal/redistest"
)

// sentinelNode is a node of a fleet on a primary that sentinels name.
type sentinelNode struct {
	*redistest.Sentinel
	client *nearcache.Client
	cache  *nearcache.Cache[string]
}

func sentinelOptions(s *redistest.Sentinel) nearcache.Options {
	options := optionsAt("")
	options.Redis.InitAddress = s.Addresses()
	options.Redis.Sentinel.MasterSet = redistest.SentinelMaster
	options.RemoteTimeout = 2 * time.Second
	return options
}

func startSentinel(t *testing.T, config redistest.SentinelConfig) *sentinelNode {
	t.Helper()
	n := &sentinelNode{Sentinel: redistest.StartSentinel(t, config)}
	n.client = open(t, sentinelOptions(n.Sentinel))
	n.cache = stringCache(t, n.client, nil)
	return n
}

func (n *sentinelNode) primary(t *testing.T) *redistest.Server {
	t.Helper()
	primary, err := n.Primary(t.Context())
	check(t, err)
	return primary
}

// settles reads until L1 serves the value from the primary that the sentinels name, and fails if a read that began more than the bound after the
// write was acknowledged returns another one.
func (n *sentinelNode) settles(t *testing.T, key, value string, acknowledged time.Time, bound time.Duration) {
	t.Helper()
	eventually(t, "L1 serves what the primary holds", func() bool {
		began := time.Now()
		got, err := n.cache.Get(t.Context(), key)
		if err == nil && got != value && began.Sub(acknowledged) > bound {
			t.Fatalf("%v after %q was acknowledged a read returned %q", began.Sub(acknowledged), value, got)
		}
		return err == nil && got == value && inLocal(n.cache, key)
	})
	links := n.client.Stats().Links
	if primary := n.primary(t); len(links) != 1 || links[0].Server != primary.Addr() {
		t.Errorf("the links are %+v, and the primary is %s", links, primary.Addr())
	}
}

// write writes to the primary that the sentinels name, from outside.
func (n *sentinelNode) write(t *testing.T, key, value string) (acknowledged time.Time) {
	t.Helper()
	n.primary(t).Do(t, "SET", prefix+key, value)
	return time.Now()
}

func (n *sentinelNode) hold(t *testing.T, key, value string) {
	t.Helper()
	n.settles(t, key, value, n.write(t, key, value), nearcache.DefaultMaxStaleness)
}

// lives shows that the node is coherent again and writes to the primary.
func (n *sentinelNode) lives(t *testing.T) {
	t.Helper()
	n.hold(t, "k", "written after")
	check(t, n.cache.Set(t.Context(), "own", "v"))
	if got, err := n.primary(t).Command(t.Context(), "GET", prefix+"own").ToString(); err != nil || got != "v" {
		t.Errorf("the primary holds %q, %v", got, err)
	}
	want(t, n.cache, "own", "v", nearcache.Fresh())
	check(t, n.client.Fence(t.Context()))
}

// A primary that is in order is replaced: it is told, becomes a replica, and its clients are cut off.
func TestSentinelFailover(t *testing.T) {
	t.Parallel()
	n := startSentinel(t, redistest.SentinelConfig{})
	n.hold(t, "k", "before")
	check(t, n.Failover(t.Context()))
	acknowledged := n.write(t, "k", "after")
	n.settles(t, "k", "after", acknowledged, nearcache.DefaultMaxStaleness)
	n.lives(t)
}

// A primary that dies is replaced once the sentinels agree that it is down; until then nothing is served from L1.
func TestSentinelFailoverOfADeadPrimary(t *testing.T) {
	t.Parallel()
	n := startSentinel(t, redistest.SentinelConfig{})
	n.hold(t, "k", "before")
	old := n.primary(t)
	old.Kill()
	eventually(t, "the link is known to be down", func() bool { return !n.client.Health().Ready })
	if _, err := n.cache.Get(t.Context(), "k"); err == nil {
		t.Error("a value was served while nobody could tell whether it still holds")
	}
	check(t, n.AwaitPrimaryOtherThan(t.Context(), old))
	n.lives(t)
}

// keepPrimary has a server that is replaced go on as a primary, with its clients, as one does that is cut off from the sentinels.
func keepPrimary(t *testing.T, s *redistest.Server) {
	t.Helper()
	s.Do(t, "ACL", "SETUSER", "default", "-slaveof", "-replicaof", "-client|kill")
}

// A primary that was replaced and does not know goes on taking writes and announcing them. It is not believed.
func TestSentinelFailoverOfAPrimaryThatDoesNotKnow(t *testing.T) {
	t.Parallel()
	n := startSentinel(t, redistest.SentinelConfig{})
	n.hold(t, "k", "before")
	old := n.primary(t)
	keepPrimary(t, old)
	check(t, n.Failover(t.Context()))
	old.Do(t, "SET", prefix+"k", "written to the old primary")
	acknowledged := n.write(t, "k", "after")
	n.settles(t, "k", "after", acknowledged, nearcache.DefaultMaxStaleness)
	if role, err := old.Command(t.Context(), "ROLE").ToArray(); err != nil {
		t.Error(err)
	} else if name, _ := role[0].ToString(); name != "master" {
		t.Errorf("the old primary is a %s: it was to go on as before", name)
	}
	old.Do(t, "SET", prefix+"k", "written to the old primary again")
	n.lives(t)
}

// Nobody tells of the failover: no sentinel, no connection that ends, and no role.
func TestSentinelFailoverThatNobodyTellsOf(t *testing.T) {
	t.Parallel()
	n := &sentinelNode{Sentinel: redistest.StartSentinel(t, redistest.SentinelConfig{})}
	for _, watcher := range n.Sentinels {
		watcher.Do(t, "ACL", "SETUSER", "default", "-subscribe")
	}
	n.client = open(t, sentinelOptions(n.Sentinel))
	n.cache = stringCache(t, n.client, nil)
	n.hold(t, "k", "before")
	keepPrimary(t, n.primary(t))
	check(t, n.Failover(t.Context()))
	acknowledged := n.write(t, "k", "after")
	n.settles(t, "k", "after", acknowledged, patience)
	n.lives(t)
}

// Whoever is connected does not need the sentinels until the primary changes.
func TestSentinelsAway(t *testing.T) {
	t.Parallel()
	n := startSentinel(t, redistest.SentinelConfig{})
	primary := n.primary(t)
	for _, watcher := range n.Sentinels {
		watcher.Kill()
	}
	for _, value := range []string{"1", "2"} {
		primary.Do(t, "SET", prefix+"k", value)
		acknowledged := time.Now()
		eventually(t, "L1 serves what the primary holds", func() bool {
			began := time.Now()
			got, err := n.cache.Get(t.Context(), "k")
			check(t, err)
			if got != value && began.Sub(acknowledged) > nearcache.DefaultMaxStaleness {
				t.Fatalf("%v after %q was acknowledged a read returned %q", began.Sub(acknowledged), value, got)
			}
			return got == value && inLocal(n.cache, "k")
		})
	}
	if health := n.client.Health(); !health.Ready {
		t.Errorf("%+v", health)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	_, err := nearcache.Open(ctx, sentinelOptions(n.Sentinel))
	mentions(t, err, "no sentinel", redistest.SentinelMaster, n.Addresses()[0], "Options.Redis.InitAddress")
}

func TestSentinelsThatDoNotKnowTheName(t *testing.T) {
	t.Parallel()
	s := redistest.StartSentinel(t, redistest.SentinelConfig{})
	options := sentinelOptions(s)
	options.Redis.Sentinel.MasterSet = "misspelt"
	_, err := nearcache.Open(t.Context(), options)
	mentions(t, err, `"misspelt"`, "Options.Redis.Sentinel.MasterSet", "SENTINEL MASTERS")
}

// The other sentinels are found through the first, which may go, by a user with the least rights.
func TestSentinelsAreFound(t *testing.T) {
	t.Parallel()
	n := &sentinelNode{Sentinel: redistest.StartSentinel(t, redistest.SentinelConfig{})}
	for _, watcher := range n.Sentinels {
		watcher.Do(t, "ACL", "SETUSER", "least", "on", ">secret", "allchannels", "-@all", "+sentinel|get-master-addr-by-name", "+sentinel|master",
			"+sentinel|sentinels", "+subscribe", "+unsubscribe", "+ping")
	}
	options := sentinelOptions(n.Sentinel)
	options.Redis.Sentinel.Username, options.Redis.Sentinel.Password = "least", "secret"
	options.Redis.InitAddress = n.Addresses()[2:]
	n.client = open(t, options)
	n.cache = stringCache(t, n.client, nil)
	n.Sentinels[2].Kill()
	old := n.primary(t)
	keepPrimary(t, old)
	check(t, n.Failover(t.Context()))
	n.settles(t, "k", "after", n.write(t, "k", "after"), patience)
}

// A user without the right to track is degraded behind sentinels as anywhere else, stays so on the next primary, and is no more once it has it.
func TestSentinelDegraded(t *testing.T) {
	t.Parallel()
	n := &sentinelNode{Sentinel: redistest.StartSentinel(t, redistest.SentinelConfig{
		Server: redistest.Config{Users: []string{"poor on >secret ~* &* +@all -client|tracking"}},
	})}
	options := sentinelOptions(n.Sentinel)
	options.Redis.Username, options.Redis.Password = "poor", "secret"
	degrading(&options, time.Minute)
	n.client = open(t, options)
	n.cache = stringCache(t, n.client, nil)
	awaitMode(t, n.client, nearcache.ModeTTL)
	old := n.primary(t)
	check(t, n.Failover(t.Context()))
	eventually(t, "the link is to the new primary", func() bool {
		links := n.client.Stats().Links
		return len(links) == 1 && links[0].Server != old.Addr()
	})
	awaitMode(t, n.client, nearcache.ModeTTL)
	n.write(t, "k", "v")
	want(t, n.cache, "k", "v", nearcache.Fresh())
	for _, s := range n.Servers {
		s.Do(t, "ACL", "SETUSER", "poor", "+client|tracking")
	}
	awaitMode(t, n.client, nearcache.ModeTracking)
	n.lives(t)
}
