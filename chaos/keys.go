package main

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/go-nearcache/nearcache"
	"github.com/go-nearcache/nearcache/internal/oracle"
)

// A class is a range of keys whose truth is of one kind, and one cache on each node.
type class int

const (
	plain     class = iota // Redis is the truth, and nothing ends by itself
	expiring               // Redis is the truth, and values live for a second or three
	sourced                // a source behind a loader is the truth
	tagged                 // as sourced, invalidated by tags, of which eight keys each share one
	commanded              // as plain and expiring, read by DoCache alone
	classes
)

// keySpace is the prefix of everything that the nodes follow.
const keySpace = "chaos:"

// The keys of the oracle are those of the classes, one after the other.
var (
	classNames  = [classes]string{"plain", "expiring", "sourced", "tagged", "commanded"}
	classCounts = [classes]int{2048, 256, 1024, 256, 512}
	keyCount    = classCounts[plain] + classCounts[expiring] + classCounts[sourced] + classCounts[tagged] + classCounts[commanded]
)

func (c class) prefix() string { return keySpace + classNames[c] + ":" }

func (c class) first() (first int) {
	for before := range c {
		first += classCounts[before]
	}
	return first
}

func classOf(key int) class {
	for c := range classes {
		if key < c.first()+classCounts[c] {
			return c
		}
	}
	panic(fmt.Sprintf("there is no key %d", key))
}

// keyNames are the names of the keys within their caches, fullNames those in Redis.
var keyNames, fullNames = func() (names, full []string) {
	for key := range keyCount {
		names = append(names, strconv.Itoa(key))
		full = append(full, classOf(key).prefix()+strconv.Itoa(key))
	}
	return names, full
}()

// keyOf returns the key that a loader is asked for.
func keyOf(c class, name string) (int, error) {
	key, err := strconv.Atoi(name)
	if err != nil || key < c.first() || key >= c.first()+classCounts[c] {
		return 0, fmt.Errorf("chaos: no %s key has the name %q", classNames[c], name)
	}
	return key, nil
}

const (
	// longLife keeps plain values beyond any run.
	longLife = 24 * time.Hour

	// expiringLife is what the nodes give to expiring values; others give less.
	expiringLife = 3 * time.Second

	sourcedLife  = 4 * time.Second
	negativeLife = 300 * time.Millisecond
	loadTimeout  = time.Second
)

// An item is a value: the write that made it, and when this process decoded or loaded it.
type item struct {
	key     int
	version uint64
	made    oracle.Instant
}

// encode gives items the sizes of small records.
func encode(key int, version uint64) []byte {
	b := make([]byte, 0, 1024)
	b = strconv.AppendInt(b, int64(key), 10)
	b = append(b, ' ')
	b = strconv.AppendUint(b, version, 10)
	b = append(b, ' ')
	return append(b, bytes.Repeat([]byte{'.'}, 32+int(version%32)*24)...)
}

var errNoItem = errors.New("chaos: not a value of this program")

func decode(data []byte) (*item, error) {
	key, rest, ok := bytes.Cut(data, []byte{' '})
	version, padding, ok2 := bytes.Cut(rest, []byte{' '})
	if !ok || !ok2 || len(padding) < 32 {
		return nil, fmt.Errorf("%w: %q", errNoItem, data)
	}
	k, err := strconv.Atoi(string(key))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNoItem, err)
	}
	v, err := strconv.ParseUint(string(version), 10, 64)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNoItem, err)
	}
	return &item{key: k, version: v, made: oracle.Now()}, nil
}

var codec = nearcache.Codec[*item]{
	Encode: func(i *item) ([]byte, error) { return encode(i.key, i.version), nil },
	Decode: decode,
}

// sampledKeys are the plain keys that are read most; histories of their fresh reads are searched for an order.
const sampledKeys = 8

// A picker chooses keys: few of them often, most of them seldom.
type picker struct {
	rng  *rand.Rand
	zipf [classes]*rand.Zipf
}

func newPicker(seed, stream uint64) *picker {
	p := &picker{rng: rand.New(rand.NewPCG(seed, stream))}
	for c := range classes {
		p.zipf[c] = rand.NewZipf(p.rng, 1.1, 16, uint64(classCounts[c]-1))
	}
	return p
}

// hot picks as readers do.
func (p *picker) hot(c class) int { return c.first() + int(p.zipf[c].Uint64()) }

// any picks all keys alike, half of the time: what is read often is then not written too often to be kept.
func (p *picker) any(c class) int {
	if p.rng.IntN(2) == 0 {
		return p.hot(c)
	}
	return c.first() + p.rng.IntN(classCounts[c])
}

// class picks a class as readers do.
func (p *picker) class() class {
	switch n := p.rng.IntN(32); {
	case n < 20:
		return plain
	case n < 21:
		return expiring
	case n < 24:
		return tagged
	}
	return sourced
}

// atSource reports whether a source is the truth of a key.
func atSource(key int) bool { return classOf(key) == sourced || classOf(key) == tagged }

// tagOf returns the tag of a tagged key.
func tagOf(name string) string {
	key, _ := strconv.Atoi(name)
	return "tag " + strconv.Itoa(key/8)
}
