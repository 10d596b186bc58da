package redistest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// AdminUser and AdminPassword belong to the administrator that every server of this package has. The password is the same on
// all of them, so that one can become the replica of another.
const (
	AdminUser     = "redistest"
	AdminPassword = "redistest"
)

const (
	startTimeout = 20 * time.Second // for a start, when the caller's context sets no deadline; a loaded machine needs seconds
	portTries    = 20               // ports tried before a start fails
	pollInterval = 5 * time.Millisecond
	logTailBytes = 4096
)

// Config says what server to start. The zero Config is a single, empty primary without persistence whose default user needs no
// password and may do anything.
type Config struct {
	// Binary is the path of the server binary. Default: see [Binary].
	Binary string

	// Settings are lines of the server's configuration file, such as "maxmemory 10mb". They come last, so they override what
	// this package sets.
	Settings []string

	// Password is the password of the default user. Default: none is needed.
	Password string

	// Users are users in the notation of the configuration file, without the word "user": "alice on >secret ~* +get".
	Users []string

	// TLS makes the server take TLS connections too. Default: it takes none.
	TLS *TLSConfig

	// Persistent keeps the data over [Server.Restart], even after [Server.Kill]: an append-only file synchronised at every
	// write. Default: a restart forgets everything.
	Persistent bool

	// primary is the server to replicate; set by RunReplica.
	primary *Server

	// cluster is the node timeout of a node of a cluster, else 0; set by RunCluster.
	cluster time.Duration

	// watches is what a sentinel watches, and downAfter its patience; set by RunSentinel.
	watches   *Server
	downAfter time.Duration
}

// A Server is a server process and what is needed to stop it and to start it again on the same port.
type Server struct {
	config  Config
	binary  string
	version Version
	dir     string
	port    int
	tlsPort int // 0 without Config.TLS

	mu      sync.Mutex // held while the process is started or stopped
	process *process   // the current run, or the last one
	closed  bool
}

// Run starts a server and returns when it answers. The context bounds the start, not the life of the server; end that with
// [Server.Close]. Errors wrap [ErrNoBinary] if there is nothing to start, and otherwise end with the tail of the server's log.
func Run(ctx context.Context, config Config) (*Server, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	binary, err := Binary(config.Binary)
	if err != nil {
		return nil, err
	}
	version, err := versionOf(ctx, binary)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "redistest-")
	if err != nil {
		return nil, fmt.Errorf("redistest: private directory: %w", err)
	}
	s := &Server{config: config, binary: binary, version: version, dir: dir}
	for try := 1; ; try++ {
		if s.port, err = freePort(config.cluster != 0); err == nil && config.TLS != nil {
			err = s.prepareTLS()
		}
		if err == nil {
			err = s.start(ctx)
		}
		if err == nil {
			break
		}
		if try == portTries || !errors.Is(err, errPortTaken) {
			_ = os.RemoveAll(dir)
			return nil, err
		}
	}
	return s, nil
}

// busPort is how much higher than its port the nodes of a cluster talk to each other.
const busPort = 10000

// freePort returns a port that was free a moment ago, and whose bus port was too if that is asked for. Somebody may take it before the
// server does: see errPortTaken.
func freePort(withBus bool) (int, error) {
	for {
		port, err := listenOn(0)
		if err != nil {
			return 0, fmt.Errorf("redistest: free port: %w", err)
		}
		if !withBus {
			return port, nil
		}
		if port+busPort > 65535 {
			continue
		}
		if _, err := listenOn(port + busPort); err == nil {
			return port, nil
		}
	}
}

// listenOn listens for a moment, and returns the port.
func listenOn(port int) (int, error) {
	listener, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		return 0, err
	}
	defer listener.Close()
	return listener.Addr().(*net.TCPAddr).Port, nil
}

// errPortTaken marks a start that failed because another process listens on the port.
var errPortTaken = errors.New("redistest: the port is taken")

// start runs the binary and waits until it answers.
func (s *Server) start(ctx context.Context) error {
	if err := os.WriteFile(s.path("server.conf"), s.configuration(), 0o600); err != nil {
		return fmt.Errorf("redistest: configuration: %w", err)
	}
	logFile, err := os.OpenFile(s.path("server.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("redistest: log: %w", err)
	}
	defer logFile.Close()
	info, err := logFile.Stat()
	if err != nil {
		return fmt.Errorf("redistest: log: %w", err)
	}
	arguments := []string{s.path("server.conf")}
	if s.config.watches != nil {
		arguments = append(arguments, "--sentinel")
	}
	p, err := startProcess(s.binary, arguments, logFile)
	if err != nil {
		return err
	}
	if err := s.awaitReady(ctx, p); err != nil {
		p.kill()
		if strings.Contains(s.logSince(info.Size()), "Address already in use") {
			return fmt.Errorf("%w: %d", errPortTaken, s.port)
		}
		return fmt.Errorf("%w; the end of its log:\n%s", err, s.Log())
	}
	s.process = p
	return nil
}

// configuration returns the contents of the configuration file.
func (s *Server) configuration() []byte {
	var b bytes.Buffer
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("bind 127.0.0.1")
	line("port %d", s.port)
	line("unixsocket %s", s.Socket())
	line("dir %s", s.dir)
	line("daemonize no")
	line(`logfile ""`)
	line("user %s on >%s ~* &* +@all", AdminUser, AdminPassword)
	if primary := s.config.watches; primary != nil {
		line("sentinel monitor %s 127.0.0.1 %d %d", SentinelMaster, primary.port, quorum)
		line("sentinel auth-user %s %s", SentinelMaster, AdminUser)
		line("sentinel auth-pass %s %s", SentinelMaster, AdminPassword)
		line("sentinel down-after-milliseconds %s %d", SentinelMaster, s.config.downAfter.Milliseconds())
		line("sentinel failover-timeout %s %d", SentinelMaster, 4*s.config.downAfter.Milliseconds())
		return b.Bytes()
	}
	line(`save ""`)
	line("repl-diskless-sync-delay 0")
	line("masteruser %s", AdminUser)
	line("masterauth %s", AdminPassword)
	if s.version.AtLeast(7, 0) {
		line("enable-debug-command yes")
	}
	if s.config.Persistent {
		line("appendonly yes")
		line("appendfsync always")
	}
	if s.config.cluster != 0 {
		line("cluster-enabled yes")
		line("cluster-config-file nodes.conf")
		line("cluster-node-timeout %d", s.config.cluster.Milliseconds())
		line("cluster-replica-validity-factor 0") // however long a replica was cut off, it may be promoted
		line("cluster-migration-barrier 99")      // replicas stay where the test put them
	}
	if s.config.Password != "" {
		line("requirepass %s", strconv.Quote(s.config.Password))
	}
	if s.config.primary != nil {
		line("replicaof 127.0.0.1 %d", s.config.primary.port)
	}
	if s.config.TLS != nil {
		for _, setting := range s.tlsSettings() {
			line("%s", setting)
		}
	}
	for _, user := range s.config.Users {
		line("user %s", user)
	}
	for setting := range strings.SplitSeq(os.Getenv(SettingsVariable), ";") {
		line("%s", strings.TrimSpace(setting))
	}
	for _, setting := range s.config.Settings {
		line("%s", setting)
	}
	return b.Bytes()
}

// awaitReady returns when the process p itself answers on the port: whoever else listens there gives another process id.
func (s *Server) awaitReady(ctx context.Context, p *process) error {
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	var last error
	for {
		if last = s.answers(ctx, p); last == nil {
			return nil
		}
		select {
		case <-p.exited:
			return fmt.Errorf("redistest: %s ended before it answered", s.version)
		case <-ctx.Done():
			return fmt.Errorf("redistest: %s does not answer on %s: %w: %w", s.version, s.Addr(), ctx.Err(), last)
		case <-tick.C:
		}
	}
}

func (s *Server) answers(ctx context.Context, p *process) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	client, err := s.outside(ctx)
	if err != nil {
		return err
	}
	defer client.Close()
	// A server that loads its data set answers PING with -LOADING, and INFO all the same.
	if err := client.Do(ctx, client.B().Ping().Build()).Error(); err != nil {
		return err
	}
	info, err := client.Do(ctx, client.B().Info().Section("server").Build()).ToString()
	if err != nil {
		return err
	}
	if id := InfoField(info, "process_id"); id != strconv.Itoa(p.pid()) {
		return fmt.Errorf("redistest: process %s answers on %s, not %d", id, s.Addr(), p.pid())
	}
	return nil
}

// Close kills the server, waits for it, and removes its directory. It may be called more than once, and then does nothing.
func (s *Server) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	s.process.kill()
	if err := os.RemoveAll(s.dir); err != nil {
		return fmt.Errorf("redistest: %w", err)
	}
	return nil
}

// Pause freezes the server as a whole (SIGSTOP): it keeps its connections and answers nothing. It returns once the signal is
// sent; what the server was doing at that moment is not finished first.
func (s *Server) Pause() error { return s.signal(syscall.SIGSTOP) }

// Resume ends [Server.Pause] (SIGCONT).
func (s *Server) Resume() error { return s.signal(syscall.SIGCONT) }

func (s *Server) signal(signal syscall.Signal) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.process.signal(signal)
}

// Kill ends the server at once (SIGKILL), paused or not, and waits until the process is gone. [Server.Restart] brings it back.
func (s *Server) Kill() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.process.kill()
}

// Shutdown ends the server in order (SIGTERM) and waits until the process is gone. [Server.Restart] brings it back.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.shutdown(ctx)
}

func (s *Server) shutdown(ctx context.Context) error {
	if !s.process.running() {
		return nil
	}
	if err := s.process.signal(syscall.SIGTERM); err != nil && s.process.running() {
		return err
	}
	select {
	case <-s.process.exited:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("redistest: shutdown of %s: %w", s.Addr(), ctx.Err())
	}
}

// Restart shuts the server down if it runs, and starts it again on the same port. What [Config.Persistent] kept is there again.
func (s *Server) Restart(ctx context.Context) error { return s.restart(ctx, false) }

// RestartEmpty is Restart without data: even those of a persistent server are gone.
func (s *Server) RestartEmpty(ctx context.Context) error { return s.restart(ctx, true) }

func (s *Server) restart(ctx context.Context, empty bool) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return fmt.Errorf("redistest: restart of %s after Close", s.Addr())
	}
	if err := s.shutdown(ctx); err != nil {
		return err
	}
	if empty {
		for _, pattern := range []string{"*.rdb", "*.aof", "appendonlydir"} {
			matches, err := filepath.Glob(s.path(pattern))
			if err != nil {
				return fmt.Errorf("redistest: %w", err)
			}
			for _, match := range matches {
				if err := os.RemoveAll(match); err != nil {
					return fmt.Errorf("redistest: %w", err)
				}
			}
		}
	}
	tick := time.NewTicker(20 * pollInterval)
	defer tick.Stop()
	for {
		err := s.start(ctx)
		if !errors.Is(err, errPortTaken) {
			return err
		}
		// An outgoing connection may have been given the port meanwhile. It will let go.
		select {
		case <-tick.C:
		case <-ctx.Done():
			return err
		}
	}
}

// Addr returns the server's TCP address, "127.0.0.1:port".
func (s *Server) Addr() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port)) }

// Port returns the server's TCP port.
func (s *Server) Port() int { return s.port }

// Socket returns the path of the server's Unix socket.
func (s *Server) Socket() string { return s.path("s") }

// Dir returns the server's private directory.
func (s *Server) Dir() string { return s.dir }

// Version returns the version of the server binary.
func (s *Server) Version() Version { return s.version }

func (s *Server) running() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.process.running()
}

// Pid returns the process id of the current run.
func (s *Server) Pid() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.process.pid()
}

// Log returns the end of the server's log, over all its runs.
func (s *Server) Log() string {
	text := s.logSince(0)
	return text[max(0, len(text)-logTailBytes):]
}

func (s *Server) logSince(offset int64) string {
	text, err := os.ReadFile(s.path("server.log"))
	if err != nil {
		return err.Error()
	}
	return string(text[min(offset, int64(len(text))):])
}

func (s *Server) path(name string) string { return filepath.Join(s.dir, name) }
