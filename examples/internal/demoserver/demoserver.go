// Package demoserver gives an example its Redis: the one the user names, or else one that lives as long as the example.
package demoserver

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/redis/rueidis"

	"github.com/go-nearcache/nearcache/internal/redistest"
)

// A Server is the Redis of an example.
type Server struct {
	// Option says how to connect.
	Option rueidis.ClientOption

	// Private is true for a server that belongs to the example alone: it may be flushed.
	Private bool

	process *redistest.Server
}

// Open returns the server at address, which is "host:port" or a URL such as "redis://user:password@host:port/0", without connecting
// to it. If address is empty it starts a redis-server on a free loopback port.
func Open(ctx context.Context, address string) (*Server, error) {
	switch {
	case strings.Contains(address, "://"):
		option, err := rueidis.ParseURL(address)
		if err != nil {
			return nil, fmt.Errorf("the address of Redis: %w", err)
		}
		return &Server{Option: option}, nil
	case address != "":
		return &Server{Option: rueidis.ClientOption{InitAddress: []string{address}}}, nil
	}
	process, err := redistest.Run(ctx, redistest.Config{})
	if err != nil {
		return nil, fmt.Errorf("no address of a Redis is given, and none can be started: %w", err)
	}
	return &Server{Option: process.ClientOption(), Private: true, process: process}, nil
}

// Close stops a private server, and leaves any other alone.
func (s *Server) Close() error {
	if s.process == nil {
		return nil
	}
	return s.process.Close()
}

// Pause freezes a private server: it answers nobody, and its connections stay open. Resume ends that.
func (s *Server) Pause() error {
	if s.process == nil {
		return errNotPrivate
	}
	return s.process.Pause()
}

// Resume ends Pause.
func (s *Server) Resume() error {
	if s.process == nil {
		return errNotPrivate
	}
	return s.process.Resume()
}

var errNotPrivate = errors.New("demoserver: the server is not the example's own: it is left alone")

// String returns the address, and whose server it is.
func (s *Server) String() string {
	if s.Private {
		return s.Option.InitAddress[0] + ", started for this program"
	}
	return s.Option.InitAddress[0]
}
