package gossip

import (
	"context"
	"log"
	"log/slog"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/go-nearcache/nearcache/broadcast"
)

const (
	rejoinInterval = time.Second // between attempts to find members that were lost
	rejoinFor      = time.Hour   // after which one that does not come back is given up
	isolatedFor    = time.Minute // after which a node that has lost all others takes itself for the last one
)

// failure is a member that went without leaving: it has crashed, or cannot be reached.
type failure struct {
	address string
	since   time.Time
}

// join finds the others, and finds them again when they get lost.
func (t *Transport) join() {
	if !t.joinSeeds() {
		return
	}
	t.mu.Lock()
	t.begun = true
	t.mu.Unlock()
	close(t.live)
	timer := time.NewTimer(rejoinInterval)
	defer timer.Stop()
	for {
		select {
		case <-t.ctx.Done():
			return
		case <-timer.C:
		}
		if addresses := t.lost(); len(addresses) > 0 {
			_, _ = t.members.Join(addresses) // tried again
		}
		timer.Reset(rejoinInterval - rand.N(rejoinInterval/4))
	}
}

// joinSeeds tries until a seed has been reached or it has taken too long. It returns false when the transport is closed.
func (t *Transport) joinSeeds() bool {
	deadline := time.Now().Add(joinTimeout)
	for delay := 50 * time.Millisecond; len(t.options.Seeds) > 0; delay = min(2*delay, time.Second) {
		_, err := t.members.Join(t.options.Seeds)
		if t.ctx.Err() != nil {
			return false
		}
		t.mu.Lock()
		reached := len(t.peers) > 0 // reaching itself is no success
		t.mu.Unlock()
		if reached {
			return true
		}
		if time.Now().After(deadline) {
			t.options.Logger.LogAttrs(context.Background(), slog.LevelWarn, "gossip: no seed was reached: this node begins by itself",
				slog.Any("seeds", t.options.Seeds), slog.Any("error", err))
			return true
		}
		select {
		case <-t.ctx.Done():
			return false
		case <-time.After(delay):
		}
	}
	return true
}

// lost returns whom to try to join: one of the members that were lost, or the seeds if there is nobody else.
func (t *Transport) lost() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	var addresses []string
	for name, f := range t.failed {
		if now.Sub(f.since) > rejoinFor {
			delete(t.failed, name)
			continue
		}
		addresses = append(addresses, f.address)
	}
	t.lookAroundLocked(now)
	if len(addresses) > 0 {
		addresses = []string{addresses[rand.IntN(len(addresses))]}
	}
	if len(t.peers) == 0 {
		addresses = append(addresses, t.options.Seeds...)
	}
	return addresses
}

// lookAroundLocked tells listeners when this node becomes isolated, and when that is over.
func (t *Transport) lookAroundLocked(now time.Time) {
	isolated := false
	if len(t.peers) == 0 && !t.closed {
		for _, f := range t.failed {
			isolated = isolated || now.Sub(f.since) < isolatedFor
		}
	}
	if isolated != t.isolated {
		t.isolated = isolated
		t.tellLocked(broadcast.Gap{Reason: broadcast.Reconnect, Open: isolated})
	}
}

// delegate is what memberlist calls.
type delegate Transport

// NotifyJoin implements [memberlist.EventDelegate].
func (d *delegate) NotifyJoin(node *memberlist.Node) { (*Transport)(d).arrived(node) }

// NotifyUpdate implements [memberlist.EventDelegate].
func (d *delegate) NotifyUpdate(node *memberlist.Node) { (*Transport)(d).arrived(node) }

func (t *Transport) arrived(node *memberlist.Node) {
	if node.Name == t.name {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	own := *node // the original changes
	t.peers[node.Name] = &own
	delete(t.failed, node.Name)
	t.retargetLocked()
}

// NotifyLeave implements [memberlist.EventDelegate].
func (d *delegate) NotifyLeave(node *memberlist.Node) {
	t := (*Transport)(d)
	if node.Name == t.name {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.peers, node.Name)
	if s := t.senders[node.Name]; s == nil || !s.left {
		t.failed[node.Name] = failure{address: node.Address(), since: time.Now()}
	}
	t.retargetLocked()
}

func (t *Transport) retargetLocked() {
	t.targets = make([]*memberlist.Node, 0, len(t.peers))
	for _, node := range t.peers {
		t.targets = append(t.targets, node)
	}
	t.lookAroundLocked(time.Now())
}

// NotifyMsg implements [memberlist.Delegate].
func (d *delegate) NotifyMsg(message []byte) {
	t := (*Transport)(d)
	if len(message) == 0 {
		return
	}
	switch body := message[1:]; message[0] {
	case kindFrames:
		t.takeFrames(body)
	case kindDigest:
		t.learn(body)
	case kindWant:
		select {
		case t.wants <- append([]byte(nil), body...):
		default: // it asks again
		}
	}
}

// LocalState implements [memberlist.Delegate].
func (d *delegate) LocalState(bool) []byte { return (*Transport)(d).everything() }

// MergeRemoteState implements [memberlist.Delegate].
func (d *delegate) MergeRemoteState(message []byte, _ bool) { d.NotifyMsg(message) }

// NodeMeta implements [memberlist.Delegate].
func (d *delegate) NodeMeta(int) []byte { return nil }

// GetBroadcasts implements [memberlist.Delegate]. Nothing travels with memberlist's own gossip: it is sent at once.
func (d *delegate) GetBroadcasts(int, int) [][]byte { return nil }

// logger passes on what memberlist logs.
func logger(to *slog.Logger) *log.Logger { return log.New(&lines{to: to}, "", 0) }

type lines struct{ to *slog.Logger }

// Write takes a line such as "[WARN] memberlist: …".
func (l *lines) Write(line []byte) (int, error) {
	text := strings.TrimSpace(string(line))
	level := slog.LevelDebug
	if tag, rest, ok := strings.Cut(text, " "); ok && strings.HasPrefix(tag, "[") {
		text = rest
		// What it calls an error is one packet or connection that went wrong, which is made good.
		if tag == "[WARN]" || tag == "[ERR]" {
			level = slog.LevelWarn
		}
	}
	l.to.Log(context.Background(), level, text)
	return len(line), nil
}
