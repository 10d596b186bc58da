package redistest

import (
	"context"
	"strings"
	"time"

	"github.com/redis/rueidis"
)

// ClientOption returns how a client connects as the default user: address, password, no client-side cache.
func (s *Server) ClientOption() rueidis.ClientOption {
	return rueidis.ClientOption{
		InitAddress:  []string{s.Addr()},
		Password:     s.config.Password,
		DisableCache: true,
	}
}

// AdminOption returns how a client connects as the administrator.
func (s *Server) AdminOption() rueidis.ClientOption {
	option := s.ClientOption()
	option.Username, option.Password = AdminUser, AdminPassword
	return option
}

// outsideTimeout bounds the start of an outside connection when the caller's context does not.
const outsideTimeout = 5 * time.Second

// commandTimeout bounds the answer to an outside command. A large script takes seconds on a loaded machine.
const commandTimeout = time.Minute

// outside returns a client of the administrator with one connection and no retries. The caller closes it.
func (s *Server) outside(ctx context.Context) (rueidis.Client, error) {
	option := s.AdminOption()
	option.ForceSingleClient = true
	option.DisableRetry = true
	option.ConnWriteTimeout = commandTimeout
	option.PipelineMultiplex = -1
	option.ReadBufferEachConn = 4096
	option.WriteBufferEachConn = 4096
	// NewClient takes no context; it gives the connection and its handshake this long.
	option.Dialer.Timeout = outsideTimeout
	if deadline, ok := ctx.Deadline(); ok {
		option.Dialer.Timeout = min(outsideTimeout, max(time.Until(deadline), time.Millisecond))
	}
	client, err := rueidis.NewClient(option)
	if err != nil && client != nil {
		client.Close()
	}
	return client, err
}

// Command runs one command as the administrator on a connection of its own, as redis-cli would: an outsider to every client
// under test.
func (s *Server) Command(ctx context.Context, args ...string) rueidis.RedisResult {
	client, err := s.outside(ctx)
	if err != nil {
		return rueidis.NewErrorResult(err)
	}
	defer client.Close()
	return client.Do(ctx, client.B().Arbitrary(args...).Build())
}

// verbatim takes away what RESP3 puts before the text of a verbatim string.
func verbatim(text string) string { return strings.TrimPrefix(text, "txt:") }

// InfoField returns the value of a field in the reply of INFO, or "" if it is not there.
func InfoField(info, field string) string {
	for line := range strings.Lines(verbatim(info)) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), ":"); ok && name == field {
			return value
		}
	}
	return ""
}
