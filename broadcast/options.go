package broadcast

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/go-nearcache/nearcache/telemetry"
)

// Options configure a [Bus]. The zero value of every field but Transport means its default.
type Options struct {
	// Transport carries the frames. Required. The bus closes it.
	Transport Transport

	// Origin names this node on the bus, up to 255 bytes; two live nodes must not share one. Default: the host name and a
	// random suffix, so that each process start is a new origin. With a name of your own that outlives restarts, a crash
	// and restart is seen by others as a gap ([EpochChanged]).
	Origin string

	// Heartbeat is how soon after the last message on a topic a heartbeat follows that carries its sequence number: the
	// time within which a lost last message is noticed. Each further one waits twice as long, up to 16 times Heartbeat,
	// until there is a message, or a new listener, again. Default 1 s; at least 10 ms. Shorter notices sooner and costs every node more.
	Heartbeat time.Duration

	// ReorderWindow is how long a hole in an origin's sequence may wait for late messages before it is reported, on a
	// transport that is not Ordered. The messages behind the hole wait with it. Default 250 ms.
	ReorderWindow time.Duration

	// QueueMessages and QueueBytes bound what one subscription may have waiting for its handler; beyond that messages are
	// dropped and reported as an [Overflow] gap. Defaults 8192 messages and 32 MiB of payload.
	QueueMessages int
	QueueBytes    int

	// OutboxMessages and OutboxBytes bound what waits to be accepted by the broker, all topics together; beyond that
	// publishing fails with [ErrOutboxFull]. Defaults 16384 messages and 32 MiB.
	OutboxMessages int
	OutboxBytes    int
	// OutboxTimeout is how long a message may wait in the outbox, being tried again, before it fails with
	// [ErrUndelivered]. Default 30 s.
	OutboxTimeout time.Duration

	// MaxFrameBytes bounds a frame, and so a message: its payload, headers and about 100 bytes. Default 1 MiB, or the
	// transport's own limit if that is lower. Frames that come in larger are refused. Must be the same on all nodes.
	MaxFrameBytes int

	// Telemetry takes spans and metrics, and carries trace context. Default: one of the bus's own that uses OpenTelemetry's
	// global providers and that the bus closes. One that is given is left open.
	Telemetry *telemetry.Telemetry

	// Logger takes warnings: gaps, unreadable frames, panics of handlers. Default: none are written.
	Logger *slog.Logger
}

const (
	defaultHeartbeat      = time.Second
	minHeartbeat          = 10 * time.Millisecond
	idleHeartbeats        = 16 // an idle topic's heartbeats slow down to this many times Options.Heartbeat
	defaultReorderWindow  = 250 * time.Millisecond
	defaultQueueMessages  = 8192
	defaultQueueBytes     = 32 << 20
	defaultOutboxMessages = 16384
	defaultOutboxBytes    = 32 << 20
	defaultOutboxTimeout  = 30 * time.Second
	defaultMaxFrame       = 1 << 20
	minMaxFrame           = 1024
)

// validate returns the options with their defaults filled in.
func (o Options) validate() (Options, error) {
	if o.Transport == nil {
		return o, fmt.Errorf("broadcast: Options.Transport is nil: a bus needs a transport, such as NewRedisPubSub or Network.Transport")
	}
	if len(o.Origin) > maxName {
		return o, fmt.Errorf("broadcast: Options.Origin is %d bytes long: at most %d are allowed", len(o.Origin), maxName)
	}
	if o.Origin == "" {
		o.Origin = defaultOrigin()
	}
	for _, field := range []struct {
		name              string
		value             *time.Duration
		standard, minimum time.Duration
	}{
		{"Heartbeat", &o.Heartbeat, defaultHeartbeat, minHeartbeat},
		{"ReorderWindow", &o.ReorderWindow, defaultReorderWindow, time.Millisecond},
		{"OutboxTimeout", &o.OutboxTimeout, defaultOutboxTimeout, time.Millisecond},
	} {
		if *field.value == 0 {
			*field.value = field.standard
		}
		if *field.value < field.minimum {
			return o, fmt.Errorf("broadcast: Options.%s is %v: at least %v is required", field.name, *field.value, field.minimum)
		}
	}
	for _, field := range []struct {
		name              string
		value             *int
		standard, minimum int
	}{
		{"QueueMessages", &o.QueueMessages, defaultQueueMessages, 1},
		{"QueueBytes", &o.QueueBytes, defaultQueueBytes, 1},
		{"OutboxMessages", &o.OutboxMessages, defaultOutboxMessages, 1},
		{"OutboxBytes", &o.OutboxBytes, defaultOutboxBytes, 1},
		{"MaxFrameBytes", &o.MaxFrameBytes, defaultMaxFrame, minMaxFrame},
	} {
		if *field.value == 0 {
			*field.value = field.standard
		}
		if *field.value < field.minimum {
			return o, fmt.Errorf("broadcast: Options.%s is %d: at least %d is required", field.name, *field.value, field.minimum)
		}
	}
	if limit := o.Transport.Capabilities().MaxFrame; limit > 0 {
		o.MaxFrameBytes = min(o.MaxFrameBytes, limit)
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o, nil
}

func defaultOrigin() string {
	host, err := os.Hostname()
	if err != nil {
		host = "node"
	}
	var suffix [6]byte
	_, _ = rand.Read(suffix[:]) // never fails: see crypto/rand
	return host[:min(len(host), maxName-1-2*len(suffix))] + "-" + hex.EncodeToString(suffix[:])
}
