package nearcache_test

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/redis/rueidis"

	"github.com/go-nearcache/nearcache"
	"github.com/go-nearcache/nearcache/internal/redistest"
)

// User is what the examples cache.
type User struct {
	ID   string `json:"id"`
	Name string `json:"name"`
}

// database is where users come from.
type database map[string]User

func (db database) User(_ context.Context, id string) (User, error) {
	fmt.Println("the database is asked for", id)
	user, ok := db[id]
	if !ok {
		return User{}, nearcache.ErrNotFound
	}
	return user, nil
}

// startRedis starts a server for an example. A program of yours would rather connect to one that runs:
//
//	rueidis.ClientOption{InitAddress: []string{"127.0.0.1:6379"}}
func startRedis() *redistest.Server {
	server, err := redistest.Run(context.Background(), redistest.Config{})
	if err != nil {
		log.Fatal(err)
	}
	return server
}

func Example() {
	server := startRedis()
	defer server.Close()
	ctx := context.Background()
	db := database{"1": {"1", "Grace"}, "42": {"42", "Ada"}}

	client, err := nearcache.Open(ctx, nearcache.Options{
		Redis:    server.ClientOption(),
		Prefixes: []string{"user:"}, // what Redis announces to this node
	})
	if err != nil {
		log.Fatal(err) // says what is missing and what to do about it
	}
	defer client.Close(ctx)

	users, err := nearcache.New(client, nearcache.Config[User]{
		Name:   "users",
		Prefix: "user:", // the item "42" is the key "user:42"
		TTL:    10 * time.Minute,
		Load:   db.User,
	})
	if err != nil {
		log.Fatal(err)
	}

	u, err := users.Get(ctx, "42") // L1, else Redis, else Load
	fmt.Println(u.Name, err)
	u, err = users.Get(ctx, "42", nearcache.Fresh()) // nothing older than now
	fmt.Println(u.Name, err)
	m, err := users.GetMany(ctx, []string{"1", "2", "42"}) // only what is missing travels
	fmt.Println(len(m), err)
	err = users.Set(ctx, "42", User{"42", "Ada Lovelace"}) // every node forgets its copy
	fmt.Println(err)
	u, err = users.Get(ctx, "42")
	fmt.Println(u.Name, err)

	// Unordered output:
	// the database is asked for 42
	// Ada <nil>
	// Ada <nil>
	// the database is asked for 1
	// the database is asked for 2
	// 2 <nil>
	// <nil>
	// Ada Lovelace <nil>
}

// openUsers opens a client on the server and makes a cache of users on it.
func openUsers(ctx context.Context, server *redistest.Server, options nearcache.Options, config nearcache.Config[User]) (*nearcache.Client, *nearcache.Cache[User]) {
	options.Redis, options.Prefixes = server.ClientOption(), []string{"user:"}
	options.RemoteTimeout = 10 * time.Second // a busy machine must not look like a server that is away
	client, err := nearcache.Open(ctx, options)
	if err != nil {
		log.Fatal(err)
	}
	config.Name, config.Prefix = "users", "user:"
	users, err := nearcache.New(client, config)
	if err != nil {
		log.Fatal(err)
	}
	return client, users
}

// Any program may write what is cached, with any client.
func ExampleFresh() {
	server := startRedis()
	defer server.Close()
	ctx := context.Background()
	client, users := openUsers(ctx, server, nearcache.Options{}, nearcache.Config[User]{})
	defer client.Close(ctx)

	another, err := rueidis.NewClient(server.ClientOption())
	if err != nil {
		log.Fatal(err)
	}
	defer another.Close()
	for _, name := range []string{"Ada", "Ada Lovelace", "Augusta Ada King"} {
		another.Do(ctx, another.B().Set().Key("user:42").Value(`{"id":"42","name":"`+name+`"}`).Build())
		u, err := users.Get(ctx, "42", nearcache.Fresh())
		fmt.Println(u.Name, err)
	}

	// Output:
	// Ada <nil>
	// Ada Lovelace <nil>
	// Augusta Ada King <nil>
}

// One fence makes all reads after it see what was written before it.
func ExampleClient_Fence() {
	server := startRedis()
	defer server.Close()
	ctx := context.Background()
	client, users := openUsers(ctx, server, nearcache.Options{MaxStaleness: time.Minute}, nearcache.Config[User]{})
	defer client.Close(ctx)

	server.Command(ctx, "MSET", "user:1", `{"name":"Grace"}`, "user:42", `{"name":"Ada"}`)
	if err := client.Fence(ctx); err != nil {
		log.Fatal(err)
	}
	for _, id := range []string{"1", "42"} {
		u, err := users.Get(ctx, id)
		fmt.Println(u.Name, err)
	}

	// Output:
	// Grace <nil>
	// Ada <nil>
}

// A key that fails does not take the others with it.
func ExampleCache_GetMany() {
	server := startRedis()
	defer server.Close()
	ctx := context.Background()
	client, users := openUsers(ctx, server, nearcache.Options{}, nearcache.Config[User]{})
	defer client.Close(ctx)

	server.Command(ctx, "SET", "user:42", `{"name":"Ada"}`)
	server.Command(ctx, "LPUSH", "user:7", "not a user")
	found, err := users.GetMany(ctx, []string{"42", "7", "nobody"})
	fmt.Println(len(found), found["42"].Name)
	if failed, ok := errors.AsType[*nearcache.KeyError](err); ok {
		fmt.Println(failed.Key, "failed:", failed.Err)
	}

	// Output:
	// 1 Ada
	// 7 failed: nearcache: the key "user:7" holds a list, not a string: delete it, or give the cache a prefix of its own
}

// What does not exist is remembered as well, if NegativeTTL says so, until it is created or the time is over.
func ExampleConfig_negativeTTL() {
	server := startRedis()
	defer server.Close()
	ctx := context.Background()
	client, users := openUsers(ctx, server, nearcache.Options{}, nearcache.Config[User]{
		Load:        database{}.User,
		NegativeTTL: time.Minute,
	})
	defer client.Close(ctx)

	for range 3 {
		_, err := users.Get(ctx, "42")
		fmt.Println(errors.Is(err, nearcache.ErrNotFound))
	}
	if err := users.Set(ctx, "42", User{"42", "Ada"}); err != nil {
		log.Fatal(err)
	}
	u, err := users.Get(ctx, "42")
	fmt.Println(u.Name, err)

	// Output:
	// the database is asked for 42
	// true
	// true
	// true
	// Ada <nil>
}

// ServeStale goes on serving, up to a limit, what this node held when the link was lost, even if Redis is gone altogether.
func ExampleOptions_serveStale() {
	server := startRedis()
	defer server.Close()
	ctx := context.Background()
	client, users := openUsers(ctx, server, nearcache.Options{
		MaxStaleness: 10 * time.Millisecond,
		OnDisconnect: nearcache.ServeStale,
		StaleLimit:   time.Hour,
		SettleFills:  true, // so that the example can count on L1
	}, nearcache.Config[User]{})
	defer client.Close(ctx)

	server.Command(ctx, "SET", "user:42", `{"name":"Ada"}`)
	if err := client.Fence(ctx); err != nil {
		log.Fatal(err)
	}
	u, err := users.Get(ctx, "42")
	fmt.Println(u.Name, err)

	server.Kill()
	u, err = users.Get(ctx, "42")
	fmt.Println(u.Name, err)
	_, err = users.Get(ctx, "42", nearcache.Fresh())
	fmt.Println("fresh:", errors.Is(err, nearcache.ErrUnavailable))

	// Output:
	// Ada <nil>
	// Ada <nil>
	// fresh: true
}

// A codec is a pair of functions. What Encode returns is all that Redis holds.
func ExampleCodec() {
	server := startRedis()
	defer server.Close()
	ctx := context.Background()
	client, err := nearcache.Open(ctx, nearcache.Options{Redis: server.ClientOption(), Prefixes: []string{"stock:"}})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close(ctx)

	stock, err := nearcache.New(client, nearcache.Config[uint32]{
		Name:   "stock",
		Prefix: "stock:",
		Codec: nearcache.Codec[uint32]{
			Encode: func(n uint32) ([]byte, error) { return binary.BigEndian.AppendUint32(nil, n), nil },
			Decode: func(data []byte) (uint32, error) {
				if len(data) != 4 {
					return 0, fmt.Errorf("%d bytes are no stock", len(data))
				}
				return binary.BigEndian.Uint32(data), nil
			},
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := stock.Set(ctx, "apples", 258); err != nil {
		log.Fatal(err)
	}
	data, err := server.Command(ctx, "GET", "stock:apples").ToString()
	fmt.Printf("%q %v\n", data, err)
	n, err := stock.Get(ctx, "apples")
	fmt.Println(n, err)

	// Output:
	// "\x00\x00\x01\x02" <nil>
	// 258 <nil>
}

// Explain says where an item lives and what happened to it.
func ExampleCache_Explain() {
	server := startRedis()
	defer server.Close()
	ctx := context.Background()
	client, users := openUsers(ctx, server, nearcache.Options{SettleFills: true}, nearcache.Config[User]{})
	defer client.Close(ctx)

	fmt.Println(users.Explain(ctx, "42"))

	server.Command(ctx, "SET", "user:42", `{"name":"Ada"}`)
	if err := client.Fence(ctx); err != nil {
		log.Fatal(err)
	}
	if _, err := users.Get(ctx, "42"); err != nil {
		log.Fatal(err)
	}
	e := users.Explain(ctx, "42")
	fmt.Println("L1:", e.Local.Servable, "Redis:", e.Remote.Bytes, "bytes")

	server.Command(ctx, "DEL", "user:42")
	if err := client.Fence(ctx); err != nil {
		log.Fatal(err)
	}
	e = users.Explain(ctx, "42")
	fmt.Println("L1:", e.Local.Present, "Redis:", e.Remote.Present, "evicted by:", e.LastInvalidation.Cause)

	// Output:
	// "user:42": L1 has nothing; Redis has nothing
	// L1: true Redis: 14 bytes
	// L1: false Redis: false evicted by: tracking
}

// A probe asks whether the node has its memory, and the answer says why not.
func ExampleClient_HealthHandler() {
	server := startRedis()
	defer server.Close()
	ctx := context.Background()
	client, err := nearcache.Open(ctx, nearcache.Options{Redis: server.ClientOption(), Prefixes: []string{"user:"}})
	if err != nil {
		log.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle("/ready", client.HealthHandler())

	ask := func() {
		answer := httptest.NewRecorder()
		mux.ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/ready", nil))
		var health struct {
			Reason string `json:"reason"`
		}
		if err := json.Unmarshal(answer.Body.Bytes(), &health); err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%d %q\n", answer.Code, health.Reason)
	}
	ask()
	client.Close(ctx)
	ask()
	// Output:
	// 200 ""
	// 503 "nearcache: the client is closed: open a new one"
}

// What is missing is loaded with one query, and one missing item does not fail the others.
func ExampleConfig_loadMany() {
	server := startRedis()
	defer server.Close()
	ctx := context.Background()
	db := database{"1": {"1", "Grace"}, "42": {"42", "Ada"}}
	client, users := openUsers(ctx, server, nearcache.Options{}, nearcache.Config[User]{
		LoadMany: func(_ context.Context, ids []string) (map[string]User, error) {
			// SELECT … FROM users WHERE id = ANY($1)
			found := make(map[string]User)
			for _, id := range ids {
				if user, ok := db[id]; ok {
					found[id] = user
				}
			}
			fmt.Println("one query for", len(ids), "users")
			return found, nil
		},
	})
	defer client.Close(ctx)

	found, err := users.GetMany(ctx, []string{"1", "42", "nobody"})
	fmt.Println(found["1"].Name, found["42"].Name, len(found), err)

	// Output:
	// one query for 3 users
	// Grace Ada 2 <nil>
}
