package nearcache

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/go-nearcache/nearcache/broadcast"
	"github.com/go-nearcache/nearcache/localcache"
	"github.com/go-nearcache/nearcache/tracking"
)

// BusTopic is the topic on which clients without Redis tell each other what changed.
const BusTopic = "nearcache"

// What nodes announce to each other is told by the type and the version of the message. A node that does not know them, because another
// runs a newer version of this library, forgets everything it holds: so kinds of announcements can be added.
const (
	announcementVersion = 1

	announcementKeys       = "keys"       // the payload lists changed keys
	announcementEverything = "everything" // no payload: forget all
)

// announcementBytes is how much of one message keys fill before another is begun.
const announcementBytes = 64 << 10

// busLink keeps L1 coherent by messages between the nodes, for a client that has no Redis. It is to the client what a tracker is otherwise,
// but for one thing: no server can say that nothing is on its way, so there is no fence.
type busLink struct {
	server       *server
	bus          *broadcast.Bus
	subscription *broadcast.Subscription

	mu     sync.Mutex
	status tracking.Status
}

func openBusLink(ctx context.Context, server *server, bus *broadcast.Bus) (*busLink, error) {
	l := &busLink{server: server, bus: bus}
	l.status.Server.Address = bus.Capabilities().System
	// Live first: what comes before Subscribe returns may already be told by a gap.
	l.live()
	subscription, err := bus.Subscribe(ctx, BusTopic, broadcast.Handler{Message: l.message, Gap: l.gap})
	if err != nil {
		return nil, fmt.Errorf("nearcache: Options.Bus: %w", err)
	}
	l.subscription = subscription
	return l, nil
}

func (l *busLink) message(_ context.Context, m broadcast.Message) error {
	if m.Version == announcementVersion {
		switch m.Type {
		case announcementKeys:
			if keys, err := decodeKeys(m.Payload); err == nil {
				for _, key := range keys {
					l.server.client.invalidate(key, localcache.Broadcast)
				}
				return nil
			}
		case announcementEverything:
			l.server.client.forgetAll(&l.server.client.flushes.manual)
			return nil
		}
	}
	if m.Version == announcementVersion && l.server.client.hearBypass(m.Type, m.Payload) {
		return nil
	}
	l.server.client.forgetAll(&l.server.client.flushes.gap) // it may have been anything
	return nil
}

func (l *busLink) gap(_ context.Context, gap broadcast.Gap) {
	if !gap.Open {
		l.server.client.askBypass()
	}
	switch {
	case gap.Open:
		l.lost(errors.New(gap.String()))
	case !l.Status().Live:
		l.live()
	case gap.MustFlush():
		(*linkHandler)(l.server).flush(&l.server.client.flushes.gap)
	}
}

func (l *busLink) live() {
	now := time.Now()
	(*linkHandler)(l.server).Live(now)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.status.Live, l.status.Since, l.status.AsOf = true, now, now
	l.status.Reconnects = l.status.Epoch
	l.status.Epoch++
}

func (l *busLink) lost(err error) {
	(*linkHandler)(l.server).Lost(err)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.status.Live, l.status.Since, l.status.LastError = false, time.Now(), err
}

// announce tells every other node that keys changed. It returns when the broker has accepted the message.
func (l *busLink) announce(ctx context.Context, keys []string) error {
	for len(keys) > 0 {
		payload := []byte(nil)
		n := 0
		for n < len(keys) && (n == 0 || len(payload)+len(keys[n]) < announcementBytes) {
			payload = appendKey(payload, keys[n])
			n++
		}
		if err := l.publish(ctx, announcementKeys, payload); err != nil {
			return err
		}
		keys = keys[n:]
	}
	return nil
}

func (l *busLink) publish(ctx context.Context, kind string, payload []byte) error {
	return l.bus.Publish(ctx, broadcast.Message{Topic: BusTopic, Type: kind, Version: announcementVersion, Payload: payload})
}

// A list of keys is the length of each as a varint, and its bytes: keys may be any bytes.
func appendKey(payload []byte, key string) []byte {
	return append(binary.AppendUvarint(payload, uint64(len(key))), key...)
}

var errAnnouncement = errors.New("nearcache: the announcement of changed keys is malformed")

func decodeKeys(payload []byte) (keys []string, err error) {
	for len(payload) > 0 {
		length, n := binary.Uvarint(payload)
		if n <= 0 || length > uint64(len(payload)-n) {
			return nil, errAnnouncement
		}
		keys = append(keys, string(payload[n:n+int(length)]))
		payload = payload[n+int(length):]
	}
	return keys, nil
}

var errNoFence = errors.New("nearcache: a client without Redis has no fence: a bus cannot say that nothing is on its way")

func (l *busLink) Fence(context.Context) error { return errNoFence }

func (l *busLink) Status() tracking.Status {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.status
}

// Close ends the subscription; the bus belongs to the caller.
func (l *busLink) Close(ctx context.Context) error { return l.subscription.Close(ctx) }
