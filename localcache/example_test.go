package localcache_test

import (
	"fmt"
	"time"

	"github.com/go-nearcache/nearcache/localcache"
)

// A read-through of a value that somebody else changes: what was fetched before the change was announced is never served
// after it, not even when the fetch takes so long that the announcement overtakes it.
func Example() {
	cache, err := localcache.New(localcache.Options{MaxBytes: 16 << 20})
	if err != nil {
		panic(err)
	}
	defer cache.Close()
	users := localcache.NewView[string](cache, "users")
	server := cache.NewShard()
	server.Renew(localcache.Now()) // the link that announces changes is up

	database := map[string]string{"42": "Ada"}
	key := users.Key("42")
	get := func() {
		now := localcache.Now()
		if name, result := users.Get(key, now, now.Add(-time.Minute)); result == localcache.Hit {
			fmt.Println("hit:", *name)
			return
		}
		token := users.Token(key, server) // before the fetch
		name := database["42"]
		filled := users.Fill(key, token, name, now.Add(time.Hour), int64(len(name)))
		cache.Wait() // a server would not; the next reads might miss, too
		fmt.Println("miss:", name, filled)
	}
	get()
	get()

	slow := users.Token(key, server)
	fetched := database["42"]
	database["42"] = "Grace"
	fmt.Println("announced, evicted:", users.Invalidate(key, localcache.Tracking))
	fmt.Println("the slow fetch:", users.Fill(key, slow, fetched, localcache.Never, int64(len(fetched))))
	get()
	get()

	server.Suspend() // the link is lost, and with it the certainty
	get()
	// Output:
	// miss: Ada filled
	// hit: Ada
	// announced, evicted: true
	// the slow fetch: invalidated
	// miss: Grace filled
	// hit: Grace
	// miss: Grace epoch
}

// A reader decides how old a value it accepts. What is too old for one is a hit for another, and becomes one for all when
// the server is known to have announced everything up to now.
func ExampleView_Get() {
	cache, err := localcache.New(localcache.Options{})
	if err != nil {
		panic(err)
	}
	defer cache.Close()
	prices := localcache.NewView[float64](cache, "prices")
	server := cache.NewShard()

	start := localcache.Now()
	server.Renew(start)
	key := prices.Key("gold")
	prices.Fill(key, prices.Token(key, server), 1917.5, localcache.Never, 0)
	cache.Wait()

	now := start.Add(10 * time.Second) // and nothing has been heard of the server since
	_, patient := prices.Get(key, now, now.Add(-time.Minute))
	_, strict := prices.Get(key, now, now.Add(-time.Second))
	server.Confirm(now)
	_, confirmed := prices.Get(key, now, now.Add(-time.Second))
	fmt.Println(patient, strict, confirmed)
	// Output: hit stale hit
}
