package kafka

import (
	"fmt"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// Options configure [New]. The zero value of every field but Brokers means its default.
type Options struct {
	// Brokers are addresses of some of the cluster's brokers, "host:port"; the others are learned from them. Required.
	Brokers []string

	// Client holds further options of the client, such as kgo.DialTLSConfig, kgo.SASL or kgo.WithLogger. Two clients
	// are made with them, one to publish and one to consume. What to consume, from where, and how to acknowledge is the
	// transport's own.
	Client []kgo.Opt

	// Prefix begins the names of Kafka's topics, so that several fleets can share a cluster. Letters, digits, "-" and
	// ".", up to 60. Default "nearcache.bus.". Must be the same on all nodes.
	Prefix string

	// TopicName maps a topic of the bus to a topic of Kafka, different ones to different ones. Default: Prefix and the
	// topic, in which what Kafka does not allow is written in hexadecimal. Must be the same on all nodes.
	TopicName func(topic string) string

	// Existing says that topics are made by somebody else: while one is missing, publishing to it fails and subscribing
	// waits. They need one partition, as only the first is used, and cleanup.policy=delete. Without it a topic is made
	// when it is first used.
	Existing bool

	// ReplicationFactor is how many brokers keep a topic that is made. Default: the cluster's default.
	ReplicationFactor int

	// Retention and RetentionBytes are what a topic that is made keeps: how far a node can be behind, or be cut off,
	// and still get everything. Kafka drops whole segments, an eighth of RetentionBytes but at least 1 MiB. Defaults 1
	// h and 128 MiB; at least 1 min and 1 MiB.
	Retention      time.Duration
	RetentionBytes int64

	// Group, if set, makes this node consume as the only member of the consumer group by that name, so that what shows
	// the lag of groups shows it. It must be another one on every node. The group begins at the end, whatever it had
	// committed before. Joining takes the broker seconds. Default: partitions are consumed directly, without a group.
	Group string
}

const (
	defaultPrefix         = "nearcache.bus."
	defaultRetention      = time.Hour
	minRetention          = time.Minute
	defaultRetentionBytes = 128 << 20
	minRetentionBytes     = 1 << 20
	minSegment            = 1 << 20 // the least that Kafka allows

	// maxFrame fits a record batch of 1,000,012 bytes, which is what brokers and the client allow as they are installed.
	maxFrame = 1_000_012 - 512
)

// validate returns the options with their defaults filled in.
func (o Options) validate() (Options, error) {
	if len(o.Brokers) == 0 {
		return o, fmt.Errorf(`kafka: Options.Brokers is empty: it needs at least one address, such as "localhost:9092"`)
	}
	if o.Prefix == "" {
		o.Prefix = defaultPrefix
	}
	if len(o.Prefix) > maxPrefix || strings.ContainsFunc(o.Prefix, func(r rune) bool { return r > 127 || !isPlain(byte(r)) && r != '.' }) {
		return o, fmt.Errorf(`kafka: Options.Prefix is %q: up to %d letters, digits, "-" and "." are allowed`, o.Prefix, maxPrefix)
	}
	if o.TopicName == nil {
		o.TopicName = func(topic string) string { return o.Prefix + encode(topic, maxEncoded) }
	}
	if o.ReplicationFactor < 0 || o.ReplicationFactor > 1<<15-1 {
		return o, fmt.Errorf("kafka: Options.ReplicationFactor is %d: it cannot be negative", o.ReplicationFactor)
	}
	if o.Retention == 0 {
		o.Retention = defaultRetention
	}
	if o.Retention < minRetention {
		return o, fmt.Errorf("kafka: Options.Retention is %v: at least %v is required", o.Retention, minRetention)
	}
	if o.RetentionBytes == 0 {
		o.RetentionBytes = defaultRetentionBytes
	}
	if o.RetentionBytes < minRetentionBytes {
		return o, fmt.Errorf("kafka: Options.RetentionBytes is %d: at least %d is required", o.RetentionBytes, minRetentionBytes)
	}
	return o, nil
}

// topicConfig describes a topic that is made.
func (o Options) topicConfig() map[string]string {
	return map[string]string{
		"cleanup.policy":  "delete",
		"retention.ms":    fmt.Sprint(o.Retention.Milliseconds()),
		"retention.bytes": fmt.Sprint(o.RetentionBytes),
		"segment.ms":      fmt.Sprint(o.Retention.Milliseconds()), // what is being written is not dropped before it is closed
		"segment.bytes":   fmt.Sprint(max(o.RetentionBytes/8, minSegment)),
	}
}
