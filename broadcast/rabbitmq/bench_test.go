package rabbitmq_test

import (
	"context"
	"testing"

	"github.com/go-nearcache/nearcache/broadcast"
	"github.com/go-nearcache/nearcache/broadcast/rabbitmq"
)

// BenchmarkRoundTrip is one frame of 200 bytes from Send to the receiver of the same node, one at a time.
func BenchmarkRoundTrip(b *testing.B) {
	for name, make_ := range map[string]func(rabbitmq.Options) (broadcast.Transport, error){
		"fanout": makeFanout, "streams": makeStreams,
	} {
		b.Run(name, func(b *testing.B) {
			transport, err := make_(rabbitmq.Options{URLs: []string{broker().URL()}})
			if err != nil {
				b.Fatal(err)
			}
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
