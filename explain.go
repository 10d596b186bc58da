package nearcache

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/go-nearcache/nearcache/localcache"
)

// An Explanation says where an item lives and why. It is for people: to print, or to look at in a debugger.
type Explanation struct {
	Key    string   // in Redis
	Tags   []string // the item's, in a Tagged
	Local  LocalExplanation
	Remote RemoteExplanation
	Link   LinkStats

	// LastInvalidation is the last time that this key was evicted from L1 by an invalidation; nil if that is not known (the client
	// remembers some thousands).
	LastInvalidation *Invalidation

	// LastRejection is why the last value of this key that was fetched or loaded was not kept; nil if none was refused, or it is not known any more
	// (a cache remembers some hundreds). A later one may have been kept.
	LastRejection *Rejection
}

// An Invalidation is one that evicted a key from L1.
type Invalidation struct {
	Cause localcache.Cause // what told of the change: the link, a message, or this node's own write
	At    time.Time
}

// LocalExplanation is what L1 holds.
type LocalExplanation struct {
	Present  bool
	Servable bool // a read under Options.MaxStaleness would be served from it now
	localcache.Info
}

// RemoteExplanation is what Redis holds.
type RemoteExplanation struct {
	Present  bool          // a value
	Negative bool          // the mark of an absent item
	Leased   bool          // the mark of a load that is running
	Bytes    int           // of the value
	TTL      time.Duration // what is left of its life; negative if it has no end
	Err      error         // why Redis could not say
}

// Explain looks at L1 without touching it, asks Redis, and says what it found. It never loads. If ctx has ended it looks at L1 alone.
func (c *Cache[V]) Explain(ctx context.Context, key string) Explanation {
	k := c.view.Key(key)
	e := Explanation{Key: c.config.Prefix + key, Link: c.client.serverOf(c.config.Prefix, key).linkStats()}
	e.Local.Info, e.Local.Present = c.view.Peek(k)
	e.Local.Servable = e.Local.Present && e.Local.State == localcache.Servable && (e.Link.Staleness <= c.staleness || e.Link.Mode != ModeTracking)
	if last, ok := c.view.LastInvalidation(k); ok {
		e.LastInvalidation = &Invalidation{Cause: last.Cause, At: last.At.Time()}
	}
	e.LastRejection = c.refused.of(k)
	if err := c.writable(key); err != nil {
		e.Remote.Err = err
		return e
	}
	if ctx.Err() != nil {
		e.Remote.Err = context.Cause(ctx)
		return e
	}
	answer := c.client.remote.fetch(ctx, e.Key)
	e.Remote = RemoteExplanation{
		Present:  answer.state == held,
		Negative: answer.state == negative,
		Leased:   answer.state == leased,
		Err:      answer.err,
	}
	if answer.state == held {
		e.Remote.Bytes = len(answer.data)
	}
	if answer.state != missing {
		e.Remote.TTL = answer.life
	}
	return e
}

// String returns the explanation in one line.
func (e Explanation) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%q: L1 ", e.Key)
	switch {
	case e.Local.Servable:
		fmt.Fprintf(&b, "serves it (age %v, %v left, epoch %d)", e.Local.Age, e.Local.Deadline.Sub(localcache.Now()), e.Local.Epoch)
	case e.Local.Present && e.Local.State == localcache.Servable:
		fmt.Fprintf(&b, "holds it and serves it after a fence (the link was heard of %v ago)", e.Link.Staleness)
	case e.Local.Present:
		fmt.Fprintf(&b, "holds it and may not serve it (%v)", e.Local.State)
	default:
		b.WriteString("has nothing")
	}
	switch {
	case e.Remote.Err != nil:
		fmt.Fprintf(&b, "; Redis: %v", e.Remote.Err)
	case e.Remote.Present:
		fmt.Fprintf(&b, "; Redis holds %d bytes (%s)", e.Remote.Bytes, lifeText(e.Remote.TTL))
	case e.Remote.Negative:
		fmt.Fprintf(&b, "; Redis remembers that there is none (%s)", lifeText(e.Remote.TTL))
	case e.Remote.Leased:
		fmt.Fprintf(&b, "; a load holds the lease (%s)", lifeText(e.Remote.TTL))
	default:
		b.WriteString("; Redis has nothing")
	}
	if len(e.Tags) > 0 {
		fmt.Fprintf(&b, "; tagged %q", e.Tags)
	}
	if e.LastInvalidation != nil {
		fmt.Fprintf(&b, "; last evicted %v ago (%v)", time.Since(e.LastInvalidation.At), e.LastInvalidation.Cause)
	}
	if e.LastRejection != nil {
		fmt.Fprintf(&b, "; last not kept %v ago (%s)", time.Since(e.LastRejection.At), e.LastRejection.Reason)
	}
	return b.String()
}

func lifeText(d time.Duration) string {
	if d < 0 {
		return "no expiry"
	}
	return d.String() + " left"
}
