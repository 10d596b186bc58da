package nearcache_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/go-nearcache/nearcache"
	"github.com/go-nearcache/nearcache/internal/redistest"
	"github.com/go-nearcache/nearcache/nearcachetest"
)

// withCanary opens a node with a canary that waits long for its push, unless change says otherwise.
func withCanary(t *testing.T, interval time.Duration, change func(*nearcache.Options)) *verified {
	t.Helper()
	return newVerified(t, func(o *nearcache.Options) {
		o.Verify = nearcache.Verify{}
		o.Canary = interval
		o.MaxStaleness = endless
		if change != nil {
			change(o)
		}
	}, fromSource)
}

// canaries returns the canary keys that the server holds.
func canaries(t testing.TB, server *redistest.Server) []string {
	t.Helper()
	message := server.Do(t, "KEYS", prefix+"nearcache:canary:*")
	keys, err := message.AsStrSlice()
	check(t, err)
	return keys
}

func TestCanaryMeasuresTheLag(t *testing.T) {
	t.Parallel()
	const lag = 150 * time.Millisecond
	v := withCanary(t, 10*time.Millisecond, nil)
	measured := func() int { return len(v.recorded.of("nearcache.invalidation.lag")) }
	eventually(t, "the lag is measured", func() bool { return measured() >= 3 && v.client.Stats().Link.CanaryLag > 0 })

	keys := canaries(t, v.server)
	if len(keys) != 1 {
		t.Fatalf("the server holds the canaries %q", keys)
	}
	answer := v.server.Do(t, "PTTL", keys[0])
	life, err := answer.AsInt64()
	check(t, err)
	if life <= 0 || life > time.Hour.Milliseconds() {
		t.Errorf("the canary's key would live for another %d ms", life)
	}
	if n := v.client.Stats().Local.Invalidations.Tracking; n.Evicted+n.Absent > 2 { // the proof of tracking: its write and its expiry
		t.Errorf("the canary counts as an invalidation: %+v", n)
	}

	v.faults.DelayPushes(lag)
	eventually(t, "a longer lag is measured", func() bool { return v.client.Stats().Link.CanaryLag >= lag })
	recorded := v.recorded.of("nearcache.invalidation.lag")
	if longest := recorded[len(recorded)-1]; longest < lag.Seconds() {
		t.Errorf("recorded: %v", longest)
	}
	if v.client.Stats().Link.Reconnects != 0 {
		t.Error("a late push, within the bound, cost the link")
	}
}

// The link lives, and announces nothing any more. The canary finds out, and what L1 holds is not served on.
func TestCanaryGivesUpALinkThatIsMute(t *testing.T) {
	t.Parallel()
	v := withCanary(t, 20*time.Millisecond, func(o *nearcache.Options) { o.MaxStaleness = 100 * time.Millisecond })
	warm(t, v.cache, "k", "of k")
	v.faults.RefuseLinks() // so that its state can be looked at
	v.faults.DropPushes(1 << 30)
	v.server.Do(t, "SET", prefix+"k", "new")
	awaitDown(t, v.client)
	want(t, v.cache, "k", "new")
	eventually(t, "the reason is told", func() bool { return strings.Contains(v.log.String(), "Options.Canary") })
	mentions(t, errors.New(v.log.String()), "link is lost", "did not announce it", "100ms")

	v.faults.Heal()
	awaitReady(t, v.client)
	warm(t, v.cache, "k", "new")
}

// What makes the answers late as well is no proof of anything.
func TestCanaryIsPatientWithASlowServer(t *testing.T) {
	t.Parallel()
	v := withCanary(t, 20*time.Millisecond, func(o *nearcache.Options) { o.MaxStaleness = 20 * time.Millisecond })
	eventually(t, "the lag is measured", func() bool { return v.client.Stats().Link.CanaryLag > 0 })
	for range 5 {
		v.faults.Stall(nearcachetest.Links, nearcachetest.ToClient)
		elapse(200 * time.Millisecond)
		v.faults.Resume(nearcachetest.Links, nearcachetest.ToClient)
		elapse(50 * time.Millisecond)
	}
	if text := v.log.String(); strings.Contains(text, "Options.Canary") {
		t.Errorf("a slow server is accused:\n%s", text)
	}
}

// A push of everything stands for the canary's, which may never come: the key is gone, or was one of too many.
func TestCanaryIsContentWithAFlush(t *testing.T) {
	t.Parallel()
	v := withCanary(t, 20*time.Millisecond, nil)
	eventually(t, "the lag is measured", func() bool { return v.client.Stats().Link.CanaryLag > 0 })
	key := canaries(t, v.server)[0]
	v.faults.HoldPushes()
	held := v.faults.AwaitHeld(1)
	v.server.Do(t, "FLUSHALL")
	eventually(t, "the flush is held too", func() bool {
		held = v.faults.AwaitHeld(2)
		return held[len(held)-1].Everything
	})
	for i, push := range held {
		if len(push.Keys) == 1 && push.Keys[0] == key {
			v.faults.DropPush(i)
			break
		}
	}
	v.faults.ReleasePushes()
	measured := len(v.recorded.of("nearcache.invalidation.lag"))
	eventually(t, "the canary goes on", func() bool { return len(v.recorded.of("nearcache.invalidation.lag")) > measured })
	if text := v.log.String(); strings.Contains(text, "Options.Canary") {
		t.Errorf("a flush is not recognised:\n%s", text)
	}
}

// A user without the right to write gets a warning, once, and everything else.
func TestCanaryThatMayNotBeWritten(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{Users: []string{"reader on >secret ~* &* +@read +@connection +@scripting +client +role"}})
	log := new(logs)
	options := optionsFor(server)
	options.Redis.Username, options.Redis.Password = "reader", "secret"
	options.Canary = 10 * time.Millisecond
	options.Logger = log.logger()
	client := open(t, options)
	refused := func() int { return calls(t, server, "set") }
	eventually(t, "the warning comes", func() bool { return strings.Contains(log.String(), "the canary cannot be written") })
	before := refused()
	elapse(100 * time.Millisecond) // some more tries
	if n := strings.Count(log.String(), "the canary cannot be written"); n != 1 {
		t.Errorf("%d warnings, and %d refusals since the first", n, refused()-before)
	}
	if !client.Health().Ready || client.Stats().Link.CanaryLag != 0 {
		t.Errorf("%+v", client.Health())
	}
}

// A link that is lost in the middle of a trial ends it, and the next one is tried at once.
func TestCanaryOutlivesItsLink(t *testing.T) {
	t.Parallel()
	v := withCanary(t, time.Hour, nil) // so that only new links are tried
	measured := func() int { return len(v.recorded.of("nearcache.invalidation.lag")) }
	eventually(t, "the first link is tried", func() bool { return measured() == 1 })
	for round := range 5 {
		v.faults.Cut(nearcachetest.Links)
		eventually(t, "the next link is tried", func() bool { return measured() >= round+2 })
	}
	if text := v.log.String(); strings.Contains(text, "Options.Canary") {
		t.Errorf("a lost link is taken for a mute one:\n%s", text)
	}
}
