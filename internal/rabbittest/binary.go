package rabbittest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
)

// BinaryVariable names the environment variable that holds the path of rabbitmq-server.
const BinaryVariable = "NEARCACHE_RABBITMQ_SERVER"

// ErrNoBinary is returned when rabbitmq-server or the Erlang port mapper that it needs is not found. The error that wraps it
// names the command that installs both.
var ErrNoBinary = errors.New("rabbittest: RabbitMQ is not installed")

// scripts are where rabbitmq-server itself is found. On Debian and Fedora the one on the PATH is a wrapper that insists on
// running as the system's broker, in the system's directories; elsewhere it may be in a directory that the PATH lacks.
var scripts = []string{
	"/usr/lib/rabbitmq/bin/rabbitmq-server", "rabbitmq-server",
	"/opt/homebrew/sbin/rabbitmq-server", "/usr/local/sbin/rabbitmq-server",
}

func serverBinary() (string, error) {
	candidates := scripts
	if named := os.Getenv(BinaryVariable); named != "" {
		candidates = []string{named}
	}
	for _, candidate := range candidates {
		if path, err := exec.LookPath(candidate); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("%w: none of %v can be run: run scripts/install rabbitmq-server, or set %s to the path of one",
		ErrNoBinary, candidates, BinaryVariable)
}

func epmdBinary() (string, error) {
	path, err := exec.LookPath("epmd")
	if err != nil {
		return "", fmt.Errorf("%w: epmd, which comes with Erlang, is not on the PATH: run scripts/install rabbitmq-server: %w",
			ErrNoBinary, err)
	}
	return path, nil
}
