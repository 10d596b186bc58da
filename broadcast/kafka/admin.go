package kafka

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/go-nearcache/nearcache/broadcast"
)

// partition is the one partition that is used of a topic: that makes a total order, and every node consumes everything
// anyway.
const partition = 0

const (
	requestTimeout = 5 * time.Second
	fromStart      = -2 // the timestamps by which ListOffsets tells the ends of a log
	fromEnd        = -1
)

// view is what a cluster says about a topic at one moment.
type view struct {
	id         [16]byte
	start, end int64
	epoch      int32 // of the leader, at the end
}

var (
	errMissing = kerr.UnknownTopicOrPartition // there is no such topic
	errSilent  = errors.New("kafka: the broker did not answer about a topic")
)

// answer is what inspect found out about one topic.
type answer struct {
	view
	err error
}

// inspect asks for the identity of topics and for the ends of their logs.
func inspect(ctx context.Context, client *kgo.Client, topics []string) map[string]answer {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	answers := make(map[string]answer, len(topics))
	identify(ctx, client, topics, answers)
	listOffsets(ctx, client, answers, fromStart, func(a *answer, p kmsg.ListOffsetsResponseTopicPartition) { a.start = p.Offset })
	listOffsets(ctx, client, answers, fromEnd, func(a *answer, p kmsg.ListOffsetsResponseTopicPartition) {
		a.end, a.epoch = p.Offset, p.LeaderEpoch
	})
	return answers
}

// identify asks for the topics' IDs, by which one that was deleted and made anew is told apart.
func identify(ctx context.Context, client *kgo.Client, topics []string, answers map[string]answer) {
	request := kmsg.NewPtrMetadataRequest()
	for _, topic := range topics {
		asked := kmsg.NewMetadataRequestTopic()
		asked.Topic = new(topic)
		request.Topics = append(request.Topics, asked)
		answers[topic] = answer{err: errMissing}
	}
	response, err := request.RequestWith(ctx, client)
	if err != nil {
		for topic := range answers {
			answers[topic] = answer{err: err}
		}
		return
	}
	for _, about := range response.Topics {
		if about.Topic != nil {
			answers[*about.Topic] = answer{view: view{id: about.TopicID}, err: kerr.ErrorForCode(about.ErrorCode)}
		}
	}
}

// listOffsets asks for one end of the logs of those topics of which there is good news so far.
func listOffsets(
	ctx context.Context, client *kgo.Client, answers map[string]answer, at int64,
	note func(*answer, kmsg.ListOffsetsResponseTopicPartition),
) {
	request := kmsg.NewPtrListOffsetsRequest()
	request.ReplicaID = -1
	for topic, a := range answers {
		if a.err != nil {
			continue
		}
		askedPartition := kmsg.NewListOffsetsRequestTopicPartition()
		askedPartition.Partition, askedPartition.Timestamp = partition, at
		asked := kmsg.NewListOffsetsRequestTopic()
		asked.Topic = topic
		asked.Partitions = append(asked.Partitions, askedPartition)
		request.Topics = append(request.Topics, asked)
		a.err = errSilent
		answers[topic] = a
	}
	if len(request.Topics) == 0 {
		return
	}
	response, err := request.RequestWith(ctx, client)
	if err != nil {
		for _, asked := range request.Topics {
			answers[asked.Topic] = answer{err: err}
		}
		return
	}
	for _, about := range response.Topics {
		for _, p := range about.Partitions {
			if a, asked := answers[about.Topic]; asked && p.Partition == partition {
				a.err = kerr.ErrorForCode(p.ErrorCode)
				note(&a, p)
				answers[about.Topic] = a
			}
		}
	}
}

// makeTopic makes a topic. That it is there already is no error.
func makeTopic(ctx context.Context, client *kgo.Client, topic string, options Options) error {
	request := kmsg.NewPtrCreateTopicsRequest()
	request.TimeoutMillis = int32(requestTimeout.Milliseconds())
	wanted := kmsg.NewCreateTopicsRequestTopic()
	wanted.Topic = topic
	wanted.NumPartitions = 1
	wanted.ReplicationFactor = -1
	if options.ReplicationFactor > 0 {
		wanted.ReplicationFactor = int16(options.ReplicationFactor)
	}
	for name, value := range options.topicConfig() {
		config := kmsg.NewCreateTopicsRequestTopicConfig()
		config.Name, config.Value = name, new(value)
		wanted.Configs = append(wanted.Configs, config)
	}
	request.Topics = append(request.Topics, wanted)
	response, err := request.RequestWith(ctx, client)
	if err != nil {
		return err
	}
	for _, answer := range response.Topics {
		if err := kerr.ErrorForCode(answer.ErrorCode); err != nil && !errors.Is(err, kerr.TopicAlreadyExists) {
			if answer.ErrorMessage != nil {
				return fmt.Errorf("%w: %s", err, *answer.ErrorMessage)
			}
			return err
		}
	}
	return nil
}

// ensure makes a topic if it is missing and may be made.
func (t *transport) ensure(ctx context.Context, client *kgo.Client, h *health, topic string) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	ctx, forget := h.impatient(ctx)
	defer forget()
	answers := make(map[string]answer, 1)
	identify(ctx, client, []string{topic}, answers)
	err := answers[topic].err
	switch {
	case !errors.Is(err, errMissing):
	case t.options.Existing:
		err = fmt.Errorf("kafka: topic %s does not exist, and by Options.Existing somebody else makes it: %w", topic, err)
	default:
		err = makeTopic(ctx, client, topic, t.options)
	}
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = fmt.Errorf("kafka: connect: %w", cause)
	}
	return rejection(err)
}

// refusals are what trying again does not cure.
var refusals = []error{
	kerr.TopicAuthorizationFailed, kerr.ClusterAuthorizationFailed, kerr.GroupAuthorizationFailed, kerr.SaslAuthenticationFailed,
	kerr.UnsupportedSaslMechanism, kerr.IllegalSaslState, kerr.InvalidTopicException, kerr.PolicyViolation,
	kerr.InvalidConfig, kerr.UnsupportedVersion,
}

// rejection marks errors that trying again cannot cure.
func rejection(err error) error {
	for _, refusal := range refusals {
		if errors.Is(err, refusal) {
			return fmt.Errorf("%w: %w", broadcast.ErrRejected, err)
		}
	}
	if errors.Is(err, kerr.MessageTooLarge) || errors.Is(err, kerr.RecordListTooLarge) {
		return fmt.Errorf("%w: %w", broadcast.ErrTooLarge, err)
	}
	return err
}
