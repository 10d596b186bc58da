package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/Shopify/toxiproxy/v2/toxics"
)

// TestToxicsKeepTheStream adds and removes every toxic while numbers travel both ways. What arrives on a connection is always a
// beginning of what was sent: a hole would make the library look guilty of what TCP never does.
func TestToxicsKeepTheStream(t *testing.T) {
	echo := startEcho(t)
	w, err := newWire("test", loopback+":0", echo)
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()
	ctx, cancel := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	defer clients.Wait()
	defer cancel()
	arrived := make(chan struct{}, 1)
	for range 4 {
		clients.Go(func() {
			for ctx.Err() == nil {
				exchange(ctx, t, w.address, arrived)
			}
		})
	}
	passes := func(when string) {
		t.Helper()
		// Two, since one may have been on its way before.
		for range 2 {
			select {
			case <-arrived:
			case <-time.After(patience):
				t.Fatalf("nothing passes %s", when)
			}
		}
	}
	passes("at first")
	for range 3 {
		for _, toxic := range []toxics.Toxic{
			&toxics.LatencyToxic{Latency: 5, Jitter: 4},
			&toxics.BandwidthToxic{Rate: 50},
			&toxics.SlicerToxic{AverageSize: 8, SizeVariation: 6, Delay: 50},
			&toxics.ResetToxic{Timeout: 1},
			&toxics.TimeoutToxic{},
		} {
			for _, directions := range [][]direction{{up}, {down}, {up, down}} {
				if err := w.poison(ctx, toxic, directions...); err != nil {
					t.Fatal(err)
				}
				<-time.After(5 * time.Millisecond)
				if err := w.cure(ctx); err != nil {
					t.Fatal(err)
				}
				passes("after a toxic")
			}
		}
		if err := w.refuse(ctx); err != nil {
			t.Fatal(err)
		}
		if connection, err := net.Dial("tcp", w.address); err == nil {
			connection.Close()
			t.Error("a connection was accepted")
		}
		if err := w.accept(ctx); err != nil {
			t.Fatal(err)
		}
		passes("after connections were refused")
	}
}

// exchange sends numbers over one connection until it ends, and checks that they come back in order.
func exchange(ctx context.Context, t *testing.T, address string, arrived chan<- struct{}) {
	connection, err := net.Dial("tcp", address)
	if err != nil {
		<-time.After(time.Millisecond)
		return
	}
	defer connection.Close()
	stop := context.AfterFunc(ctx, func() { _ = connection.Close() })
	defer stop()
	var reader sync.WaitGroup
	defer reader.Wait()
	reader.Go(func() {
		defer connection.Close()
		got := make([]byte, 8)
		for next := uint64(0); ; next++ {
			if _, err := io.ReadFull(connection, got); err != nil {
				return
			}
			if n := binary.BigEndian.Uint64(got); n != next {
				t.Errorf("%d came in the place of %d", n, next)
				return
			}
			select {
			case arrived <- struct{}{}:
			default:
			}
		}
	})
	for n := uint64(0); ; n += 64 {
		var batch bytes.Buffer
		for i := range uint64(64) {
			_ = binary.Write(&batch, binary.BigEndian, n+i)
		}
		if _, err := connection.Write(batch.Bytes()); err != nil {
			return
		}
		<-time.After(100 * time.Microsecond)
	}
}

func startEcho(t *testing.T) (address string) {
	listener, err := net.Listen("tcp", loopback+":0")
	if err != nil {
		t.Fatal(err)
	}
	var connections sync.WaitGroup
	connections.Go(func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			connections.Go(func() {
				defer connection.Close()
				_, _ = io.Copy(connection, connection)
			})
		}
	})
	t.Cleanup(func() {
		listener.Close()
		connections.Wait()
	})
	return listener.Addr().String()
}
