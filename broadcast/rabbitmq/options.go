package rabbitmq

import (
	"fmt"
	"os"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// Options are what both transports need. The zero value of every field but URLs means its default.
type Options struct {
	// URLs say how to reach the broker: "amqp://user:password@host:5672/vhost", or "amqps://…" for TLS. Those of a
	// cluster's nodes are tried in turn. Required.
	URLs []string

	// Config is handed to the client: TLS, SASL, Dial, the size of frames, properties. Heartbeat decides how soon a
	// connection that has silently died is noticed: by this node after one and a half times, by the broker after up to
	// twice of it. Its default is 5 s here. A heartbeat in a URL overrides it.
	//
	// Recovery must be nil. The client would reconnect on its own, and declare queues anew, without telling what was
	// lost meanwhile.
	Config amqp.Config

	// Prefix begins the names of exchanges and queues, so that several fleets can share a virtual host. Letters, digits
	// and "-_.:", up to 60. Default "nearcache.bus.". Must be the same on all nodes.
	Prefix string

	// Node names this node to whoever looks at the broker: it is in the name of its connections and of its queue, where
	// a random suffix makes it unique. Default: the host name.
	Node string
}

// FanoutOptions configure [NewFanout].
type FanoutOptions struct {
	Options

	// Expires is how long a node may be cut off and still get everything on its return. After that the broker deletes
	// its queue, and the node is told [broadcast.Trimmed]. It is also how long the queue of a node that crashed
	// lingers. Default 10 min; at least 10 s; at most 49 days, which is RabbitMQ's limit.
	Expires time.Duration

	// MaxBytes is how much may wait in a node's queue while it is cut off. Beyond that the broker drops the oldest, and
	// the node finds holes in the sequences. Default 64 MiB; at least 1 MiB.
	MaxBytes int64
}

// StreamsOptions configure [NewStreams].
type StreamsOptions struct {
	Options

	// MaxBytes and MaxAge are what a topic's stream keeps: how far a node can be behind, or be cut off, and still get
	// everything. What is beyond either is dropped in steps of an eighth of MaxBytes. Defaults 128 MiB and 1 h; at
	// least 1 MiB and 1 min. They apply to streams that do not exist yet: where one does, with other values, a policy
	// of the broker changes them.
	MaxBytes int64
	MaxAge   time.Duration
}

const (
	defaultPrefix      = "nearcache.bus."
	defaultHeartbeat   = 5 * time.Second
	defaultExpires     = 10 * time.Minute
	minExpires         = 10 * time.Second
	maxExpires         = 49 * 24 * time.Hour
	defaultFanoutBytes = 64 << 20
	defaultStreamBytes = 128 << 20
	minBytes           = 1 << 20
	defaultMaxAge      = time.Hour
	minMaxAge          = time.Minute

	// maxFrame is the largest message that a broker takes as it is installed: RabbitMQ 4 refuses more than 16 MiB.
	maxFrame = 16 << 20
)

// validate returns the options with their defaults filled in.
func (o Options) validate(name string) (Options, error) {
	if len(o.URLs) == 0 {
		return o, fmt.Errorf(`rabbitmq: %s.URLs is empty: it needs at least one, such as "amqp://guest:guest@localhost:5672/"`, name)
	}
	for _, url := range o.URLs {
		// The error of the client is left out, since it may hold the password.
		if _, err := amqp.ParseURI(url); err != nil {
			return o, fmt.Errorf(`rabbitmq: %s.URLs holds what is no AMQP URL: it must be like "amqp://user:password@host:5672/vhost"`, name)
		}
	}
	if o.Config.Recovery != nil {
		return o, fmt.Errorf("rabbitmq: %s.Config.Recovery is set: it must be nil, since the transport reconnects by itself and must see every loss",
			name)
	}
	if o.Config.Heartbeat == 0 {
		o.Config.Heartbeat = defaultHeartbeat
	}
	if o.Config.Heartbeat < time.Second {
		return o, fmt.Errorf("rabbitmq: %s.Config.Heartbeat is %v: at least 1s is required", name, o.Config.Heartbeat)
	}
	if o.Prefix == "" {
		o.Prefix = defaultPrefix
	}
	if len(o.Prefix) > maxPrefix || strings.HasPrefix(o.Prefix, "amq.") ||
		strings.ContainsFunc(o.Prefix, func(r rune) bool { return r > 127 || !isPlain(byte(r)) }) {
		return o, fmt.Errorf(`rabbitmq: %s.Prefix is %q: up to %d letters, digits and "-_.:" are allowed, not beginning with "amq."`,
			name, o.Prefix, maxPrefix)
	}
	if o.Node == "" {
		host, err := os.Hostname()
		if err != nil {
			host = "node"
		}
		o.Node = host
	}
	return o, nil
}

func (o FanoutOptions) validate() (FanoutOptions, error) {
	var err error
	if o.Options, err = o.Options.validate("FanoutOptions"); err != nil {
		return o, err
	}
	if o.Expires == 0 {
		o.Expires = defaultExpires
	}
	if o.Expires < minExpires || o.Expires > maxExpires {
		return o, fmt.Errorf("rabbitmq: FanoutOptions.Expires is %v: %v to %v is allowed", o.Expires, minExpires, maxExpires)
	}
	o.MaxBytes, err = bytesOrDefault("FanoutOptions", o.MaxBytes, defaultFanoutBytes)
	return o, err
}

func (o StreamsOptions) validate() (StreamsOptions, error) {
	var err error
	if o.Options, err = o.Options.validate("StreamsOptions"); err != nil {
		return o, err
	}
	if o.MaxAge == 0 {
		o.MaxAge = defaultMaxAge
	}
	if o.MaxAge < minMaxAge {
		return o, fmt.Errorf("rabbitmq: StreamsOptions.MaxAge is %v: at least %v is required", o.MaxAge, minMaxAge)
	}
	o.MaxBytes, err = bytesOrDefault("StreamsOptions", o.MaxBytes, defaultStreamBytes)
	return o, err
}

func bytesOrDefault(name string, value, standard int64) (int64, error) {
	if value == 0 {
		value = standard
	}
	if value < minBytes {
		return 0, fmt.Errorf("rabbitmq: %s.MaxBytes is %d: at least %d is required", name, value, minBytes)
	}
	return value, nil
}

// queueArguments describe the queue of a node.
func (o FanoutOptions) queueArguments() amqp.Table {
	return amqp.Table{
		amqp.QueueTypeArg:    amqp.QueueTypeClassic,
		"x-expires":          o.Expires.Milliseconds(),
		"x-max-length-bytes": o.MaxBytes,
		"x-overflow":         "drop-head",
	}
}

// streamSegments is in how many files a stream is kept: the broker drops whole ones.
const streamSegments = 8

// streamArguments describe the stream of a topic.
func (o StreamsOptions) streamArguments() amqp.Table {
	return amqp.Table{
		amqp.QueueTypeArg:                 amqp.QueueTypeStream,
		"x-max-length-bytes":              o.MaxBytes,
		"x-max-age":                       fmt.Sprintf("%ds", int64(o.MaxAge/time.Second)),
		"x-stream-max-segment-size-bytes": min(o.MaxBytes/streamSegments, 500<<20),
	}
}
