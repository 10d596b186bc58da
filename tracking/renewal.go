package tracking

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/redis/rueidis"
)

// A renewal replaces the credentials of a live link when they come to their end. AUTH changes who the connection belongs to and nothing else:
// tracking stays on, and no push is lost, as one might be between an old connection and a new one. Its methods are called by the goroutine of
// serve alone.
type renewal struct {
	link    *link
	timer   *time.Timer // nil if the credentials have no end
	answers chan renewed
	logged  string // the reason for a failure that was logged last
}

// renewed is what AuthCredentialsFn returned.
type renewed struct {
	credentials rueidis.AuthCredentials
	err         error
}

func (l *link) newRenewal() *renewal {
	r := &renewal{link: l, answers: make(chan renewed, 1)}
	if at := l.connection.renewAt; !at.IsZero() {
		r.timer = time.NewTimer(r.delay(at))
	}
	return r
}

// delay is the time until then, but long enough that what is always due does not keep the link from its work.
func (r *renewal) delay(at time.Time) time.Duration {
	return max(time.Until(at), r.link.tracker.options.MinBackoff)
}

func (r *renewal) due() <-chan time.Time {
	if r.timer == nil {
		return nil
	}
	return r.timer.C
}

func (r *renewal) stop() {
	if r.timer != nil {
		r.timer.Stop()
	}
}

// ask calls AuthCredentialsFn, which may take its time, on a goroutine of its own. There is one at most, because the next time is set when its
// answer has been heeded.
func (r *renewal) ask() {
	ask := r.link.connection.renew
	r.link.tracker.work.Go(func() {
		credentials, err := ask()
		r.answers <- renewed{credentials, err}
	})
}

// authenticate gives the server the new credentials. What the function or the server refuses is tried again: the old credentials served so far.
// An error says that the link is lost.
func (l *link) authenticate(ctx context.Context, r *renewal, answer renewed) error {
	options := &l.tracker.options
	refused := answer.err
	if c := answer.credentials; refused == nil && (c.Username != "" || c.Password != "") {
		if c.Username == "" {
			c.Username = "default"
		}
		ctx, cancel := context.WithTimeoutCause(ctx, options.Deadline, fmt.Errorf("no answer within %v (Options.Deadline)", options.Deadline))
		defer cancel()
		if _, refused = l.connection.do(ctx, "AUTH", c.Username, c.Password); refused != nil {
			if _, isReply := refusal(refused); !isReply {
				return l.roundTripTrouble(ctx, refused)
			}
		}
	}
	switch {
	case refused != nil:
		r.timer.Reset(options.MaxBackoff)
		failure := l.failed("AUTH", ErrCredentials, refused, "correct what AuthCredentialsFn returns: the link lives only as long as the server lets it")
		if text := failure.Error(); text != r.logged {
			r.logged = text
			options.Logger.LogAttrs(ctx, slog.LevelWarn, "tracking: credentials are not renewed; will try again",
				slog.String("server", l.address()), slog.Any("error", failure))
		}
	case answer.credentials.RefreshAfter.IsZero():
		r.timer, r.logged = nil, ""
	default:
		r.logged = ""
		r.timer.Reset(r.delay(answer.credentials.RefreshAfter))
	}
	return nil
}
