package tracking

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/redis/rueidis"
)

// Defaults of [Options].
const (
	DefaultHeartbeat  = 250 * time.Millisecond
	DefaultDeadline   = time.Second
	DefaultMinBackoff = 50 * time.Millisecond
	DefaultMaxBackoff = 2 * time.Second
)

const minHeartbeat = time.Millisecond

// clientName is what CLIENT LIST calls a link unless the program chose a name.
const clientName = "nearcache-tracking"

// A Position is how far a server has come in the writes of its primary, or of itself if it is one.
type Position struct {
	History string // the primary's, which changes with a failover: positions of two histories cannot be compared
	Offset  int64  // grows with every write; -1 for a replica without a connection to what it follows
	Source  string // of a replica: host:port of what it follows, as it was told
}

// Options say what to follow and how. Redis, Prefixes and Handler are required.
type Options struct {
	// Redis says how to connect: InitAddress[0] is the server. Used besides: Username, Password, AuthCredentialsFn (asked again
	// for each new connection), TLSConfig, Dialer, DialFn, DialCtxFn, ReadBufferEachConn, ClientNoEvict, and ClientName, whose
	// default here is "nearcache-tracking". Dialer.Timeout (default 5 s) bounds each attempt as a whole. If the answer of
	// AuthCredentialsFn has a RefreshAfter, the function is asked again at that time, on a goroutine of its own, and the link is
	// authenticated anew as it is: it stays live, and nothing is lost. If that fails, it is tried again every MaxBackoff for as long
	// as the server keeps the link. Sentinel.MasterSet and ReplicaOnly are refused: a tracker follows one given primary.
	// AlwaysRESP2 is refused with ErrNoTracking: only RESP3 has pushes.
	Redis rueidis.ClientOption

	// Prefixes are the beginnings of the keys to follow, fixed for the tracker's life. See [CheckPrefixes].
	Prefixes []string

	// Handler receives what the link learns.
	Handler Handler

	// Topology makes the link one to a primary of a cluster, which asks for the slots as well as for the role: every second round trip is
	// CLUSTER SLOTS. It is called with the first answer just before Handler.Live, and with each that differs from the one before. It is called as
	// the methods of Handler are and must not block either; no as-of time is confirmed that is later than the slots it was called
	// with. Default: none, and a node of a cluster is refused with [ErrClusterNode].
	Topology func(Topology)

	// Node is the id that the node must have in its cluster, so that another one that has come to its address is not taken for it. Only with
	// Topology. Default: any.
	Node string

	// Replica makes the link one to a replica, and a server of another role is refused. What such a link confirms is what the replica has applied,
	// which says nothing about its primary: Position does, compared with that of a link to the primary. Not with Topology. Default: the
	// server must be a primary.
	Replica bool

	// Position is called with each Handler.Confirm, just before it, and as it is. It has the link ask INFO replication instead of ROLE. Of a
	// primary the position is one that every write acknowledged before asOf is not after; of a replica one up to which every write
	// has been passed to the handler. So once a replica's is as far as a primary's, in the same history, every write that the primary acknowledged
	// before the primary's asOf has been passed to the handler of the replica. Default: none.
	Position func(asOf time.Time, at Position)

	// Heartbeat is the time from one round trip to the next on an idle link. The as-of time is at most two heartbeats and one
	// round trip old. It must be well under the server's timeout setting, if that is not 0. Default 250 ms, minimum 1 ms.
	Heartbeat time.Duration

	// Deadline is how long a round trip may take, repeated questions to a busy server (-BUSY, -LOADING) included, before the
	// link is in doubt and its connection is thrown away. Longer means that a server's pause (a fork, a slow command) costs
	// less; shorter, that a dead one is found sooner. It must not be shorter than Heartbeat. Default 1 s, or Heartbeat if that
	// is longer.
	Deadline time.Duration

	// MinBackoff and MaxBackoff bound the delay before a new attempt: none for the first attempt after a link that lived longer
	// than MaxBackoff, then a random time of up to MinBackoff, 2·MinBackoff, 4·MinBackoff … MaxBackoff. Defaults 50 ms and 2 s,
	// each adjusted to the other if only one is given.
	MinBackoff, MaxBackoff time.Duration

	// Logger receives the changes of the link's state, at most one record for each; never a key, a prefix or a secret. Default:
	// none.
	Logger *slog.Logger
}

func (o Options) withDefaults() Options {
	o.Prefixes = slices.Clone(o.Prefixes)
	o.Redis.InitAddress = slices.Clone(o.Redis.InitAddress)
	if o.Redis.ClientName == "" {
		o.Redis.ClientName = clientName
	}
	if o.Redis.Dialer.Timeout == 0 {
		o.Redis.Dialer.Timeout = rueidis.DefaultDialTimeout
	}
	if o.Heartbeat == 0 {
		o.Heartbeat = DefaultHeartbeat
	}
	if o.Deadline == 0 {
		o.Deadline = max(DefaultDeadline, o.Heartbeat)
	}
	if o.MinBackoff == 0 {
		o.MinBackoff = DefaultMinBackoff
		if o.MaxBackoff > 0 {
			o.MinBackoff = min(o.MinBackoff, o.MaxBackoff)
		}
	}
	if o.MaxBackoff == 0 {
		o.MaxBackoff = max(DefaultMaxBackoff, o.MinBackoff)
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}

func (o Options) validate() error {
	if err := checkRedis(o.Redis); err != nil {
		return err
	}
	if err := CheckPrefixes(o.Prefixes); err != nil {
		return err
	}
	switch {
	case o.Handler == nil:
		return errors.New("tracking: Options.Handler is nil: it must be set, or nobody learns what changes")
	case o.Node != "" && o.Topology == nil:
		return fmt.Errorf("tracking: Options.Node is %q: it must be empty without Topology, which asks for it", o.Node)
	case o.Replica && o.Topology != nil:
		return errors.New("tracking: Options.Replica is true: it must be false with Topology, which is for primaries")
	case o.Heartbeat < minHeartbeat:
		return fmt.Errorf("tracking: Options.Heartbeat is %v: it must be at least %v", o.Heartbeat, minHeartbeat)
	case o.Deadline < o.Heartbeat:
		return fmt.Errorf("tracking: Options.Deadline is %v: it must not be shorter than Heartbeat, %v", o.Deadline, o.Heartbeat)
	case o.MinBackoff < 0:
		return fmt.Errorf("tracking: Options.MinBackoff is %v: it must be positive", o.MinBackoff)
	case o.MaxBackoff < o.MinBackoff:
		return fmt.Errorf("tracking: Options.MaxBackoff is %v: it must not be shorter than MinBackoff, %v", o.MaxBackoff, o.MinBackoff)
	}
	return nil
}

func checkRedis(redis rueidis.ClientOption) error {
	switch {
	case len(redis.InitAddress) == 0 || redis.InitAddress[0] == "":
		return errors.New("tracking: Options.Redis.InitAddress is empty: it must name the server, such as \"127.0.0.1:6379\"")
	case redis.AlwaysRESP2:
		return fmt.Errorf("%w: Options.Redis.AlwaysRESP2 is true, and only RESP3 has pushes: clear it", ErrNoTracking)
	case redis.Sentinel.MasterSet != "":
		return fmt.Errorf("tracking: Options.Redis.Sentinel.MasterSet is %q: a tracker follows one server: put the primary's address into InitAddress and leave Sentinel empty",
			redis.Sentinel.MasterSet)
	case redis.ReplicaOnly:
		return errors.New("tracking: Options.Redis.ReplicaOnly is true: a tracker follows a primary: clear it")
	case redis.Dialer.Timeout < 0:
		return fmt.Errorf("tracking: Options.Redis.Dialer.Timeout is %v: it must be positive", redis.Dialer.Timeout)
	}
	return nil
}
