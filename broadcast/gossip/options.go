package gossip

import (
	"fmt"
	"log/slog"
	"net"
	"strconv"

	"github.com/hashicorp/memberlist"
)

// Options configure [New]. The zero value of every field means its default.
type Options struct {
	// Bind is the address to listen on, "host:port" with an IP address as the host, for UDP and TCP. Port 0 takes a free
	// one, see [Transport.Addr]. Default "0.0.0.0:7946".
	Bind string

	// Advertise is the address by which others reach this node, "host:port", if it is not Bind: behind NAT, or in a
	// container. Default: Bind, or for 0.0.0.0 a private address of this machine.
	Advertise string

	// Seeds are addresses of some members, "host:port"; a host may be a name, all of whose addresses are tried. One that
	// is reached is enough, and this node's own may be among them, so that all nodes can have the same list. Default: none,
	// for the first node, which others join.
	//
	// Nothing is sent or delivered before a seed has been reached. If that takes longer than five seconds the node
	// begins by itself and goes on trying.
	Seeds []string

	// Name begins this node's name among the members; a random suffix makes it unique. Up to 64 bytes. Default "node".
	Name string

	// Keyring encrypts and authenticates all traffic. Must share keys with those of all nodes. Default: none, everything is
	// readable and can be forged.
	Keyring *memberlist.Keyring

	// Label keeps fleets apart that can reach each other: members with different labels ignore each other. Up to 255
	// bytes. Must be the same on all nodes. Default: empty.
	Label string

	// RetainBytes is how much of what it sent a node retains to repair losses, and again as much of what it received. It
	// decides how far a member can be behind, or be cut off, and still get everything. Default 16 MiB; at least 1 MiB.
	RetainBytes int

	// Configure may change memberlist's configuration, which begins as memberlist.DefaultLANConfig, before it is used: its
	// intervals and timeouts, or its Transport. The name, keys, label, logger and delegates are this package's own.
	Configure func(*memberlist.Config)

	// Logger takes what memberlist logs. Default: nothing is written.
	Logger *slog.Logger
}

const (
	defaultBind        = "0.0.0.0:7946"
	defaultName        = "node"
	maxNameBytes       = 64
	defaultRetainBytes = 16 << 20
	minRetainBytes     = 1 << 20

	maxFrame = 1 << 20
)

// address is a host and port that have been looked at.
type address struct {
	host string
	port int
}

// validate returns the options with their defaults filled in, and the addresses taken apart.
func (o Options) validate() (_ Options, bind, advertise address, err error) {
	if o.Bind == "" {
		o.Bind = defaultBind
	}
	if bind, err = parseAddress("Bind", o.Bind); err != nil {
		return o, bind, advertise, err
	}
	if o.Advertise != "" {
		if advertise, err = parseAddress("Advertise", o.Advertise); err != nil {
			return o, bind, advertise, err
		}
	}
	for i, seed := range o.Seeds {
		if _, _, err := net.SplitHostPort(seed); err != nil {
			return o, bind, advertise, fmt.Errorf(`gossip: Options.Seeds[%d] is %q: "host:port" is required`, i, seed)
		}
	}
	if o.Name == "" {
		o.Name = defaultName
	}
	if len(o.Name) > maxNameBytes {
		return o, bind, advertise, fmt.Errorf("gossip: Options.Name is %d bytes long: at most %d are allowed", len(o.Name), maxNameBytes)
	}
	if len(o.Label) > memberlist.LabelMaxSize {
		return o, bind, advertise, fmt.Errorf("gossip: Options.Label is %d bytes long: at most %d are allowed",
			len(o.Label), memberlist.LabelMaxSize)
	}
	if o.RetainBytes == 0 {
		o.RetainBytes = defaultRetainBytes
	}
	if o.RetainBytes < minRetainBytes {
		return o, bind, advertise, fmt.Errorf("gossip: Options.RetainBytes is %d: at least %d is required", o.RetainBytes, minRetainBytes)
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o, bind, advertise, nil
}

func parseAddress(field, value string) (address, error) {
	host, port, err := net.SplitHostPort(value)
	if err == nil && net.ParseIP(host) == nil {
		err = fmt.Errorf("%q is no IP address", host)
	}
	if err != nil {
		return address{}, fmt.Errorf(`gossip: Options.%s is %q: an IP address and a port such as "10.0.0.7:7946" are required: %w`, field, value, err)
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return address{}, fmt.Errorf("gossip: Options.%s is %q: the port must be a number from 0 to 65535", field, value)
	}
	return address{host: host, port: int(number)}, nil
}
