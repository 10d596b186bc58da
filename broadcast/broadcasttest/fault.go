package broadcasttest

import (
	"testing"

	"github.com/go-nearcache/nearcache/broadcast"
)

// Fault is what a fault of [RunFault] may use.
type Fault struct {
	testing.TB
	Harness Harness
	// Topic is where the traffic is.
	Topic string
	// Publishers and Subscribers are the transports at work.
	Publishers, Subscribers []broadcast.Transport
}

// Outcome says what became of the messages, all subscribers together: Published = Delivered + Reported.
type Outcome struct{ Published, Delivered, Reported int }

// RunFault runs a fault that only one transport has, in the way in which [Run] runs those that many have: publishers and
// subscribers are at work while cause happens, which returns when it is over. Messages must flow again within
// Config.ReconnectWithin, and every message must have been delivered or reported lost, or the test fails.
func RunFault(t *testing.T, config Config, name string, cause func(Fault)) Outcome {
	t.Helper()
	config = config.withDefaults(t)
	s := &suite{T: t, config: config, harness: config.Start(t)}
	a := s.underFault(name, func(topic string, publishers, subscribers []node) {
		fault := Fault{TB: t, Harness: s.harness, Topic: topic}
		for _, n := range publishers {
			fault.Publishers = append(fault.Publishers, n.transport)
		}
		for _, n := range subscribers {
			fault.Subscribers = append(fault.Subscribers, n.transport)
		}
		cause(fault)
	})
	return Outcome{Published: a.published, Delivered: a.delivered, Reported: a.reported}
}
