package nearcache

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/redis/rueidis"

	"github.com/go-nearcache/nearcache/tracking"
)

// A watch keeps the routing current: of a cluster, or of a primary that sentinels name. The zero watch, of a server on its own, has nothing
// to do.
type watch struct {
	kicked   chan struct{}          // holds a token when the topology may have changed
	reported chan tracking.Topology // the latest that a link told of
}

func newWatch() watch {
	return watch{kicked: make(chan struct{}, 1), reported: make(chan tracking.Topology, 1)}
}

// kick has the topology asked for. It does not block.
func (w *watch) kick() {
	select {
	case w.kicked <- struct{}{}: // a nil channel is never ready
	default:
	}
}

// report passes on what one node says, which replaces what another said and nobody has heeded yet. It does not block.
func (w *watch) report(topology tracking.Topology) {
	for {
		select {
		case w.reported <- topology:
			return
		default:
		}
		select {
		case <-w.reported:
		default:
			if w.reported == nil {
				return
			}
		}
	}
}

// A cluster keeps a server for each primary that owns slots, and the routing. Its fields are those of the goroutine of run, or of Open before
// it.
//
// What is served does not rest on the routing. A value is kept only if it came from the server whose shard its token is of, which answers
// only for what it owns; when a server says that it lost a slot, all that was read from it goes, before its as-of moves on; and every link
// evicts what its server announces, whoever it was read from. The routing only spares redirections, and forgets earlier.
type cluster struct {
	client  *Client
	mu      sync.Mutex // guards what follows while run is running: it may have been given up
	servers map[tracking.Node]*server
	ready   map[*server]bool
	opening map[*server]context.CancelFunc
	view    tracking.Topology
	opened  chan *server
	working sync.WaitGroup // what opens and ends servers in the background
}

const (
	// clusterInterval is how often the topology is asked for when nothing happens. Links tell of changes sooner.
	clusterInterval = 10 * time.Second
	// clusterUnrest is how often while a primary cannot be reached, or slots have no owner.
	clusterUnrest = 500 * time.Millisecond
	// clusterCalm is the least time between two questions: a slot on the move redirects many reads.
	clusterCalm = 50 * time.Millisecond
)

// connectCluster opens a link to every primary. It fails if that is not allowed, or if there is none to be reached; those that are away are
// tried again later.
func (c *Client) connectCluster(ctx context.Context) error {
	if c.options.Redis.ForceSingleClient {
		return optionError("Redis.ForceSingleClient", true, "must be false for a node of a cluster, which owns a part of the keys only")
	}
	c.watch = newWatch()
	cl := &cluster{
		client: c, servers: make(map[tracking.Node]*server), ready: make(map[*server]bool),
		opening: make(map[*server]context.CancelFunc), opened: make(chan *server),
	}
	c.stranger = c.newServer(tracking.Node{Address: c.options.Redis.InitAddress[0]})
	cl.route()
	view, err := cl.ask(ctx)
	if err != nil {
		return fmt.Errorf("nearcache: %w", err)
	}
	primaries := primariesOf(view)
	if len(primaries) == 0 {
		return fmt.Errorf("nearcache: no node of the cluster at %q owns slots: assign them first, with redis-cli --cluster create or fix", c.options.Redis.InitAddress)
	}
	outcomes := make([]error, len(primaries))
	var opening sync.WaitGroup
	for i, node := range primaries {
		s := cl.add(node)
		opening.Go(func() { outcomes[i] = s.open(ctx) })
	}
	opening.Wait()
	var failures []error
	for i, node := range primaries {
		if err := outcomes[i]; err != nil {
			failures = append(failures, err)
		} else {
			cl.ready[cl.servers[node]] = true
		}
	}
	for _, err := range failures {
		if !errors.Is(err, tracking.ErrLinkDown) && !errors.Is(err, tracking.ErrNotPrimary) || len(failures) == len(primaries) {
			return errors.Join(append(failures, cl.close(ctx))...)
		}
		c.warn(ctx, "nearcache: a primary of the cluster cannot be reached; will try again", err)
	}
	if err := cl.connectAny(); err != nil {
		return errors.Join(err, cl.close(ctx))
	}
	for _, s := range cl.servers {
		if cl.ready[s] {
			s.tend()
			if err := s.prove(ctx); err != nil {
				return errors.Join(err, cl.close(ctx))
			}
		}
	}
	cl.view = view
	cl.route()
	c.cluster = cl
	c.background.start(cl.run)
	return nil
}

// connectAny makes the client that follows redirections, for what the routing does not know or knows wrongly.
func (cl *cluster) connectAny() (err error) {
	option := cl.client.options.Redis
	option.InitAddress = nil
	for node, s := range cl.servers {
		if cl.ready[s] {
			option.InitAddress = append(option.InitAddress, node.Address)
		}
	}
	redis, err := rueidis.NewClient(option)
	if err != nil {
		return fmt.Errorf("nearcache: cannot connect to the cluster at %q: %w", option.InitAddress, cl.client.secrets.Redact(err))
	}
	cl.client.redis = redis
	cl.client.stranger.redis = redis
	return nil
}

// add makes a server that is not open yet.
func (cl *cluster) add(node tracking.Node) *server {
	s := cl.client.newServer(node)
	cl.servers[node] = s
	return s
}

// ask asks one node after the other, those with a live link first, until one knows slots with owners.
func (cl *cluster) ask(ctx context.Context) (tracking.Topology, error) {
	var addresses []string
	add := func(address string) {
		if address != "" && !slices.Contains(addresses, address) {
			addresses = append(addresses, address)
		}
	}
	for node, s := range cl.servers {
		if s.shard.Live() {
			add(node.Address)
		}
	}
	for _, r := range cl.view.Slots {
		add(r.Primary.Address)
		for _, replica := range r.Replicas {
			add(replica.Address)
		}
	}
	for _, address := range cl.client.options.Redis.InitAddress {
		add(address)
	}
	var failures []error
	for _, address := range addresses {
		attempt, cancel := context.WithTimeout(ctx, cl.client.options.RemoteTimeout)
		view, err := tracking.AskTopology(attempt, cl.client.optionFor(address))
		cancel()
		switch {
		case err != nil:
			failures = append(failures, err)
		case len(view.Slots) > 0:
			return view, nil
		}
		if ctx.Err() != nil {
			return tracking.Topology{}, errors.Join(append(failures, context.Cause(ctx))...)
		}
	}
	return tracking.Topology{}, errors.Join(failures...)
}

func (cl *cluster) run(ctx context.Context) {
	cl.mu.Lock()
	for _, s := range cl.servers {
		if !cl.ready[s] {
			cl.openLater(ctx, s)
		}
	}
	cl.mu.Unlock()
	timer := time.NewTimer(clusterUnrest)
	defer timer.Stop()
	asked := time.Now()
	for {
		select {
		case view := <-cl.client.watch.reported:
			cl.adopt(ctx, view)
		case s := <-cl.opened:
			cl.nowOpen(ctx, s)
		case <-timer.C:
			cl.refresh(ctx)
			asked = time.Now()
		case <-cl.client.watch.kicked:
			if wait := clusterCalm - time.Since(asked); wait > 0 {
				timer.Reset(wait)
				continue
			}
			cl.refresh(ctx)
			asked = time.Now()
		case <-ctx.Done():
			cl.working.Wait()
			return
		}
		if cl.settled() {
			timer.Reset(clusterInterval)
		} else {
			timer.Reset(clusterUnrest)
		}
	}
}

func (cl *cluster) refresh(ctx context.Context) {
	view, err := cl.ask(ctx)
	if err == nil && len(view.Slots) > 0 {
		cl.adopt(ctx, view)
	}
}

// settled reports whether every slot has an owner whose link is live.
func (cl *cluster) settled() bool {
	owned := 0
	for _, r := range cl.view.Slots {
		s := cl.servers[r.Primary]
		if s == nil || !s.degraded() && !s.shard.Live() {
			return false
		}
		owned += r.Last - r.First + 1
	}
	return owned == tracking.Slots
}

// adopt makes a view the one to route by: new primaries are opened, others are let go.
func (cl *cluster) adopt(ctx context.Context, view tracking.Topology) {
	if len(view.Slots) == 0 {
		return // of a node that belongs to no cluster, or not yet
	}
	cl.mu.Lock()
	defer cl.mu.Unlock()
	cl.view = view
	primaries := primariesOf(view)
	for _, node := range primaries {
		if cl.servers[node] == nil {
			cl.openLater(ctx, cl.add(node))
		}
	}
	var gone []*server
	for node, s := range cl.servers {
		if slices.Contains(primaries, node) {
			continue
		}
		delete(cl.servers, node)
		if cancel := cl.opening[s]; cancel != nil {
			cancel()
			delete(cl.opening, s)
			continue
		}
		delete(cl.ready, s)
		gone = append(gone, s)
	}
	cl.route()
	for _, s := range gone {
		cl.working.Go(func() { cl.leave(ctx, s) })
	}
}

// openLater has a server opened in the background, tried again until it succeeds or is not wanted any more.
func (cl *cluster) openLater(ctx context.Context, s *server) {
	ctx, cancel := context.WithCancel(ctx)
	cl.opening[s] = cancel
	cl.working.Go(func() {
		defer cancel()
		for {
			err := s.open(ctx)
			if err == nil {
				select {
				case cl.opened <- s:
				case <-ctx.Done():
					cl.end(ctx, s)
				}
				return
			}
			select {
			case <-time.After(clusterUnrest):
			case <-ctx.Done():
				cl.end(ctx, s)
				return
			}
		}
	})
}

// nowOpen has a server that was opened in the background take part, unless it is not wanted any more.
func (cl *cluster) nowOpen(ctx context.Context, s *server) {
	cl.mu.Lock()
	defer cl.mu.Unlock()
	if cl.opening[s] == nil {
		cl.working.Go(func() { cl.leave(ctx, s) })
		return
	}
	delete(cl.opening, s)
	cl.ready[s] = true
	s.tend()
	cl.route()
}

// leave ends a server that owns nothing any more. Requests may still be on its connections, and are given the time to be answered.
func (cl *cluster) leave(ctx context.Context, s *server) {
	s.shard.Suspend()
	select {
	case <-time.After(2 * cl.client.options.RemoteTimeout):
	case <-ctx.Done():
	}
	cl.end(ctx, s)
}

// end closes a server, and gives up on what does not end in time.
func (cl *cluster) end(ctx context.Context, s *server) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cl.client.options.RemoteTimeout)
	defer cancel()
	_ = s.close(ctx)
}

// route publishes the routing. What was read from a server that has lost a slot is forgotten after that, and not before: then a token that
// survives was taken by somebody who finds the new routing when he looks whether he may keep his value.
func (cl *cluster) route() {
	c := cl.client
	next := &routing{slots: new([tracking.Slots]*server)}
	for slot := range next.slots {
		next.slots[slot] = c.stranger
	}
	for _, r := range cl.view.Slots {
		s := cl.servers[r.Primary]
		if s == nil || !cl.ready[s] {
			continue
		}
		for slot := r.First; slot <= r.Last; slot++ {
			next.slots[slot] = s
		}
	}
	next.servers = slices.Collect(maps.Values(cl.servers))
	slices.SortFunc(next.servers, func(a, b *server) int { return compareAddress(a.node, b.node) })
	before := c.routing.Swap(next)
	if before == nil || before.slots == nil {
		return
	}
	lost := make(map[*server]bool)
	for slot, s := range before.slots {
		if s != next.slots[slot] {
			lost[s] = true
		}
	}
	delete(lost, c.stranger)
	for s := range lost {
		(*linkHandler)(s).flush(&c.flushes.topology)
	}
}

func compareAddress(a, b tracking.Node) int {
	switch {
	case a.Address < b.Address:
		return -1
	case a.Address > b.Address:
		return 1
	}
	return 0
}

// close ends all servers. Nothing else may be running.
func (cl *cluster) close(ctx context.Context) error {
	cl.mu.Lock()
	defer cl.mu.Unlock()
	return inParallel(slices.Collect(maps.Values(cl.servers)), func(s *server) error { return s.close(ctx) })
}

// primariesOf returns the nodes that own slots and whose addresses are known.
func primariesOf(view tracking.Topology) []tracking.Node {
	var primaries []tracking.Node
	for _, r := range view.Slots {
		if r.Primary.Address != "" && !slices.Contains(primaries, r.Primary) {
			primaries = append(primaries, r.Primary)
		}
	}
	return primaries
}
