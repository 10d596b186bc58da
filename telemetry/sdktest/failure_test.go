package sdktest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
)

// reply is an error reply as rueidis hands it out: a type that can tell a nil reply, with the generic code ERR cut away.
type reply struct {
	message string
	null    bool
}

func (r *reply) Error() string { return r.message }
func (r *reply) IsNil() bool   { return r.null }

// named is an error that names its own class.
type named struct{}

func (named) Error() string     { return "user 42 is locked" }
func (named) ErrorType() string { return "locked" }

// typed is an error with nothing but a type.
type typed struct{}

func (*typed) Error() string { return "user 42 is locked" }

var errPlain = errors.New("user 42 is locked")

// failures are errors of all sorts and their class. No class holds anything of the error's text.
var failures = map[string]struct {
	err  error
	kind string
}{
	"plain":               {errPlain, "_OTHER"},
	"wrapped":             {fmt.Errorf("load 42: %w", errPlain), "_OTHER"},
	"wrapped twice":       {fmt.Errorf("%w and %w", errPlain, errPlain), "_OTHER"},
	"joined":              {errors.Join(errPlain, errPlain), "_OTHER"},
	"typed, wrapped":      {fmt.Errorf("%w: %w", errPlain, &typed{}), "*sdktest.typed"},
	"typed, joined":       {fmt.Errorf("load 42: %w", errors.Join(errPlain, &typed{})), "*sdktest.typed"},
	"named":               {fmt.Errorf("load 42: %w", named{}), "locked"},
	"typed":               {fmt.Errorf("load 42: %w", &typed{}), "*sdktest.typed"},
	"end of file":         {fmt.Errorf("read 42: %w", io.EOF), "eof"},
	"cut off":             {io.ErrUnexpectedEOF, "eof"},
	"canceled":            {fmt.Errorf("load 42: %w", context.Canceled), "canceled"},
	"deadline":            {fmt.Errorf("load 42: %w", context.DeadlineExceeded), "timeout"},
	"network timeout":     {&net.OpError{Op: "read", Err: os.ErrDeadlineExceeded}, "timeout"},
	"network, no timeout": {&net.OpError{Op: "read", Err: errPlain}, "*net.OpError"},
}
