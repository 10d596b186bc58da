package tracking

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-nearcache/nearcache/internal/redistest"
)

// topologies collects what a link tells of the slots.
type topologies struct {
	mu  sync.Mutex
	all []Topology
}

func (o *topologies) record(topology Topology) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.all = append(o.all, topology)
}

func (o *topologies) last() Topology {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.all[len(o.all)-1]
}

func owns(topology Topology, slot int) bool {
	for _, r := range topology.Slots {
		if r.First <= slot && slot <= r.Last {
			return r.Primary.ID == topology.Self
		}
	}
	return false
}

func TestLinksOfACluster(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cluster := redistest.StartCluster(t, redistest.ClusterConfig{})
	primaries, err := cluster.Primaries(ctx)
	check(t, err)
	from, to := primaries[0], primaries[1]
	slot := ownSlot(ctx, t, cluster, from)

	t.Run("is refused to who does not want to know of slots", func(t *testing.T) {
		_, err := Open(ctx, options(from, newRecorder(t), "k:"))
		if !errors.Is(err, ErrClusterNode) {
			t.Errorf("got %v", err)
		}
	})

	t.Run("is refused to a node of another id", func(t *testing.T) {
		o := options(from, newRecorder(t), "k:")
		o.Topology, o.Node = new(topologies).record, cluster.ID(to)
		if _, err := Open(ctx, o); !errors.Is(err, ErrLinkDown) || !strings.Contains(err.Error(), cluster.ID(from)) {
			t.Errorf("got %v", err)
		}
	})

	t.Run("is refused by a replica", func(t *testing.T) {
		replica, err := cluster.ReplicaOf(ctx, from)
		check(t, err)
		o := options(replica, newRecorder(t), "k:")
		o.Topology = new(topologies).record
		if _, err := Open(ctx, o); !errors.Is(err, ErrNotPrimary) {
			t.Errorf("got %v", err)
		}
	})

	t.Run("tells of a lost slot before it confirms anything later", func(t *testing.T) {
		recorder, seen := newRecorder(t), new(topologies)
		o := options(from, recorder, "k:")
		o.Node = cluster.ID(from)
		var lostAt sync.Once
		var confirmed int
		o.Topology = func(topology Topology) {
			seen.record(topology)
			if !owns(topology, slot) {
				lostAt.Do(func() { confirmed = recorder.count("confirm") })
			}
		}
		tracker := open(t, o)
		if !owns(seen.last(), slot) {
			t.Fatalf("the first topology does not have slot %d: %+v", slot, seen.last())
		}
		check(t, cluster.StealSlot(ctx, slot, to))
		lost := time.Now() // the server knows by now
		fence(t, tracker)
		if owns(seen.last(), slot) {
			t.Error("a fence ended before the handler knew of the lost slot")
		}
		for _, call := range recorder.all()[:confirmed] {
			if call.method == "confirm" && call.asOf.After(lost) {
				t.Error("an as-of time after the loss was confirmed before it")
			}
		}
		check(t, cluster.StealSlot(ctx, slot, from))
		check(t, cluster.AwaitStable(ctx))
	})

	t.Run("is lost when its primary is demoted", func(t *testing.T) {
		recorder := newRecorder(t)
		o := options(from, recorder, "k:")
		o.Topology = new(topologies).record
		_ = open(t, o)
		replica, err := cluster.ReplicaOf(ctx, from)
		check(t, err)
		check(t, cluster.Failover(ctx, replica, ""))
		if _, lost := recorder.awaitMethod("lost", 0); !errors.Is(lost.err, ErrNotPrimary) {
			t.Errorf("lost by %v", lost.err)
		}
		check(t, cluster.AwaitStable(ctx))
	})

	t.Run("can be proved", func(t *testing.T) {
		primaries, err := cluster.Primaries(ctx)
		check(t, err)
		for _, s := range primaries {
			check(t, Probe(ctx, s.ClientOption(), "k:"))
		}
		refused := 0
		for _, s := range primaries {
			err := Probe(ctx, s.ClientOption(), "{one}:")
			if errors.Is(err, ErrProbeRefused) {
				refused++
			} else {
				check(t, err)
			}
		}
		if refused != len(primaries)-1 {
			t.Errorf("%d of %d nodes own no key under a prefix with a hash tag", refused, len(primaries))
		}
	})

	t.Run("can be asked for the topology by anybody", func(t *testing.T) {
		for _, s := range cluster.Nodes() {
			topology, err := AskTopology(ctx, s.ClientOption())
			check(t, err)
			owned := 0
			for _, r := range topology.Slots {
				owned += r.Last - r.First + 1
			}
			if owned != Slots {
				t.Errorf("%d slots have owners", owned)
			}
		}
		alone := redistest.Start(t, redistest.Config{})
		if _, err := AskTopology(ctx, alone.ClientOption()); !errors.Is(err, ErrNoTracking) {
			t.Errorf("a server on its own: %v", err)
		}
	})
}

// ownSlot returns a slot of a server.
func ownSlot(ctx context.Context, t *testing.T, cluster *redistest.Cluster, s *redistest.Server) int {
	t.Helper()
	topology, err := AskTopology(ctx, s.ClientOption())
	check(t, err)
	for _, r := range topology.Slots {
		if r.Primary.ID == cluster.ID(s) {
			return r.First
		}
	}
	t.Fatalf("%s owns nothing", s.Addr())
	return 0
}

func TestSlot(t *testing.T) {
	s := redistest.Start(t, redistest.Config{Settings: []string{"cluster-enabled yes"}})
	for _, parts := range [][]string{
		{"123456789"}, {""}, {"user:", "42"}, {"user:", "{42}:x"}, {"{user", "}:42"}, {"{}", "a"}, {"a{", "}b{c}"}, {"{{a}}"}, {"}{", "x}"},
		{"{", "unclosed"}, {"\x00\xff", "{\xfe}"},
	} {
		key := strings.Join(parts, "")
		want, err := s.Command(t.Context(), "CLUSTER", "KEYSLOT", key).AsInt64()
		check(t, err)
		if got := Slot(parts...); int64(got) != want {
			t.Errorf("slot of %q is %d, not %d", parts, want, got)
		}
	}
	if n := testing.AllocsPerRun(100, func() { _ = Slot("user:", "42") }); n != 0 {
		t.Errorf("%v allocations for a key without a hash tag", n)
	}
}
