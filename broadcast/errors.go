package broadcast

import (
	"errors"
	"fmt"
)

var (
	// ErrClosed is returned when the bus, or the subscription, has been closed.
	ErrClosed = errors.New("broadcast: closed")

	// ErrOutboxFull is returned when as many messages as the outbox holds are waiting for the broker. The message was not
	// sent. Wait (see [Bus.Flush]), publish less, or raise Options.OutboxMessages or Options.OutboxBytes.
	ErrOutboxFull = errors.New("broadcast: outbox full: the broker is away or slower than the publishers")

	// ErrUndelivered is returned when the broker did not accept a message in time; the last error of the transport is
	// wrapped too. It may nevertheless have been delivered. Subscribers are told of a gap if it was not.
	ErrUndelivered = errors.New("broadcast: the broker did not accept the message")

	// ErrTooLarge is returned for a message that does not fit a frame. Send a reference to the data instead of the data.
	ErrTooLarge = errors.New("broadcast: message too large")

	// ErrInvalidMessage is returned for a message that breaks a limit of [Message]; the text names it.
	ErrInvalidMessage = errors.New("broadcast: invalid message")

	// ErrRejected is wrapped by a transport's error that trying again cannot cure, such as a missing permission.
	ErrRejected = errors.New("broadcast: rejected by the broker")
)

var (
	errForeign   = errors.New("broadcast: not a frame of this library")
	errTruncated = errors.New("broadcast: truncated frame")
	errFuture    = errors.New("broadcast: frame of a newer version of this library")
	errCorrupted = errors.New("broadcast: corrupted frame")
	errMisrouted = errors.New("broadcast: frame of another topic")
)

func invalid(format string, arguments ...any) error {
	return fmt.Errorf("%w: %s", ErrInvalidMessage, fmt.Sprintf(format, arguments...))
}
