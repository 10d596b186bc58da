package nearcache

import (
	"context"
	"slices"
	"strings"
	"sync"

	"github.com/redis/rueidis"
)

// writeThrough is a rueidis.Client that makes L1 forget what is written through it, before it is sent and again when it is answered: the
// server may answer before it pushes.
type writeThrough struct {
	rueidis.Client
	client *Client
}

// touched is what commands may write.
type touched struct {
	keys       []string
	everything bool
}

// touch adds what a command may write. The keys of a command are arguments of it, but which ones only the server knows, and it may know commands
// that this package does not. So every argument that could be a key of L1 counts as one: to forget a key for nothing costs a read.
func (t *touched) touch(command rueidis.Completed, prefixes []string) {
	parts := command.Commands()
	if command.IsReadOnly() || len(parts) == 0 || readsOnly(parts[0]) {
		return
	}
	t.everything = t.everything || writesEverything(parts)
	for _, part := range parts[1:] {
		if underOneOf(part, prefixes) {
			t.keys = append(t.keys, part)
		}
	}
}

func (t *touched) add(other touched) {
	t.keys = append(t.keys, other.keys...)
	t.everything = t.everything || other.everything
}

// writesEverything reports whether a command changes keys without naming them, or what reads answer without changing keys.
func writesEverything(parts []string) bool {
	switch strings.ToUpper(parts[0]) {
	case "FLUSHALL", "FLUSHDB", "SWAPDB", "DEBUG":
		return true
	case "FUNCTION":
		return len(parts) > 1 && slices.Contains([]string{"DELETE", "FLUSH", "LOAD", "RESTORE"}, strings.ToUpper(parts[1]))
	}
	return false
}

// readsOnly is for commands that rueidis does not know to be reads, because its user spelled them out.
func readsOnly(name string) bool {
	return keyAloneCommands[name] || otherReads[name] || keyAloneCommands[strings.ToUpper(name)] || otherReads[strings.ToUpper(name)]
}

var otherReads = commandSet(`
	DBSIZE DUMP EXISTS GEORADIUS_RO HRANDFIELD HSCAN JSON.MGET KEYS LCS MEMORY MGET OBJECT PFCOUNT PTTL PUBLISH RANDOMKEY SCAN SDIFF
	SINTER SINTERCARD SORT_RO SPUBLISH SRANDMEMBER SSCAN SUBSTR SUNION TOUCH TTL XINFO XLEN XPENDING XRANGE XREAD XREVRANGE ZDIFF
	ZINTER ZINTERCARD ZRANDMEMBER ZSCAN ZUNION`)

func (w writeThrough) forget(t touched) {
	if t.everything {
		w.client.forgetAll(&w.client.flushes.manual)
	}
	for _, key := range t.keys {
		w.client.overwritten(key)
	}
}

// Do sends one command.
func (w writeThrough) Do(ctx context.Context, command rueidis.Completed) rueidis.RedisResult {
	if command.IsReadOnly() {
		return w.again(ctx, command)
	}
	var t touched
	t.touch(command, w.client.options.Prefixes)
	w.forget(t)
	defer w.forget(t)
	return w.Client.Do(ctx, command)
}

// DoMulti sends several.
func (w writeThrough) DoMulti(ctx context.Context, commands ...rueidis.Completed) []rueidis.RedisResult {
	if !slices.ContainsFunc(commands, func(c rueidis.Completed) bool { return !c.IsReadOnly() }) {
		return w.againMulti(ctx, commands)
	}
	t := w.touchedBy(commands)
	w.forget(t)
	defer w.forget(t)
	return w.Client.DoMulti(ctx, commands...)
}

func (w writeThrough) touchedBy(commands []rueidis.Completed) (t touched) {
	for _, command := range commands {
		t.touch(command, w.client.options.Prefixes)
	}
	return t
}

// again sends a read-only command, and sends it again if the connection broke, which a server restart does to every idle one. It is not pinned,
// which would write to what other goroutines may be sending: rueidis gives the memory of a command to another one only when it was answered.
func (w writeThrough) again(ctx context.Context, command rueidis.Completed) (result rueidis.RedisResult) {
	_ = tryAgain(ctx, func() error {
		result = w.Client.Do(ctx, command)
		return result.NonRedisError()
	})
	return result
}

// againMulti is again for several commands. Those that were answered are not sent a second time.
func (w writeThrough) againMulti(ctx context.Context, commands []rueidis.Completed) (results []rueidis.RedisResult) {
	_ = tryAgain(ctx, func() error {
		if results == nil {
			results = w.Client.DoMulti(ctx, commands...)
			return firstNonRedisError(results)
		}
		var failed []int
		var rest []rueidis.Completed
		for i, result := range results {
			if result.NonRedisError() != nil {
				failed, rest = append(failed, i), append(rest, commands[i])
			}
		}
		for n, result := range w.Client.DoMulti(ctx, rest...) {
			results[failed[n]] = result
		}
		return firstNonRedisError(results)
	})
	return results
}

// DoStream sends a command whose reply goes to a writer.
func (w writeThrough) DoStream(ctx context.Context, command rueidis.Completed) rueidis.RedisResultStream {
	t := w.touchedBy([]rueidis.Completed{command})
	w.forget(t)
	defer w.forget(t)
	return w.Client.DoStream(ctx, command)
}

// DoMultiStream sends several commands whose replies go to writers.
func (w writeThrough) DoMultiStream(ctx context.Context, commands ...rueidis.Completed) rueidis.MultiRedisResultStream {
	t := w.touchedBy(commands)
	w.forget(t)
	defer w.forget(t)
	return w.Client.DoMultiStream(ctx, commands...)
}

// Dedicated calls fn with a connection of its own.
func (w writeThrough) Dedicated(fn func(rueidis.DedicatedClient) error) error {
	return w.Client.Dedicated(func(dedicated rueidis.DedicatedClient) error {
		return fn(&dedicatedWriteThrough{DedicatedClient: dedicated, through: w})
	})
}

// Dedicate returns a connection of the caller's own.
func (w writeThrough) Dedicate() (rueidis.DedicatedClient, func()) {
	dedicated, cancel := w.Client.Dedicate()
	return &dedicatedWriteThrough{DedicatedClient: dedicated, through: w}, cancel
}

// Nodes returns a client for each server.
func (w writeThrough) Nodes() map[string]rueidis.Client {
	nodes := w.Client.Nodes()
	for address, node := range nodes {
		nodes[address] = writeThrough{Client: node, client: w.client}
	}
	return nodes
}

// dedicatedWriteThrough is writeThrough for a connection on which there may be transactions: what they write is written when EXEC is answered.
type dedicatedWriteThrough struct {
	rueidis.DedicatedClient
	through writeThrough

	mu     sync.Mutex
	multi  bool // MULTI has been sent, and neither EXEC nor DISCARD
	queued touched
}

func (d *dedicatedWriteThrough) Do(ctx context.Context, command rueidis.Completed) rueidis.RedisResult {
	t := d.note(command)
	d.through.forget(t)
	defer d.through.forget(t)
	return d.DedicatedClient.Do(ctx, command)
}

func (d *dedicatedWriteThrough) DoMulti(ctx context.Context, commands ...rueidis.Completed) []rueidis.RedisResult {
	t := d.note(commands...)
	d.through.forget(t)
	defer d.through.forget(t)
	return d.DedicatedClient.DoMulti(ctx, commands...)
}

// note returns what the commands may write when they are answered.
func (d *dedicatedWriteThrough) note(commands ...rueidis.Completed) (all touched) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, command := range commands {
		var t touched
		t.touch(command, d.through.client.options.Prefixes)
		all.add(t)
		switch parts := command.Commands(); {
		case len(parts) != 1:
			if d.multi {
				d.queued.add(t)
			}
		case strings.EqualFold(parts[0], "MULTI"):
			d.multi = true
		case strings.EqualFold(parts[0], "EXEC"), strings.EqualFold(parts[0], "DISCARD"):
			all.add(d.queued)
			d.multi, d.queued = false, touched{}
		case d.multi:
			d.queued.add(t) // FLUSHALL
		}
	}
	return all
}
