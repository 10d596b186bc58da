package nearcache_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"

	"github.com/go-nearcache/nearcache"
	"github.com/go-nearcache/nearcache/internal/redistest"
)

// The value decides how long it lives: what changes often is kept for a short time.
func ExampleConfig_entry() {
	server := startRedis()
	defer server.Close()
	ctx := context.Background()
	client, users := openUsers(ctx, server, nearcache.Options{}, nearcache.Config[User]{
		TTL: time.Hour,
		Entry: func(_ string, u User) nearcache.EntryOptions {
			if u.Name == "" { // not yet registered
				return nearcache.EntryOptions{TTL: time.Minute}
			}
			return nearcache.EntryOptions{}
		},
	})
	defer client.Close(ctx)

	for _, u := range []User{{"1", ""}, {"42", "Ada"}} {
		if err := users.Set(ctx, u.ID, u); err != nil {
			log.Fatal(err)
		}
		fmt.Println(u.ID, users.Explain(ctx, u.ID).Remote.TTL > time.Minute)
	}

	// Output:
	// 1 false
	// 42 true
}

// Update compares and swaps: an update by another node in between is not lost.
func ExampleCache_Update() {
	server := startRedis()
	defer server.Close()
	ctx := context.Background()
	client, users := openUsers(ctx, server, nearcache.Options{}, nearcache.Config[User]{})
	defer client.Close(ctx)

	rename := func(u User, exists bool) (User, error) {
		if !exists {
			return User{"42", "Ada"}, nil
		}
		u.Name += " Lovelace"
		return u, nil
	}
	for range 2 {
		u, err := users.Update(ctx, "42", rename)
		fmt.Println(u.Name, err)
	}

	// Output:
	// Ada <nil>
	// Ada Lovelace <nil>
}

// With Store and Remove, a write goes to the database and to Redis, in the order that leaves nothing stale behind.
func ExampleConfig_store() {
	server := startRedis()
	defer server.Close()
	ctx := context.Background()
	db := database{}
	client, users := openUsers(ctx, server, nearcache.Options{}, nearcache.Config[User]{
		Load:   db.User,
		Store:  func(_ context.Context, id string, u User) error { db[id] = u; return nil },
		Remove: func(_ context.Context, id string) error { delete(db, id); return nil },
	})
	defer client.Close(ctx)

	if err := users.Set(ctx, "42", User{"42", "Ada"}); err != nil {
		log.Fatal(err)
	}
	u, err := users.Get(ctx, "42")
	fmt.Println(u.Name, err, len(db))
	fmt.Println(users.Delete(ctx, "42"), len(db))

	// Output:
	// Ada <nil> 1
	// <nil> 0
}

// Several values travel together, here with a life of their own.
func ExampleCache_SetMany() {
	server := startRedis()
	defer server.Close()
	ctx := context.Background()
	client, users := openUsers(ctx, server, nearcache.Options{}, nearcache.Config[User]{})
	defer client.Close(ctx)

	err := users.SetMany(ctx, map[string]User{"1": {"1", "Grace"}, "42": {"42", "Ada"}}, nearcache.TTL(time.Minute))
	fmt.Println(err)
	found, err := users.GetMany(ctx, []string{"1", "42"})
	fmt.Println(len(found), err)
	fmt.Println(users.Touch(ctx, "42", nearcache.TTL(time.Hour)))

	// Output:
	// <nil>
	// 2 <nil>
	// <nil>
}

// When the database is away, the last good value is better than none, and the caller can tell.
func ExampleConfig_failSafe() {
	server := startRedis()
	defer server.Close()
	ctx := context.Background()
	broken := false
	client, users := openUsers(ctx, server, nearcache.Options{SettleFills: true}, nearcache.Config[User]{
		FailSafe: nearcache.FailSafe{MaxAge: time.Hour},
		Load: func(context.Context, string) (User, error) {
			if broken {
				return User{}, errors.New("no connection to the database")
			}
			return User{"42", "Ada"}, nil
		},
	})
	defer client.Close(ctx)

	u, err := users.GetItem(ctx, "42")
	fmt.Println(u.Value.Name, u.Stale, err)

	broken = true
	server.Command(ctx, "DEL", "user:42")
	if err := client.Fence(ctx); err != nil {
		log.Fatal(err)
	}
	u, err = users.GetItem(ctx, "42")
	fmt.Println(u.Value.Name, u.Stale, u.Reason, err)
	_, err = users.Get(ctx, "42", nearcache.Fresh())
	fmt.Println(err)

	// Output:
	// Ada false <nil>
	// Ada true no connection to the database <nil>
	// no connection to the database
}

// An item that is read all the time is loaded anew before its end, by one node, and no reader waits for it.
func ExampleConfig_refreshAhead() {
	server := startRedis()
	defer server.Close()
	ctx := context.Background()
	client, users := openUsers(ctx, server, nearcache.Options{SettleFills: true}, nearcache.Config[User]{
		TTL:          10 * time.Minute,
		RefreshAhead: 0.2, // in the last two minutes
		Load:         func(context.Context, string) (User, error) { return User{"42", "Ada Lovelace"}, nil },
	})
	defer client.Close(ctx)

	server.Command(ctx, "SET", "user:42", `{"id":"42","name":"Ada"}`, "EX", "60") // a minute is left
	if err := client.Fence(ctx); err != nil {
		log.Fatal(err)
	}
	for {
		u, err := users.Get(ctx, "42")
		if err != nil {
			log.Fatal(err)
		}
		if u.Name == "Ada Lovelace" {
			break
		}
	}
	fmt.Println(client.Stats().Caches["users"].Loads)

	// Output:
	// 1
}

// A source that can tell whether an item has changed is not asked for what the node still remembers.
func ExamplePrevious() {
	server := startRedis()
	defer server.Close()
	ctx := context.Background()
	// fetch returns what the source says of an item: 304 if it is that of the ETag.
	fetch := func(etag string) (page Page, status int) {
		if etag == "v1" {
			return Page{}, http.StatusNotModified
		}
		return Page{ETag: "v1", Body: "a long text"}, http.StatusOK
	}
	client, err := nearcache.Open(ctx, nearcache.Options{Redis: server.ClientOption(), Prefixes: []string{"page:"}})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close(ctx)
	pages, err := nearcache.New(client, nearcache.Config[Page]{
		Name: "pages", Prefix: "page:", TTL: time.Minute,
		FailSafe: nearcache.FailSafe{MaxAge: time.Hour},
		Load: func(ctx context.Context, key string) (Page, error) {
			previous, _ := nearcache.Previous[Page](ctx)
			page, status := fetch(previous.ETag)
			fmt.Println(status)
			if status == http.StatusNotModified {
				return previous, nil
			}
			return page, nil
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	for range 2 {
		page, err := pages.Get(ctx, "/")
		fmt.Println(page.Body, err)
		server.Command(ctx, "DEL", "page:/") // its time to live has ended
		if err := client.Fence(ctx); err != nil {
			log.Fatal(err)
		}
	}

	// Output:
	// 200
	// a long text <nil>
	// 304
	// a long text <nil>
}

// Page is what a source sends with an ETag.
type Page struct{ ETag, Body string }

// A node reads what it will be asked for before it takes part, and an operator empties a cache without stopping the server for others.
func ExampleCache_Warm() {
	server := startRedis()
	defer server.Close()
	ctx := context.Background()
	client, users := openUsers(ctx, server, nearcache.Options{}, nearcache.Config[User]{})
	defer client.Close(ctx)
	server.Command(ctx, "MSET", "user:1", `{"name":"Grace"}`, "user:42", `{"name":"Ada"}`)

	err := users.Warm(ctx, slices.Values([]string{"1", "42", "nobody"}), nearcache.BulkOptions{
		KeysPerSecond: 1000,
		Progress:      func(done int) { fmt.Println("read:", done) },
	})
	fmt.Println(err)
	removed, err := users.Clear(ctx, nearcache.BulkOptions{KeysPerSecond: 1000})
	fmt.Println("removed:", removed >= 2, err) // it may find marks of the library itself, too

	// Output:
	// read: 3
	// <nil>
	// removed: true <nil>
}

// Where the server does not announce changes, a node goes on with what there is, and says so.
func ExampleMode() {
	ctx := context.Background()
	server := startRedis()
	defer server.Close()
	client, err := nearcache.Open(ctx, nearcache.Options{
		Redis:       server.ClientOption(),
		Prefixes:    []string{"user:"},
		Tracking:    nearcache.Degrade,
		DegradedTTL: 2 * time.Second,
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close(ctx)
	fmt.Println(client.Health().Mode)
	// Output: tracking
}

// While an incident is looked into, all reads go past Redis: to the loader, for what L1 does not hold. With Options.Bus one call does it
// for the whole fleet.
func ExampleClient_SetBypass() {
	server := startRedis()
	defer server.Close()
	ctx := context.Background()
	db := database{"42": {"42", "Ada"}}
	client, users := openUsers(ctx, server, nearcache.Options{}, nearcache.Config[User]{Load: db.User})
	defer client.Close(ctx)

	if err := client.SetBypass(ctx, "users", nearcache.BypassRedis); err != nil {
		log.Fatal(err)
	}
	u, err := users.Get(ctx, "42")
	fmt.Println(u.Name, err, users.Bypass(), users.Explain(ctx, "42").Remote.Present)
	users.SetBypass(0)
	u, err = users.Get(ctx, "42")
	fmt.Println(u.Name, err, users.Bypass(), users.Explain(ctx, "42").Remote.Present)

	// Output:
	// the database is asked for 42
	// Ada <nil> BypassRedis false
	// the database is asked for 42
	// Ada <nil> none true
}

// A report reads what nobody else may want, and leaves memory and Redis to those who come again.
func ExampleReadOnly() {
	server := startRedis()
	defer server.Close()
	ctx := context.Background()
	db := database{"42": {"42", "Ada"}}
	client, users := openUsers(ctx, server, nearcache.Options{}, nearcache.Config[User]{Load: db.User})
	defer client.Close(ctx)

	found, err := users.GetMany(ctx, []string{"42"}, nearcache.ReadOnly())
	fmt.Println(len(found), err, users.Explain(ctx, "42").Remote.Present)

	// Output:
	// the database is asked for 42
	// 1 <nil> false
}

// What happens in a cache, as it happens.
func ExampleCache_Events() {
	server := startRedis()
	defer server.Close()
	ctx := context.Background()
	client, users := openUsers(ctx, server, nearcache.Options{}, nearcache.Config[User]{Load: database{"42": {"42", "Ada"}}.User})
	defer client.Close(ctx)

	events := users.Events(ctx, 100)
	if _, err := users.Get(ctx, "42"); err != nil {
		log.Fatal(err)
	}
	for range 2 {
		event := <-events
		fmt.Println(event.Kind, event.Key, event.Err)
	}

	// Output:
	// the database is asked for 42
	// miss 42 <nil>
	// load 42 <nil>
}

// Operators ask a running service what it knows of a key; on an internal address only.
func ExampleInspectHandler() {
	server := startRedis()
	defer server.Close()
	ctx := context.Background()
	client, users := openUsers(ctx, server, nearcache.Options{}, nearcache.Config[User]{})
	defer client.Close(ctx)
	if err := users.Set(ctx, "42", User{"42", "Ada"}); err != nil {
		log.Fatal(err)
	}

	service := httptest.NewServer(nearcache.InspectHandler(client))
	defer service.Close()
	response, err := http.Get(service.URL + "?cache=users&key=42")
	if err != nil {
		log.Fatal(err)
	}
	defer response.Body.Close()
	var item struct{ Key, Tier string }
	fmt.Println(json.NewDecoder(response.Body).Decode(&item), item)

	// Output:
	// <nil> {user:42 redis}
}

// What is read past its TTL is not waited for: the value is served while one node loads it anew.
func ExampleConfig_staleWhileRevalidate() {
	server := startRedis()
	defer server.Close()
	ctx := context.Background()
	client, users := openUsers(ctx, server, nearcache.Options{}, nearcache.Config[User]{
		TTL: time.Minute, StaleWhileRevalidate: time.Hour, Load: database{"42": {"42", "Ada"}}.User,
	})
	defer client.Close(ctx)

	u, err := users.Get(ctx, "42")
	fmt.Println(u.Name, err, users.Explain(ctx, "42").Remote.TTL > time.Hour)

	// Output:
	// the database is asked for 42
	// Ada <nil> true
}

// A writer who changes the database and tells nobody is found out.
func ExampleConfig_shadow() {
	server := startRedis()
	defer server.Close()
	ctx := context.Background()
	var name atomic.Value
	name.Store("Ada")
	client, users := openUsers(ctx, server, nearcache.Options{SettleFills: true}, nearcache.Config[User]{
		Shadow: nearcache.Shadow{SampleRate: 1},
		Load:   func(_ context.Context, id string) (User, error) { return User{id, name.Load().(string)}, nil },
	})
	defer client.Close(ctx)

	for client.Stats().Caches["users"].Shadow.Same == 0 {
		if _, err := users.Get(ctx, "42"); err != nil {
			log.Fatal(err)
		}
	}
	name.Store("Ada Lovelace")
	for client.Stats().Caches["users"].Shadow.Different == 0 {
		if _, err := users.Get(ctx, "42"); err != nil {
			log.Fatal(err)
		}
	}
	u, err := users.Get(ctx, "42")
	fmt.Println(u.Name, err)

	// Output:
	// Ada <nil>
}

// What is read often is read again when others have changed it, before anybody asks: here within a budget of 100 a second.
func ExampleConfig_refreshInvalidated() {
	server := startRedis()
	defer server.Close()
	ctx := context.Background()
	client, users := openUsers(ctx, server, nearcache.Options{SettleFills: true}, nearcache.Config[User]{RefreshInvalidated: 100})
	defer client.Close(ctx)

	server.Command(ctx, "SET", "user:42", `{"name":"Ada"}`)
	for range 10_000 {
		if _, err := users.Get(ctx, "42"); err != nil {
			log.Fatal(err)
		}
	}
	server.Command(ctx, "SET", "user:42", `{"name":"Ada Lovelace"}`)
	for client.Stats().Caches["users"].RefreshesInvalidated == 0 || !users.Explain(ctx, "42").Local.Servable {
		time.Sleep(time.Millisecond)
	}
	u, err := users.Get(ctx, "42")
	fmt.Println(u.Name, err)

	// Output:
	// Ada Lovelace <nil>
}

// What was stored together does not end together: each life is up to a tenth shorter than TTL says.
func ExampleConfig_jitter() {
	server := startRedis()
	defer server.Close()
	ctx := context.Background()
	client, users := openUsers(ctx, server, nearcache.Options{}, nearcache.Config[User]{TTL: 100 * time.Hour, Jitter: 0.1})
	defer client.Close(ctx)

	if err := users.SetMany(ctx, map[string]User{"1": {"1", "Grace"}, "42": {"42", "Ada"}}); err != nil {
		log.Fatal(err)
	}
	one, other := users.Explain(ctx, "1").Remote.TTL, users.Explain(ctx, "42").Remote.TTL
	fmt.Println(one != other, min(one, other) > 89*time.Hour, max(one, other) <= 100*time.Hour)

	// Output:
	// true true true
}

// With Clone each reader has a value of its own to change.
func ExampleConfig_clone() {
	server := startRedis()
	defer server.Close()
	ctx := context.Background()
	client, _ := openUsers(ctx, server, nearcache.Options{}, nearcache.Config[User]{})
	defer client.Close(ctx)
	roles, err := nearcache.New(client, nearcache.Config[[]string]{Name: "roles", Prefix: "user:roles:", Clone: slices.Clone[[]string]})
	if err != nil {
		log.Fatal(err)
	}

	if err := roles.Set(ctx, "42", []string{"author", "editor"}); err != nil {
		log.Fatal(err)
	}
	for range 2 {
		mine, err := roles.Get(ctx, "42")
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(mine)
		mine[0] = "nobody"
	}

	// Output:
	// [author editor]
	// [author editor]
}

// What is too long is refused by a write. A load returns it, and keeps it nowhere.
func ExampleConfig_maxValueBytes() {
	server := startRedis()
	defer server.Close()
	ctx := context.Background()
	client, users := openUsers(ctx, server, nearcache.Options{}, nearcache.Config[User]{MaxValueBytes: 20})
	defer client.Close(ctx)

	err := users.Set(ctx, "42", User{"42", "Augusta Ada King, Countess of Lovelace"})
	fmt.Println(errors.Is(err, nearcache.ErrInvalidValue))

	// Output:
	// true
}

// A read past L1 shows what Redis holds.
func ExampleSkipLocal() {
	server := startRedis()
	defer server.Close()
	ctx := context.Background()
	client, users := openUsers(ctx, server, nearcache.Options{}, nearcache.Config[User]{})
	defer client.Close(ctx)

	server.Command(ctx, "SET", "user:42", `{"name":"Ada"}`)
	u, err := users.Get(ctx, "42", nearcache.SkipLocal())
	fmt.Println(u.Name, err)

	// Output:
	// Ada <nil>
}

// Everything of one tenant is forgotten by one write, on all nodes.
// What L1 does not hold is read from a replica that is known to be new enough, and everything else from the primary.
func ExampleOptions_replicas() {
	server := startRedis()
	defer server.Close()
	ctx := context.Background()
	replica, err := redistest.RunReplica(ctx, server, redistest.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer replica.Close()

	options := nearcache.Options{Redis: server.ClientOption(), Prefixes: []string{"user:"}}
	options.Redis.ReadNodeSelector = rueidis.PreferReplicaNodeSelector()
	options.Redis.Standalone.ReplicaAddress = []string{replica.Addr()} // clusters and sentinels tell by themselves
	client, err := nearcache.Open(ctx, options)
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close(ctx)
	users, err := nearcache.New(client, nearcache.Config[User]{Name: "users", Prefix: "user:"})
	if err != nil {
		log.Fatal(err)
	}

	err = users.Set(ctx, "42", User{"42", "Ada"})
	fmt.Println(err)
	u, err := users.Get(ctx, "42") // whether the replica has it yet or not
	fmt.Println(u.Name, err)

	// Output:
	// <nil>
	// Ada <nil>
}

func ExampleTagged() {
	server := startRedis()
	defer server.Close()
	ctx := context.Background()
	client, err := nearcache.Open(ctx, nearcache.Options{Redis: server.ClientOption(), Prefixes: []string{"order:"}, RemoteTimeout: 10 * time.Second})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close(ctx)

	queries := 0
	orders, err := nearcache.NewTagged(client, nearcache.Config[string]{
		Name: "orders", Prefix: "order:",
		Load: func(_ context.Context, key string) (string, error) {
			queries++
			return fmt.Sprintf("order %s, as query %d found it", key, queries), nil
		},
	}, func(key string) []string { // of "7/1001": the tenant 7
		tenant, _, _ := strings.Cut(key, "/")
		return []string{"tenant:" + tenant}
	})
	if err != nil {
		log.Fatal(err)
	}
	show := func(keys ...string) {
		for _, key := range keys {
			order, err := orders.Get(ctx, key)
			if err != nil {
				log.Fatal(err)
			}
			fmt.Println(order)
		}
	}
	show("7/1001", "8/2001")
	if err := orders.InvalidateTag(ctx, "tenant:7"); err != nil {
		log.Fatal(err)
	}
	show("7/1001", "8/2001")
	if err := orders.InvalidateAll(ctx); err != nil {
		log.Fatal(err)
	}
	show("8/2001")

	// Output:
	// order 7/1001, as query 1 found it
	// order 8/2001, as query 2 found it
	// order 7/1001, as query 3 found it
	// order 8/2001, as query 2 found it
	// order 8/2001, as query 4 found it
}

// The tenant is a part of the key: one cache, one tracked prefix, for all of them.
func Example_tenants() {
	server := startRedis()
	defer server.Close()
	ctx := context.Background()
	client, users := openUsers(ctx, server, nearcache.Options{}, nearcache.Config[User]{})
	defer client.Close(ctx)

	for tenant, name := range map[string]string{"7": "Ada", "8": "Grace"} {
		if err := users.Set(ctx, tenant+":42", User{"42", name}); err != nil {
			log.Fatal(err)
		}
	}
	u, err := users.Get(ctx, "7:42")
	fmt.Println(u.Name, err, users.Explain(ctx, "7:42").Key)

	// Output:
	// Ada <nil> user:7:42
}

// A request that reads several items, none of them older than its own beginning, fences once.
func Example_oneView() {
	server := startRedis()
	defer server.Close()
	ctx := context.Background()
	client, users := openUsers(ctx, server, nearcache.Options{MaxStaleness: time.Minute}, nearcache.Config[User]{})
	defer client.Close(ctx)

	server.Command(ctx, "MSET", "user:1", `{"name":"Grace"}`, "user:42", `{"name":"Ada"}`)
	if err := client.Fence(ctx); err != nil {
		log.Fatal(err)
	}
	first, err := users.Get(ctx, "42")
	if err != nil {
		log.Fatal(err)
	}
	others, err := users.GetMany(ctx, []string{"1", "2"})
	fmt.Println(first.Name, len(others), err)

	// Output:
	// Ada 1 <nil>
}
