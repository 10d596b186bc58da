package nearcache

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"

	"github.com/go-nearcache/nearcache/tracking"
)

// connectSentinel opens a link to the primary that sentinels name.
func (c *Client) connectSentinel(ctx context.Context) error {
	return c.connectPrimaries(ctx, newSentinels(c.options, func() { c.watch.kick() }))
}

// Sentinels are asked for the primary, all at once. Each failover gives its outcome a higher number, the configuration epoch, so of two
// answers the one with the higher number is newer, and one sentinel that knows is enough: the others learn of a failover seconds after the one that
// led it. A sentinel that was cut off is not believed against one that was not.
//
// Sentinels announce a failover when they learn of it, which has them asked. Announcements are lost with connections, so they are asked every
// second as well.
type sentinels struct {
	options rueidis.ClientOption
	timeout time.Duration
	kick    func()

	ctx     context.Context // ends with close
	cancel  context.CancelFunc
	running sync.WaitGroup

	// Of the goroutine that asks.
	known     []*sentinel
	named     naming
	confirmed time.Time // when a sentinel last said what named says, or something newer
}

type sentinel struct {
	address   string
	listening atomic.Bool

	mu     sync.Mutex // held while the sentinel is asked
	client rueidis.Client
}

// naming is what a sentinel says.
type naming struct {
	epoch    int64
	primary  string
	replicas []tracking.Node // if they are to be read
}

// amnesia is how long an answer is held against all sentinels, who may have been set up anew and count from the beginning. They tell each
// other of a failover within seconds.
const amnesia = 15 * time.Second

// straggling is how long the others are waited for once most have answered: one that hangs holds nobody up, and one that knows more may come
// last.
const straggling = 50 * time.Millisecond

func newSentinels(options Options, kick func()) *sentinels {
	s := &sentinels{options: options.Redis, timeout: options.RemoteTimeout, kick: kick}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	for _, address := range options.Redis.InitAddress {
		s.know(address)
	}
	return s
}

func (s *sentinels) know(address string) {
	if !slices.ContainsFunc(s.known, func(other *sentinel) bool { return other.address == address }) {
		s.known = append(s.known, &sentinel{address: address})
	}
}

func (s *sentinels) option([]string) rueidis.ClientOption { return withoutReplicas(s.options) }

// interval is short, because a primary that was replaced may not know, and no link to it tells.
func (s *sentinels) interval() time.Duration { return time.Second }

func (s *sentinels) slotted() bool { return false }

// ask returns the primary as the owner of all keys.
func (s *sentinels) ask(ctx context.Context, _ *primaries) (tracking.Topology, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	type answer struct {
		naming
		others []string
		err    error
	}
	answers := make(chan answer, len(s.known))
	asked := 0
	for _, one := range s.known {
		if !one.mu.TryLock() {
			continue // it has not answered the last question yet
		}
		asked++
		s.running.Go(func() {
			defer one.mu.Unlock()
			var a answer
			a.naming, a.others, a.err = s.askOne(ctx, one)
			answers <- a
		})
	}
	var best answer
	var failures []error
	said, most := 0, len(s.known)/2+1
	enough := ctx
	for range asked {
		var a answer
		select {
		case a = <-answers:
		case <-enough.Done():
			a.err = context.Cause(enough)
		}
		if a.err != nil {
			failures = append(failures, a.err)
		} else if said++; said == 1 || a.epoch > best.epoch {
			best = a
		}
		if said == most {
			var done context.CancelFunc
			enough, done = context.WithTimeout(ctx, straggling)
			defer done()
		}
	}
	if said == 0 {
		return tracking.Topology{}, s.trouble(failures)
	}
	for _, address := range best.others {
		s.know(address)
	}
	now := time.Now()
	if best.epoch >= s.named.epoch || now.Sub(s.confirmed) > amnesia && said >= most {
		s.named, s.confirmed = best.naming, now
	}
	return tracking.Topology{Slots: []tracking.SlotRange{{
		Last: tracking.Slots - 1, Primary: tracking.Node{Address: s.named.primary}, Replicas: s.named.replicas,
	}}}, nil
}

// errUnknownMaster is the answer of a sentinel that does not know the name.
var errUnknownMaster = errors.New("the sentinel knows no primary of this name")

// askOne asks one sentinel. ctx ends the caller's waiting, and what is not bounded by ctx is by the timeout of the sentinel's dialer.
func (s *sentinels) askOne(ctx context.Context, one *sentinel) (naming, []string, error) {
	if one.client == nil {
		client, err := rueidis.NewClient(s.optionFor(one.address))
		if err != nil {
			if client != nil {
				client.Close()
			}
			return naming{}, nil, fmt.Errorf("sentinel %s: %w", one.address, err)
		}
		one.client = client
	}
	s.listen(one)
	ask := func(what string) rueidis.Completed {
		return one.client.B().Arbitrary("SENTINEL", what, s.options.Sentinel.MasterSet).Build()
	}
	questions := rueidis.Commands{ask("GET-MASTER-ADDR-BY-NAME"), ask("MASTER"), ask("SENTINELS")}
	if s.options.ReadNodeSelector != nil {
		questions = append(questions, ask("REPLICAS"))
	}
	results := one.client.DoMulti(ctx, questions...)
	address, err := results[0].AsStrSlice()
	if rueidis.IsRedisNil(err) {
		return naming{}, nil, errUnknownMaster
	}
	state, stateErr := results[1].AsStrMap()
	others, othersErr := results[2].ToArray()
	if err = errors.Join(err, stateErr, othersErr); err != nil {
		return naming{}, nil, fmt.Errorf("sentinel %s: %w", one.address, err)
	}
	epoch, err := strconv.ParseInt(state["config-epoch"], 10, 64)
	if err != nil || len(address) != 2 {
		return naming{}, nil, fmt.Errorf("sentinel %s: it names the primary %q with the configuration epoch %q", one.address, address, state["config-epoch"])
	}
	var addresses []string
	for _, other := range others {
		if fields, err := other.AsStrMap(); err == nil && fields["ip"] != "" {
			addresses = append(addresses, net.JoinHostPort(fields["ip"], fields["port"]))
		}
	}
	named := naming{epoch: epoch, primary: net.JoinHostPort(address[0], address[1])}
	if s.options.ReadNodeSelector != nil {
		if named.replicas, err = readable(results[3]); err != nil {
			return naming{}, nil, fmt.Errorf("sentinel %s: %w", one.address, err)
		}
	}
	return named, addresses, nil
}

// readable returns the replicas in an answer that the sentinel itself reaches, and that reach their primary.
func readable(answer rueidis.RedisResult) (nodes []tracking.Node, err error) {
	replicas, err := answer.ToArray()
	if err != nil {
		return nil, err
	}
	for _, replica := range replicas {
		fields, err := replica.AsStrMap()
		if err == nil && fields["flags"] == "slave" && fields["master-link-status"] == "ok" {
			nodes = append(nodes, tracking.Node{Address: net.JoinHostPort(fields["ip"], fields["port"])})
		}
	}
	slices.SortFunc(nodes, compareAddress)
	return nodes, nil
}

// listen has the sentinel tell of failovers, if it does not yet. It is tried again with each question.
func (s *sentinels) listen(one *sentinel) {
	if !one.listening.CompareAndSwap(false, true) {
		return
	}
	client := one.client
	s.running.Go(func() {
		defer one.listening.Store(false)
		_ = client.Receive(s.ctx, client.B().Subscribe().Channel("+switch-master").Build(), func(rueidis.PubSubMessage) { s.kick() })
	})
}

// trouble is the error of having learnt nothing.
func (s *sentinels) trouble(failures []error) error {
	name := s.options.Sentinel.MasterSet
	if slices.ContainsFunc(failures, func(err error) bool { return errors.Is(err, errUnknownMaster) }) {
		return fmt.Errorf("the sentinels at %q know no primary %q: correct Options.Redis.Sentinel.MasterSet (SENTINEL MASTERS lists the names)",
			s.options.InitAddress, name)
	}
	return fmt.Errorf("no sentinel at %q says which server is the primary %q: start them, or correct Options.Redis.InitAddress and Sentinel: %w",
		s.options.InitAddress, name, errors.Join(failures...))
}

// optionFor says how to connect to one sentinel, as rueidis does.
func (s *sentinels) optionFor(address string) rueidis.ClientOption {
	option := withoutReplicas(s.options)
	option.InitAddress = []string{address}
	option.Username, option.Password, option.ClientName = option.Sentinel.Username, option.Sentinel.Password, option.Sentinel.ClientName
	option.Dialer, option.TLSConfig = option.Sentinel.Dialer, option.Sentinel.TLSConfig
	option.SelectDB = 0
	option.Sentinel = rueidis.SentinelOption{}
	option.ForceSingleClient = true
	option.ClientSetInfo = rueidis.DisableClientSetInfo
	option.PipelineMultiplex = -1
	option.RingScaleEachConn = 3
	option.ReadBufferEachConn, option.WriteBufferEachConn = 4096, 4096
	return option
}

// close ends the connections. Nobody may be asking.
func (s *sentinels) close() {
	s.cancel()
	s.running.Wait()
	for _, one := range s.known {
		if one.client != nil {
			one.client.Close()
		}
	}
}
