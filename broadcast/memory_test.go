package broadcast_test

import (
	"testing"
	"time"

	"github.com/go-nearcache/nearcache/broadcast"
	"github.com/go-nearcache/nearcache/broadcast/broadcasttest"
)

// memoryHarness runs the suite on a Network. Disconnecting it is its broker going away.
type memoryHarness struct {
	network *broadcast.Network
	jitter  time.Duration
}

func (h *memoryHarness) Transport(testing.TB) broadcast.Transport { return h.network.Transport() }
func (h *memoryHarness) Stop(testing.TB)                          { h.network.Disconnect() }
func (h *memoryHarness) Start(testing.TB)                         { h.network.Connect() }

func (h *memoryHarness) Disturb(_ testing.TB, loss float64) {
	faults := broadcast.Faults{Loss: loss, Duplication: loss}
	if loss > 0 {
		faults.Jitter = h.jitter
	}
	h.network.SetFaults(faults)
}

func TestConformanceMemory(t *testing.T) {
	broadcasttest.Run(t, broadcasttest.Config{
		Name: "memory",
		Start: func(testing.TB) broadcasttest.Harness {
			return &memoryHarness{network: broadcast.NewNetwork(broadcast.NetworkOptions{})}
		},
	})
}

func TestConformanceMemoryUnordered(t *testing.T) {
	broadcasttest.Run(t, broadcasttest.Config{
		Name: "memory-unordered",
		Start: func(testing.TB) broadcasttest.Harness {
			return &memoryHarness{
				network: broadcast.NewNetwork(broadcast.NetworkOptions{Unordered: true, MaxFrame: 1400}),
				jitter:  5 * time.Millisecond,
			}
		},
	})
}
