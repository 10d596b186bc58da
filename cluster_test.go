package nearcache_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/go-nearcache/nearcache"
	"github.com/go-nearcache/nearcache/internal/redistest"
	"github.com/go-nearcache/nearcache/localcache"
)

// clusterNode is a node of a fleet on a cluster, with an outsider that writes.
type clusterNode struct {
	*redistest.Cluster
	client   *nearcache.Client
	cache    *nearcache.Cache[string]
	outsider rueidis.Client
}

func startCluster(t *testing.T, config redistest.ClusterConfig, adjust func(*nearcache.Options)) *clusterNode {
	t.Helper()
	n := &clusterNode{Cluster: redistest.StartCluster(t, config)}
	options := optionsAt("")
	options.Redis.InitAddress = n.Addresses()
	options.RemoteTimeout = 2 * time.Second
	if adjust != nil {
		adjust(&options)
	}
	n.client = open(t, options)
	n.cache = stringCache(t, n.client, nil)
	outsider, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: n.Addresses(), DisableCache: true})
	check(t, err)
	t.Cleanup(outsider.Close)
	n.outsider = outsider
	return n
}

// write has the outsider write until the cluster acknowledges it, and returns when it did.
func (n *clusterNode) write(t *testing.T, key, value string) time.Time {
	t.Helper()
	eventually(t, "a write is acknowledged", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		return n.outsider.Do(ctx, n.outsider.B().Set().Key(prefix+key).Value(value).Build()).Error() == nil
	})
	return time.Now()
}

// hold has L1 serve a value that the outsider wrote.
func (n *clusterNode) hold(t *testing.T, key, value string) {
	n.settles(t, key, value, n.write(t, key, value))
	warm(t, n.cache, key, value)
}

func (n *clusterNode) slotOf(t *testing.T, key string) int {
	t.Helper()
	slot, err := n.Slot(t.Context(), prefix+key)
	check(t, err)
	return slot
}

// ownerOf returns the primary of a key, as the cluster has it.
func (n *clusterNode) ownerOf(t *testing.T, key string) *redistest.Server {
	t.Helper()
	owner, err := n.Owner(t.Context(), n.slotOf(t, key))
	check(t, err)
	return owner
}

// keyOf returns a key that a server owns.
func (n *clusterNode) keyOf(t *testing.T, s *redistest.Server) string {
	t.Helper()
	for i := range 1000 {
		if key := fmt.Sprint("k", i); n.ownerOf(t, key) == s {
			return key
		}
	}
	t.Fatalf("%s owns nothing", s.Addr())
	return ""
}

// keyOfEach returns one key of each primary.
func (n *clusterNode) keyOfEach(t *testing.T) (keys []string) {
	t.Helper()
	primaries, err := n.Primaries(t.Context())
	check(t, err)
	for _, s := range primaries {
		keys = append(keys, n.keyOf(t, s))
	}
	return keys
}

// settles reads until L1 serves the value, and fails if a read that began more than MaxStaleness after the write was acknowledged returns
// another one.
func (n *clusterNode) settles(t *testing.T, key, value string, acknowledged time.Time) {
	t.Helper()
	eventually(t, fmt.Sprintf("L1 serves %q", value), func() bool {
		began := time.Now()
		got, err := n.cache.Get(t.Context(), key)
		if err == nil && got != value && began.Sub(acknowledged) > nearcache.DefaultMaxStaleness {
			t.Fatalf("%v after %q was acknowledged a read returned %q", began.Sub(acknowledged), value, got)
		}
		return err == nil && got == value && inLocal(n.cache, key)
	})
}

func (n *clusterNode) awaitLinks(t *testing.T, primaries int) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d links are live", primaries), func() bool {
		health := n.client.Health()
		return health.Ready && len(health.Links) == primaries
	})
}

func TestClusterKeepsThePromise(t *testing.T) {
	t.Parallel()
	n := startCluster(t, redistest.ClusterConfig{}, func(o *nearcache.Options) { o.Canary = 50 * time.Millisecond })
	keys := n.keyOfEach(t)
	if links := n.client.Stats().Links; len(links) != 3 || len(keys) != 3 {
		t.Fatalf("%d links, %d primaries", len(links), len(keys))
	}
	tagged := []string{"{tag}a", "{tag}b", "x{tag}"}
	all := append(slices.Clone(keys), tagged...)

	t.Run("reads come from L1 until anybody writes", func(t *testing.T) {
		for _, key := range all {
			n.hold(t, key, "1")
			if server := n.cache.Explain(t.Context(), key).Link.Server; server != n.ownerOf(t, key).Addr() {
				t.Errorf("%q is covered by the link to %s", key, server)
			}
		}
		for _, key := range all {
			acknowledged := n.write(t, key, "2")
			want(t, n.cache, key, "2", nearcache.Fresh())
			n.settles(t, key, "2", acknowledged)
		}
		fence(t, n.client)
	})

	t.Run("many at once are split by server", func(t *testing.T) {
		ctx := bounded(t)
		n.write(t, all[0], "3")
		fence(t, n.client)
		items, err := n.cache.GetMany(ctx, append(slices.Clone(all), "absent"))
		check(t, err)
		if len(items) != len(all) || items[all[0]] != "3" || items[all[1]] != "2" {
			t.Errorf("got %v", items)
		}
		eventually(t, "all are kept", func() bool {
			_, err := n.cache.GetMany(ctx, all)
			return err == nil && !slices.ContainsFunc(all, func(key string) bool { return !inLocal(n.cache, key) })
		})
		check(t, n.cache.DeleteMany(ctx, all))
		for _, key := range all {
			if value, err := n.cache.Get(ctx, key); !errors.Is(err, nearcache.ErrNotFound) {
				t.Errorf("after DeleteMany %q is %q, %v", key, value, err)
			}
		}
		n.ownerOf(t, keys[0]).Do(t, "LPUSH", prefix+keys[0], "x")
		var wrong *nearcache.WrongTypeError
		if _, err := n.cache.GetMany(ctx, keys); !errors.As(err, &wrong) || wrong.Type != "list" {
			t.Errorf("GetMany of a list: %v", err)
		}
		check(t, n.cache.Delete(ctx, keys[0]))
	})

	t.Run("own writes are read", func(t *testing.T) {
		for i := range 20 {
			for _, key := range all {
				value := fmt.Sprint(i)
				check(t, n.cache.Set(t.Context(), key, value))
				want(t, n.cache, key, value)
			}
		}
	})

	t.Run("one load a key, under a lease in its slot", func(t *testing.T) {
		db := newSource(map[string]string{"a": "A", "b": "B", "c": "C"})
		loading := newCache(t, n.client, nearcache.Config[string]{
			Name: "loading", Prefix: prefix + "loading:", Codec: nearcache.String(), Load: db.load, NegativeTTL: time.Minute,
		})
		items, err := loading.GetMany(bounded(t), []string{"a", "b", "c", "d"})
		check(t, err)
		if len(items) != 3 || db.loads.Load() != 4 {
			t.Errorf("%v by %d loads", items, db.loads.Load())
		}
		if _, err := loading.Get(bounded(t), "d"); !errors.Is(err, nearcache.ErrNotFound) || db.loads.Load() != 4 {
			t.Errorf("%v after %d loads", err, db.loads.Load())
		}
	})

	t.Run("through rueidis too", func(t *testing.T) {
		wrapped, err := n.client.Rueidis()
		check(t, err)
		for _, key := range keys {
			n.write(t, key, "r")
		}
		fence(t, n.client)
		full := []string{prefix + keys[0], prefix + keys[1], prefix + keys[2]}
		var several []rueidis.CacheableTTL
		for _, key := range full {
			several = append(several, rueidis.CT(wrapped.B().Get().Key(key).Cache(), time.Minute))
		}
		eventually(t, "the replies come from L1", func() bool {
			hits := 0
			for _, reply := range wrapped.DoMultiCache(bounded(t), several...) {
				if value, err := reply.ToString(); err != nil || value != "r" {
					t.Fatalf("%q, %v", value, err)
				}
				if reply.IsCacheHit() {
					hits++
				}
			}
			return hits == len(several)
		})
		for _, key := range tagged {
			n.write(t, key, "s")
		}
		fence(t, n.client)
		command := wrapped.B().Mget().Key(prefix+tagged[0], prefix+tagged[1], prefix+tagged[2]).Cache()
		values, err := wrapped.DoCache(bounded(t), command, time.Minute).AsStrSlice()
		check(t, err)
		if !slices.Equal(values, []string{"s", "s", "s"}) {
			t.Errorf("MGET: %q", values)
		}
	})

	t.Run("a canary sings on every link", func(t *testing.T) {
		eventually(t, "every canary was heard", func() bool {
			return !slices.ContainsFunc(n.client.Stats().Links, func(l nearcache.LinkStats) bool { return l.CanaryLag == 0 })
		})
	})

	t.Run("one link in doubt touches only what it covers", func(t *testing.T) {
		for _, key := range keys {
			acknowledged := n.write(t, key, "4")
			fence(t, n.client) // so that no push comes later
			n.settles(t, key, "4", acknowledged)
		}
		owner := n.ownerOf(t, keys[0])
		owner.Do(t, "CLIENT", "KILL", "ID", linkFields(t, owner)["id"])
		eventually(t, "the link is another one", func() bool { return n.cache.Explain(t.Context(), keys[0]).Link.Reconnects == 1 })
		for _, key := range keys[1:] {
			if e := n.cache.Explain(t.Context(), key); !e.Local.Present || e.Local.State != localcache.Servable {
				t.Errorf("%q, which another link covers, is %+v", key, e)
			}
		}
		n.awaitLinks(t, 3)
		warm(t, n.cache, keys[0], "4")
	})
}

func TestClusterSlotsOnTheMove(t *testing.T) {
	t.Parallel()
	n := startCluster(t, redistest.ClusterConfig{Replicas: -1}, nil)
	keys := n.keyOfEach(t)
	key, bystander := keys[0], keys[2]
	slot := n.slotOf(t, key)
	from := n.ownerOf(t, key)
	to := n.ownerOf(t, keys[1])
	n.hold(t, bystander, "stays")

	t.Run("with its keys", func(t *testing.T) {
		ctx := bounded(t)
		n.hold(t, key, "before")
		_, err := n.BeginMigration(ctx, slot, to)
		check(t, err)
		want(t, n.cache, key, "before")
		check(t, n.MigrateKeys(ctx, slot, from, to))
		fence(t, n.client)
		if inLocal(n.cache, key) {
			t.Error("L1 still holds what has left the server that it was read from")
		}
		// Half-way, the old owner sends every reader on. What the new one says so early must not be kept under the old one's link.
		acknowledged := n.write(t, key, "half-way")
		for range 20 {
			want(t, n.cache, key, "half-way", nearcache.Fresh())
			if inLocal(n.cache, key) {
				t.Fatal("L1 keeps what another server answered")
			}
		}
		check(t, n.cache.Set(ctx, key, "own"))
		want(t, n.cache, key, "own")
		items, err := n.cache.GetMany(ctx, []string{key, bystander})
		check(t, err)
		if items[key] != "own" {
			t.Errorf("got %v", items)
		}
		check(t, n.EndMigration(ctx, slot, to))
		n.settles(t, key, "own", acknowledged)
		if server := n.cache.Explain(ctx, key).Link.Server; server != to.Addr() {
			t.Errorf("covered by the link to %s and not by the one to the new owner %s", server, to.Addr())
		}
		acknowledged = n.write(t, key, "after")
		want(t, n.cache, key, "after", nearcache.Fresh())
		n.settles(t, key, "after", acknowledged)
	})

	t.Run("without its keys", func(t *testing.T) {
		ctx := bounded(t)
		check(t, n.StealSlot(ctx, slot, from))
		// The old owner has dropped them without a word.
		fence(t, n.client)
		if inLocal(n.cache, key) {
			t.Error("after a fence L1 still holds what was dropped")
		}
		if value, err := n.cache.Get(ctx, key, nearcache.Fresh()); !errors.Is(err, nearcache.ErrNotFound) {
			t.Errorf("got %q, %v", value, err)
		}
		acknowledged := n.write(t, key, "new")
		n.settles(t, key, "new", acknowledged)
		check(t, n.StealSlot(ctx, slot, to))
		acknowledged = n.write(t, key, "newer")
		n.settles(t, key, "newer", acknowledged)
	})

	t.Run("what others own stays", func(t *testing.T) {
		if !inLocal(n.cache, bystander) {
			t.Error("a key of a server that lost nothing left L1")
		}
	})

	t.Run("to a node that joins, and back when it leaves", func(t *testing.T) {
		ctx := bounded(t)
		owner := n.ownerOf(t, key)
		added, err := n.AddPrimary(ctx)
		check(t, err)
		check(t, n.MigrateSlot(ctx, slot, added))
		n.awaitLinks(t, 4)
		acknowledged := n.write(t, key, "on the new node")
		n.settles(t, key, "on the new node", acknowledged)
		if server := n.cache.Explain(ctx, key).Link.Server; server != added.Addr() {
			t.Errorf("covered by the link to %s", server)
		}
		check(t, n.MigrateSlot(ctx, slot, owner))
		n.awaitLinks(t, 3)
		check(t, n.Remove(ctx, added))
		n.settles(t, key, "on the new node", acknowledged)
		acknowledged = n.write(t, key, "back")
		n.settles(t, key, "back", acknowledged)
	})
}

func TestClusterFailovers(t *testing.T) {
	t.Parallel()
	n := startCluster(t, redistest.ClusterConfig{}, nil)
	keys := n.keyOfEach(t)
	key := keys[0]
	for _, fault := range []struct {
		name  string
		begin func(t *testing.T, primary, replica *redistest.Server)
		end   func(t *testing.T, primary *redistest.Server)
	}{
		{"by hand", func(t *testing.T, _, replica *redistest.Server) { check(t, n.Failover(bounded(t), replica, "")) }, nil},
		{
			"of a primary that is killed",
			func(_ *testing.T, primary, _ *redistest.Server) { primary.Kill() },
			func(t *testing.T, primary *redistest.Server) { check(t, primary.Restart(bounded(t))) },
		},
		{
			"of a primary that hangs",
			func(t *testing.T, primary, _ *redistest.Server) { check(t, primary.Pause()) },
			func(t *testing.T, primary *redistest.Server) { check(t, primary.Resume()) },
		},
		// Last, because nobody is asked: an election that follows may be won under the same epoch, and the cluster stays at odds then.
		{"taken over", func(t *testing.T, _, replica *redistest.Server) {
			check(t, n.Failover(bounded(t), replica, "TAKEOVER"))
		}, nil},
	} {
		t.Run(fault.name, func(t *testing.T) {
			for _, other := range keys {
				n.hold(t, other, "before "+fault.name)
			}
			primary := n.ownerOf(t, key)
			replica, err := n.ReplicaOf(bounded(t), primary)
			check(t, err)
			fault.begin(t, primary, replica)
			check(t, n.AwaitPromotion(bounded(t), replica))
			acknowledged := n.write(t, key, "after "+fault.name)
			n.settles(t, key, "after "+fault.name, acknowledged)
			if server := n.cache.Explain(bounded(t), key).Link.Server; server != replica.Addr() {
				t.Errorf("covered by the link to %s and not by the one to %s, which was promoted", server, replica.Addr())
			}
			if fault.end != nil {
				fault.end(t, primary)
			}
			check(t, n.AwaitStable(bounded(t)))
			n.awaitLinks(t, 3)
			// The old primary follows now, and what it pushes is nobody's business.
			for i := range 20 {
				value := fmt.Sprint("again ", i)
				acknowledged := n.write(t, key, value)
				want(t, n.cache, key, value, nearcache.Fresh())
				n.settles(t, key, value, acknowledged)
			}
		})
	}
}

func TestClusterThatIsDownServesWhatItsLinksCover(t *testing.T) {
	t.Parallel()
	// A link that a busy machine loses for a moment would take with it what cannot be read anew.
	n := startCluster(t, redistest.ClusterConfig{Replicas: -1}, func(options *nearcache.Options) { options.MaxStaleness = endless })
	keys := n.keyOfEach(t)
	for _, key := range keys {
		n.hold(t, key, "held")
	}
	lost := n.ownerOf(t, keys[0])
	lost.Kill()
	for _, s := range n.Nodes() {
		if s == lost {
			continue
		}
		eventually(t, "the cluster is down", func() bool {
			return redistest.InfoField(text(t, s, "CLUSTER", "INFO"), "cluster_state") == "fail"
		})
	}
	if inLocal(n.cache, keys[0]) {
		t.Error("L1 serves what no link covers")
	}
	eventually(t, "L1 serves what a link covers", func() bool { // a fence may take its time, and nothing can be fetched again
		value, err := n.cache.Get(bounded(t), keys[1], nearcache.Fresh())
		return err == nil && value == "held"
	})
	if _, err := n.cache.Get(bounded(t), keys[1]+"absent"); !errors.Is(err, nearcache.ErrUnavailable) {
		t.Errorf("a miss while the cluster is down: %v", err)
	}
	if health := n.client.Health(); health.Ready || health.Reason == "" {
		t.Errorf("health is %+v", health)
	}
	check(t, lost.Restart(bounded(t)))
	check(t, n.AwaitStable(bounded(t)))
	n.awaitLinks(t, 3)
	for _, key := range keys {
		acknowledged := n.write(t, key, "again")
		n.settles(t, key, "again", acknowledged)
	}
}

func TestClusterOpens(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t, redistest.ClusterConfig{Replicas: -1})
	options := optionsAt("")

	t.Run("through any node, whichever are away", func(t *testing.T) {
		options := options
		nodes := cluster.Nodes()
		check(t, nodes[0].Pause())
		defer func() { check(t, nodes[0].Resume()) }()
		options.RemoteTimeout = 500 * time.Millisecond
		options.Redis.InitAddress = []string{nodes[0].Addr(), nodes[1].Addr()}
		client := open(t, options)
		if health := client.Health(); health.Ready || len(health.Links) != 3 {
			t.Errorf("health is %+v", health)
		}
		check(t, nodes[0].Resume())
		eventually(t, "the link to the node that was away is live", func() bool { return client.Health().Ready })
	})

	t.Run("not as if it were one server", func(t *testing.T) {
		options := options
		options.Redis.InitAddress = cluster.Addresses()[:1]
		options.Redis.ForceSingleClient = true
		_, err := nearcache.Open(bounded(t), options)
		mentions(t, err, "ForceSingleClient")
	})

	t.Run("with the least rights", func(t *testing.T) {
		for _, node := range cluster.Nodes() {
			node.Do(t, "ACL", "SETUSER", "least", "on", ">secret", "~"+prefix+"*", "resetchannels", "-@all",
				"+client|tracking", "+role", "+cluster|myid", "+cluster|slots", "+cluster|shards", "+get", "+set", "+del", "+pttl", "+type", "+eval", "+evalsha")
		}
		options := options
		options.Redis.InitAddress = cluster.Addresses()
		options.Redis.Username, options.Redis.Password = "least", "secret"
		client := open(t, options)
		cache := stringCache(t, client, newSource(map[string]string{"a": "A", "b": "B", "c": "C"}).load)
		items, err := cache.GetMany(bounded(t), []string{"a", "b", "c"})
		check(t, err)
		if len(items) != 3 {
			t.Errorf("got %v", items)
		}
		warm(t, cache, "a", "A")
		check(t, cache.DeleteMany(bounded(t), []string{"a", "b", "c"}))
	})
}
