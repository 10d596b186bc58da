package redistest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync"
)

// BinaryVariable names the environment variable that holds the path of the server binary.
const BinaryVariable = "NEARCACHE_REDIS_SERVER"

// SettingsVariable names the environment variable that holds lines for the configuration file of every server but sentinels, with a semicolon
// between them, such as "io-threads 2". [Config.Settings] come after them.
const SettingsVariable = "NEARCACHE_REDIS_SETTINGS"

// ErrNoBinary is returned when no server binary is found. The error that wraps it names the command that installs one.
var ErrNoBinary = errors.New("redistest: no redis-server or valkey-server found")

// packageManagers are tried in this order: the first that is in PATH makes the advice of a missing-binary error.
var packageManagers = []struct{ program, command string }{
	{"apt-get", "sudo apt-get install -y redis-server"},
	{"dnf", "sudo dnf install -y redis || sudo dnf install -y valkey"},
	{"apk", "sudo apk add redis"},
	{"brew", "brew install redis"},
}

// Binary returns the path of the server binary: explicit if it is not empty, else the value of [BinaryVariable], else what
// PATH offers. Errors wrap [ErrNoBinary].
func Binary(explicit string) (string, error) {
	if explicit == "" {
		explicit = os.Getenv(BinaryVariable)
	}
	if explicit != "" {
		path, err := exec.LookPath(explicit)
		if err != nil {
			return "", fmt.Errorf("%w: %s is %q: %w: correct the path, or unset it and %s",
				ErrNoBinary, BinaryVariable, explicit, err, installAdvice())
		}
		return path, nil
	}
	for _, name := range []string{"redis-server", "valkey-server"} {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("%w in PATH: %s, or set %s to the path of one", ErrNoBinary, installAdvice(), BinaryVariable)
}

func installAdvice() string {
	var all []string
	for _, manager := range packageManagers {
		if _, err := exec.LookPath(manager.program); err == nil {
			return "run " + strconv.Quote(manager.command)
		}
		all = append(all, strconv.Quote(manager.command))
	}
	return "run one of " + strings.Join(all, ", ")
}

// A Version is the version of a server binary.
type Version struct {
	Valkey              bool // a Valkey server, not a Redis one
	Major, Minor, Patch int
}

// String returns the version as "redis 7.0.15" or "valkey 8.1.1".
func (v Version) String() string {
	name := "redis"
	if v.Valkey {
		name = "valkey"
	}
	return fmt.Sprintf("%s %d.%d.%d", name, v.Major, v.Minor, v.Patch)
}

// AtLeast reports whether the version is major.minor or later. Valkey's numbers continue those of Redis 7.2, so one
// comparison serves both for anything that Redis 7.2 has.
func (v Version) AtLeast(major, minor int) bool {
	return v.Major > major || v.Major == major && v.Minor >= minor
}

var versionPattern = regexp.MustCompile(`v=(\d+)\.(\d+)\.(\d+)`)

// versions remembers what a binary said: a test binary starts hundreds of servers from one file.
var versions sync.Map // path → Version

func versionOf(ctx context.Context, path string) (Version, error) {
	if known, ok := versions.Load(path); ok {
		return known.(Version), nil
	}
	output, err := exec.CommandContext(ctx, path, "--version").CombinedOutput()
	if err != nil {
		return Version{}, fmt.Errorf("redistest: %s --version: %w: %s", path, err, output)
	}
	version, err := parseVersion(string(output))
	if err != nil {
		return Version{}, fmt.Errorf("redistest: %s --version: %w", path, err)
	}
	versions.Store(path, version)
	return version, nil
}

func parseVersion(output string) (Version, error) {
	match := versionPattern.FindStringSubmatch(output)
	if match == nil {
		return Version{}, fmt.Errorf("no version in %q: is it a Redis or Valkey server?", output)
	}
	version := Version{Valkey: strings.Contains(strings.ToLower(output), "valkey")}
	for i, field := range []*int{&version.Major, &version.Minor, &version.Patch} {
		number, err := strconv.Atoi(match[i+1])
		if err != nil {
			return Version{}, fmt.Errorf("version %q: %w", match[0], err)
		}
		*field = number
	}
	return version, nil
}
