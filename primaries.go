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

// Primaries keep a server for each primary that owns keys, and the routing: of a cluster, or of the one that sentinels name. The fields are those
// of the goroutine of run, or of Open before it.
//
// What is served does not rest on the routing. A value is kept only if it came from the server whose shard its token is of, which answers
// only for what it owns; when a server says that it lost a slot, all that was read from it goes, before its as-of moves on; and every link
// evicts what its server announces, whoever it was read from. The routing only spares redirections, and forgets earlier.
type primaries struct {
	client  *Client
	source  topologySource
	mu      sync.Mutex // guards what follows while run is running: it may have been given up
	servers map[tracking.Node]*server
	ready   map[*server]bool
	opening map[*server]context.CancelFunc
	view    tracking.Topology
	opened  chan *server
	working sync.WaitGroup // what opens and ends servers in the background
}

// A topologySource knows which servers are primaries.
type topologySource interface {
	// ask returns who owns which slots. It is called by one goroutine at a time.
	ask(ctx context.Context, p *primaries) (tracking.Topology, error)
	// option says how a client connects that finds the server of a key by itself, given those that can be reached.
	option(reached []string) rueidis.ClientOption
	// interval is how often the topology is asked for when nothing happens.
	interval() time.Duration
	// slotted reports whether the keys are divided into slots.
	slotted() bool
	close()
}

const (
	// unrest is how often the topology is asked for while a primary cannot be reached, or slots have no owner.
	unrest = 500 * time.Millisecond
	// calm is the least time between two questions: a slot on the move redirects many reads.
	calm = 50 * time.Millisecond
)

// connectPrimaries opens a link to every primary. It fails if that is not allowed, or if there is none to be reached; those that are away are
// tried again later.
func (c *Client) connectPrimaries(ctx context.Context, source topologySource) error {
	c.watch = newWatch()
	p := &primaries{
		client: c, source: source, servers: make(map[tracking.Node]*server), ready: make(map[*server]bool),
		opening: make(map[*server]context.CancelFunc), opened: make(chan *server),
	}
	c.stranger = c.newServer(tracking.Node{Address: c.options.Redis.InitAddress[0]})
	c.primaries = p
	p.route()
	if c.options.Bus != nil && c.nodes == nil {
		if err := c.connectNodes(ctx); err != nil {
			return err
		}
	}
	view, err := source.ask(ctx, p)
	if err != nil {
		return fmt.Errorf("nearcache: %w", c.secrets.Redact(err))
	}
	primaries := primariesOf(view)
	outcomes := make([]error, len(primaries))
	var opening sync.WaitGroup
	for i, node := range primaries {
		s := p.add(node)
		opening.Go(func() { outcomes[i] = s.open(ctx) })
	}
	opening.Wait()
	var failures []error
	for i, node := range primaries {
		if err := outcomes[i]; err != nil {
			failures = append(failures, err)
		} else {
			p.ready[p.servers[node]] = true
		}
	}
	for _, err := range failures {
		if !errors.Is(err, tracking.ErrLinkDown) && !errors.Is(err, tracking.ErrNotPrimary) || len(failures) == len(primaries) {
			return errors.Join(failures...)
		}
		c.warn(ctx, "nearcache: a primary cannot be reached; will try again", err)
	}
	if err := p.connectAny(); err != nil {
		return err
	}
	for _, s := range p.servers {
		if p.ready[s] {
			s.tend()
			if err := s.prove(ctx); err != nil {
				return err
			}
		}
	}
	p.view = view
	p.route()
	c.background.start(p.run)
	return nil
}

// connectAny makes the client that finds the server of a key by itself, for what the routing does not know or knows wrongly.
func (p *primaries) connectAny() error {
	var reached []string
	for node, s := range p.servers {
		if p.ready[s] {
			reached = append(reached, node.Address)
		}
	}
	option := p.source.option(reached)
	redis, err := rueidis.NewClient(option)
	if err != nil {
		return fmt.Errorf("nearcache: cannot connect to Redis at %q: %w", option.InitAddress, p.client.secrets.Redact(err))
	}
	p.client.redis = redis
	p.client.stranger.redis = redis
	return nil
}

// add makes a server that is not open yet.
func (p *primaries) add(node tracking.Node) *server {
	s := p.client.newServer(node)
	p.servers[node] = s
	return s
}

func (p *primaries) run(ctx context.Context) {
	p.mu.Lock()
	for _, s := range p.servers {
		if !p.ready[s] {
			p.openLater(ctx, s)
		}
	}
	p.mu.Unlock()
	timer := time.NewTimer(unrest)
	defer timer.Stop()
	asked := time.Now()
	for {
		select {
		case view := <-p.client.watch.reported:
			p.adopt(ctx, view)
		case s := <-p.opened:
			p.nowOpen(ctx, s)
		case <-timer.C:
			p.refresh(ctx)
			asked = time.Now()
		case <-p.client.watch.kicked:
			if wait := calm - time.Since(asked); wait > 0 {
				timer.Reset(wait)
				continue
			}
			p.refresh(ctx)
			asked = time.Now()
		case <-ctx.Done():
			p.working.Wait()
			return
		}
		if p.settled() {
			timer.Reset(p.source.interval())
		} else {
			timer.Reset(unrest)
		}
	}
}

func (p *primaries) refresh(ctx context.Context) {
	view, err := p.source.ask(ctx, p)
	if err == nil && len(view.Slots) > 0 {
		p.adopt(ctx, view)
	}
}

// settled reports whether every slot has an owner whose link is live.
func (p *primaries) settled() bool {
	owned := 0
	for _, r := range p.view.Slots {
		s := p.servers[r.Primary]
		if s == nil || !s.degraded() && !s.shard.Live() {
			return false
		}
		owned += r.Last - r.First + 1
	}
	return owned == tracking.Slots
}

// adopt makes a view the one to route by: new primaries are opened, others are let go.
func (p *primaries) adopt(ctx context.Context, view tracking.Topology) {
	if len(view.Slots) == 0 {
		return // of a node that belongs to no cluster, or not yet
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.view = view
	primaries := primariesOf(view)
	for _, node := range primaries {
		if p.servers[node] == nil {
			p.openLater(ctx, p.add(node))
		}
	}
	var gone []*server
	for node, s := range p.servers {
		if slices.Contains(primaries, node) {
			continue
		}
		delete(p.servers, node)
		if cancel := p.opening[s]; cancel != nil {
			cancel()
			delete(p.opening, s)
			continue
		}
		delete(p.ready, s)
		gone = append(gone, s)
	}
	p.route()
	for _, s := range gone {
		p.working.Go(func() { p.leave(ctx, s) })
	}
}

// openLater has a server opened in the background, tried again until it succeeds or is not wanted any more.
func (p *primaries) openLater(ctx context.Context, s *server) {
	ctx, cancel := context.WithCancel(ctx)
	p.opening[s] = cancel
	p.working.Go(func() {
		defer cancel()
		for {
			err := s.open(ctx)
			if err == nil {
				select {
				case p.opened <- s:
				case <-ctx.Done():
					p.end(ctx, s)
				}
				return
			}
			select {
			case <-time.After(unrest):
			case <-ctx.Done():
				p.end(ctx, s)
				return
			}
		}
	})
}

// nowOpen has a server that was opened in the background take part, unless it is not wanted any more.
func (p *primaries) nowOpen(ctx context.Context, s *server) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.opening[s] == nil {
		p.working.Go(func() { p.leave(ctx, s) })
		return
	}
	delete(p.opening, s)
	p.ready[s] = true
	s.tend()
	p.route()
}

// leave ends a server that owns nothing any more. Requests may still be on its connections, and are given the time to be answered.
func (p *primaries) leave(ctx context.Context, s *server) {
	s.suspend()
	select {
	case <-time.After(2 * p.client.options.RemoteTimeout):
	case <-ctx.Done():
	}
	p.end(ctx, s)
}

// end closes a server, and gives up on what does not end in time.
func (p *primaries) end(ctx context.Context, s *server) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), p.client.options.RemoteTimeout)
	defer cancel()
	_ = s.close(ctx)
}

// route publishes the routing. What was read from a server that has lost a slot is forgotten after that, and not before: then a token that
// survives was taken by somebody who finds the new routing when he looks whether he may keep his value.
func (p *primaries) route() {
	c := p.client
	next := &routing{only: c.stranger}
	if p.source.slotted() {
		next.only, next.slots = nil, new([tracking.Slots]*server)
		for slot := range next.slots {
			next.slots[slot] = c.stranger
		}
	}
	replicas := make(map[*server][]tracking.Node)
	for _, r := range p.view.Slots {
		s := p.servers[r.Primary]
		if s != nil {
			for _, node := range r.Replicas {
				if !slices.Contains(replicas[s], node) {
					replicas[s] = append(replicas[s], node)
				}
			}
		}
		switch {
		case s == nil || !p.ready[s]:
		case next.slots == nil:
			next.only = s
		default:
			for slot := r.First; slot <= r.Last; slot++ {
				next.slots[slot] = s
			}
		}
	}
	for _, s := range p.servers {
		s.replicas.set(replicas[s])
	}
	next.servers = slices.Collect(maps.Values(p.servers))
	slices.SortFunc(next.servers, func(a, b *server) int { return compareAddress(a.node, b.node) })
	before := c.routing.Swap(next)
	for s := range before.lostTo(next) {
		if s != c.stranger {
			(*linkHandler)(s).flush(&c.flushes.topology)
		}
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
func (p *primaries) close(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.source.close()
	return inParallel(slices.Collect(maps.Values(p.servers)), func(s *server) error { return s.close(ctx) })
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
