package redistest

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"go.uber.org/goleak"
)

// childVariable makes the test binary a child that starts a server, prints its address, and waits to be killed.
const childVariable = "REDISTEST_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(childVariable) != "" {
		s, err := Run(context.Background(), Config{})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Println(s.Addr(), s.Dir())
		select {}
	}
	goleak.VerifyTestMain(m)
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// eventually polls a condition that no event announces.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	deadline := time.NewTimer(startTimeout)
	defer deadline.Stop()
	for !condition() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("not within %v: %s", startTimeout, what)
		}
	}
}

func processExists(pid int) bool { return syscall.Kill(pid, 0) == nil }

func TestServerLifeCycle(t *testing.T) {
	s, err := Run(t.Context(), Config{})
	check(t, err)
	s.Do(t, "SET", "k", "v")
	if got, err := s.Client(t).Do(t.Context(), s.Client(t).B().Get().Key("k").Build()).ToString(); err != nil || got != "v" {
		t.Fatalf("got %q, %v", got, err)
	}
	pid, dir := s.Pid(), s.Dir()
	check(t, s.Close())
	check(t, s.Close())
	if processExists(pid) {
		t.Errorf("process %d outlived Close", pid)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("directory %s outlived Close: %v", dir, err)
	}
	if err := s.Restart(t.Context()); err == nil {
		t.Error("a closed server started again")
	}
}

func TestServerOnItsUnixSocket(t *testing.T) {
	s := Start(t, Config{})
	connection, err := net.Dial("unix", s.Socket())
	check(t, err)
	defer connection.Close()
	_, err = connection.Write([]byte("INFO server\r\n"))
	check(t, err)
	reply := make([]byte, 1<<14)
	n, err := connection.Read(reply)
	check(t, err)
	if !strings.Contains(string(reply[:n]), fmt.Sprintf("process_id:%d\r\n", s.Pid())) {
		t.Errorf("got %q", reply[:n])
	}
}

func TestRestartKeepsAddressAndOnlyPersistentData(t *testing.T) {
	for _, persistent := range []bool{false, true} {
		for name, stop := range map[string]func(*Server){
			"shutdown": func(s *Server) { check(t, s.Shutdown(t.Context())) },
			"kill":     (*Server).Kill,
			"running":  func(*Server) {},
		} {
			t.Run(fmt.Sprintf("persistent=%t/%s", persistent, name), func(t *testing.T) {
				s := Start(t, Config{Persistent: persistent})
				s.Do(t, "SET", "k", "v")
				pid, addr := s.Pid(), s.Addr()
				stop(s)
				check(t, s.Restart(t.Context()))
				if s.Pid() == pid || s.Addr() != addr {
					t.Errorf("process %d on %s became process %d on %s", pid, addr, s.Pid(), s.Addr())
				}
				if reply := s.Do(t, "GET", "k"); reply.IsNil() == persistent {
					t.Errorf("after the restart: %v", reply)
				}
				check(t, s.RestartEmpty(t.Context()))
				if reply := s.Do(t, "GET", "k"); !reply.IsNil() {
					t.Errorf("after the empty restart: %v", reply)
				}
			})
		}
	}
}

func TestPauseAndResume(t *testing.T) {
	s := Start(t, Config{})
	check(t, s.Pause())
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := s.Command(ctx, "PING").Error(); err == nil {
		t.Error("a paused server answered")
	}
	check(t, s.Resume())
	s.Do(t, "PING")
	check(t, s.Pause())
	s.Kill() // a stopped process can be killed
}

func TestUsersAndPassword(t *testing.T) {
	s := Start(t, Config{Password: "p a\"ss", Users: []string{"alice on >wonder ~* +get"}})
	s.Do(t, "SET", "k", "v")
	if reply := s.Client(t).Do(t.Context(), s.Client(t).B().Ping().Build()); reply.Error() != nil {
		t.Errorf("default user with its password: %v", reply.Error())
	}
	option := s.ClientOption()
	option.Password = "wrong"
	if client, err := rueidis.NewClient(option); err == nil {
		client.Close()
		t.Error("a wrong password was accepted")
	}
	option = s.ClientOption()
	option.Username, option.Password, option.ForceSingleClient = "alice", "wonder", true
	client, err := rueidis.NewClient(option)
	check(t, err)
	defer client.Close()
	if got, err := client.Do(t.Context(), client.B().Get().Key("k").Build()).ToString(); err != nil || got != "v" {
		t.Errorf("alice GET: %q, %v", got, err)
	}
	if err := client.Do(t.Context(), client.B().Del().Key("k").Build()).Error(); err == nil {
		t.Error("alice may DEL")
	}
	s.Do(t, "ACL", "SETUSER", "default", "off")
	s.Do(t, "PING")
}

func TestReplicaFollowsAndCanBePromoted(t *testing.T) {
	primary := Start(t, Config{})
	primary.Do(t, "SET", "k", "v")
	replica := StartReplica(t, primary, Config{})
	if got, err := value(replica.Do(t, "GET", "k")); err != nil || got != "v" {
		t.Errorf("on the replica: %q, %v", got, err)
	}
	replica.Do(t, "REPLICAOF", "NO", "ONE")
	primary.Do(t, "REPLICAOF", "127.0.0.1", strconv.Itoa(replica.Port()))
	check(t, primary.AwaitInSync(t.Context()))
}

func TestBadSettingFailsWithTheLog(t *testing.T) {
	s, err := Run(t.Context(), Config{Settings: []string{"no-such-setting yes"}})
	if err == nil {
		t.Fatal("started", s.Close())
	}
	if !strings.Contains(err.Error(), "no-such-setting") {
		t.Errorf("the error does not show the server's log: %v", err)
	}
}

func TestStartIsBoundedByItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if s, err := Run(ctx, Config{}); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v, %v", s, err)
	}
}

func TestTakenPortIsRecognised(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	defer listener.Close()
	s := Start(t, Config{})
	check(t, s.Shutdown(t.Context()))
	other := *listener.Addr().(*net.TCPAddr)
	s.port = other.Port
	if err := s.start(t.Context()); !errors.Is(err, errPortTaken) {
		t.Errorf("got %v", err)
	}
}

// A server that is ready on a port somebody else's server holds must not be mistaken for ours.
func TestForeignServerIsNotMistaken(t *testing.T) {
	foreign, s := Start(t, Config{}), Start(t, Config{})
	check(t, s.Shutdown(t.Context()))
	s.port = foreign.port
	if err := s.start(t.Context()); !errors.Is(err, errPortTaken) {
		t.Errorf("got %v", err)
	}
}

func TestMissingBinaryNamesTheInstallCommand(t *testing.T) {
	t.Setenv(BinaryVariable, "")
	t.Setenv("PATH", t.TempDir())
	_, err := Run(t.Context(), Config{})
	if !errors.Is(err, ErrNoBinary) {
		t.Fatalf("got %v", err)
	}
	for _, manager := range []string{"apt-get install", "dnf install", "apk add", "brew install", BinaryVariable} {
		if !strings.Contains(err.Error(), manager) {
			t.Errorf("%q is not in %q", manager, err)
		}
	}

	t.Setenv(BinaryVariable, filepath.Join(t.TempDir(), "nowhere"))
	if _, err := Run(t.Context(), Config{}); !errors.Is(err, ErrNoBinary) || !strings.Contains(err.Error(), "nowhere") {
		t.Errorf("got %v", err)
	}
}

func TestBinaryIsChosenByEnvironment(t *testing.T) {
	found, err := Binary("")
	check(t, err)
	link := filepath.Join(t.TempDir(), "server-by-another-name")
	check(t, os.Symlink(found, link))
	t.Setenv(BinaryVariable, link)
	if got, err := Binary(""); err != nil || got != link {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestParseVersion(t *testing.T) {
	for output, want := range map[string]string{
		"Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64 build=ae4d7c971a948f0": "redis 7.0.15",
		"Valkey server v=8.1.1 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64 build=1":               "valkey 8.1.1",
	} {
		if got, err := parseVersion(output); err != nil || got.String() != want {
			t.Errorf("%q: got %v, %v", output, got, err)
		}
	}
	if _, err := parseVersion("ls (GNU coreutils) 9.1"); err == nil {
		t.Error("ls is a server")
	}
	if v := (Version{Major: 7, Minor: 2}); !v.AtLeast(7, 2) || !v.AtLeast(6, 9) || v.AtLeast(7, 3) || v.AtLeast(8, 0) {
		t.Error("AtLeast")
	}
}

// A test that is killed leaves no server behind.
func TestServerDiesWithItsParent(t *testing.T) {
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), childVariable+"=1")
	output, err := child.StdoutPipe()
	check(t, err)
	check(t, child.Start())
	var addr, dir string
	if _, err := fmt.Fscan(output, &addr, &dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	// Its process id proves nothing: where nobody reaps orphans, that of a dead server stays taken.
	listens := func() bool {
		connection, err := net.Dial("tcp", addr)
		if err == nil {
			_ = connection.Close()
		}
		return err == nil
	}
	if !listens() {
		t.Fatalf("no server on %s", addr)
	}
	check(t, child.Process.Kill())
	_ = child.Wait()
	eventually(t, "the server is gone", func() bool { return !listens() })
}

func value(message rueidis.RedisMessage) (string, error) { return message.ToString() }

func TestSettingsFromTheEnvironment(t *testing.T) {
	t.Setenv(SettingsVariable, "maxclients 123; hz 17")
	s := Start(t, Config{Settings: []string{"hz 18"}})
	for setting, want := range map[string]string{"maxclients": "123", "hz": "18"} { // the configuration has the last word
		message := s.Do(t, "CONFIG", "GET", setting)
		values, err := message.AsStrMap()
		if err != nil || values[setting] != want {
			t.Errorf("%s is %q, want %q: %v", setting, values[setting], want, err)
		}
	}
}

func TestAuthority(t *testing.T) {
	a, err := NewAuthority()
	if err != nil {
		t.Fatal(err)
	}
	issued, err := a.Issue("node")
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(issued.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		if _, err := certificate.Verify(x509.VerifyOptions{Roots: a.Pool(), KeyUsages: []x509.ExtKeyUsage{usage}}); err != nil {
			t.Errorf("usage %v: %v", usage, err)
		}
	}
	other, err := NewAuthority()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := certificate.Verify(x509.VerifyOptions{Roots: other.Pool()}); err == nil {
		t.Error("a stranger trusts it")
	}
}
