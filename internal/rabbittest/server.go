package rabbittest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

const (
	startTimeout = 90 * time.Second // a start takes 5 s on an idle machine and 20 s on a busy one
	evalTimeout  = 60 * time.Second
	pollInterval = 10 * time.Millisecond
	portTries    = 3 // starts with other ports before giving up
	tailBytes    = 4096
)

// Server is a broker: an Erlang process, the port mapper that it needs, and a private directory.
type Server struct {
	binary string
	dir    string
	ports  ports
	epmd   *process
	node   *process
	evals  int
}

// ports are where the broker, its Erlang distribution and the port mapper listen.
type ports struct{ amqp, distribution, epmd int }

// Run starts a broker and returns when it takes connections. End it with [Server.Close]. An error wraps [ErrNoBinary]
// if there is nothing to start, and otherwise ends with what the broker wrote last.
func Run(ctx context.Context) (*Server, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	binary, err := serverBinary()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "rabbittest-")
	if err != nil {
		return nil, fmt.Errorf("rabbittest: private directory: %w", err)
	}
	s := &Server{binary: binary, dir: dir}
	for try := 1; ; try++ {
		if err = s.prepare(); err == nil {
			err = s.start(ctx)
		}
		if err == nil {
			return s, nil
		}
		s.stopEpmd()
		// Somebody may have taken a port that was free a moment ago.
		if try == portTries || ctx.Err() != nil || errors.Is(err, ErrNoBinary) {
			_ = os.RemoveAll(dir)
			return nil, err
		}
	}
}

// prepare chooses ports, writes the configuration and starts the port mapper.
func (s *Server) prepare() error {
	for _, port := range []*int{&s.ports.amqp, &s.ports.distribution, &s.ports.epmd} {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return fmt.Errorf("rabbittest: free port: %w", err)
		}
		defer listener.Close()
		*port = listener.Addr().(*net.TCPAddr).Port
	}
	for _, name := range []string{"home", "data", "log", "eval"} {
		if err := os.MkdirAll(s.path(name), 0o700); err != nil {
			return fmt.Errorf("rabbittest: private directory: %w", err)
		}
	}
	for name, content := range map[string]string{
		"home/.erlang.cookie": "rabbittest" + strconv.Itoa(s.ports.amqp),
		"plugins":             "[].\n",
		"rabbitmq.conf": fmt.Sprintf("listeners.tcp.1 = 127.0.0.1:%d\n", s.ports.amqp) +
			"log.console = false\n" +
			"disk_free_limit.absolute = 1MB\n", // a small disk must not block publishers
	} {
		_ = os.Remove(s.path(name))
		if err := os.WriteFile(s.path(name), []byte(content), 0o400); err != nil {
			return fmt.Errorf("rabbittest: configuration: %w", err)
		}
	}
	return nil
}

func (s *Server) startEpmd() error {
	if s.epmd != nil && s.epmd.running() {
		return nil
	}
	binary, err := epmdBinary()
	if err != nil {
		return err
	}
	output, err := s.output("epmd.out")
	if err != nil {
		return err
	}
	defer output.Close()
	// The port mapper itself does not heed its input, so a shell waits for the end of it.
	s.epmd, err = startProcess(output, os.Environ(), "/bin/sh", "-c", `"$0" -address 127.0.0.1 -port "$1" & read _; kill $!`,
		binary, strconv.Itoa(s.ports.epmd))
	return err
}

func (s *Server) stopEpmd() {
	if s.epmd != nil {
		s.epmd.kill()
		s.epmd = nil
	}
}

// start runs the broker and waits until it takes connections.
func (s *Server) start(ctx context.Context) error {
	if err := s.startEpmd(); err != nil {
		return err
	}
	output, err := s.output("server.out")
	if err != nil {
		return err
	}
	defer output.Close()
	if s.node, err = startProcess(output, s.environment(), s.binary); err != nil {
		return err
	}
	if err := s.awaitReady(ctx); err != nil {
		s.node.kill()
		return fmt.Errorf("%w; the broker's last words:\n%s", err, s.lastWords())
	}
	return nil
}

// environment keeps the broker away from everything that belongs to the machine's own one.
func (s *Server) environment() []string {
	environment := os.Environ()
	for name, value := range map[string]string{
		"HOME":                          s.path("home"),
		"ERL_EPMD_ADDRESS":              "127.0.0.1",
		"ERL_EPMD_PORT":                 strconv.Itoa(s.ports.epmd),
		"RABBITMQ_ALLOW_INPUT":          "1", // the shell reads standard input
		"RABBITMQ_CONF_ENV_FILE":        os.DevNull,
		"RABBITMQ_CONFIG_FILE":          s.path("rabbitmq.conf"),
		"RABBITMQ_DIST_PORT":            strconv.Itoa(s.ports.distribution),
		"RABBITMQ_ENABLED_PLUGINS_FILE": s.path("plugins"),
		"RABBITMQ_LOG_BASE":             s.path("log"),
		"RABBITMQ_MNESIA_BASE":          s.path("data"),
		"RABBITMQ_NODENAME":             "rabbittest" + strconv.Itoa(s.ports.amqp) + "@localhost",
		"RABBITMQ_NODE_IP_ADDRESS":      "127.0.0.1",
		"RABBITMQ_NODE_PORT":            strconv.Itoa(s.ports.amqp),
	} {
		environment = append(environment, name+"="+value)
	}
	return environment
}

func (s *Server) awaitReady(ctx context.Context) error {
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		err := s.greet(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-s.node.exited:
			return errors.New("rabbittest: the broker ended while it started")
		case <-ctx.Done():
			return fmt.Errorf("rabbittest: the broker takes no connection: %w: %w", context.Cause(ctx), err)
		}
	}
}

// greet begins a connection and waits for the broker to answer, which it does only when everything else runs.
func (s *Server) greet(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", s.Addr())
	if err != nil {
		return err
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	_ = conn.SetDeadline(deadline) // fails only on a closed connection, as what follows then does
	if _, err := conn.Write([]byte("AMQP\x00\x00\x09\x01")); err != nil {
		return err
	}
	_, err = conn.Read(make([]byte, 1))
	return err
}

// Addr is where the broker listens.
func (s *Server) Addr() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(s.ports.amqp)) }

// URL is how a client reaches the broker.
func (s *Server) URL() string { return URL(s.Addr()) }

// URL is how a client reaches a broker of this package, by way of the address.
func URL(address string) string { return "amqp://guest:guest@" + address + "/" }

// StopBroker ends the broker in good order: it closes its connections and its files. The Erlang process stays.
func (s *Server) StopBroker() error { return s.expect("rabbit:stop()", "ok") }

// StartBroker starts the broker again after StopBroker, with what it has stored.
func (s *Server) StartBroker() error { return s.expect("rabbit:start()", "ok") }

// CloseConnections makes the broker close every connection, as an operator would.
func (s *Server) CloseConnections() error {
	return s.expect(`rabbit_networking:close_connections(rabbit_networking:connections(), <<"closed by a test">>)`, "ok")
}

// Crash kills the broker's process.
func (s *Server) Crash() { s.node.kill() }

// Restart starts the broker's process again after Crash, on the same address and with what it has stored.
func (s *Server) Restart(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	return s.start(ctx)
}

func (s *Server) expect(expression, want string) error {
	got, err := s.Eval(expression)
	if err == nil && got != want {
		err = fmt.Errorf("rabbittest: %s gave %s, want %s", expression, got, want)
	}
	return err
}

// Eval evaluates an Erlang expression in the broker and returns its printed value. It must not be called concurrently.
func (s *Server) Eval(expression string) (string, error) {
	s.evals++
	answer := s.path(filepath.Join("eval", strconv.Itoa(s.evals)))
	// The answer appears under its name when it is complete.
	line := fmt.Sprintf(`file:write_file("%[1]s.new", io_lib:format("~tp", [catch (%[2]s)])), file:rename("%[1]s.new", "%[1]s").`,
		answer, expression)
	if err := s.node.write(line); err != nil {
		return "", fmt.Errorf("rabbittest: evaluate %s: %w", expression, err)
	}
	deadline := time.NewTimer(evalTimeout)
	defer deadline.Stop()
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		content, err := os.ReadFile(answer)
		if err == nil {
			return string(content), os.Remove(answer)
		}
		select {
		case <-tick.C:
		case <-s.node.exited:
			return "", fmt.Errorf("rabbittest: evaluate %s: the broker has ended:\n%s", expression, s.lastWords())
		case <-deadline.C:
			return "", fmt.Errorf("rabbittest: evaluate %s: no answer within %v; the broker's last words:\n%s",
				expression, evalTimeout, s.lastWords())
		}
	}
}

// Close kills the broker and removes its directory.
func (s *Server) Close() {
	s.node.kill()
	s.stopEpmd()
	_ = os.RemoveAll(s.dir)
}

func (s *Server) path(name string) string { return filepath.Join(s.dir, name) }

func (s *Server) output(name string) (*os.File, error) {
	file, err := os.OpenFile(s.path(name), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("rabbittest: output: %w", err)
	}
	return file, nil
}

// lastWords are the ends of what the broker wrote.
func (s *Server) lastWords() string {
	var words strings.Builder
	files, _ := filepath.Glob(s.path("log/*.log"))
	for _, name := range append(files, s.path("server.out"), s.path("epmd.out")) {
		content, err := os.ReadFile(name)
		if err == nil && len(content) > 0 {
			fmt.Fprintf(&words, "--- %s\n%s\n", filepath.Base(name), content[max(0, len(content)-tailBytes):])
		}
	}
	return words.String()
}
