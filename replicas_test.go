package nearcache_test

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/go-nearcache/nearcache"
	"github.com/go-nearcache/nearcache/internal/redistest"
)

// replicated is a node that reads from replicas of one server.
type replicated struct {
	primary  *redistest.Server
	replicas []*redistest.Server
	stream   *proxy // what the first replica follows its primary through
	client   *nearcache.Client
	cache    *nearcache.Cache[string]
}

// startReplicated returns when a replica is read.
func startReplicated(t *testing.T, replicas int, adjust func(*replicated, *nearcache.Options)) *replicated {
	t.Helper()
	n := prepareReplicated(t, replicas, adjust)
	n.awaitReplica(t)
	return n
}

func prepareReplicated(t *testing.T, replicas int, adjust func(*replicated, *nearcache.Options)) *replicated {
	t.Helper()
	n := &replicated{primary: redistest.Start(t, redistest.Config{Settings: []string{"repl-diskless-sync-delay 0"}})}
	options := optionsFor(n.primary)
	options.RemoteTimeout = time.Second
	options.Redis.ReadNodeSelector = rueidis.PreferReplicaNodeSelector()
	for range replicas {
		replica := redistest.StartReplica(t, n.primary, redistest.Config{})
		n.replicas = append(n.replicas, replica)
		options.Redis.Standalone.ReplicaAddress = append(options.Redis.Standalone.ReplicaAddress, replica.Addr())
	}
	n.stream = startProxy(t, n.primary)
	follow(t, n.replicas[0], n.stream.addr())
	if adjust != nil {
		adjust(n, &options)
	}
	n.client = open(t, options)
	n.cache = stringCache(t, n.client, nil)
	return n
}

// follow has a server replicate the one at an address.
func follow(t *testing.T, s *redistest.Server, address string) {
	t.Helper()
	host, port, err := net.SplitHostPort(address)
	check(t, err)
	s.Do(t, "REPLICAOF", host, port)
	check(t, s.AwaitInSync(bounded(t)))
}

// reader returns the replica that is read; ok if it is known how far behind it is.
func (n *replicated) reader() (address string, ok bool) {
	links := n.client.Stats().Links
	last := links[len(links)-1]
	return last.Server, last.Replica && last.Live
}

func (n *replicated) awaitReplica(t *testing.T) (address string) {
	t.Helper()
	eventually(t, "a replica is read", func() (ok bool) {
		address, ok = n.reader()
		return ok
	})
	return address
}

func (n *replicated) awaitNoReplica(t *testing.T) {
	t.Helper()
	eventually(t, "no replica is read", func() bool {
		_, ok := n.reader()
		return !ok
	})
}

func (n *replicated) write(t *testing.T, key, value string) (acknowledged time.Time) {
	t.Helper()
	n.primary.Do(t, "SET", prefix+key, value)
	return time.Now()
}

// settles reads until the value comes, and fails if a read that began more than MaxStaleness after the write was acknowledged returns another one.
func (n *replicated) settles(t *testing.T, key, value string, acknowledged time.Time) {
	t.Helper()
	eventually(t, fmt.Sprintf("%q is read", value), func() bool {
		began := time.Now()
		got, err := n.cache.Get(t.Context(), key)
		if (err != nil || got != value) && began.Sub(acknowledged) > nearcache.DefaultMaxStaleness {
			t.Fatalf("%v after %q was acknowledged a read returned %q, %v", began.Sub(acknowledged), value, got, err)
		}
		return err == nil && got == value
	})
}

// fetches is how many values a server was asked for, by cache reads of one key and of several.
func fetches(t *testing.T, s *redistest.Server) int { return calls(t, s, "get") + calls(t, s, "mget") }

func TestReadsFromReplica(t *testing.T) {
	t.Parallel()
	n := startReplicated(t, 1, nil)
	replica := n.replicas[0]
	keys := make([]string, 50)
	attempts := 0
	// On a machine that is busy with something else a replica may be heard of too late to be read. Then its primary is asked.
	eventually(t, "nobody but the replica is asked", func() bool {
		attempts++
		for i := range keys {
			keys[i] = fmt.Sprint(attempts, "k", i)
			n.write(t, keys[i], "v")
		}
		// What is new must have come to the replica for a read that wants no less.
		n.awaitPosition(t)
		ofPrimary, ofReplica := fetches(t, n.primary), fetches(t, replica)
		for _, key := range keys[:25] {
			want(t, n.cache, key, "v")
		}
		items, err := n.cache.GetMany(t.Context(), keys[25:])
		check(t, err)
		if len(items) != 25 {
			t.Errorf("%d items of 25", len(items))
		}
		if _, err := n.cache.Get(t.Context(), fmt.Sprint(attempts, "absent")); !errors.Is(err, nearcache.ErrNotFound) {
			t.Errorf("a key that is not there: %v", err)
		}
		return fetches(t, n.primary) == ofPrimary && fetches(t, replica) >= ofReplica+27
	})
	warm(t, n.cache, keys[0], "v")
	want(t, n.cache, keys[0], "v", nearcache.Fresh())
	n.settles(t, keys[0], "changed", n.write(t, keys[0], "changed"))
	for i := range 100 {
		value := fmt.Sprint("own ", i)
		check(t, n.cache.Set(t.Context(), "own", value))
		want(t, n.cache, "own", value)
		value = fmt.Sprint("outside ", i)
		n.write(t, "own", value)
		want(t, n.cache, "own", value, nearcache.Fresh())
		want(t, n.cache, "own", value) // what was read once does not become older
	}
	n.primary.Do(t, "FLUSHALL")
	check(t, n.client.Fence(t.Context()))
	if got, err := n.cache.Get(t.Context(), keys[0]); !errors.Is(err, nearcache.ErrNotFound) {
		t.Errorf("after FLUSHALL: %q, %v", got, err)
	}
}

// awaitPosition waits until everything that was written before is known to have come to the replica.
func (n *replicated) awaitPosition(t *testing.T) {
	t.Helper()
	began := time.Now()
	eventually(t, "the replica is known to have everything", func() bool {
		links := n.client.Stats().Links
		last := links[len(links)-1]
		return last.Replica && last.Live && time.Now().Add(-last.Staleness).After(began)
	})
}

// A replica that applies nothing any more is read for as long as what it has is new enough, and then its primary is.
func TestReplicaBehind(t *testing.T) {
	t.Parallel()
	n := startReplicated(t, 1, nil)
	for _, key := range []string{"a", "b", "c", "own", "fresh"} {
		n.write(t, key, "old")
	}
	n.awaitPosition(t)
	for _, key := range []string{"a", "b", "own", "fresh"} {
		warm(t, n.cache, key, "old")
	}
	n.stream.hold(dataReplies)
	check(t, n.cache.Set(t.Context(), "own", "new"))
	want(t, n.cache, "own", "new")
	n.write(t, "fresh", "new")
	want(t, n.cache, "fresh", "new", nearcache.Fresh())
	want(t, n.cache, "fresh", "new")
	n.settles(t, "a", "new", n.write(t, "a", "new"))
	acknowledged := n.write(t, "b", "new")
	n.write(t, "c", "new")
	n.write(t, "d", "new")
	eventually(t, "several are as new as each alone", func() bool {
		began := time.Now()
		items, err := n.cache.GetMany(t.Context(), []string{"b", "c", "d"})
		check(t, err)
		all := items["b"] == "new" && items["c"] == "new" && items["d"] == "new"
		if !all && began.Sub(acknowledged) > nearcache.DefaultMaxStaleness {
			t.Fatalf("%v after they were written: %v", began.Sub(acknowledged), items)
		}
		return all
	})
	n.write(t, "a", "newer")
	check(t, n.client.Fence(t.Context()))
	want(t, n.cache, "a", "newer")
	if !n.client.Health().Ready {
		t.Error("a replica that is behind makes the node not ready")
	}
	n.stream.release(dataReplies)
	n.awaitReplica(t)
	n.awaitPosition(t)
	before := fetches(t, n.primary)
	n.write(t, "e", "after")
	n.awaitPosition(t)
	want(t, n.cache, "e", "after")
	if now := fetches(t, n.primary); now != before {
		t.Error("the replica has caught up, and is not read")
	}
}

// What is written before a fence is read after it, also where a replica is new enough for the bound and has not applied it.
func TestFenceRefusesAReplicaThatIsBehind(t *testing.T) {
	t.Parallel()
	n := startReplicated(t, 1, func(_ *replicated, o *nearcache.Options) { o.MaxStaleness = endless })
	var keys []string
	for i := range 20 {
		keys = append(keys, fmt.Sprint("k", i))
		n.write(t, keys[i], "old")
	}
	n.awaitPosition(t)
	for _, key := range keys[:10] {
		warm(t, n.cache, key, "old")
	}
	n.stream.hold(dataReplies)
	for _, key := range keys {
		n.write(t, key, "new")
	}
	want(t, n.cache, keys[19], "old") // by the replica
	check(t, n.client.Fence(t.Context()))
	for _, key := range keys {
		want(t, n.cache, key, "new")
	}
	n.stream.release(dataReplies)
	n.awaitPosition(t)
}

// A replica that is promoted, and made a replica again, is read when it has everything, and nothing that it held on its own.
func TestReplicaResynchronised(t *testing.T) {
	t.Parallel()
	n := startReplicated(t, 1, nil)
	replica := n.replicas[0]
	n.write(t, "k", "v")
	n.awaitPosition(t)
	warm(t, n.cache, "k", "v")
	replica.Do(t, "REPLICAOF", "NO", "ONE")
	replica.Do(t, "SET", prefix+"k", "its own")
	n.awaitNoReplica(t)
	want(t, n.cache, "k", "v")
	n.write(t, "k", "after")
	follow(t, replica, n.primary.Addr())
	n.awaitReplica(t)
	n.awaitPosition(t)
	before := fetches(t, n.primary)
	n.write(t, "other", "v")
	n.awaitPosition(t)
	want(t, n.cache, "other", "v")
	if now := fetches(t, n.primary); now != before {
		t.Error("the replica has caught up, and is not read")
	}
	n.settles(t, "k", "after", time.Now())
}

// A replica that is made one of another primary holds what is none of ours.
func TestReplicaOfAnother(t *testing.T) {
	t.Parallel()
	n := startReplicated(t, 1, nil)
	n.write(t, "k", "v")
	n.awaitPosition(t)
	warm(t, n.cache, "k", "v")
	other := redistest.Start(t, redistest.Config{Settings: []string{"repl-diskless-sync-delay 0"}})
	for i := range 1000 { // so that its history is longer
		other.Do(t, "SET", prefix+"k", fmt.Sprint("another's ", i))
	}
	n.replicas[0].Do(t, "REPLICAOF", "127.0.0.1", fmt.Sprint(other.Port()))
	check(t, n.replicas[0].AwaitInSync(bounded(t)))
	n.awaitNoReplica(t)
	for i := range 100 {
		value := fmt.Sprint("v", i)
		n.settles(t, "k", value, n.write(t, "k", value))
	}
	if _, ok := n.reader(); ok {
		t.Error("it is read")
	}
	want(t, n.cache, "k", "v99", nearcache.Fresh())
}

func TestReplicaThatDies(t *testing.T) {
	t.Parallel()
	n := startReplicated(t, 2, nil)
	n.write(t, "k", "v")
	n.awaitPosition(t)
	warm(t, n.cache, "k", "v")
	first := n.awaitReplica(t)
	at := slices.IndexFunc(n.replicas, func(s *redistest.Server) bool { return s.Addr() == first })
	n.replicas[at].Kill()
	n.settles(t, "k", "after", n.write(t, "k", "after")) // at once, and not after a timeout
	eventually(t, "the other replica is read", func() bool {
		address, ok := n.reader()
		return ok && address != first
	})
	n.replicas[1-at].Kill()
	n.settles(t, "k", "without", n.write(t, "k", "without"))
	want(t, n.cache, "k", "without", nearcache.Fresh())
	check(t, n.replicas[at].Restart(bounded(t)))
	eventually(t, "the one that came back is read", func() bool {
		address, ok := n.reader()
		return ok && address == first
	})
	n.settles(t, "k", "at last", n.write(t, "k", "at last"))
}

// A replica that does not announce what is written at the primary is not read.
func TestReplicaHasToProveItself(t *testing.T) {
	t.Parallel()
	var log logbook
	n := prepareReplicated(t, 1, func(n *replicated, o *nearcache.Options) {
		o.Logger = log.logger()
		n.stream.hold(dataReplies)
	})
	eventually(t, "the log says so", func() bool {
		return log.messages(t)["nearcache: a replica cannot be read from, and its primary is; will try again"] > 0
	})
	if links := n.client.Stats().Links; len(links) != 1 {
		t.Errorf("it is read: %+v", links)
	}
	n.settles(t, "k", "v", n.write(t, "k", "v"))
	n.stream.release(dataReplies)
	n.awaitReplica(t)
}

// The selector is told the addresses and, where the server knows it, the zone, and may choose the primary.
func TestSelectorOfReplicas(t *testing.T) {
	t.Parallel()
	primary := redistest.Start(t, redistest.Config{})
	replica := redistest.StartReplica(t, primary, redistest.Config{})
	zone := "here"
	if err := replica.Command(t.Context(), "CONFIG", "SET", "availability-zone", zone).Error(); err != nil {
		zone = "" // only Valkey has any
	}
	told := make(chan []rueidis.NodeInfo, 100)
	options := optionsFor(primary)
	options.Redis.Standalone.ReplicaAddress = []string{replica.Addr()}
	options.Redis.EnableReplicaAZInfo = true
	options.Redis.ReadNodeSelector = func(_ uint16, nodes []rueidis.NodeInfo) int {
		select {
		case told <- slices.Clone(nodes):
		default:
		}
		return 0
	}
	client := open(t, options)
	nodes := receive(t, "the selector is asked", told)
	if len(nodes) != 2 || nodes[0].Addr != primary.Addr() || nodes[1].Addr != replica.Addr() || nodes[1].AZ != zone || nodes[0].AZ != "" {
		t.Errorf("the selector is told of %+v", nodes)
	}
	cache := stringCache(t, client, nil)
	check(t, cache.Set(t.Context(), "k", "v"))
	want(t, cache, "k", "v")
	if links := client.Stats().Links; len(links) != 1 || fetches(t, replica) != 0 {
		t.Errorf("the replica is read, and was not chosen: %+v", links)
	}
}

// Many write and read at once, while the replica falls behind and catches up, and no value goes back.
func TestReplicaUnderWay(t *testing.T) {
	t.Parallel()
	n := startReplicated(t, 1, func(_ *replicated, o *nearcache.Options) { o.MaxStaleness = 200 * time.Millisecond })
	const keys, rounds = 8, 150
	var running sync.WaitGroup
	done := make(chan struct{})
	for key := range keys {
		running.Go(func() {
			for i := range rounds {
				value := fmt.Sprintf("%06d", i)
				if err := n.cache.Set(t.Context(), fmt.Sprint("k", key), value); err != nil {
					t.Errorf("set: %v", err)
				}
				if got, err := n.cache.Get(t.Context(), fmt.Sprint("k", key)); err != nil || got != value {
					t.Errorf("wrote %q and read %q, %v", value, got, err)
				}
			}
		})
	}
	var readers sync.WaitGroup
	for key := range keys {
		readers.Go(func() {
			last := ""
			for i := 0; ; i++ {
				select {
				case <-done:
					return
				default:
				}
				var options []nearcache.ReadOption
				if i%7 == 0 {
					options = append(options, nearcache.Fresh())
				}
				got, err := n.cache.Get(t.Context(), fmt.Sprint("k", key), options...)
				if err == nil && got < last {
					t.Errorf("read %q after %q", got, last)
				}
				last = max(last, got)
			}
		})
	}
	for range 20 {
		n.stream.hold(dataReplies)
		elapse(20 * time.Millisecond)
		n.stream.release(dataReplies)
		elapse(20 * time.Millisecond)
	}
	running.Wait()
	close(done)
	readers.Wait()
}

func TestClusterReplicas(t *testing.T) {
	t.Parallel()
	n := startCluster(t, redistest.ClusterConfig{}, func(o *nearcache.Options) { o.Redis.ReadNodeSelector = rueidis.PreferReplicaNodeSelector() })
	t.Run("with the least rights", func(t *testing.T) {
		for _, node := range n.Nodes() {
			node.Do(t, "ACL", "SETUSER", "least", "on", ">secret", "~"+prefix+"*", "resetchannels", "-@all", "+client|tracking", "+role", "+info", "+readonly",
				"+cluster|myid", "+cluster|slots", "+cluster|shards", "+get", "+set", "+del", "+pttl", "+type")
		}
		options := optionsAt("")
		options.Redis.InitAddress = n.Addresses()
		options.Redis.ReadNodeSelector = rueidis.PreferReplicaNodeSelector()
		options.Redis.Username, options.Redis.Password = "least", "secret"
		client := open(t, options)
		cache := stringCache(t, client, nil)
		check(t, cache.Set(bounded(t), "a", "v"))
		eventually(t, "all replicas are read", func() bool { return len(client.Stats().Links) == 6 })
		want(t, cache, "a", "v")
	})
	n.awaitLinks(t, 6)
	for _, key := range n.keyOfEach(t) {
		primary := n.ownerOf(t, key)
		replica, err := n.ReplicaOf(bounded(t), primary)
		check(t, err)
		readByReplica := func(value string) {
			t.Helper()
			eventually(t, "a read asks the replica alone", func() bool {
				n.write(t, key, value)
				began := time.Now()
				eventually(t, "the replica is known to have it", func() bool {
					return slices.ContainsFunc(n.client.Stats().Links, func(l nearcache.LinkStats) bool {
						return l.Server == replica.Addr() && l.Replica && l.Live && time.Now().Add(-l.Staleness).After(began)
					})
				})
				before, atPrimary := fetches(t, replica), fetches(t, primary)
				want(t, n.cache, key, value)
				return fetches(t, replica) == before+1 && fetches(t, primary) == atPrimary
			})
		}
		readByReplica("v")
		items, err := n.cache.GetMany(t.Context(), n.keyOfEach(t), nearcache.Fresh())
		check(t, err)
		if items[key] != "v" {
			t.Errorf("%q is %q of several", key, items[key])
		}
		for i := range 50 {
			value := fmt.Sprint(i)
			check(t, n.cache.Set(t.Context(), key, value))
			want(t, n.cache, key, value)
		}
		check(t, n.Failover(bounded(t), replica, ""))
		check(t, n.AwaitPromotion(bounded(t), replica))
		check(t, n.AwaitStable(bounded(t)))
		n.settles(t, key, "after", n.write(t, key, "after"))
		n.awaitLinks(t, 6)
		primary, replica = replica, primary
		readByReplica("by the other")
	}
	t.Run("while a slot moves", func(t *testing.T) { // of which a replica does not know
		key := n.keyOfEach(t)[0]
		n.write(t, key, "moved")
		slot, to := n.slotOf(t, key), n.ownerOf(t, n.keyOfEach(t)[1])
		from, err := n.BeginMigration(bounded(t), slot, to)
		check(t, err)
		check(t, n.MigrateKeys(bounded(t), slot, from, to))
		began := time.Now()
		eventually(t, "the replicas have what happened", func() bool {
			return !slices.ContainsFunc(n.client.Stats().Links, func(l nearcache.LinkStats) bool {
				return l.Replica && !time.Now().Add(-l.Staleness).After(began)
			})
		})
		want(t, n.cache, key, "moved")
		items, err := n.cache.GetMany(t.Context(), []string{key})
		check(t, err)
		if items[key] != "moved" {
			t.Errorf("%q is %q of several", key, items[key])
		}
		check(t, n.EndMigration(bounded(t), slot, to))
		n.settles(t, key, "after", n.write(t, key, "after"))
	})
}

func TestSentinelReplicas(t *testing.T) {
	t.Parallel()
	sentinel := redistest.StartSentinel(t, redistest.SentinelConfig{})
	options := sentinelOptions(sentinel)
	options.Redis.ReadNodeSelector = rueidis.PreferReplicaNodeSelector()
	for _, watcher := range sentinel.Sentinels {
		watcher.Do(t, "ACL", "SETUSER", "least", "on", ">secret", "allchannels", "-@all", "+sentinel|get-master-addr-by-name", "+sentinel|master",
			"+sentinel|sentinels", "+sentinel|replicas", "+subscribe", "+unsubscribe", "+ping")
	}
	options.Redis.Sentinel.Username, options.Redis.Sentinel.Password = "least", "secret"
	n := &sentinelNode{Sentinel: sentinel, client: open(t, options)}
	n.cache = stringCache(t, n.client, nil)
	reader := func() (address string) {
		eventually(t, "the replica is read", func() bool {
			links := n.client.Stats().Links
			address = links[len(links)-1].Server
			return len(links) == 2 && links[1].Replica && links[1].Live && links[0].Server == n.primary(t).Addr()
		})
		return address
	}
	before := reader()
	n.write(t, "k", "v")
	eventually(t, "it is read", func() bool {
		got, err := n.cache.Get(t.Context(), "k")
		return err == nil && got == "v"
	})
	old := n.primary(t)
	check(t, n.Failover(t.Context()))
	if after := reader(); after != old.Addr() || after == before {
		t.Errorf("%s is read, and %s was the primary", after, old.Addr())
	}
	n.write(t, "k", "after")
	want(t, n.cache, "k", "after", nearcache.Fresh())
	for i := range 50 {
		value := fmt.Sprint(i)
		check(t, n.cache.Set(t.Context(), "k", value))
		want(t, n.cache, "k", value)
	}
}
