package tracking_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/rueidis"

	"github.com/go-nearcache/nearcache/internal/redistest"
	"github.com/go-nearcache/nearcache/tracking"
)

// printer is a handler that shows what it is told. A cache would forget the key, or everything, instead.
type printer struct{}

func (printer) Live(time.Time)        { fmt.Println("live: what is read from now on may be kept") }
func (printer) Invalidate(key string) { fmt.Printf("changed: %q\n", key) }
func (printer) Flush()                { fmt.Println("anything may have changed") }
func (printer) Confirm(time.Time)     {} // comes with every heartbeat
func (printer) Lost(error)            { fmt.Println("lost: nothing may be served") }

// Print what changes in Redis under two prefixes.
func Example() {
	ctx := context.Background()
	server, err := redistest.Run(ctx, redistest.Config{}) // any server will do: a port in InitAddress
	if err != nil {
		fmt.Println(err)
		return
	}
	defer server.Close()

	tracker, err := tracking.Open(ctx, tracking.Options{
		Redis:    rueidis.ClientOption{InitAddress: []string{server.Addr()}},
		Prefixes: []string{"user:", "product:"},
		Handler:  printer{},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer tracker.Close(ctx)

	// Somebody else writes: redis-cli, another program in another language.
	for _, command := range [][]string{
		{"SET", "user:42", "Ada"},
		{"SET", "session:7", "not followed"},
		{"HSET", "product:9", "price", "12"},
		{"DEL", "user:42"},
		{"FLUSHDB"},
	} {
		if err := server.Command(ctx, command...).Error(); err != nil {
			fmt.Println(err)
			return
		}
	}
	// Everything that was acknowledged before this call has been printed when it returns.
	if err := tracker.Fence(ctx); err != nil {
		fmt.Println(err)
	}

	// Output:
	// live: what is read from now on may be kept
	// changed: "user:42"
	// changed: "product:9"
	// changed: "user:42"
	// anything may have changed
	// lost: nothing may be served
}

// Prove at start that announcements really arrive, whatever lies between.
func ExampleProbe() {
	ctx := context.Background()
	server, err := redistest.Run(ctx, redistest.Config{Users: []string{"cautious on >secret +role"}})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer server.Close()

	fmt.Println(tracking.Probe(ctx, server.ClientOption(), "user:"))

	option := server.ClientOption()
	option.Username, option.Password = "cautious", "secret"
	err = tracking.Probe(ctx, option, "user:")
	var failure *tracking.LinkError
	if errors.As(err, &failure) && errors.Is(err, tracking.ErrNoTracking) {
		fmt.Println(failure.Step+":", failure.Advice)
	}

	// Output:
	// <nil>
	// CLIENT TRACKING: use Redis 6 or later, or Valkey, without a proxy that blocks the command, and grant the user +client|tracking
}
