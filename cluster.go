package nearcache

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/redis/rueidis"

	"github.com/go-nearcache/nearcache/tracking"
)

// connectCluster opens a link to every primary of a Redis Cluster.
func (c *Client) connectCluster(ctx context.Context) error {
	if c.options.Redis.ForceSingleClient {
		return optionError("Redis.ForceSingleClient", true, "must be false for a node of a cluster, which owns a part of the keys only")
	}
	return c.connectPrimaries(ctx, clusterSource{c})
}

// A clusterSource asks the nodes of a Redis Cluster.
type clusterSource struct{ client *Client }

func (s clusterSource) option(reached []string) rueidis.ClientOption {
	option := withoutReplicas(s.client.options.Redis)
	option.InitAddress = reached
	return option
}

// interval is long because links tell of changes sooner.
func (clusterSource) interval() time.Duration { return 10 * time.Second }

func (clusterSource) slotted() bool { return true }

func (clusterSource) close() {}

// ask asks one node after the other, those with a live link first, until one knows slots with owners.
func (s clusterSource) ask(ctx context.Context, p *primaries) (tracking.Topology, error) {
	var addresses []string
	add := func(address string) {
		if address != "" && !slices.Contains(addresses, address) {
			addresses = append(addresses, address)
		}
	}
	for node, s := range p.servers {
		if s.shard.Live() {
			add(node.Address)
		}
	}
	for _, r := range p.view.Slots {
		add(r.Primary.Address)
		for _, replica := range r.Replicas {
			add(replica.Address)
		}
	}
	for _, address := range s.client.options.Redis.InitAddress {
		add(address)
	}
	var failures []error
	for _, address := range addresses {
		attempt, cancel := context.WithTimeout(ctx, s.client.options.RemoteTimeout)
		view, err := tracking.AskTopology(attempt, s.client.optionFor(address))
		cancel()
		switch {
		case err != nil:
			failures = append(failures, err)
		case len(view.Slots) > 0:
			return view, nil
		}
		if ctx.Err() != nil {
			return tracking.Topology{}, errors.Join(append(failures, context.Cause(ctx))...)
		}
	}
	if len(failures) == 0 {
		failures = append(failures, fmt.Errorf("no node of the cluster at %q owns slots: assign them first, with redis-cli --cluster create or fix", s.client.options.Redis.InitAddress))
	}
	return tracking.Topology{}, errors.Join(failures...)
}
