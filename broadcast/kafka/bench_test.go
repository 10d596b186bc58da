package kafka_test

import (
	"context"
	"testing"

	"github.com/go-nearcache/nearcache/broadcast"
)

// BenchmarkRoundTrip is one frame of 200 bytes from Send to the receiver of the same node, one at a time.
func BenchmarkRoundTrip(b *testing.B) {
	for mode, vary := range modes {
		b.Run(mode, func(b *testing.B) {
			transport := newHarness(startCluster(b), vary).Transport(b)
			defer transport.Close(context.Background())
			r := newCounter()
			if _, err := transport.Listen(b.Context(), "round-trip", r); err != nil {
				b.Fatal(err)
			}
			frame := broadcast.Frame{Topic: "round-trip", Data: make([]byte, 200)}
			b.ReportAllocs()
			for b.Loop() {
				if err := transport.Send(b.Context(), frame); err != nil {
					b.Fatal(err)
				}
				<-r.frames
			}
		})
	}
}
