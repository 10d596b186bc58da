package nearcache_test

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/go-nearcache/nearcache"
	"github.com/go-nearcache/nearcache/internal/redistest"
	"github.com/go-nearcache/nearcache/tracking"
)

// works fails the test unless a node opens, fills L1, and is told of a change.
func works(t *testing.T, server *redistest.Server, options nearcache.Options) {
	t.Helper()
	client := open(t, options)
	cache := stringCache(t, client, newSource(map[string]string{"loaded": "by the loader"}).load)
	want(t, cache, "loaded", "by the loader")
	check(t, cache.Set(t.Context(), "k", "old"))
	warm(t, cache, "k", "old")
	server.Do(t, "SET", prefix+"k", "new")
	want(t, cache, "k", "new", nearcache.Fresh())
	warm(t, cache, "k", "new")
}

func TestTLS(t *testing.T) {
	t.Parallel()
	authority, err := redistest.NewAuthority()
	check(t, err)
	server := redistest.Start(t, redistest.Config{TLS: &redistest.TLSConfig{Authority: authority}})
	at := func(config *tls.Config) nearcache.Options {
		options := optionsAt(server.TLSAddr())
		options.Redis.TLSConfig = config
		return options
	}
	works(t, server, at(&tls.Config{RootCAs: authority.Pool()}))

	_, err = nearcache.Open(bounded(t), at(&tls.Config{}))
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); !ok {
		t.Errorf("with an authority that is not trusted: %v", err)
	}
	other, err := redistest.NewAuthority()
	check(t, err)
	_, err = nearcache.Open(bounded(t), at(&tls.Config{RootCAs: other.Pool()}))
	mentions(t, err, server.TLSAddr(), "certificate")
	if _, err = nearcache.Open(bounded(t), at(nil)); err == nil {
		t.Error("a node without TLS has opened on a TLS port")
	}
}

func TestMutualTLS(t *testing.T) {
	t.Parallel()
	authority, err := redistest.NewAuthority()
	check(t, err)
	server := redistest.Start(t, redistest.Config{Password: "right", TLS: &redistest.TLSConfig{Authority: authority, Mutual: true}})
	at := func(certificates ...tls.Certificate) nearcache.Options {
		options := optionsAt(server.TLSAddr())
		options.Redis.Password = "right"
		options.Redis.TLSConfig = &tls.Config{RootCAs: authority.Pool(), Certificates: certificates}
		return options
	}
	mine, err := authority.Issue("node")
	check(t, err)
	works(t, server, at(mine))

	other, err := redistest.NewAuthority()
	check(t, err)
	foreign, err := other.Issue("stranger")
	check(t, err)
	for name, options := range map[string]nearcache.Options{"no certificate": at(), "a stranger's": at(foreign)} {
		if _, err := nearcache.Open(bounded(t), options); !errors.Is(err, tracking.ErrLinkDown) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestUnixSocket(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{Password: "right"})
	options := optionsFor(server)
	var err error
	options.Redis, err = rueidis.ParseURL("unix://:right@" + server.Socket())
	check(t, err)
	works(t, server, options)

	options.Redis.InitAddress = []string{server.Socket() + ".absent"}
	_, err = nearcache.Open(bounded(t), options)
	mentions(t, err, server.Socket()+".absent", "no such file")
}

func TestUserAndPassword(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{Password: "right", Users: []string{"alice on >right ~* +@all", "bob off >right ~* +@all"}})
	for _, user := range []string{"", "default", "alice"} {
		options := optionsFor(server)
		options.Redis.Username, options.Redis.Password = user, "right"
		works(t, server, options)
	}
	for _, user := range []string{"", "default", "alice", "bob", "nobody"} {
		options := optionsFor(server)
		options.Redis.Username, options.Redis.Password = user, "wrong"
		if _, err := nearcache.Open(bounded(t), options); !errors.Is(err, tracking.ErrCredentials) || errors.Is(err, nearcache.ErrNoTracking) {
			t.Errorf("%q: %v", user, err)
		}
	}
}

// rights reads the table of docs/operations.md: what a user needs, and what it may do without. What is for clusters is left out.
func rights(t *testing.T) (needed, optional []string) {
	t.Helper()
	page, err := os.ReadFile("docs/operations.md")
	check(t, err)
	_, section, ok := strings.Cut(string(page), "\n## Rights\n")
	if !ok {
		t.Fatal("docs/operations.md has no section of rights")
	}
	section, _, _ = strings.Cut(section, "\n## ")
	for line := range strings.Lines(section) {
		if !strings.HasPrefix(line, "| `") || strings.Contains(line, "cluster") {
			continue
		}
		cells := strings.Split(strings.ReplaceAll(line, `\|`, "¦"), "|")
		list := &needed
		if strings.Contains(cells[3], "may be left out") {
			list = &optional
		}
		for _, right := range regexp.MustCompile(`\+[a-z¦-]+`).FindAllString(cells[1], -1) {
			*list = append(*list, strings.ReplaceAll(right, "¦", "|"))
		}
	}
	if len(needed) < 10 || len(optional) < 2 {
		t.Fatalf("the table has %q and %q", needed, optional)
	}
	return needed, optional
}

// everything does all that a client can do with Redis, and returns what failed.
func everything(ctx context.Context, client *nearcache.Client) error {
	config := nearcache.Config[string]{Name: "plain", Prefix: prefix + "plain:", Codec: nearcache.String()}
	plain, err := nearcache.New(client, config)
	if err != nil {
		return err
	}
	config.Name, config.Prefix = "loading", prefix+"loading:"
	config.Load = func(_ context.Context, key string) (string, error) { return "loaded " + key, nil }
	config.RefreshAhead = 0.999
	config.NegativeTTL = time.Minute
	config.LoadTimeout = 200 * time.Millisecond // and with it the wait for a lease that cannot be given back
	loading, err := nearcache.New(client, config)
	if err != nil {
		return err
	}
	config.Name, config.Prefix = "storing", prefix+"storing:"
	config.Store = func(context.Context, string, string) error { return nil }
	config.Remove = func(context.Context, string) error { return nil }
	storing, err := nearcache.New(client, config)
	if err != nil {
		return err
	}
	var failures []error
	try := func(what string, err error) {
		if err != nil {
			failures = append(failures, fmt.Errorf("%s: %w", what, err))
		}
	}
	change := func(current string, _ bool) (string, error) { return current + "+", nil }
	for _, cache := range []*nearcache.Cache[string]{plain, loading, storing} {
		name := cache.Name()
		try(name+" Set", cache.Set(ctx, "k", "v"))
		try(name+" SetMany", cache.SetMany(ctx, map[string]string{"a": "1", "b": "2", "short": "3"}))
		_, err = cache.Get(ctx, "k")
		try(name+" Get", err)
		_, err = cache.Get(ctx, "a", nearcache.Fresh())
		try(name+" Get Fresh", err)
		_, err = cache.GetMany(ctx, []string{"a", "b", "c", "d"})
		try(name+" GetMany", err)
		_, err = cache.Update(ctx, "k", change)
		try(name+" Update", err)
		_, err = cache.Update(ctx, "new", change)
		try(name+" Update of nothing", err)
		try(name+" Touch", cache.Touch(ctx, "k"))
		try(name+" Warm", cache.Warm(ctx, slices.Values([]string{"a", "b", "e"}), nearcache.BulkOptions{}))
		try(name+" Explain", cache.Explain(ctx, "k").Remote.Err)
		try(name+" Delete", cache.Delete(ctx, "k"))
		try(name+" DeleteMany", cache.DeleteMany(ctx, []string{"a", "b"}))
		_, err = cache.Clear(ctx, nearcache.BulkOptions{})
		try(name+" Clear", err)
	}
	wrapped, err := client.Rueidis()
	if err != nil {
		return err
	}
	try("Rueidis SET", wrapped.Do(ctx, wrapped.B().Set().Key(prefix+"r").Value("v").Build()).Error())
	try("Rueidis DoCache", wrapped.DoCache(ctx, wrapped.B().Get().Key(prefix+"r").Cache(), time.Minute).Error())
	for _, result := range wrapped.DoMultiCache(ctx, rueidis.CT(wrapped.B().Get().Key(prefix+"r").Cache(), time.Minute), rueidis.CT(wrapped.B().Get().Key(prefix+"s").Cache(), time.Minute)) {
		if err := result.Error(); !rueidis.IsRedisNil(err) {
			try("Rueidis DoMultiCache", err)
		}
	}
	try("Fence", client.Fence(ctx))
	try("Flush", client.Flush(ctx))
	return errors.Join(failures...)
}

// asLeast returns the options of a user who has exactly these rights.
func asLeast(t *testing.T, server *redistest.Server, rights []string, keys string) nearcache.Options {
	t.Helper()
	server.Do(t, "SCRIPT", "FLUSH")
	server.Do(t, append([]string{"ACL", "SETUSER", "least", "reset", "on", ">secret", "resetchannels", keys}, rights...)...)
	options := optionsFor(server)
	options.Redis.Username, options.Redis.Password = "least", "secret"
	options.RemoteTimeout = 2 * time.Second
	options.Redis.Dialer.KeepAlive = 50 * time.Millisecond // rueidis sends a PING on what was idle for so long
	options.Canary = 50 * time.Millisecond
	options.Verify = nearcache.Verify{SampleRate: 1, MaxPerSecond: 1000}
	return options
}

func TestLeastRights(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{})
	needed, optional := rights(t)
	if !server.Version().AtLeast(7, 2) {
		optional = slices.DeleteFunc(optional, func(right string) bool { return right == "+client|setinfo" })
	}
	const keys = "~" + prefix + "*"

	t.Run("suffice", func(t *testing.T) {
		check(t, everything(bounded(t), open(t, asLeast(t, server, needed, keys))))
	})
	t.Run("and leave nothing in the log with those that may be left out", func(t *testing.T) {
		server.Do(t, "ACL", "LOG", "RESET")
		client := open(t, asLeast(t, server, slices.Concat(needed, optional), keys))
		check(t, everything(bounded(t), client))
		pings := calls(t, server, "ping")
		eventually(t, "idle connections have been looked after", func() bool { return calls(t, server, "ping") > pings })
		lag := func() bool { return client.Stats().Link.CanaryLag > 0 }
		eventually(t, "a canary has come back", lag)
		log := server.Do(t, "ACL", "LOG")
		entries, err := log.ToArray()
		check(t, err)
		for _, message := range entries {
			entry, _ := message.AsStrMap() // also with fields that are no strings
			if object := entry["object"]; object != "client" || server.Version().AtLeast(7, 0) {
				t.Errorf("refused: %v", entry)
			} // Redis 6.2 does not know CLIENT SETINFO, and takes it for forbidden
		}
	})
	for _, right := range needed {
		t.Run("without "+right, func(t *testing.T) {
			rest := slices.DeleteFunc(slices.Clone(needed), func(r string) bool { return r == right })
			named := strings.TrimPrefix(right, "+")
			if !server.Version().AtLeast(7, 0) {
				named, _, _ = strings.Cut(named, "|") // it does not say more
			}
			client, err := nearcache.Open(bounded(t), asLeast(t, server, rest, keys))
			for errors.Is(err, tracking.ErrLinkDown) {
				client, err = nearcache.Open(bounded(t), asLeast(t, server, rest, keys))
			}
			if err == nil {
				err = everything(bounded(t), client)
				closeNode(t, client)
			}
			mentions(t, err, named)
		})
	}
	t.Run("on other keys", func(t *testing.T) {
		mentions(t, everything(bounded(t), open(t, asLeast(t, server, needed, "~other:*"))), "key")
	})
}

// Credentials that have an end are replaced on connections that stay.
func TestCredentialsAreRotatedWithoutAFlush(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Config{Users: []string{"node on >first ~* +@all"}})
	n := &network{server: server, proxy: startProxy(t, server)}
	options := optionsAt(n.proxy.addr())
	options.MaxStaleness = endless
	var password atomic.Pointer[string]
	first, second := "first", "second"
	password.Store(&first)
	const life = 300 * time.Millisecond
	options.Redis.AuthCredentialsFn = func(rueidis.AuthCredentialsContext) (rueidis.AuthCredentials, error) {
		return rueidis.AuthCredentials{Username: "node", Password: *password.Load(), RefreshAfter: time.Now().Add(life)}, nil
	}
	n.client = open(t, options)
	n.cache = stringCache(t, n.client, nil)
	n.write(t, "old")
	warm(t, n.cache, "k", "old")
	epoch, hits := n.client.Stats().Link.Epoch, statsOf(n.client).LocalHits

	server.Do(t, "ACL", "SETUSER", "node", ">second")
	password.Store(&second)
	renewed := func(r request) bool { return r.link && r.is("AUTH", "node", second) }
	eventually(t, "the link has been given the new password", func() bool {
		want(t, n.cache, "k", "old") // from L1 throughout
		return len(n.proxy.requests(renewed)) >= 2
	})
	server.Do(t, "ACL", "SETUSER", "node", "<first")
	want(t, n.cache, "k", "old", nearcache.Fresh()) // after two more answers of the link
	if stats := n.client.Stats(); stats.Link.Epoch != epoch || stats.Link.Reconnects != 0 || stats.Caches["test"].RemoteHits > 2 {
		t.Errorf("the rotation has cost L1: %+v", stats)
	}
	if statsOf(n.client).LocalHits <= hits {
		t.Error("nothing was served from L1")
	}
	n.write(t, "new")
	want(t, n.cache, "k", "new", nearcache.Fresh())
}

// A server or a proxy that does not know a command repeats its arguments, the password among them.
func TestSecretsStayInside(t *testing.T) {
	t.Parallel()
	const right, wrong = "correct-horse-battery", "staple-incorrect"
	server := redistest.Start(t, redistest.Config{Password: right, Users: []string{"node on >" + right + " ~* +@all"}})
	for _, test := range []struct {
		name  string
		login func(*rueidis.ClientOption, string)
	}{
		{"Password", func(o *rueidis.ClientOption, password string) { o.Password = password }},
		{"Username and Password", func(o *rueidis.ClientOption, password string) { o.Username, o.Password = "node", password }},
		{"AuthCredentialsFn", func(o *rueidis.ClientOption, password string) {
			o.AuthCredentialsFn = func(rueidis.AuthCredentialsContext) (rueidis.AuthCredentials, error) {
				return rueidis.AuthCredentials{Username: "node", Password: password, RefreshAfter: time.Now().Add(200 * time.Millisecond)}, nil
			}
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			book := new(logbook)
			var told []string
			tell := func(what any) {
				encoded, err := json.Marshal(what)
				check(t, err)
				told = append(told, fmt.Sprintf("%v %+v %#v %s", what, what, what, encoded))
			}
			tellError := func(err error) {
				for err != nil {
					told = append(told, fmt.Sprintf("%v %+v", err, err))
					if joined, ok := err.(interface{ Unwrap() []error }); ok {
						for _, e := range joined.Unwrap() {
							told = append(told, fmt.Sprintf("%v %+v", e, e))
						}
					}
					err = errors.Unwrap(err)
				}
			}
			p := startProxy(t, server)
			options := optionsAt(p.addr())
			options.Logger = book.logger()
			options.RemoteTimeout = time.Second

			// Wrong, and then right on a way that takes it for something else.
			test.login(&options.Redis, wrong)
			_, err := nearcache.Open(bounded(t), options)
			if !errors.Is(err, tracking.ErrCredentials) {
				t.Errorf("%v", err)
			}
			tellError(err)
			unknown := func(args []string) ([]string, bool) {
				if (request{args: args}).is("HELLO") || (request{args: args}).is("AUTH") {
					args = append([]string{"NOSUCHCOMMAND"}, args[1:]...)
				}
				return args, true
			}
			refused := func(text string) bool { // some servers say no to whoever has not logged in before they look at the command
				return strings.Contains(text, "NOSUCHCOMMAND") || strings.Contains(text, "NOAUTH")
			}
			test.login(&options.Redis, right)
			p.setIntercept(unknown)
			_, err = nearcache.Open(bounded(t), options)
			if err == nil || !refused(err.Error()) {
				t.Errorf("behind a proxy that does not know HELLO: %v", err)
			}
			tellError(err)

			p.setIntercept(nil)
			client := open(t, options)
			cache := stringCache(t, client, nil)
			loading := newCache(t, client, nearcache.Config[string]{Name: "loading", Prefix: prefix + "l:", Codec: nearcache.String(),
				Load: func(context.Context, string) (string, error) { return "loaded", nil }})
			look := func() {
				_, err := cache.Get(t.Context(), "k")
				tellError(err)
				_, err = cache.GetMany(t.Context(), []string{"k", "l"})
				tellError(err)
				_, err = loading.Get(t.Context(), "k")
				tellError(err)
				tellError(cache.Set(t.Context(), "k", "v"))
				tellError(cache.SetMany(t.Context(), map[string]string{"k": "v", "l": "w"}))
				tellError(cache.DeleteMany(t.Context(), []string{"k", "l"}))
				tellError(cache.Touch(t.Context(), "k"))
				_, err = cache.Clear(t.Context(), nearcache.BulkOptions{})
				tellError(err)
				tellError(client.Fence(t.Context()))
				explanation := cache.Explain(t.Context(), "k")
				tellError(explanation.Remote.Err)
				told = append(told, explanation.String(), fmt.Sprintf("%+v", explanation))
				tell(client.Health())
				tell(client.Stats())
				recorder := httptest.NewRecorder()
				client.HealthHandler().ServeHTTP(recorder, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil))
				told = append(told, recorder.Body.String())
			}
			look()
			p.setIntercept(unknown)
			p.cut(func(bool) bool { return true })
			awaitDown(t, client)
			eventually(t, "the server's answer is the reason", func() bool {
				look()
				return refused(client.Health().Reason)
			})
			p.setIntercept(nil)
			awaitReady(t, client)
			closeNode(t, client)
			book.messages(t, right, wrong)
			for _, text := range told {
				for _, secret := range []string{right, wrong} {
					if strings.Contains(text, secret) {
						t.Errorf("a secret is out: %s", text)
					}
				}
			}
		})
	}
}
