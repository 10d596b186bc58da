package redistest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"
)

// SentinelMaster is the name by which the sentinels of a [Sentinel] know their primary.
const SentinelMaster = "nearcache"

// SentinelConfig says what to start. The zero SentinelConfig is a primary with one replica, watched by three sentinels of which two must
// agree.
type SentinelConfig struct {
	// Replicas is how many replicas the primary has. Default 1.
	Replicas int

	// DownAfter is how long a server is silent before a sentinel takes it for down. Default 2 s, which a busy machine keeps.
	DownAfter time.Duration

	// Server is the configuration of every data server.
	Server Config
}

func (c SentinelConfig) withDefaults() SentinelConfig {
	if c.Replicas == 0 {
		c.Replicas = 1
	}
	if c.DownAfter == 0 {
		c.DownAfter = 2 * time.Second
	}
	return c
}

// A Sentinel is a primary with replicas and the sentinels that watch them.
type Sentinel struct {
	Servers   []*Server // the first began as the primary
	Sentinels []*Server
}

// sentinels is how many watch, and quorum how many of them must agree.
const (
	sentinels = 3
	quorum    = 2
)

// RunSentinel starts everything and returns when every sentinel knows the others and the replicas. The caller closes it. Errors are those
// of [Run].
func RunSentinel(ctx context.Context, config SentinelConfig) (*Sentinel, error) {
	config = config.withDefaults()
	ctx, cancel := context.WithTimeout(ctx, clusterTimeout)
	defer cancel()
	s := new(Sentinel)
	if err := s.form(ctx, config); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *Sentinel) form(ctx context.Context, config SentinelConfig) error {
	primary, err := Run(ctx, config.Server)
	if err != nil {
		return err
	}
	s.Servers = append(s.Servers, primary)
	for range config.Replicas {
		replica, err := RunReplica(ctx, primary, config.Server)
		if err != nil {
			return err
		}
		s.Servers = append(s.Servers, replica)
	}
	for range sentinels {
		watcher, err := Run(ctx, Config{Binary: config.Server.Binary, watches: primary, downAfter: config.DownAfter})
		if err != nil {
			return err
		}
		s.Sentinels = append(s.Sentinels, watcher)
	}
	return s.AwaitStable(ctx)
}

// AwaitStable waits until every sentinel that runs knows the other sentinels and a replica of the primary for each other server that runs.
func (s *Sentinel) AwaitStable(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, clusterTimeout)
	defer cancel()
	return awaitTrue(ctx, "the sentinels know each other and all replicas", func() error {
		for _, watcher := range s.Sentinels {
			if !watcher.running() {
				continue
			}
			state, err := watcher.Command(ctx, "SENTINEL", "MASTER", SentinelMaster).AsStrMap()
			if err != nil {
				return err
			}
			if state["num-other-sentinels"] != strconv.Itoa(sentinels-1) || state["num-slaves"] != strconv.Itoa(len(s.Servers)-1) || state["flags"] != "master" {
				return fmt.Errorf("sentinel %s: %v", watcher.Addr(), state)
			}
			replicas, err := watcher.Command(ctx, "SENTINEL", "REPLICAS", SentinelMaster).ToArray()
			if err != nil {
				return err
			}
			for _, message := range replicas {
				replica, err := message.AsStrMap()
				if err != nil {
					return err
				}
				if replica["flags"] != "slave" || replica["master-link-status"] != "ok" || replica["master-port"] != state["port"] {
					return fmt.Errorf("sentinel %s: replica %v", watcher.Addr(), replica)
				}
			}
		}
		return nil
	})
}

// Addresses returns the addresses of the sentinels, for a client's InitAddress.
func (s *Sentinel) Addresses() []string {
	var addresses []string
	for _, watcher := range s.Sentinels {
		addresses = append(addresses, watcher.Addr())
	}
	return addresses
}

// Primary returns the server that a sentinel names.
func (s *Sentinel) Primary(ctx context.Context) (*Server, error) {
	var errs []error
	for _, watcher := range s.Sentinels {
		if !watcher.running() {
			continue
		}
		address, err := watcher.Command(ctx, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", SentinelMaster).AsStrSlice()
		if err != nil || len(address) != 2 {
			errs = append(errs, fmt.Errorf("redistest: sentinel %s: %q: %w", watcher.Addr(), address, err))
			continue
		}
		for _, server := range s.Servers {
			if server.Addr() == net.JoinHostPort(address[0], address[1]) {
				return server, nil
			}
		}
	}
	return nil, errors.Join(append(errs, errors.New("redistest: no sentinel names a server of this deployment"))...)
}

// Failover has the sentinels promote a replica of a primary that is in order, and returns when all of them name it.
func (s *Sentinel) Failover(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, clusterTimeout)
	defer cancel()
	old, err := s.Primary(ctx)
	if err != nil {
		return err
	}
	// A sentinel that has just been through a failover refuses the next for a while.
	err = awaitTrue(ctx, "a sentinel begins a failover", func() error {
		return s.Sentinels[0].Command(ctx, "SENTINEL", "FAILOVER", SentinelMaster).Error()
	})
	if err != nil {
		return err
	}
	return s.AwaitPrimaryOtherThan(ctx, old)
}

// AwaitPrimaryOtherThan waits until every sentinel that runs names another primary than old.
func (s *Sentinel) AwaitPrimaryOtherThan(ctx context.Context, old *Server) error {
	ctx, cancel := context.WithTimeout(ctx, clusterTimeout)
	defer cancel()
	return awaitTrue(ctx, "the sentinels name another primary", func() error {
		for _, watcher := range s.Sentinels {
			if !watcher.running() {
				continue
			}
			address, err := watcher.Command(ctx, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", SentinelMaster).AsStrSlice()
			if err != nil {
				return err
			}
			if len(address) != 2 || net.JoinHostPort(address[0], address[1]) == old.Addr() {
				return fmt.Errorf("sentinel %s names %q", watcher.Addr(), address)
			}
		}
		return nil
	})
}

// Close kills everything and removes what it kept.
func (s *Sentinel) Close() error {
	var errs []error
	for _, server := range s.Sentinels {
		errs = append(errs, server.Close())
	}
	for _, server := range s.Servers {
		errs = append(errs, server.Close())
	}
	return errors.Join(errs...)
}
