package rabbitmq_test

import (
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/go-nearcache/nearcache/broadcast"
	"github.com/go-nearcache/nearcache/broadcast/broadcasttest"
	"github.com/go-nearcache/nearcache/broadcast/rabbitmq"
)

// fanoutHarness adds dropping what is stored for nodes.
type fanoutHarness struct{ *harness }

func (h fanoutHarness) Trim(t testing.TB, _ string) {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	for node := range h.proxies {
		if !rabbitmq.HasQueue(node) {
			continue
		}
		administer(t, func(channel *amqp.Channel) error {
			_, err := channel.QueuePurge(rabbitmq.QueueOf(node), false)
			return err
		})
	}
}

func makeFanout(options rabbitmq.Options) (broadcast.Transport, error) {
	return rabbitmq.NewFanout(rabbitmq.FanoutOptions{Options: options})
}

func TestConformanceFanout(t *testing.T) {
	broadcasttest.Run(t, broadcasttest.Config{
		Name:  "rabbitmq-fanout",
		Start: func(testing.TB) broadcasttest.Harness { return fanoutHarness{newHarness(makeFanout)} },
	})
}

// streamsHarness adds dropping what is stored for everybody.
type streamsHarness struct{ *harness }

// Trim pushes what is stored out of a stream that keeps the least.
func (h streamsHarness) Trim(t testing.TB, topic string) {
	t.Helper()
	h.mu.Lock()
	var exchange string
	for node := range h.proxies {
		exchange = rabbitmq.ExchangeOf(node, topic)
	}
	h.mu.Unlock()
	administer(t, func(channel *amqp.Channel) error {
		if err := channel.Confirm(false); err != nil {
			return err
		}
		for range 40 {
			confirmation, err := channel.PublishWithDeferredConfirm(exchange, "", true, false, amqp.Publishing{Body: make([]byte, 64<<10)})
			if err != nil {
				return err
			}
			confirmation.Wait()
		}
		return nil
	})
}

func makeStreams(options rabbitmq.Options) (broadcast.Transport, error) {
	return rabbitmq.NewStreams(rabbitmq.StreamsOptions{Options: options, MaxBytes: 1 << 20})
}

func TestConformanceStreams(t *testing.T) {
	broadcasttest.Run(t, broadcasttest.Config{
		Name:  "rabbitmq-streams",
		Start: func(testing.TB) broadcasttest.Harness { return streamsHarness{newHarness(makeStreams)} },
	})
}
