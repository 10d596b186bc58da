package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// A cable is the child node's way to the rest, and can be pulled: no side is told, and what was sent arrives when the cable is back, if
// TCP still tries.
//
// The child lives in a network namespace of its own, joined to this one by a pair of virtual interfaces. That takes root and ip(8); without
// them the child lives here, and black holes in its proxies stand for the pulled cable.
type cable struct {
	namespace string // empty if there is none
	near      string // the interface on this side
	address   string // on this side
	wires     []*wire
}

const loopback = "127.0.0.1"

// layCable returns a cable; why says why it has no namespace.
func layCable(ctx context.Context) (c *cable, why error) {
	id := os.Getpid()
	c = &cable{namespace: fmt.Sprintf("chaos-%d", id), near: fmt.Sprintf("nc%da", id), address: fmt.Sprintf("10.213.%d.%d", id>>6%256, id%64*4+1)}
	far := fmt.Sprintf("nc%db", id)
	farAddress := fmt.Sprintf("10.213.%d.%d", id>>6%256, id%64*4+2)
	for _, command := range [][]string{
		{"netns", "add", c.namespace},
		{"link", "add", c.near, "type", "veth", "peer", "name", far, "netns", c.namespace},
		{"addr", "add", c.address + "/30", "dev", c.near},
		{"link", "set", c.near, "up"},
		{"-n", c.namespace, "addr", "add", farAddress + "/30", "dev", far},
		{"-n", c.namespace, "link", "set", far, "up"},
		{"-n", c.namespace, "link", "set", "lo", "up"},
	} {
		if err := ip(ctx, command...); err != nil {
			return &cable{address: loopback}, errors.Join(err, c.remove())
		}
	}
	return c, nil
}

func ip(ctx context.Context, args ...string) error {
	output, err := exec.CommandContext(ctx, "ip", args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("chaos: ip %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(output)))
	}
	return nil
}

// through returns the beginning of a command line that starts a program at the far end.
func (c *cable) through() []string {
	if c.namespace == "" {
		return nil
	}
	return []string{"ip", "netns", "exec", c.namespace}
}

func (c *cable) pull(ctx context.Context) (heal func(context.Context) error, err error) {
	if c.namespace == "" {
		return onWires(c.wires, func(w *wire) error { return w.poison(ctx, blackHole(0), up, down) }, (*wire).cure)
	}
	return func(ctx context.Context) error { return ip(ctx, "link", "set", c.near, "up") }, ip(ctx, "link", "set", c.near, "down")
}

func (c *cable) remove() error {
	if c.namespace == "" {
		return nil
	}
	return ip(context.Background(), "netns", "delete", c.namespace)
}
