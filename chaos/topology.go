package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/redis/rueidis"

	"github.com/go-nearcache/nearcache"
	"github.com/go-nearcache/nearcache/internal/oracle"
	"github.com/go-nearcache/nearcache/internal/redistest"
)

// A deployment is several servers, behind which the keys change hands.
type deployment interface {
	// option is how its clients connect.
	option() rueidis.ClientOption
	// servers are those with data, whether they run or not.
	servers() []*redistest.Server
	// calm returns when all is as it was at first.
	calm(ctx context.Context) error
	faults() []topologyFault
	Close() error
}

// A topologyFault does its harm and heals it. Writers go on meanwhile, unless it holds the gate.
type topologyFault struct {
	kind string
	do   func(ctx context.Context, f *topologyFleet) error
}

// A topologyFleet is a deployment, the nodes before it, and everybody who reads, writes and does harm. Its keys are the plain ones.
//
// Servers that fail lose what they have acknowledged and not replicated, which no cache can undo. So the writers pause for the moment in which a
// primary is killed or replaced, until its replica has everything: then nothing is lost, and the oracle knows what each read may return.
// Readers never pause. Two primaries of the same keys, each of which answers its own clients, are outside the promise: a primary is
// not stopped for longer than it takes to be replaced.
type topologyFleet struct {
	deployment
	seed    uint64
	oracle  *oracle.Oracle
	writers *writers
	nodes   []*topologyNode
	pick    *picker // of faults
	counts  map[string]int
	journal journal
}

type topologyNode struct {
	*node
	plain *nearcache.Cache[*item]
}

var topologyBounds = []time.Duration{time.Second, 400 * time.Millisecond, 600 * time.Millisecond, 500 * time.Millisecond}

// replicaReader is the node that reads replicas.
const replicaReader = 3

// openDeployment starts the servers of a topology.
func openDeployment(ctx context.Context, topology string) (deployment, error) {
	switch topology {
	case "cluster":
		c, err := redistest.RunCluster(ctx, redistest.ClusterConfig{})
		return clusterDeployment{c}, err
	case "sentinel":
		s, err := redistest.RunSentinel(ctx, redistest.SentinelConfig{})
		return sentinelDeployment{s}, err
	}
	return nil, fmt.Errorf("chaos: -topology is %q: it must be single, cluster or sentinel", topology)
}

// runTopology does faults of a topology for a while and prints what came of it. It reports whether every promise was kept.
func runTopology(ctx context.Context, topology string, seed uint64, duration time.Duration) (kept bool, err error) {
	fmt.Printf("%s, seed %d\n", topology, seed)
	starting, cancel := context.WithTimeout(ctx, 4*patience)
	defer cancel()
	d, err := openDeployment(starting, topology)
	if err != nil {
		return false, err
	}
	f := &topologyFleet{deployment: d, seed: seed, pick: newPicker(seed, 4<<32), counts: make(map[string]int)}
	defer func() { err = errors.Join(err, f.close()) }()
	var mu sync.Mutex
	shown := 0
	f.oracle = oracle.New(oracle.Options{
		Keys: classCounts[plain], Nodes: len(topologyBounds), Retain: retain,
		OnViolation: func(v oracle.Violation) {
			mu.Lock()
			defer mu.Unlock()
			if shown++; shown <= shownViolations {
				fmt.Printf("%v%s  seed %d\n", v, f.journal.around(v.Read.Began), seed)
			}
		},
	})
	if err := f.start(starting); err != nil {
		return false, err
	}
	began := time.Now()
	err = f.run(ctx, duration)
	fmt.Print(f.summary(time.Since(began)))
	return f.violations() == 0, err
}

func (f *topologyFleet) start(ctx context.Context) error {
	option := f.option()
	option.DisableRetry, option.DisableCache = true, true
	outsider, err := rueidis.NewClient(option)
	if err != nil {
		return err
	}
	f.writers = &writers{oracle: f.oracle, redis: outsider}
	if err := f.writers.writeAll(ctx, plain, 0); err != nil {
		return err
	}
	for id, bound := range topologyBounds {
		options := nearcache.Options{Redis: f.option(), Prefixes: []string{keySpace}, MaxStaleness: bound, RemoteTimeout: 2 * remoteTimeout}
		if id == replicaReader {
			options.Redis.ReadNodeSelector = rueidis.PreferReplicaNodeSelector()
		}
		client, err := nearcache.Open(ctx, options)
		if err != nil {
			return err
		}
		n := &topologyNode{node: &node{nodeConfig: nodeConfig{ID: id, Bound: bound}, client: client}}
		f.nodes = append(f.nodes, n)
		if n.plain, err = nearcache.New(client, nearcache.Config[*item]{Name: classNames[plain], Prefix: plain.prefix(), Codec: codec, TTL: longLife}); err != nil {
			return err
		}
		n.caches[plain] = n.plain
	}
	return nil
}

func (f *topologyFleet) close() (err error) {
	for _, n := range f.nodes {
		err = errors.Join(err, n.close())
	}
	if f.writers != nil {
		f.writers.redis.Close()
	}
	return errors.Join(err, f.Close())
}

// run reads and writes while faults follow each other, and compares everything at times.
func (f *topologyFleet) run(ctx context.Context, duration time.Duration) error {
	ends := time.Now().Add(duration)
	reading, stopReading := context.WithCancel(ctx)
	writing, stopWriting := context.WithCancel(ctx)
	defer stopReading()
	defer stopWriting()
	var readers, writers sync.WaitGroup
	for _, n := range f.nodes {
		for stream := range uint64(4) {
			readers.Go(func() { f.read(reading, n, stream) })
		}
		writers.Go(func() {
			f.write(writing, uint64(n.ID), 10*time.Millisecond, func(ctx context.Context, pick *picker) { f.byNode(ctx, n, pick) })
		})
	}
	for i := range uint64(2) {
		writers.Go(func() { f.write(writing, 100+i, 4*time.Millisecond, f.byOutsider) })
	}
	var err error
	for audited := time.Now(); err == nil && ctx.Err() == nil && time.Now().Before(ends); {
		time.Sleep(time.Duration(f.pick.rng.Int64N(int64(2 * time.Second))))
		err = f.harm(ctx)
		if err == nil && (time.Since(audited) > roundLength || time.Now().After(ends)) {
			err = f.audit(ctx)
			audited = time.Now()
		}
	}
	stopWriting()
	mustEnd("writers", writers.Wait)
	stopReading()
	mustEnd("readers", readers.Wait)
	return errors.Join(err, ctx.Err())
}

// harm does one fault and heals it. Every fault comes before any comes again.
func (f *topologyFleet) harm(ctx context.Context) error {
	all := f.faults()
	least := slices.MinFunc(all, func(a, b topologyFault) int { return f.counts[a.kind] - f.counts[b.kind] })
	all = slices.DeleteFunc(all, func(t topologyFault) bool { return f.counts[t.kind] > f.counts[least.kind] })
	chosen := all[f.pick.rng.IntN(len(all))]
	f.counts[chosen.kind]++
	f.journal.note("%s", chosen.kind)
	ctx, cancel := context.WithTimeout(ctx, 4*patience)
	defer cancel()
	err := chosen.do(ctx, f)
	if err == nil {
		err = f.calm(ctx)
	}
	f.journal.note("%s is over", chosen.kind)
	if err != nil {
		return fmt.Errorf("chaos: %s: %w", chosen.kind, err)
	}
	return nil
}

func (f *topologyFleet) read(ctx context.Context, n *topologyNode, stream uint64) {
	pick := newPicker(f.seed, uint64(n.ID)<<8|stream)
	usual, looser := f.oracle.Reader(n.ID, oracle.Default, n.Bound), f.oracle.Reader(n.ID, oracle.Looser, 2*n.Bound)
	for ctx.Err() == nil {
		switch stream {
		case 0:
			n.readMany(ctx, plain, pick, usual, nil)
		case 1:
			key := pick.hot(plain)
			began := oracle.Now()
			value, err := n.plain.Get(ctx, keyNames[key], nearcache.MaxStaleness(2*n.Bound))
			n.testify(looser, key, value, err, began, oracle.Now())
		default:
			for range 128 {
				key := pick.hot(plain)
				began := oracle.Now()
				value, err := n.plain.Get(ctx, keyNames[key])
				n.testify(usual, key, value, err, began, oracle.Now())
			}
		}
		time.Sleep(burstPause)
	}
}

// write writes at a pace until ctx ends. It returns once no write is under way.
func (f *topologyFleet) write(ctx context.Context, stream uint64, pause time.Duration, write func(context.Context, *picker)) {
	pick := newPicker(f.seed, 1<<32|stream)
	for ctx.Err() == nil {
		f.writers.gate.RLock()
		within, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeTimeout)
		write(within, pick)
		cancel()
		f.writers.gate.RUnlock()
		time.Sleep(time.Duration(pick.rng.Int64N(2 * int64(pause))))
	}
}

func (f *topologyFleet) byNode(ctx context.Context, n *topologyNode, pick *picker) {
	for _, write := range f.writers.begin(n.ID, oracle.Change{}, pick.any(plain)) {
		f.writers.end(write, n.plain.Set(ctx, keyNames[write.Key()], &item{key: write.Key(), version: write.Version()}))
	}
}

func (f *topologyFleet) byOutsider(ctx context.Context, pick *picker) {
	for _, write := range f.writers.begin(oracle.Outside, oracle.Change{}, pick.any(plain)) {
		value := string(encode(write.Key(), write.Version()))
		f.writers.end(write, f.writers.redis.Do(ctx, f.writers.redis.B().Set().Key(fullNames[write.Key()]).Value(value).Build()).Error())
	}
}

// losslessly does something to a primary while nobody writes and its replica has all that it has.
func (f *topologyFleet) losslessly(ctx context.Context, primary *redistest.Server, do func() error) error {
	f.writers.gate.Lock()
	defer f.writers.gate.Unlock()
	for {
		info, err := primary.Command(ctx, "INFO", "replication").ToString()
		if err != nil {
			return fmt.Errorf("chaos: INFO: %w", err)
		}
		offset := redistest.InfoField(info, "master_repl_offset")
		if replica := redistest.InfoField(info, "slave0"); strings.Contains(replica, "state=online") && strings.Contains(replica, "offset="+offset+",") {
			return do()
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("chaos: no replica has everything: %q: %w", info, context.Cause(ctx))
		}
	}
}

// audit compares what every node returns to fresh reads with what was written, while nobody writes and nothing is under way.
func (f *topologyFleet) audit(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 4*patience)
	defer cancel()
	f.writers.gate.Lock()
	defer f.writers.gate.Unlock()
	began := oracle.Now()
	if err := f.killEverywhere(ctx, ""); err != nil {
		return err
	}
	f.oracle.Settle(began)
	for _, n := range f.nodes {
		fresh := f.oracle.Reader(n.ID, oracle.Fresh, 0)
		for key := 0; key < classCounts[plain]; {
			began := oracle.Now()
			value, err := n.plain.Get(ctx, keyNames[key], nearcache.Fresh())
			if err != nil && !errors.Is(err, nearcache.ErrNotFound) {
				if ctx.Err() != nil {
					return fmt.Errorf("chaos: audit of node %d: %w", n.ID, err)
				}
				time.Sleep(10 * time.Millisecond) // the connections have just been cut
				continue
			}
			n.testify(fresh, key, value, err, began, oracle.Now())
			key++
		}
	}
	return nil
}

// killEverywhere is killClients on all servers.
func (f *topologyFleet) killEverywhere(ctx context.Context, flag string) error {
	for _, s := range f.servers() {
		if err := killClients(ctx, s, flag); err != nil {
			return err
		}
	}
	return nil
}

func (f *topologyFleet) violations() (n uint64) {
	for _, count := range f.oracle.Counts().Violations {
		n += count
	}
	return n
}

func (f *topologyFleet) summary(took time.Duration) string {
	counts, groups := f.oracle.Counts(), f.oracle.Groups()
	var failed uint64
	for _, n := range f.nodes {
		failed += n.failedReads.Load()
	}
	var b strings.Builder
	fmt.Fprintf(&b, "\nreads checked  %d in %v, %d undecided, %d failed, %.2f%% from L1\n", counts.Reads, took.Round(time.Second), counts.Undecided, failed, localShare(groups))
	w := f.writers
	fmt.Fprintf(&b, "writes         %d acknowledged, %d refused, %d unknown\nfaults\n", w.acknowledged.Load(), w.refused.Load(), w.unknown.Load())
	for _, fault := range f.faults() {
		fmt.Fprintf(&b, "  %-34s %d\n", fault.kind, f.counts[fault.kind])
	}
	fmt.Fprintln(&b, "staleness")
	for _, g := range groups {
		fmt.Fprintf(&b, "  %v\n", g)
	}
	fmt.Fprintf(&b, "violations     %d\n", f.violations())
	for _, rule := range oracle.Rules() {
		fmt.Fprintf(&b, "  %-20v %d\n", rule, counts.Violations[rule])
	}
	return b.String()
}

// Faults of every deployment.
func commonFaults() []topologyFault {
	return []topologyFault{
		{"links killed", func(ctx context.Context, f *topologyFleet) error { return f.killEverywhere(ctx, "t") }},
		{"all clients killed", func(ctx context.Context, f *topologyFleet) error { return f.killEverywhere(ctx, "") }},
		{"server stopped for a while", func(_ context.Context, f *topologyFleet) error {
			s := f.servers()[f.pick.rng.IntN(len(f.servers()))]
			if err := s.Pause(); err != nil {
				return err
			}
			time.Sleep(time.Duration(100+f.pick.rng.IntN(700)) * time.Millisecond)
			return s.Resume()
		}},
	}
}

// A clusterDeployment is a Redis Cluster.
type clusterDeployment struct{ *redistest.Cluster }

func (d clusterDeployment) option() rueidis.ClientOption {
	return rueidis.ClientOption{InitAddress: d.Addresses(), ReadBufferEachConn: 64 << 10, WriteBufferEachConn: 64 << 10}
}

func (d clusterDeployment) servers() []*redistest.Server { return d.Nodes() }

func (d clusterDeployment) calm(ctx context.Context) error { return d.AwaitStable(ctx) }

// primary returns a random one, and its replica.
func (d clusterDeployment) primary(ctx context.Context, rng *rand.Rand) (primary, replica *redistest.Server, err error) {
	primaries, err := d.Primaries(ctx)
	if err != nil {
		return nil, nil, err
	}
	primary = primaries[rng.IntN(len(primaries))]
	replica, err = d.ReplicaOf(ctx, primary)
	return primary, replica, err
}

// slots moves the slots of some keys, with what do does to each.
func (d clusterDeployment) slots(ctx context.Context, f *topologyFleet, keys int, do func(slot int, from, to *redistest.Server) error) error {
	primaries, err := d.Primaries(ctx)
	if err != nil {
		return err
	}
	for range keys {
		slot, err := d.Slot(ctx, fullNames[f.pick.hot(plain)])
		if err != nil {
			return err
		}
		from, err := d.Owner(ctx, slot)
		if err != nil {
			return err
		}
		to := primaries[f.pick.rng.IntN(len(primaries))]
		if to == from {
			continue
		}
		if err := do(slot, from, to); err != nil {
			return err
		}
	}
	return nil
}

func (d clusterDeployment) faults() []topologyFault {
	return append(commonFaults(),
		topologyFault{"slots moved with their keys", func(ctx context.Context, f *topologyFleet) error {
			return d.slots(ctx, f, 20, func(slot int, _, to *redistest.Server) error { return d.MigrateSlot(ctx, slot, to) })
		}},
		topologyFault{"slots that take their time to move", func(ctx context.Context, f *topologyFleet) error {
			return d.slots(ctx, f, 3, func(slot int, from, to *redistest.Server) error {
				if _, err := d.BeginMigration(ctx, slot, to); err != nil {
					return err
				}
				time.Sleep(300 * time.Millisecond)
				if err := d.MigrateKeys(ctx, slot, from, to); err != nil {
					return err
				}
				time.Sleep(300 * time.Millisecond)
				// What was written meanwhile is at the new owner already.
				return d.EndMigration(ctx, slot, to)
			})
		}},
		topologyFault{"slots moved without their keys", func(ctx context.Context, f *topologyFleet) error {
			loss := f.oracle.BeginLoss()
			err := d.slots(ctx, f, 5, func(slot int, from, to *redistest.Server) error {
				if err := d.StealSlot(ctx, slot, to); err != nil {
					return err
				}
				// Redis 7.0 drops the keys of a slot that it has lost without telling its replicas, who would bring them back.
				return errors.Join(from.Command(ctx, "DEBUG", "CHANGE-REPL-ID").Error(), from.Command(ctx, "CLIENT", "KILL", "TYPE", "REPLICA").Error())
			})
			if err == nil {
				err = d.AwaitStable(ctx)
			}
			loss.End(false)
			return errors.Join(err, f.writers.writeAll(ctx, plain, 0))
		}},
		topologyFault{"failover", func(ctx context.Context, f *topologyFleet) error {
			primary, replica, err := d.primary(ctx, f.pick.rng)
			if err != nil {
				return err
			}
			return f.losslessly(ctx, primary, func() error { return d.Failover(ctx, replica, "") })
		}},
		topologyFault{"primary killed", func(ctx context.Context, f *topologyFleet) error {
			primary, replica, err := d.primary(ctx, f.pick.rng)
			if err != nil {
				return err
			}
			if err := f.losslessly(ctx, primary, func() error { primary.Kill(); return nil }); err != nil {
				return err
			}
			if err := d.AwaitPromotion(ctx, replica); err != nil {
				return err
			}
			return primary.Restart(ctx)
		}},
		topologyFault{"node joins and leaves", func(ctx context.Context, f *topologyFleet) error {
			added, err := d.AddPrimary(ctx)
			if err != nil {
				return err
			}
			home := make(map[int]*redistest.Server)
			if err := d.slots(ctx, f, 10, func(slot int, from, _ *redistest.Server) error {
				if from == added {
					return nil // it was moved a moment ago
				}
				home[slot] = from
				return d.MigrateSlot(ctx, slot, added)
			}); err != nil {
				return err
			}
			time.Sleep(time.Second)
			for slot, s := range home {
				if err := d.MigrateSlot(ctx, slot, s); err != nil {
					return err
				}
			}
			if err := d.AwaitStable(ctx); err != nil {
				return err
			}
			return d.Remove(ctx, added)
		}},
	)
}

// A sentinelDeployment is a primary with a replica, and sentinels.
type sentinelDeployment struct{ *redistest.Sentinel }

func (d sentinelDeployment) option() rueidis.ClientOption {
	option := rueidis.ClientOption{InitAddress: d.Addresses(), ReadBufferEachConn: 64 << 10, WriteBufferEachConn: 64 << 10}
	option.Sentinel.MasterSet = redistest.SentinelMaster
	option.Sentinel.TopologyRefreshInterval = time.Second
	return option
}

func (d sentinelDeployment) servers() []*redistest.Server { return d.Servers }

func (d sentinelDeployment) calm(ctx context.Context) error { return d.AwaitStable(ctx) }

func (d sentinelDeployment) faults() []topologyFault {
	return append(commonFaults(),
		topologyFault{"failover", func(ctx context.Context, f *topologyFleet) error {
			primary, err := d.Primary(ctx)
			if err != nil {
				return err
			}
			// Until the old one is a replica, two would take writes.
			return f.losslessly(ctx, primary, func() error { return errors.Join(d.Failover(ctx), d.AwaitStable(ctx)) })
		}},
		topologyFault{"primary killed", func(ctx context.Context, f *topologyFleet) error {
			primary, err := d.Primary(ctx)
			if err != nil {
				return err
			}
			if err := f.losslessly(ctx, primary, func() error { primary.Kill(); return nil }); err != nil {
				return err
			}
			if err := d.AwaitPrimaryOtherThan(ctx, primary); err != nil {
				return err
			}
			// It comes back as a primary that does not know, until the sentinels tell it.
			return f.whileNobodyWrites(func() error { return errors.Join(primary.Restart(ctx), d.AwaitStable(ctx)) })
		}},
		topologyFault{"sentinels stopped for a while", func(_ context.Context, _ *topologyFleet) (err error) {
			for _, s := range d.Sentinels {
				err = errors.Join(err, s.Pause())
			}
			time.Sleep(time.Second)
			for _, s := range d.Sentinels {
				err = errors.Join(err, s.Resume())
			}
			return err
		}},
	)
}

func (f *topologyFleet) whileNobodyWrites(do func() error) error {
	f.writers.gate.Lock()
	defer f.writers.gate.Unlock()
	return do()
}
