package tracking

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/redis/rueidis"
)

var (
	// ErrNoTracking means that the server, a proxy before it, or the user's rights do not allow tracking. The [LinkError]
	// around it says which command failed and what to change. It will not go away by waiting.
	ErrNoTracking = errors.New("tracking: the server does not announce changes to this client")

	// ErrNotPrimary means that the server is a replica or a sentinel: what it announces is not what the primary has
	// acknowledged.
	ErrNotPrimary = errors.New("tracking: the server is not a primary")

	// ErrClusterNode means that the server is a node of a cluster, and that [Options.Topology] is not set: slots that move away from it
	// would go unnoticed.
	ErrClusterNode = errors.New("tracking: the server is a node of a cluster")

	// ErrCredentials means that the server refused the user name and password.
	ErrCredentials = errors.New("tracking: the server refused the credentials")

	// ErrLinkDown means that there is no link at the moment: the server cannot be reached, does not answer, or closed the
	// connection. The tracker tries again for as long as it is open.
	ErrLinkDown = errors.New("tracking: the link is down")

	// ErrClosed means that the tracker has been closed.
	ErrClosed = errors.New("tracking: the tracker is closed")

	// ErrProbeRefused means that [Probe] could not write its key, so that it proved nothing.
	ErrProbeRefused = errors.New("tracking: the probe's key could not be written")
)

// A LinkError says why a link could not be made or was given up. It wraps one of ErrNoTracking, ErrNotPrimary, ErrClusterNode,
// ErrCredentials, ErrProbeRefused and ErrLinkDown, and the cause. It contains no password.
type LinkError struct {
	Address string // the server's, as configured
	Step    string // the command, or "connect", "connection", "heartbeat", "AuthCredentialsFn", "probe", "doubt"
	Kind    error  // one of the sentinels of this package
	Cause   error  // what the server, the network or the context said
	Advice  string // what to do; may be empty
}

// Error returns the address, the step, what went wrong and what to do.
func (e *LinkError) Error() string {
	text := fmt.Sprintf("tracking: link to %s: %s: %v", e.Address, e.Step, e.Cause)
	if e.Advice != "" {
		text += ": " + e.Advice
	}
	return text
}

// Unwrap returns the kind and the cause.
func (e *LinkError) Unwrap() []error { return []error{e.Kind, e.Cause} }

// refusal returns the text of the server's error reply, without "ERR" if that is its code, and false if err is none.
func refusal(err error) (string, bool) {
	if reply, ok := rueidis.IsRedisErr(err); ok && !reply.IsNil() {
		return strings.TrimPrefix(reply.Error(), "ERR "), true
	}
	return "", false
}

// noAnswer reports whether the server said that it cannot say anything now: a script runs, or the data set is being loaded.
func noAnswer(err error) bool {
	text, ok := refusal(err)
	return ok && (strings.HasPrefix(text, "BUSY") || strings.HasPrefix(text, "LOADING"))
}

// causeOf returns why a context ended if it is the reason for err, else err.
func causeOf(ctx context.Context, err error) error {
	if deadline, ok := ctx.Deadline(); ok && !time.Now().Before(deadline) {
		<-ctx.Done() // the socket has the same deadline, and its timer may have been the faster one
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}
