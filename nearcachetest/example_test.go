package nearcachetest_test

import (
	"context"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/go-nearcache/nearcache"
	"github.com/go-nearcache/nearcache/broadcast"
	"github.com/go-nearcache/nearcache/internal/redistest"
	"github.com/go-nearcache/nearcache/nearcachetest"
)

// Greeter is the program under test: it gets its client from outside.
type Greeter struct{ names *nearcache.Cache[string] }

func NewGreeter(client *nearcache.Client, database map[string]string) (*Greeter, error) {
	names, err := nearcache.New(client, nearcache.Config[string]{
		Name: "names", Prefix: "name:",
		Load: func(_ context.Context, id string) (string, error) {
			name, ok := database[id]
			if !ok {
				return "", nearcache.ErrNotFound
			}
			fmt.Println("loaded", name)
			return name, nil
		},
	})
	return &Greeter{names}, err
}

func (g *Greeter) Greet(ctx context.Context, id string) string {
	name, err := g.names.Get(ctx, id)
	if err != nil {
		return err.Error()
	}
	return "Hello, " + name
}

// The body of inTest is what a test function would be.
func ExampleNewClient() {
	inTest(func(t testing.TB) {
		client := nearcachetest.NewClient(t, nearcache.Options{})
		greeter, err := NewGreeter(client, map[string]string{"1": "Ann"})
		if err != nil {
			t.Fatal(err)
		}
		fmt.Println(greeter.Greet(t.Context(), "1"))
		fmt.Println(greeter.Greet(t.Context(), "1"))
		fmt.Println(greeter.Greet(t.Context(), "2"))
	})
	// Output:
	// loaded Ann
	// Hello, Ann
	// Hello, Ann
	// nearcache: not found
}

// Several clients on one network are several nodes.
func ExampleNewClientOn() {
	inTest(func(t testing.TB) {
		price := "10"
		network := broadcast.NewNetwork(broadcast.NetworkOptions{})
		newNode := func() *nearcache.Cache[string] {
			cache, err := nearcache.New(nearcachetest.NewClientOn(t, network, nearcache.Options{}), nearcache.Config[string]{
				Name: "prices", Prefix: "price:",
				Load: func(context.Context, string) (string, error) { return price, nil },
			})
			if err != nil {
				t.Fatal(err)
			}
			return cache
		}
		a, b := newNode(), newNode()
		nearcachetest.EventuallyCoherent(t, 30*time.Second, "apple", "10", a, b)

		price = "12"
		if err := a.Delete(t.Context(), "apple"); err != nil {
			t.Fatal(err)
		}
		nearcachetest.EventuallyCoherent(t, 30*time.Second, "apple", "12", a, b)
		fmt.Println("both know the new price")
	})
	// Output: both know the new price
}

// startRedis stands for what the program's tests have to get a Redis: a container, a server on the machine.
func startRedis(t testing.TB) (address string, direct rueidis.Client) {
	server := redistest.Start(t, redistest.Config{})
	return server.Addr(), server.Client(t)
}

// openNames opens a node on a Redis through a Faults.
func openNames(t testing.TB, address string, faults *nearcachetest.Faults) (*nearcache.Client, *nearcache.Cache[string]) {
	client, err := nearcache.Open(t.Context(), nearcache.Options{
		Redis:         rueidis.ClientOption{InitAddress: []string{address}, DialCtxFn: faults.Dial},
		Prefixes:      []string{"name:"},
		RemoteTimeout: 4 * time.Second,
		SettleFills:   true,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close(context.Background()) })
	names, err := nearcache.New(client, nearcache.Config[string]{Name: "names", Prefix: "name:", Codec: nearcache.String()})
	if err != nil {
		t.Fatal(err)
	}
	return client, names
}

// A push that is held back while the link lives on shows what the program does with a value that is stale.
func ExampleFaults() {
	inTest(func(t testing.TB) {
		address, redis := startRedis(t)
		faults := nearcachetest.NewFaults(t)
		client, names := openNames(t, address, faults)
		set := func(name string) {
			if err := redis.Do(t.Context(), redis.B().Set().Key("name:1").Value(name).Build()).Error(); err != nil {
				t.Fatal(err)
			}
		}
		show := func() {
			name, err := names.Get(t.Context(), "1")
			fmt.Println(name, err)
		}

		set("Ann")
		if err := client.Fence(t.Context()); err != nil { // the push is there, and ends nothing that is read from now on
			t.Fatal(err)
		}
		show()

		faults.HoldPushes("name:1")
		set("Bea")
		fmt.Println("held:", faults.AwaitHeld(1)[0].Keys)
		show()

		faults.ReleasePushes()
		nearcachetest.EventuallyCoherent(t, 30*time.Second, "1", "Bea", names)
		show()
	})
	// Output:
	// Ann <nil>
	// held: [name:1]
	// Ann <nil>
	// Bea <nil>
}

// A link that is cut, again and again, costs no more than the bound.
func ExampleAssertNotStalerThan() {
	inTest(func(t testing.TB) {
		address, redis := startRedis(t)
		faults := nearcachetest.NewFaults(t)
		_, a := openNames(t, address, faults)
		_, b := openNames(t, address, faults)

		staleness := nearcachetest.AssertNotStalerThan(t, nearcache.DefaultMaxStaleness, "1", a, b)
		for version := range 100 {
			if version%25 == 10 {
				faults.Cut(nearcachetest.Links)
			}
			name := "version " + strconv.Itoa(version)
			err := staleness.Write(name, func() error {
				return redis.Do(t.Context(), redis.B().Set().Key("name:1").Value(name).Build()).Error()
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		report := staleness.Stop() // the end of the test would do the same
		fmt.Println(report.Reads > 0, report.Stale)
	})
	// Output: true 0
}

// Two nodes on one Redis come to agree, whoever wrote.
func ExampleEventuallyCoherent() {
	inTest(func(t testing.TB) {
		address, _ := startRedis(t)
		_, a := openNames(t, address, nearcachetest.NewFaults(t))
		_, b := openNames(t, address, nearcachetest.NewFaults(t))
		if err := a.Set(t.Context(), "1", "Ann"); err != nil {
			t.Fatal(err)
		}
		nearcachetest.EventuallyCoherent(t, 30*time.Second, "1", "Ann", a, b)
		fmt.Println("agreed")
	})
	// Output: agreed
}
