package telemetry_test

import (
	"context"
	"fmt"

	"github.com/go-nearcache/nearcache/telemetry"
)

// A client records through the methods of its Telemetry, and shows its counters in a snapshot that the SDK asks for. With no
// SDK in the program, as here, all of it comes to nothing and costs next to nothing.
func Example() {
	client, err := telemetry.New(telemetry.Options{Name: "orders"})
	if err != nil {
		panic(err)
	}
	defer client.Close()

	var hits int64 // in a real cache, a striped atomic
	_, err = client.Observe(func(s *telemetry.Snapshot) {
		s.Caches = append(s.Caches, telemetry.CacheSnapshot{
			Name:  "users",
			Local: telemetry.Results{Hit: hits},
		})
	})
	if err != nil {
		panic(err)
	}

	ctx, load := client.StartLoad(context.Background(), "users")
	_, command := client.StartRedis(ctx, "GET", telemetry.ParseServer("127.0.0.1:6379"), 1)
	command.End(nil)
	load.End(nil)

	fmt.Println(client.Name())
	// Output: orders
}
