package redistest

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// RunReplica is [Run] for a replica of primary: it returns when the replica has the primary's data and follows it.
func RunReplica(ctx context.Context, primary *Server, config Config) (*Server, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	config.primary = primary
	s, err := Run(ctx, config)
	if err != nil {
		return nil, err
	}
	if err := s.AwaitInSync(ctx); err != nil {
		_ = s.Close()
		return nil, err
	}
	return s, nil
}

// AwaitInSync waits until the server, a replica, follows its primary.
func (s *Server) AwaitInSync(ctx context.Context) error {
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		info, err := s.Command(ctx, "INFO", "replication").ToString()
		if err == nil && InfoField(info, "master_link_status") == "up" {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("redistest: replica %s does not follow its primary: %w; its state:\n%s\nthe end of its log:\n%s",
				s.Addr(), errors.Join(ctx.Err(), err), info, s.Log())
		}
	}
}
