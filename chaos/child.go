package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/go-nearcache/nearcache/internal/oracle"
)

// childVariable makes this program a node of another run of it.
const childVariable = "NEARCACHE_CHAOS_CHILD"

// A child is a node in a process of its own, which can be stopped as a whole. It only reads.
type child struct {
	nodeConfig
	command *exec.Cmd
	in      io.WriteCloser
	out     io.Reader
	offset  time.Duration // of CLOCK_MONOTONIC here
	unsure  time.Duration // by how much that may be wrong

	mu      sync.Mutex    // held for writing to in
	done    chan struct{} // the child has opened its client, or ended an audit
	ended   chan struct{}
	failure error // why it ended
}

// childConfig is the first line that a child is told.
type childConfig struct {
	Node     nodeConfig
	Password string
	Source   string // path of the source's socket
	Seed     uint64
}

// An instruction is a later line.
type instruction struct {
	Password string `json:",omitempty"`
	Audit    bool   `json:",omitempty"`
}

// A record is what a child says of one read. Its instants are of CLOCK_MONOTONIC.
type record struct {
	Demand    oracle.Demand
	Tier      oracle.Tier
	Key       int
	Version   uint64
	Began     int64
	Ended     int64
	Bound     time.Duration // tells the kind of reader
	NotBefore int64         // of a fenced read
	Done      bool          // of no read: the client is open, or an audit has ended
}

const recordSize = 8 * 8

// encode appends the record in recordSize bytes.
func (r *record) encode(b []byte) []byte {
	done := uint64(0)
	if r.Done {
		done = 1
	}
	for _, field := range [...]uint64{
		uint64(r.Demand)<<32 | uint64(r.Tier), uint64(r.Key), r.Version, uint64(r.Began), uint64(r.Ended), uint64(r.Bound), uint64(r.NotBefore), done,
	} {
		b = binary.NativeEndian.AppendUint64(b, field)
	}
	return b
}

func (r *record) decode(b []byte) {
	field := func(i int) uint64 { return binary.NativeEndian.Uint64(b[8*i:]) }
	*r = record{
		Demand: oracle.Demand(field(0) >> 32), Tier: oracle.Tier(field(0) & 0xff), Key: int(field(1)), Version: field(2),
		Began: int64(field(3)), Ended: int64(field(4)), Bound: time.Duration(field(5)), NotBefore: int64(field(6)), Done: field(7) != 0,
	}
}

// startChild starts a child through the prefix of a command, which may bring it into another network.
func startChild(config childConfig, through []string) (*child, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	line := append(through, program)
	c := &child{nodeConfig: config.Node, command: exec.Command(line[0], line[1:]...), done: make(chan struct{}, 1), ended: make(chan struct{})}
	if c.offset, c.unsure, err = clockOffset(); err != nil {
		return nil, err
	}
	c.command.Env = append(os.Environ(), childVariable+"=1")
	c.command.Stderr = os.Stderr
	if c.in, err = c.command.StdinPipe(); err != nil {
		return nil, err
	}
	if c.out, err = c.command.StdoutPipe(); err != nil {
		return nil, err
	}
	if err := c.command.Start(); err != nil {
		return nil, fmt.Errorf("chaos: child: %w", err)
	}
	if err := json.NewEncoder(c.in).Encode(config); err != nil {
		return nil, errors.Join(err, c.kill())
	}
	return c, nil
}

// listen passes what the child saw to the oracle until the child ends.
func (c *child) listen(o *oracle.Oracle) {
	defer close(c.ended)
	type kind struct {
		demand oracle.Demand
		bound  time.Duration
	}
	readers := map[kind]*oracle.Reader{}
	in := bufio.NewReaderSize(c.out, 1<<16)
	here := func(monotonic int64) oracle.Instant { return oracle.Instant(monotonic).Add(-c.offset) }
	var r record
	encoded := make([]byte, recordSize)
	for {
		if _, err := io.ReadFull(in, encoded); err != nil {
			c.failure = err
			return
		}
		r.decode(encoded)
		if r.Done {
			c.done <- struct{}{}
			continue
		}
		k := kind{r.Demand, r.Bound}
		reader := readers[k]
		if reader == nil {
			reader = o.Reader(c.ID, k.demand, k.bound)
			readers[k] = reader
		}
		began, ended := here(r.Began).Add(-c.unsure), here(r.Ended).Add(c.unsure)
		switch {
		case k.demand == oracle.Fenced:
			reader.Since(here(r.NotBefore).Add(-c.unsure), r.Key, r.Version, began, ended)
		case r.Version == 0:
			reader.Missing(r.Key, began, ended)
		case r.Version == foreignVersion:
			reader.Value(r.Key, 0, began, ended, r.Tier)
		default:
			reader.Value(r.Key, r.Version, began, ended, r.Tier)
		}
	}
}

// foreignVersion stands for a value of another key.
const foreignVersion = ^uint64(0)

func (c *child) tell(i instruction) error {
	line, err := json.Marshal(i)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, err := c.in.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("chaos: the child node has ended: %w", err)
	}
	return nil
}

// audit makes the child fence and then read every key once.
func (c *child) audit(ctx context.Context) error {
	if err := c.tell(instruction{Audit: true}); err != nil {
		return err
	}
	return c.await(ctx)
}

// await waits until the child has opened its client, or has ended an audit.
func (c *child) await(ctx context.Context) error {
	select {
	case <-c.done:
		return nil
	case <-c.ended:
		return fmt.Errorf("chaos: the child node has ended: %w", c.failure)
	case <-ctx.Done():
		return fmt.Errorf("chaos: the child node does not get on: %w", ctx.Err())
	}
}

func (c *child) stop() error   { return c.command.Process.Signal(syscall.SIGSTOP) }
func (c *child) resume() error { return c.command.Process.Signal(syscall.SIGCONT) }

// kill ends the child and waits for it.
func (c *child) kill() error {
	_ = c.command.Process.Kill() // The only error is that it has ended already.
	_ = c.command.Wait()         // It was killed.
	return nil
}

// close ends the child in order, and kills it if that takes too long.
func (c *child) close() error {
	c.mu.Lock()
	_ = c.in.Close() // The only error is that it has ended already.
	c.mu.Unlock()
	timer := time.AfterFunc(patience, func() { _ = c.command.Process.Kill() })
	defer timer.Stop()
	<-c.ended
	if err := c.command.Wait(); err != nil {
		return fmt.Errorf("chaos: child: %w", err)
	}
	return nil
}

// beChild is the child's main.
func beChild() error {
	signal.Ignore(syscall.SIGINT, syscall.SIGTERM) // the parent decides
	lines := bufio.NewScanner(os.Stdin)
	var config childConfig
	if !lines.Scan() {
		return io.ErrUnexpectedEOF
	}
	if err := json.Unmarshal(lines.Bytes(), &config); err != nil {
		return err
	}
	offset, uncertainty, err := clockOffset()
	if err != nil {
		return err
	}
	login := new(credentials)
	login.set(config.Password)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	n, err := openNode(ctx, config.Node, login, socketSource{config.Source})
	if err != nil {
		return err
	}
	out := &recorder{out: bufio.NewWriterSize(os.Stdout, 1<<15), offset: offset, uncertainty: uncertainty}
	out.write(record{Done: true}, 0, 0) // open
	var work sync.WaitGroup
	work.Go(func() {
		n.read(ctx, config.Seed, func(demand oracle.Demand, bound time.Duration) witness {
			return &remoteWitness{recorder: out, demand: demand, bound: bound}
		})
	})
	work.Go(func() {
		for ctx.Err() == nil {
			time.Sleep(burstPause)
			if err := out.flush(); err != nil {
				return // the parent has gone, which the end of the input says too
			}
		}
	})
	for lines.Scan() {
		var i instruction
		if err := json.Unmarshal(lines.Bytes(), &i); err != nil {
			return err
		}
		if i.Password != "" {
			login.set(i.Password)
		}
		if i.Audit {
			if err := n.auditAsChild(ctx, out); err != nil {
				return err
			}
		}
	}
	cancel()
	work.Wait()
	return errors.Join(n.close(), out.flush())
}

// A recorder writes records, one after the other.
type recorder struct {
	mu                  sync.Mutex
	out                 *bufio.Writer
	buffer              []byte
	offset, uncertainty time.Duration
}

// write converts the instants. By the uncertainty of that, a read is made to begin earlier and to end later: that accuses nobody.
func (r *recorder) write(record record, began, ended oracle.Instant) {
	record.Began = int64(began.Add(r.offset - r.uncertainty))
	record.Ended = int64(ended.Add(r.offset + r.uncertainty))
	r.mu.Lock()
	defer r.mu.Unlock()
	r.buffer = record.encode(r.buffer[:0])
	_, _ = r.out.Write(r.buffer) // The writer keeps its error for flush.
}

func (r *recorder) flush() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.out.Flush()
}

// A remoteWitness passes on what reads returned to the parent.
type remoteWitness struct {
	recorder *recorder
	demand   oracle.Demand
	bound    time.Duration
}

func (w *remoteWitness) Value(key int, version uint64, began, ended oracle.Instant, tier oracle.Tier) oracle.Rule {
	if version == 0 {
		version = foreignVersion
	}
	w.recorder.write(record{Demand: w.demand, Tier: tier, Key: key, Version: version, Bound: w.bound}, began, ended)
	return oracle.Kept
}

func (w *remoteWitness) Missing(key int, began, ended oracle.Instant) oracle.Rule {
	w.recorder.write(record{Demand: w.demand, Key: key, Bound: w.bound}, began, ended)
	return oracle.Kept
}
