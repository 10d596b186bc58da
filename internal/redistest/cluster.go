package redistest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"
)

// ClusterSlots is the number of slots of every cluster.
const ClusterSlots = 16384

// ClusterConfig says what cluster to start. The zero ClusterConfig is three primaries with a replica each.
type ClusterConfig struct {
	// Primaries is the number of primaries, which share the slots evenly. Default 3.
	Primaries int

	// Replicas is how many each primary has. Default 1; negative for none.
	Replicas int

	// NodeTimeout is the setting cluster-node-timeout: a primary that is silent for so long is failed over. Default 2 s, which a busy machine
	// keeps.
	NodeTimeout time.Duration

	// Server is the configuration of every node.
	Server Config
}

func (c ClusterConfig) withDefaults() ClusterConfig {
	if c.Primaries == 0 {
		c.Primaries = 3
	}
	if c.Replicas == 0 {
		c.Replicas = 1
	}
	c.Replicas = max(c.Replicas, 0)
	if c.NodeTimeout == 0 {
		c.NodeTimeout = 2 * time.Second
	}
	return c
}

// A Cluster is a set of servers that share the slots.
type Cluster struct {
	config ClusterConfig

	mu    sync.Mutex
	nodes []*Server
	ids   map[*Server]string
}

// clusterTimeout bounds what the nodes of a cluster have to agree on. Gossip takes seconds on a loaded machine.
const clusterTimeout = time.Minute

// RunCluster starts a cluster and returns when all of its nodes agree on it. The caller closes it. Errors are those of [Run].
func RunCluster(ctx context.Context, config ClusterConfig) (*Cluster, error) {
	c := &Cluster{config: config.withDefaults(), ids: make(map[*Server]string)}
	ctx, cancel := context.WithTimeout(ctx, clusterTimeout)
	defer cancel()
	if err := c.form(ctx); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

func (c *Cluster) form(ctx context.Context) error {
	primaries := c.config.Primaries
	for range primaries * (1 + c.config.Replicas) {
		if _, err := c.start(ctx); err != nil {
			return err
		}
	}
	for i, s := range c.nodes {
		// Distinct from the beginning, so that no two nodes have to settle it.
		if err := s.Command(ctx, "CLUSTER", "SET-CONFIG-EPOCH", strconv.Itoa(i+1)).Error(); err != nil {
			return fmt.Errorf("redistest: cluster: %w", err)
		}
		if i < primaries {
			if err := s.addSlots(ctx, i*ClusterSlots/primaries, (i+1)*ClusterSlots/primaries-1); err != nil {
				return err
			}
		}
	}
	if err := c.meet(ctx); err != nil {
		return err
	}
	for i, s := range c.nodes[primaries:] {
		if err := c.replicate(ctx, s, c.nodes[i%primaries]); err != nil {
			return err
		}
	}
	return c.AwaitStable(ctx)
}

// start runs one more node, which knows no other.
func (c *Cluster) start(ctx context.Context) (*Server, error) {
	config := c.config.Server
	config.cluster = c.config.NodeTimeout
	s, err := Run(ctx, config)
	if err != nil {
		return nil, err
	}
	id, err := s.Command(ctx, "CLUSTER", "MYID").ToString()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("redistest: CLUSTER MYID: %w", err), s.Close())
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.nodes = append(c.nodes, s)
	c.ids[s] = id
	return s, nil
}

func (s *Server) addSlots(ctx context.Context, first, last int) error {
	command := []string{"CLUSTER", "ADDSLOTS"} // ADDSLOTSRANGE is from Redis 7.0 on
	for slot := first; slot <= last; slot++ {
		command = append(command, strconv.Itoa(slot))
	}
	if err := s.Command(ctx, command...).Error(); err != nil {
		return fmt.Errorf("redistest: CLUSTER ADDSLOTS: %w", err)
	}
	return nil
}

// meet introduces every node to every other, which is faster than waiting for gossip, and returns when all know all.
func (c *Cluster) meet(ctx context.Context) error {
	nodes := c.Nodes()
	for _, s := range nodes {
		for _, other := range nodes {
			if s == other {
				continue
			}
			if err := s.Command(ctx, "CLUSTER", "MEET", "127.0.0.1", strconv.Itoa(other.port)).Error(); err != nil {
				return fmt.Errorf("redistest: CLUSTER MEET: %w", err)
			}
		}
	}
	return c.await(ctx, "every node knows every other", func(s *Server, view ClusterView) error {
		for _, id := range c.allIDs() {
			node, ok := view.node(id)
			if !ok || node.has("handshake") || node.has("noaddr") {
				return fmt.Errorf("%s does not know %s", s.Addr(), id)
			}
		}
		return nil
	})
}

func (c *Cluster) replicate(ctx context.Context, replica, primary *Server) error {
	if err := replica.Command(ctx, "CLUSTER", "REPLICATE", c.ID(primary)).Error(); err != nil {
		return fmt.Errorf("redistest: CLUSTER REPLICATE: %w", err)
	}
	return nil
}

// AddPrimary starts a node that has no slots, and returns when all others know it and it knows who owns what.
func (c *Cluster) AddPrimary(ctx context.Context) (*Server, error) {
	s, err := c.start(ctx)
	if err != nil {
		return nil, err
	}
	if err := c.meet(ctx); err != nil {
		return nil, err
	}
	return s, c.AwaitStable(ctx)
}

// Remove makes all others forget a node, which must have no slots, and ends it.
func (c *Cluster) Remove(ctx context.Context, s *Server) error {
	id := c.ID(s)
	c.mu.Lock()
	c.nodes = slices.DeleteFunc(c.nodes, func(other *Server) bool { return other == s })
	delete(c.ids, s)
	c.mu.Unlock()
	if err := s.Close(); err != nil {
		return err
	}
	for _, other := range c.Nodes() {
		if !other.running() {
			continue
		}
		if err := other.Command(ctx, "CLUSTER", "FORGET", id).Error(); err != nil {
			return fmt.Errorf("redistest: CLUSTER FORGET: %w", err)
		}
	}
	return nil
}

// Close kills all nodes and removes what they kept.
func (c *Cluster) Close() error {
	var errs []error
	for _, s := range c.Nodes() {
		errs = append(errs, s.Close())
	}
	return errors.Join(errs...)
}

// Nodes returns all nodes, those that are killed included.
func (c *Cluster) Nodes() []*Server {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.nodes)
}

// ID returns the id by which the nodes know s.
func (c *Cluster) ID(s *Server) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ids[s]
}

func (c *Cluster) allIDs() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	ids := make([]string, 0, len(c.nodes))
	for _, s := range c.nodes {
		ids = append(ids, c.ids[s])
	}
	return ids
}

func (c *Cluster) byID(id string) *Server {
	c.mu.Lock()
	defer c.mu.Unlock()
	for s, other := range c.ids {
		if id == other {
			return s
		}
	}
	return nil
}

// Addresses returns the addresses of all nodes, for a client's InitAddress.
func (c *Cluster) Addresses() []string {
	var addresses []string
	for _, s := range c.Nodes() {
		addresses = append(addresses, s.Addr())
	}
	return addresses
}

// View returns the cluster as a node that answers sees it.
func (c *Cluster) View(ctx context.Context) (ClusterView, error) {
	var errs []error
	for _, s := range c.Nodes() {
		if !s.running() {
			continue
		}
		view, err := s.ClusterView(ctx)
		if err == nil {
			return view, nil
		}
		errs = append(errs, err)
	}
	return ClusterView{}, errors.Join(errs...)
}

// Owner returns the primary of a slot, as a node that answers sees it.
func (c *Cluster) Owner(ctx context.Context, slot int) (*Server, error) {
	view, err := c.View(ctx)
	if err != nil {
		return nil, err
	}
	for _, node := range view.Nodes {
		if node.owns(slot) {
			if s := c.byID(node.ID); s != nil {
				return s, nil
			}
		}
	}
	return nil, fmt.Errorf("redistest: nobody owns slot %d", slot)
}

// Primaries returns the nodes that own slots, as a node that answers sees it.
func (c *Cluster) Primaries(ctx context.Context) ([]*Server, error) {
	view, err := c.View(ctx)
	if err != nil {
		return nil, err
	}
	var primaries []*Server
	for _, node := range view.Nodes {
		if s := c.byID(node.ID); s != nil && len(node.Slots) > 0 {
			primaries = append(primaries, s)
		}
	}
	return primaries, nil
}

// ReplicaOf returns a replica of primary that is running.
func (c *Cluster) ReplicaOf(ctx context.Context, primary *Server) (*Server, error) {
	view, err := c.View(ctx)
	if err != nil {
		return nil, err
	}
	for _, node := range view.Nodes {
		if s := c.byID(node.ID); node.Primary == c.ID(primary) && s != nil && s.running() {
			return s, nil
		}
	}
	return nil, fmt.Errorf("redistest: %s has no replica", primary.Addr())
}

// Slot returns the slot of a key.
func (c *Cluster) Slot(ctx context.Context, key string) (int, error) {
	for _, s := range c.Nodes() {
		if !s.running() {
			continue
		}
		if slot, err := s.Command(ctx, "CLUSTER", "KEYSLOT", key).AsInt64(); err == nil {
			return int(slot), nil
		}
	}
	return 0, errors.New("redistest: no node of the cluster answers")
}

// Failover promotes a replica and returns when it is a primary. How is how the replica goes about it: "" asks its primary, "FORCE" does not,
// "TAKEOVER" asks nobody.
func (c *Cluster) Failover(ctx context.Context, replica *Server, how string) error {
	command := []string{"CLUSTER", "FAILOVER"}
	if how != "" {
		command = append(command, how)
	}
	ctx, cancel := context.WithTimeout(ctx, clusterTimeout)
	defer cancel()
	if err := replica.Command(ctx, command...).Error(); err != nil {
		return fmt.Errorf("redistest: %q: %w", command, err)
	}
	return c.AwaitPromotion(ctx, replica)
}

// AwaitPromotion waits until a replica owns slots, in its own view.
func (c *Cluster) AwaitPromotion(ctx context.Context, replica *Server) error {
	ctx, cancel := context.WithTimeout(ctx, clusterTimeout)
	defer cancel()
	return awaitTrue(ctx, "a replica is promoted", func() error {
		view, err := replica.ClusterView(ctx)
		if err != nil {
			return err
		}
		if node, ok := view.node(c.ID(replica)); !ok || len(node.Slots) == 0 {
			return fmt.Errorf("%s owns no slots", replica.Addr())
		}
		return nil
	})
}

// MigrateSlot moves a slot with the keys in it, as redis-cli does it: clients are redirected key by key while it goes on.
func (c *Cluster) MigrateSlot(ctx context.Context, slot int, to *Server) error {
	from, err := c.BeginMigration(ctx, slot, to)
	if err != nil || from == to {
		return err
	}
	if err := c.MigrateKeys(ctx, slot, from, to); err != nil {
		return err
	}
	return c.EndMigration(ctx, slot, to)
}

// BeginMigration opens a slot for [Cluster.MigrateKeys] and [Cluster.EndMigration], and returns its present owner.
func (c *Cluster) BeginMigration(ctx context.Context, slot int, to *Server) (from *Server, err error) {
	from, err = c.Owner(ctx, slot)
	if err != nil || from == to {
		return from, err
	}
	number := strconv.Itoa(slot)
	if err := to.Command(ctx, "CLUSTER", "SETSLOT", number, "IMPORTING", c.ID(from)).Error(); err != nil {
		return nil, fmt.Errorf("redistest: CLUSTER SETSLOT IMPORTING: %w", err)
	}
	if err := from.Command(ctx, "CLUSTER", "SETSLOT", number, "MIGRATING", c.ID(to)).Error(); err != nil {
		return nil, fmt.Errorf("redistest: CLUSTER SETSLOT MIGRATING: %w", err)
	}
	return from, nil
}

// MigrateKeys moves the keys that are in the slot.
func (c *Cluster) MigrateKeys(ctx context.Context, slot int, from, to *Server) error {
	for {
		keys, err := from.Command(ctx, "CLUSTER", "GETKEYSINSLOT", strconv.Itoa(slot), "100").AsStrSlice()
		if err != nil {
			return fmt.Errorf("redistest: CLUSTER GETKEYSINSLOT: %w", err)
		}
		if len(keys) == 0 {
			return nil
		}
		command := []string{"MIGRATE", "127.0.0.1", strconv.Itoa(to.port), "", "0", "5000", "AUTH2", AdminUser, AdminPassword, "KEYS"}
		if err := from.Command(ctx, append(command, keys...)...).Error(); err != nil {
			return fmt.Errorf("redistest: MIGRATE: %w", err)
		}
	}
}

// EndMigration gives the slot to its new owner, and returns when all nodes that run know. The new owner has to be told first: should it fail,
// the slot still has the old one.
func (c *Cluster) EndMigration(ctx context.Context, slot int, to *Server) error {
	nodes := c.Nodes()
	slices.SortStableFunc(nodes, func(a, b *Server) int {
		switch {
		case a == to:
			return -1
		case b == to:
			return 1
		}
		return 0
	})
	for _, s := range nodes {
		view, err := s.ClusterView(ctx)
		if err != nil {
			continue // it is down, and learns when it is back
		}
		if self, ok := view.node(c.ID(s)); !ok || self.has("slave") {
			continue
		}
		if err := s.Command(ctx, "CLUSTER", "SETSLOT", strconv.Itoa(slot), "NODE", c.ID(to)).Error(); err != nil {
			return fmt.Errorf("redistest: CLUSTER SETSLOT NODE on %s: %w", s.Addr(), err)
		}
	}
	return nil
}

// StealSlot gives a slot to another node and leaves the keys in it behind, which the old owner drops when it learns of it. It returns
// when it has.
func (c *Cluster) StealSlot(ctx context.Context, slot int, to *Server) error {
	from, err := c.Owner(ctx, slot)
	if err != nil || from == to {
		return err
	}
	number := strconv.Itoa(slot)
	// Importing first, because only then the node claims the slot with an epoch that wins.
	if err := to.Command(ctx, "CLUSTER", "SETSLOT", number, "IMPORTING", c.ID(from)).Error(); err != nil {
		return fmt.Errorf("redistest: CLUSTER SETSLOT IMPORTING: %w", err)
	}
	if err := to.Command(ctx, "CLUSTER", "SETSLOT", number, "NODE", c.ID(to)).Error(); err != nil {
		return fmt.Errorf("redistest: CLUSTER SETSLOT NODE: %w", err)
	}
	return awaitTrue(ctx, "the old owner learns that it has lost the slot", func() error {
		view, err := from.ClusterView(ctx)
		if err != nil {
			return err
		}
		if self, ok := view.node(c.ID(from)); ok && self.owns(slot) {
			return fmt.Errorf("%s still owns slot %d", from.Addr(), slot)
		}
		return nil
	})
}

// AwaitStable waits until all nodes that run find the cluster in order and agree on who owns what, and every replica follows its primary.
func (c *Cluster) AwaitStable(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, clusterTimeout)
	defer cancel()
	var agreed string
	return c.await(ctx, "all nodes agree that the cluster is in order", func(s *Server, view ClusterView) error {
		if s == c.firstRunning() {
			agreed = view.owners()
		}
		if owners := view.owners(); owners != agreed {
			return fmt.Errorf("%s sees other owners: %s and not %s", s.Addr(), owners, agreed)
		}
		info, err := s.Command(ctx, "CLUSTER", "INFO").ToString()
		if err != nil {
			return err
		}
		if state := InfoField(info, "cluster_state"); state != "ok" {
			return fmt.Errorf("%s finds the cluster in state %s", s.Addr(), state)
		}
		self, ok := view.node(c.ID(s))
		if !ok || !self.has("slave") {
			return nil
		}
		if info, err = s.Command(ctx, "INFO", "replication").ToString(); err != nil {
			return err
		}
		if InfoField(info, "master_link_status") != "up" {
			return fmt.Errorf("%s does not follow its primary yet", s.Addr())
		}
		return nil
	})
}

func (c *Cluster) firstRunning() *Server {
	for _, s := range c.Nodes() {
		if s.running() {
			return s
		}
	}
	return nil
}

// await waits until every node that runs satisfies the condition.
func (c *Cluster) await(ctx context.Context, what string, condition func(*Server, ClusterView) error) error {
	return awaitTrue(ctx, what, func() error {
		for _, s := range c.Nodes() {
			if !s.running() {
				continue
			}
			view, err := s.ClusterView(ctx)
			if err != nil {
				return err
			}
			if err := condition(s, view); err != nil {
				return err
			}
		}
		return nil
	})
}

// awaitTrue polls a condition that no event announces.
func awaitTrue(ctx context.Context, what string, condition func() error) error {
	tick := time.NewTicker(10 * pollInterval)
	defer tick.Stop()
	for {
		err := condition()
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("redistest: not in time: %s: %w: %w", what, context.Cause(ctx), err)
		}
	}
}
