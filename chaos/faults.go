package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/Shopify/toxiproxy/v2/toxics"
	"github.com/redis/rueidis"

	"github.com/go-nearcache/nearcache/internal/oracle"
	"github.com/go-nearcache/nearcache/internal/redistest"
)

// A fault does its harm and returns what heals it: nil if it is over at once.
type fault func(ctx context.Context, f *fleet, e event) (heal func(context.Context) error, err error)

// faultLimit is how long a fault or its healing may take besides its length.
const faultLimit = 20 * time.Second

// A namedFault is a fault as the schedule knows it.
type namedFault struct {
	kind string
	do   fault
}

func networkFaults() []string { return kinds(onNetwork) }
func serverFaults() []string  { return kinds(onServer) }
func processFaults() []string { return kinds(onProcess) }

func kinds(faults []namedFault) (names []string) {
	for _, fault := range faults {
		names = append(names, fault.kind)
	}
	return names
}

// faultOf returns a fault by its kind.
func faultOf(kind string) fault {
	for _, faults := range [][]namedFault{onNetwork, onServer, onProcess} {
		for _, fault := range faults {
			if fault.kind == kind {
				return fault.do
			}
		}
	}
	panic("chaos: there is no fault " + kind)
}

// onNetwork lists what befalls the ways of one node to Redis.
var onNetwork = []namedFault{
	{"latency", toxic(func(n int64) toxics.Toxic { return &toxics.LatencyToxic{Latency: 1 + n%200, Jitter: n % 50} }, up, down)},
	{"late pushes", toxic(func(n int64) toxics.Toxic { return &toxics.LatencyToxic{Latency: 200 + n%2500} }, down)},
	{"bandwidth", toxic(func(n int64) toxics.Toxic { return &toxics.BandwidthToxic{Rate: 1 + n%64} }, up, down)},
	{"slicer", toxic(func(n int64) toxics.Toxic {
		return &toxics.SlicerToxic{AverageSize: 8, SizeVariation: 6, Delay: int(n % 300)}
	}, up, down)},
	{"reset", toxic(func(n int64) toxics.Toxic { return &toxics.ResetToxic{Timeout: n % 50} }, down)},
	{"black hole to Redis", toxic(blackHole, up)},
	{"black hole from Redis", toxic(blackHole, down)},
	{"black hole", toxic(blackHole, up, down)},
	{"refused connections", func(ctx context.Context, f *fleet, e event) (func(context.Context) error, error) {
		return onWires(f.wiresOf(e), func(w *wire) error { return w.refuse(ctx) }, (*wire).accept)
	}},
	{"cut connections", func(ctx context.Context, f *fleet, e event) (func(context.Context) error, error) {
		accept, err := onWires(f.wiresOf(e), func(w *wire) error { return w.refuse(ctx) }, (*wire).accept)
		return nil, errors.Join(err, accept(ctx))
	}},
}

// wiresOf returns the ways that an event hits: the link, the data, or both.
func (f *fleet) wiresOf(e event) []*wire {
	switch w := f.wires[e.Node]; e.Dice % 4 {
	case 0:
		return []*wire{w.link, w.data}
	case 1:
		return []*wire{w.data}
	default:
		return []*wire{w.link}
	}
}

func blackHole(int64) toxics.Toxic { return new(toxics.TimeoutToxic) }

// toxic is a fault that poisons wires; the toxic is chosen by a number that the dice decide.
func toxic(choose func(n int64) toxics.Toxic, directions ...direction) fault {
	return func(ctx context.Context, f *fleet, e event) (func(context.Context) error, error) {
		return onWires(f.wiresOf(e), func(w *wire) error { return w.poison(ctx, choose(int64(e.Dice>>32)), directions...) }, (*wire).cure)
	}
}

// onWires does harm to each wire, and returns what heals those that it was done to.
func onWires(wires []*wire, harm func(*wire) error, heal func(*wire, context.Context) error) (func(context.Context) error, error) {
	var harmed []*wire
	all := func(ctx context.Context) (err error) {
		for _, w := range harmed {
			err = errors.Join(err, heal(w, ctx))
		}
		return err
	}
	for _, w := range wires {
		if err := harm(w); err != nil {
			return all, err
		}
		harmed = append(harmed, w)
	}
	return all, nil
}

// onServer lists what befalls Redis, one after the other.
var onServer = []namedFault{
	{"links killed", func(ctx context.Context, f *fleet, _ event) (func(context.Context) error, error) {
		return nil, f.killLinks(ctx)
	}},
	{"all clients killed", func(ctx context.Context, f *fleet, _ event) (func(context.Context) error, error) {
		return nil, f.settle(ctx)
	}},
	{"server stopped", func(_ context.Context, f *fleet, _ event) (func(context.Context) error, error) {
		return func(context.Context) error { return f.server.Resume() }, f.server.Pause()
	}},
	{"server killed, data kept", func(_ context.Context, f *fleet, _ event) (func(context.Context) error, error) {
		f.killServer()
		return func(ctx context.Context) error { return f.started(ctx, f.server.Restart(ctx)) }, nil
	}},
	{"server killed, data lost", func(_ context.Context, f *fleet, _ event) (func(context.Context) error, error) {
		loss := f.oracle.BeginLoss()
		f.killServer()
		return func(ctx context.Context) error {
			err := f.server.RestartEmpty(ctx)
			loss.End(err == nil)
			if err := f.started(ctx, err); err != nil {
				return err
			}
			return f.writers.restock(ctx)
		}, nil
	}},
	{"server shut down", func(ctx context.Context, f *fleet, _ event) (func(context.Context) error, error) {
		began := oracle.Now()
		if err := f.server.Shutdown(ctx); err != nil {
			return nil, err
		}
		f.oracle.Settle(began)
		return func(ctx context.Context) error { return f.started(ctx, f.server.Restart(ctx)) }, nil
	}},
	{"data reloaded", func(ctx context.Context, f *fleet, _ event) (func(context.Context) error, error) {
		return nil, f.do(ctx, "DEBUG", "RELOAD")
	}},
	{"FLUSHALL", func(ctx context.Context, f *fleet, e event) (func(context.Context) error, error) {
		loss := f.oracle.BeginLoss()
		err := f.do(ctx, "FLUSHALL", []string{"SYNC", "ASYNC"}[e.Dice%2])
		loss.End(err == nil)
		return f.writers.restock, err
	}},
	{"FLUSHDB of another database", func(ctx context.Context, f *fleet, _ event) (func(context.Context) error, error) {
		option := f.server.AdminOption()
		option.SelectDB = 1
		client, err := rueidis.NewClient(option)
		if err != nil {
			return nil, err
		}
		defer client.Close()
		return nil, client.Do(ctx, client.B().Flushdb().Build()).Error()
	}},
	{"eviction", func(ctx context.Context, f *fleet, e event) (func(context.Context) error, error) {
		info, err := f.server.Command(ctx, "INFO", "memory").ToString()
		if err != nil {
			return nil, err
		}
		used, err := strconv.Atoi(redistest.InfoField(info, "used_memory"))
		if err != nil {
			return nil, err
		}
		loss := f.oracle.BeginLoss()
		heal := func(ctx context.Context) error {
			err := f.do(ctx, "CONFIG", "SET", "maxmemory", "0")
			loss.End(false)
			return err
		}
		policy := []string{"allkeys-lru", "allkeys-random", "allkeys-lfu"}[e.Dice%3]
		return heal, f.do(ctx, "CONFIG", "SET", "maxmemory-policy", policy, "maxmemory", strconv.Itoa(used-used/16))
	}},
	{"output buffer limit", func(ctx context.Context, f *fleet, _ event) (func(context.Context) error, error) {
		heal := func(ctx context.Context) error {
			return f.do(ctx, "CONFIG", "SET", "client-output-buffer-limit", "normal 0 0 0")
		}
		if err := f.do(ctx, "CONFIG", "SET", "client-output-buffer-limit", "normal 262144 0 0"); err != nil {
			return heal, err
		}
		return heal, f.bulk(ctx)
	}},
	{"slow consumer", func(ctx context.Context, f *fleet, e event) (func(context.Context) error, error) {
		link := f.wires[e.Node].link
		if err := link.poison(ctx, &toxics.BandwidthToxic{Rate: 100 + int64(e.Dice>>32)%400}, down); err != nil {
			return nil, err
		}
		return link.cure, f.bulk(ctx)
	}},
	{"100,000-key script", func(ctx context.Context, f *fleet, _ event) (func(context.Context) error, error) {
		return nil, f.bulk(ctx)
	}},
	{"clients paused", pause("ALL")},
	{"writes paused", pause("WRITE")},
	{"busy script", func(ctx context.Context, f *fleet, _ event) (func(context.Context) error, error) {
		client, err := rueidis.NewClient(f.server.AdminOption())
		if err != nil {
			return nil, err
		}
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			client.Do(ctx, client.B().Eval().Script("while true do end").Numkeys(0).Build())
		}()
		return func(ctx context.Context) error {
			defer client.Close()
			return f.killScript(ctx, ended)
		}, nil
	}},
	{"expiry storm", func(ctx context.Context, f *fleet, e event) (func(context.Context) error, error) {
		return nil, f.writers.storm(ctx, e.Length/2+time.Millisecond)
	}},
	{"rights revoked", func(ctx context.Context, f *fleet, e event) (func(context.Context) error, error) {
		rights := [][]string{{"-client|tracking"}, {"-role"}, {"-get", "-mget", "-pttl"}, {"-set", "-del", "-eval", "-evalsha"}, {"-@all"}}[e.Dice%5]
		err := f.do(ctx, append([]string{"ACL", "SETUSER", nodeUser}, rights...)...)
		if err == nil && e.Dice%2 == 0 {
			err = f.killLinks(ctx)
		}
		return f.restoreUser, err
	}},
	{"user deleted", func(ctx context.Context, f *fleet, _ event) (func(context.Context) error, error) {
		return f.restoreUser, f.do(ctx, "ACL", "DELUSER", nodeUser)
	}},
	{"password rotated", func(ctx context.Context, f *fleet, e event) (func(context.Context) error, error) {
		password := fmt.Sprintf("password-%d", e.Dice)
		rotate := func(ctx context.Context) error {
			if err := f.do(ctx, "ACL", "SETUSER", nodeUser, "resetpass", ">"+password); err != nil || e.Dice%4 < 2 {
				return err
			}
			return f.do(ctx, "CLIENT", "KILL", "USER", nodeUser)
		}
		hand := func(context.Context) error { return f.setPassword(password) }
		if e.Dice%2 == 0 {
			return hand, rotate(ctx)
		}
		return rotate, hand(ctx)
	}},
}

func pause(what string) fault {
	return func(ctx context.Context, f *fleet, e event) (func(context.Context) error, error) {
		// The pause ends by itself: while it lasts, nobody's UNPAUSE is heard.
		return func(ctx context.Context) error { return f.do(ctx, "PING") },
			f.do(ctx, "CLIENT", "PAUSE", strconv.FormatInt(e.Length.Milliseconds(), 10), what)
	}
}

// onProcess lists what befalls a process.
var onProcess = []namedFault{
	{"node stopped", func(_ context.Context, f *fleet, _ event) (func(context.Context) error, error) {
		return func(context.Context) error { return f.child.resume() }, f.child.stop()
	}},
	{"half-open connections", func(ctx context.Context, f *fleet, _ event) (func(context.Context) error, error) {
		return f.cable.pull(ctx)
	}},
	{"garbage collected", func(ctx context.Context, _ *fleet, _ event) (func(context.Context) error, error) {
		ctx, stop := context.WithCancel(ctx)
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			var garbage []*[64]*int
			for n := 1; ctx.Err() == nil; n++ {
				for range 1 << 12 {
					garbage = append(garbage, new([64]*int))
				}
				if n%8 == 0 {
					runtime.GC()
					runtime.KeepAlive(garbage)
					garbage = nil
				}
				time.Sleep(4 * time.Millisecond)
			}
		}()
		return func(context.Context) error {
			stop()
			<-ended
			return nil
		}, nil
	}},
}

// do sends a command to Redis as the administrator.
func (f *fleet) do(ctx context.Context, command ...string) error {
	err := f.server.Command(ctx, command...).Error()
	if err != nil && !rueidis.IsRedisNil(err) {
		return fmt.Errorf("chaos: %q: %w", command, err)
	}
	return nil
}

// settle cuts all connections at Redis, so that nothing that was sent before can still take effect.
func (f *fleet) settle(ctx context.Context) error {
	began := oracle.Now()
	if err := f.do(ctx, "CLIENT", "KILL", "TYPE", "normal"); err != nil {
		return err
	}
	f.oracle.Settle(began)
	return nil
}

func (f *fleet) killServer() {
	began := oracle.Now()
	f.server.Kill()
	f.oracle.Settle(began)
}

// started finishes a restart: the server has the users of its configuration file again.
func (f *fleet) started(ctx context.Context, err error) error {
	if err != nil {
		return err
	}
	return f.restoreUser(ctx)
}

func (f *fleet) restoreUser(ctx context.Context) error {
	return f.do(ctx, "ACL", "SETUSER", nodeUser, "reset", "on", ">"+f.login.get(), "~*", "&*", "+@all")
}

func (f *fleet) killLinks(ctx context.Context) error { return killClients(ctx, f.server, "t") }

// killClients cuts the connections of a server's clients whose flags hold a letter, or of all.
func killClients(ctx context.Context, server *redistest.Server, flag string) error {
	list, err := server.Command(ctx, "CLIENT", "LIST", "TYPE", "normal").ToString()
	if err != nil {
		return fmt.Errorf("chaos: CLIENT LIST: %w", err)
	}
	for line := range strings.Lines(strings.TrimPrefix(list, "txt:")) {
		var id, flags string
		for field := range strings.FieldsSeq(line) {
			switch name, value, _ := strings.Cut(field, "="); name {
			case "id":
				id = value
			case "flags":
				flags = value
			}
		}
		if strings.Contains(flags, flag) {
			// It may have gone meanwhile.
			if _, err := server.Command(ctx, "CLIENT", "KILL", "ID", id).AsInt64(); err != nil {
				return fmt.Errorf("chaos: CLIENT KILL: %w", err)
			}
		}
	}
	return nil
}

// killScript ends a script, which may not have begun yet.
func (f *fleet) killScript(ctx context.Context, ended <-chan struct{}) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f.server.Command(ctx, "SCRIPT", "KILL").Error()
		select {
		case <-ended:
			return nil
		case <-ctx.Done():
			return fmt.Errorf("chaos: SCRIPT KILL: %w", err)
		case <-tick.C:
		}
	}
}

func (f *fleet) bulk(ctx context.Context) error { return f.writers.bulk(ctx, f.bulkPicker) }

// setPassword hands a password to all nodes.
func (f *fleet) setPassword(password string) error {
	f.login.set(password)
	return f.child.tell(instruction{Password: password})
}
