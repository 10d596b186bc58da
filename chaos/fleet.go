package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"runtime/pprof"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"

	"github.com/go-nearcache/nearcache/chaos/internal/linearizability"
	"github.com/go-nearcache/nearcache/internal/oracle"
	"github.com/go-nearcache/nearcache/internal/redistest"
)

// A fleet is one Redis, the nodes before it, and everybody who reads, writes and does harm.
type fleet struct {
	seed       uint64
	oracle     *oracle.Oracle
	orders     *linearizability.Checker
	server     *redistest.Server
	login      *credentials
	source     *memorySource
	directory  string // for the source's socket
	cable      *cable
	wires      []nodeWires // by node
	nodes      []*node     // of this process
	child      *child      // the last node
	outsider   rueidis.Client
	direct     *direct
	writers    *writers
	bulkPicker *picker

	faults  map[string]*atomic.Uint64
	journal journal
	running sync.WaitGroup
}

// nodeWires are the two ways of a node to Redis.
type nodeWires struct{ data, link *wire }

// nodeConfigs are the nodes of every run. The last is the child.
var nodeConfigs = []nodeConfig{
	{Bound: time.Second, Verify: true, Through: true},
	{Bound: 200 * time.Millisecond, Ahead: true},
	{Bound: 500 * time.Millisecond, MaxBytes: 1 << 20, FailSafe: true}, // too small for what it reads
	{Bound: 250 * time.Millisecond, StaleLimit: 2 * time.Second},
	{Bound: 400 * time.Millisecond},
}

// retain is how long the oracle remembers, more than any bound and any stopped process.
const retain = 12 * time.Second

func startFleet(ctx context.Context, seed uint64, onViolation func(oracle.Violation)) (f *fleet, err error) {
	f = &fleet{seed: seed, login: new(credentials), source: newMemorySource(), faults: map[string]*atomic.Uint64{}}
	f.login.set("first-password")
	f.bulkPicker = newPicker(seed, 3<<32)
	for _, l := range lanes() {
		for _, kind := range l.deck {
			f.faults[kind] = new(atomic.Uint64)
		}
	}
	f.orders = linearizability.New(func(h oracle.History, text string) {
		warn("%s", text)
		f.oracle.Unordered(h.Key, text)
	})
	f.oracle = oracle.New(oracle.Options{
		Keys: keyCount, Nodes: len(nodeConfigs), Retain: retain,
		Sourced:     atSource,
		OnViolation: onViolation,
		Sample:      oracle.Sampling{Keys: sampledKeys, Reads: 48, Take: f.orders.Offer},
	})
	defer func() {
		if err != nil {
			err = errors.Join(err, f.close())
		}
	}()
	f.running.Go(f.orders.Run)
	if f.server, err = redistest.Run(ctx, redistest.Config{
		Persistent: true,
		Users:      []string{nodeUser + " on >" + f.login.get() + " ~* &* +@all"},
		Settings:   []string{"lua-time-limit 50"},
	}); err != nil {
		return f, err
	}
	if f.outsider, err = rueidis.NewClient(f.outsideOption()); err != nil {
		return f, err
	}
	if f.direct, err = newDirect(f); err != nil {
		return f, err
	}
	if f.directory, err = os.MkdirTemp("", "chaos-"); err != nil {
		return f, err
	}
	var why error
	if f.cable, why = layCable(ctx); why != nil {
		warn("half-open connections are black holes, since there is no network namespace: %v", why)
	}
	f.writers = &writers{oracle: f.oracle, source: f.source, redis: f.outsider}
	if err := f.writers.fill(ctx); err != nil {
		return f, err
	}
	for id := range nodeConfigs {
		if err := f.startNode(ctx, id); err != nil {
			return f, fmt.Errorf("chaos: node %d: %w", id, err)
		}
	}
	f.writers.nodes = f.nodes
	return f, nil
}

// outsideOption is for those who are no nodes: they connect past all wires, as the administrator.
func (f *fleet) outsideOption() rueidis.ClientOption {
	option := f.server.AdminOption()
	option.DisableRetry = true // a write that is tried again may undo another
	option.ReadBufferEachConn, option.WriteBufferEachConn = 64<<10, 64<<10
	return option
}

func (f *fleet) startNode(ctx context.Context, id int) (err error) {
	config := nodeConfigs[id]
	config.ID = id
	isChild := id == len(nodeConfigs)-1
	listen := loopback
	if isChild {
		listen = f.cable.address
	}
	var w nodeWires
	if w.data, err = newWire(fmt.Sprintf("data %d", id), listen+":0", f.server.Addr()); err != nil {
		return err
	}
	if w.link, err = newWire(fmt.Sprintf("link %d", id), listen+":0", f.server.Addr()); err != nil {
		return errors.Join(err, w.data.close())
	}
	f.wires = append(f.wires, w)
	config.Wires = wires{Data: w.data.address, Link: w.link.address}
	if !isChild {
		n, err := openNode(ctx, config, f.login, f.source)
		if err != nil {
			return err
		}
		f.nodes = append(f.nodes, n)
		return nil
	}
	f.cable.wires = []*wire{w.data, w.link}
	socket := filepath.Join(f.directory, "source")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	f.running.Go(func() { f.source.serve(listener) })
	f.source.stop = func() { _ = listener.Close() }
	f.child, err = startChild(childConfig{Node: config, Password: f.login.get(), Source: socket, Seed: f.seed}, f.cable.through())
	if err != nil {
		return err
	}
	f.running.Go(func() { f.child.listen(f.oracle) })
	return f.child.await(ctx)
}

// close ends everything that was started. The nodes go before the server, and the server before the wires.
func (f *fleet) close() (err error) {
	if f.child != nil {
		err = errors.Join(err, f.child.close())
	}
	for _, n := range f.nodes {
		err = errors.Join(err, n.close())
	}
	if f.source.stop != nil {
		f.source.stop()
	}
	if f.direct != nil {
		f.direct.redis.Close()
	}
	if f.outsider != nil {
		f.outsider.Close()
	}
	if f.server != nil {
		err = errors.Join(err, f.server.Close())
	}
	for _, w := range f.wires {
		err = errors.Join(err, w.data.close(), w.link.close())
	}
	if f.cable != nil {
		err = errors.Join(err, f.cable.remove())
	}
	if f.directory != "" {
		err = errors.Join(err, os.RemoveAll(f.directory))
	}
	f.orders.Close()
	f.running.Wait()
	return err
}

// run reads and writes through all rounds of faults. It returns an error if a fault could not be done or healed, or if the nodes did
// not recover.
func (f *fleet) run(ctx context.Context, rounds []round) error {
	reading, stopReading := context.WithCancel(ctx)
	writing, stopWriting := context.WithCancel(ctx)
	defer stopReading()
	defer stopWriting()
	var readers, writers sync.WaitGroup
	for _, n := range f.nodes {
		readers.Go(func() {
			n.read(reading, f.seed, func(demand oracle.Demand, bound time.Duration) witness {
				return f.oracle.Reader(n.ID, demand, bound)
			})
		})
	}
	readers.Go(func() { f.direct.read(reading, f.seed) })
	writers.Go(func() { f.writers.run(writing, f.seed) })

	var err error
	for i, r := range rounds {
		if err = f.doRound(ctx, r); err != nil {
			err = fmt.Errorf("round %d: %w", i+1, err)
			break
		}
	}
	stopWriting()
	mustEnd("writers", writers.Wait)
	stopReading()
	mustEnd("readers", readers.Wait)
	return err
}

// mustEnd ends the program if something hangs that has been told to end, and tells where.
func mustEnd(what string, wait func()) {
	timer := time.AfterFunc(2*patience, func() {
		warn("the %s do not end:", what)
		_ = pprof.Lookup("goroutine").WriteTo(os.Stderr, 1)
		os.Exit(exitTrouble)
	})
	defer timer.Stop()
	wait()
}

func (f *fleet) doRound(ctx context.Context, r round) error {
	failures := make([]error, len(r.Lanes))
	began := time.Now()
	var all sync.WaitGroup
	for i, events := range r.Lanes {
		all.Go(func() {
			for _, e := range events {
				select {
				case <-time.After(time.Until(began.Add(e.At))):
				case <-ctx.Done():
					return
				}
				if failures[i] = f.doEvent(e); failures[i] != nil {
					return
				}
			}
		})
	}
	all.Wait()
	if err := errors.Join(failures...); err != nil {
		return err
	}
	select {
	case <-time.After(time.Until(began.Add(r.Length))):
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return f.audit(ctx)
}

// doEvent does a fault, lets it last, and heals it. What has begun is healed even if the run is given up.
func (f *fleet) doEvent(e event) error {
	f.journal.note("%s on node %d for %v", e.Kind, e.Node, e.Length.Round(time.Millisecond))
	f.faults[e.Kind].Add(1)
	ctx, cancel := context.WithTimeout(context.Background(), faultLimit+e.Length)
	defer cancel()
	heal, err := faultOf(e.Kind)(ctx, f, e)
	if heal == nil {
		return failed(e, err)
	}
	if err == nil {
		time.Sleep(e.Length)
	}
	ctx, cancel = context.WithTimeout(context.Background(), faultLimit)
	defer cancel()
	err = errors.Join(err, heal(ctx))
	f.journal.note("%s on node %d is over", e.Kind, e.Node)
	return failed(e, err)
}

func failed(e event, err error) error {
	if err != nil {
		return fmt.Errorf("chaos: fault %v: %w", e, err)
	}
	return nil
}

// A journal is the faults of late, for the report of a violation.
type journal struct {
	mu    sync.Mutex
	lines []journalLine
}

type journalLine struct {
	at   oracle.Instant
	text string
}

func (j *journal) note(format string, args ...any) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.lines) == 200 {
		j.lines = slices.Delete(j.lines, 0, 100)
	}
	j.lines = append(j.lines, journalLine{oracle.Now(), fmt.Sprintf(format, args...)})
}

// around tells what happened from some time before an instant.
func (j *journal) around(at oracle.Instant) string {
	j.mu.Lock()
	defer j.mu.Unlock()
	var b strings.Builder
	for _, line := range j.lines {
		if since := line.at.Sub(at); since > -10*time.Second {
			fmt.Fprintf(&b, "  fault %+.6fs  %s\n", since.Seconds(), line.text)
		}
	}
	return b.String()
}

// newSeed is for a run that was given none.
func newSeed() uint64 { return rand.Uint64() }
