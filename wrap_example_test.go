package nearcache_test

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/redis/rueidis"

	"github.com/go-nearcache/nearcache"
)

// Code that calls rueidis changes the line that makes its client.
func ExampleNewRueidis() {
	server := startRedis()
	defer server.Close()
	ctx := context.Background()

	// Before: client, err := rueidis.NewClient(option)
	client, err := nearcache.NewRueidis(rueidis.ClientOption{InitAddress: []string{server.Addr()}}, "user:")
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	if err := client.Do(ctx, client.B().Hset().Key("user:42").FieldValue().FieldValue("name", "Ada").Build()).Error(); err != nil {
		log.Fatal(err)
	}
	for { // a reply is in L1 a moment after the first read
		result := client.DoCache(ctx, client.B().Hget().Key("user:42").Field("name").Cache(), time.Minute)
		if name, err := result.ToString(); result.IsCacheHit() {
			fmt.Println(name, err)
			break
		}
	}
	// Output: Ada <nil>
}

// Typed caches and rueidis's own calls share one client: its connections, its link and the budget of L1.
func ExampleClient_Rueidis() {
	server := startRedis()
	defer server.Close()
	ctx := context.Background()

	near, err := nearcache.Open(ctx, nearcache.Options{
		Redis:        rueidis.ClientOption{InitAddress: []string{server.Addr()}},
		Prefixes:     []string{"user:"},
		MaxStaleness: 200 * time.Millisecond,
	})
	if err != nil {
		log.Fatal(err)
	}
	defer near.Close(ctx)
	client, err := near.Rueidis()
	if err != nil {
		log.Fatal(err)
	}
	names, err := nearcache.New(near, nearcache.Config[string]{Name: "names", Prefix: "user:name:", Codec: nearcache.String()})
	if err != nil {
		log.Fatal(err)
	}

	if err := client.Do(ctx, client.B().Set().Key("user:name:42").Value("Ada").Build()).Error(); err != nil {
		log.Fatal(err)
	}
	name, err := names.Get(ctx, "42")
	fmt.Println(name, err)
	// Output: Ada <nil>
}
