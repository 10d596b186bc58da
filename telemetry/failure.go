package telemetry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"reflect"
	"strings"

	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
)

// classify names the class of an error; the zero failure is success.
func classify(err error) failure {
	if err == nil {
		return failure{}
	}
	return failure{kind: errorType(err)}
}

// classifyRedis is [classify] for the outcome of a command: a nil reply is a success, and an error that the server sent has the
// code that it begins with as its class.
func classifyRedis(err error) failure {
	if err == nil {
		return failure{}
	}
	if reply, ok := errors.AsType[redisError](err); ok {
		if reply.IsNil() {
			return failure{}
		}
		code := statusCode(reply.Error())
		return failure{kind: code, status: code}
	}
	return classify(err)
}

// redisError is what rueidis's error replies have in common with those of any client that can tell a nil reply.
type redisError interface {
	error
	IsNil() bool
}

// statusCode is the upper-case word that an error reply begins with. Clients strip the generic one, ERR; it also stands for what
// is too long to be a code, since scripts may answer anything.
func statusCode(message string) string {
	const longest = 32
	code, _, _ := strings.Cut(message, " ")
	if code == "" || len(code) > longest || strings.ContainsFunc(code, notOfCode) {
		return "ERR"
	}
	return code
}

func notOfCode(r rune) bool { return (r < 'A' || r > 'Z') && r != '_' }

// errorType is error.type: "timeout" or "canceled" where the operation ran out of time or was given up, "eof" where the other side closed
// the connection, otherwise what the
// conventions' own [semconv.ErrorType] says, but for errors without a type of their own. Those are all one type to it, named
// after the function that made them. Of several that such an error wraps the first with a type counts; if there is none,
// [semconv.ErrorTypeOther] is the honest word for it.
func errorType(err error) string {
	if errors.Is(err, context.Canceled) {
		return "canceled"
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return "timeout"
	}
	if netErr, ok := errors.AsType[net.Error](err); ok && netErr.Timeout() {
		return "timeout"
	}
	// How a connection that the other side closed is told; both would be of no type.
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return "eof"
	}
	kind := semconv.ErrorType(err).Value.AsString()
	if !anonymousTypes[kind] {
		return kind
	}
	for ; err != nil; err = errors.Unwrap(err) {
		if several, ok := err.(interface{ Unwrap() []error }); ok {
			for _, one := range several.Unwrap() {
				if kind := errorType(one); kind != other {
					return kind
				}
			}
		}
	}
	return other
}

var other = semconv.ErrorTypeOther.Value.AsString()

// anonymousTypes are the types behind errors.New, fmt.Errorf with several wrapped errors, and errors.Join.
var anonymousTypes = map[string]bool{
	reflect.TypeOf(errors.New("")).String():                      true,
	reflect.TypeOf(fmt.Errorf("%w %w", errAny, errAny)).String(): true,
	reflect.TypeOf(errors.Join(errAny)).String():                 true,
}

var errAny = errors.New("")
