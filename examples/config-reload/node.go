package main

import (
	"context"
	"fmt"
	"strconv"
	"sync"

	"github.com/go-nearcache/nearcache/broadcast"
)

// Settings are what the nodes follow. Each change has a higher Version, so that it does not matter in which order a node hears of two that
// different nodes made.
type Settings struct {
	Version     int64 `json:"version"`
	RateLimit   int   `json:"rate_limit"`
	Maintenance bool  `json:"maintenance"`
}

// A store holds the settings. In a service it is a table or a file that all nodes reach.
type store struct {
	mu       sync.Mutex
	settings Settings
}

func (s *store) read() Settings {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.settings
}

func (s *store) change(edit func(*Settings)) Settings {
	s.mu.Lock()
	defer s.mu.Unlock()
	edit(&s.settings)
	s.settings.Version++
	return s.settings
}

const (
	settingsTopic = "settings"
	rollCallTopic = "settings-roll-call"
)

// A node follows the settings.
type node struct {
	bus   *broadcast.Bus
	topic *broadcast.Topic[Settings]
	store *store

	mu      sync.Mutex
	now     Settings
	learnt  string        // how
	changed chan struct{} // closed when now changes
}

func openNode(ctx context.Context, name string, transport broadcast.Transport, s *store) (n *node, err error) {
	n = &node{store: s, changed: make(chan struct{})}
	n.bus, err = broadcast.New(broadcast.Options{Transport: transport, Origin: name})
	if err != nil {
		return nil, err
	}
	n.topic, err = broadcast.NewTopic(n.bus, broadcast.TopicOptions[Settings]{Name: settingsTopic})
	if err != nil {
		return n, err
	}
	_, err = n.topic.Subscribe(ctx, broadcast.TopicHandler[Settings]{
		Value: func(_ context.Context, settings Settings, message broadcast.Message) error {
			n.apply(settings, "told by "+message.Origin)
			return nil
		},
		Gap: func(_ context.Context, gap broadcast.Gap) {
			if gap.MustFlush() {
				n.apply(n.store.read(), "read again: "+gap.Reason.String())
			}
		},
	})
	if err != nil {
		return n, err
	}
	// Read once it listens, and not before: what changes from now on it is told.
	n.apply(n.store.read(), "read at its start")
	_, err = n.bus.Subscribe(ctx, rollCallTopic, broadcast.Handler{
		Message: func(ctx context.Context, request broadcast.Message) error {
			settings, _, _ := n.state()
			return n.bus.Reply(ctx, request, broadcast.Message{Payload: strconv.AppendInt(nil, settings.Version, 10)})
		},
	}, broadcast.ReceiveOwn())
	return n, err
}

// apply adopts settings that are newer.
func (n *node) apply(settings Settings, learnt string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if settings.Version > n.now.Version {
		n.now, n.learnt = settings, learnt
		close(n.changed)
		n.changed = make(chan struct{})
	}
}

func (n *node) state() (now Settings, learnt string, changed <-chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.now, n.learnt, n.changed
}

// change stores new settings, adopts them and tells the others.
func (n *node) change(ctx context.Context, edit func(*Settings)) (Settings, error) {
	settings := n.store.change(edit)
	n.apply(settings, "its own change")
	return settings, n.topic.Publish(ctx, settings)
}

// await returns when the node has the version.
func (n *node) await(ctx context.Context, version int64) error {
	for {
		now, _, changed := n.state()
		if now.Version >= version {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("%s is still at version %d and not at %d: %w", n.bus.Origin(), now.Version, version, context.Cause(ctx))
		}
	}
}
