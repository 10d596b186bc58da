package tracking

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"

	"github.com/redis/rueidis"
)

// A Topology is who owns which slots of a cluster, as one of its nodes sees it.
type Topology struct {
	Self  string      // the id of the node that was asked; empty in the answer of [AskTopology] to a user who may not know
	Slots []SlotRange // as the node lists them
}

// A SlotRange is consecutive slots with one owner.
type SlotRange struct {
	First, Last int // inclusive, from 0 to 16383
	Primary     Node
	Replicas    []Node
}

// A Node is a server of a cluster.
type Node struct {
	ID      string
	Address string // host:port, for a connection of the kind on which it was asked for: TLS or not
}

// Slots is how many slots a cluster has.
const Slots = 16384

// Equal reports whether two topologies say the same.
func (t Topology) Equal(other Topology) bool {
	return t.Self == other.Self && slices.EqualFunc(t.Slots, other.Slots, func(a, b SlotRange) bool {
		return a.First == b.First && a.Last == b.Last && a.Primary == b.Primary && slices.Equal(a.Replicas, b.Replicas)
	})
}

// AskTopology asks one server for the topology of its cluster, on a connection of its own. Of redis the same is used as by [Open]. Errors are
// those of Open, but for the role: a replica knows the topology, too. A server that is no node of a cluster gives an error that wraps
// [ErrNoTracking].
func AskTopology(ctx context.Context, redis rueidis.ClientOption) (Topology, error) {
	options := Options{Redis: redis}.withDefaults()
	if err := checkRedis(options.Redis); err != nil {
		return Topology{}, err
	}
	t := &Tracker{options: options}
	ctx, cancel := context.WithTimeoutCause(ctx, options.Redis.Dialer.Timeout,
		fmt.Errorf("no answer within %v (Options.Redis.Dialer.Timeout)", options.Redis.Dialer.Timeout))
	defer cancel()
	l := &link{tracker: t, connection: new(connection), down: make(chan struct{})}
	settled := l.connection.connect(ctx, options.Redis, func(error) {})
	defer l.connection.discard()
	defer settled()
	if failure := l.connection.failure; failure != nil {
		return Topology{}, failure
	}
	if _, err := l.connection.do(ctx, "HELLO", "3"); err != nil {
		if failure := l.connection.failure; failure != nil {
			return Topology{}, failure
		}
		return Topology{}, l.helloTrouble(causeOf(ctx, err))
	}
	topology, err := l.askSlots(ctx)
	if err != nil {
		return Topology{}, l.handshakeTrouble(ctx, "CLUSTER SLOTS", err)
	}
	return topology, nil
}

// askSlots sends CLUSTER SLOTS. Errors that are no LinkError may mean anything.
func (l *link) askSlots(ctx context.Context) (Topology, error) {
	reply, err := l.connection.do(ctx, "CLUSTER", "SLOTS")
	if err != nil {
		return Topology{}, l.clusterTrouble("CLUSTER SLOTS", "+cluster|slots", err)
	}
	slots, err := parseSlots(reply, l.address())
	if err != nil {
		return Topology{}, l.noTracking("CLUSTER SLOTS", err, "connect to a node of the cluster itself")
	}
	return Topology{Self: l.node, Slots: slots}, nil
}

// askNode learns the id of the node and its first topology.
func (l *link) askNode(ctx context.Context) error {
	reply, err := l.connection.do(ctx, "CLUSTER", "MYID")
	if err != nil {
		return l.clusterTrouble("CLUSTER MYID", "+cluster|myid", err)
	}
	id, ok := reply.(string)
	if !ok || id == "" {
		return l.noTracking("CLUSTER MYID", fmt.Errorf("the reply is not an id: %s", brief(reply)), "connect to a node of the cluster itself")
	}
	if want := l.tracker.options.Node; want != "" && want != id {
		return l.trouble("CLUSTER MYID", fmt.Errorf("the node at this address is %s and not %s", id, want), "")
	}
	l.node = id
	l.topology, err = l.askSlots(ctx)
	return err
}

func (l *link) clusterTrouble(step, right string, err error) error {
	text, refused := refusal(err)
	if !refused || noAnswer(err) {
		return err
	}
	if len(text) >= 7 && text[:7] == "NOPERM " {
		return l.noTracking(step, err, "grant the user "+right)
	}
	return l.noTracking(step, err, "connect to a node of a cluster")
}

// parseSlots reads the reply of CLUSTER SLOTS: ranges of first slot, last slot, and nodes of endpoint, port, id and more. An endpoint that is
// missing is that of the connection on which it was asked for.
func parseSlots(reply any, asked string) ([]SlotRange, error) {
	rows, ok := reply.([]any)
	if !ok && reply != nil {
		return nil, fmt.Errorf("reply of CLUSTER SLOTS is not an array: %s", brief(reply))
	}
	ranges := make([]SlotRange, 0, len(rows))
	for _, row := range rows {
		fields, ok := row.([]any)
		if !ok || len(fields) < 3 {
			return nil, fmt.Errorf("reply of CLUSTER SLOTS: not a range of slots: %s", brief(row))
		}
		first, ok1 := fields[0].(int64)
		last, ok2 := fields[1].(int64)
		if !ok1 || !ok2 || first < 0 || last < first || last >= Slots {
			return nil, fmt.Errorf("reply of CLUSTER SLOTS: not a range of slots: %s", brief(row))
		}
		slots := SlotRange{First: int(first), Last: int(last)}
		for i, field := range fields[2:] {
			node, known, err := parseNode(field, asked)
			switch {
			case err != nil:
				return nil, err
			case i == 0:
				slots.Primary = node // one without an address cannot be reached, and owns the slots all the same
			case known:
				slots.Replicas = append(slots.Replicas, node)
			}
		}
		ranges = append(ranges, slots)
	}
	return ranges, nil
}

// parseNode reports known as false for a node whose address its cluster does not know.
func parseNode(reply any, asked string) (node Node, known bool, err error) {
	fields, ok := reply.([]any)
	if !ok || len(fields) < 3 {
		return node, false, fmt.Errorf("reply of CLUSTER SLOTS: not a node: %s", brief(reply))
	}
	port, ok1 := fields[1].(int64)
	id, ok2 := fields[2].(string)
	if !ok1 || !ok2 || port < 0 || port > 65535 || id == "" {
		return node, false, fmt.Errorf("reply of CLUSTER SLOTS: not a node: %s", brief(reply))
	}
	node.ID = id
	endpoint, _ := fields[0].(string)
	if endpoint == "" {
		host, _, err := net.SplitHostPort(asked)
		if err != nil {
			host = "127.0.0.1" // asked over a Unix socket
		}
		endpoint = host
	}
	if endpoint == "?" || port == 0 {
		return node, false, nil
	}
	node.Address = net.JoinHostPort(endpoint, strconv.FormatInt(port, 10))
	return node, true, nil
}
