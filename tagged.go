package nearcache

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-nearcache/nearcache/localcache"
)

// A Tagged is a cache whose items have tags, such as the tenant that they belong to, and InvalidateTag makes every node forget all items of a tag
// at once, however many there are: it is one write, nothing is scanned, and no node needs to know which items those are. InvalidateAll does
// that to the whole cache. What holds for the items of a Cache holds for these, and for what is invalidated by a tag: a read that begins
// more than Options.MaxStaleness after InvalidateTag has returned, or a Fresh one at once, gets nothing that was stored or loaded
// before; a load that was under way meanwhile is not kept.
//
// Each tag has a generation, a random number that Redis holds under a key of its own, and each item is kept under a key that begins with
// the generations of its tags. Who invalidates a tag gives it a new generation: its items are found no more, and Redis drops them at
// the end of their lives. Nodes keep generations in L1, as coherently as everything. So a read costs a hit more for each tag, and one for the
// whole; and nobody but this library finds an item's key in Redis, to write or delete it.
//
// Values, codecs and options are those of [Config]. Not to be had are Store and Remove, and FailSafe. While Redis is away the
// loader serves, as it does for a Cache; of readers who come one after the other more than half of MaxStaleness apart each loads.
//
// Without Redis (Options.Bus) each node has generations of its own, in L1, for each tag and for each item, and who invalidates a tag, or writes or
// deletes an item, announces that on the bus. What is promised then is what Options.Bus says.
//
// Its methods may be called from any goroutine.
type Tagged[V any] struct {
	items       *Cache[V]          // by the generations of its tags and the key
	generations *Cache[generation] // by the name of the tag
	tags        func(string) []string
	away        away
	local       bool // without Redis: generations are this node's own
}

// A generation is random: it differs from all that were before, whatever Redis has lost of those.
type generation [16]byte

func newGeneration() (g generation) {
	_, _ = rand.Read(g[:]) // it never fails
	return g
}

const (
	// generationLife is how long a tag keeps its generation: when it ends, the items of the tag are found no more.
	generationLife = 30 * 24 * time.Hour

	// mostTags is how many tags an item may have. Each costs a look into L1 at every read.
	mostTags = 64

	// everything is the name of the tag that all items have.
	everything = "*"
)

// located is the length of what stands before the key of an item: its generation.
var located = base64.RawURLEncoding.EncodedLen(len(generation{}))

// NewTagged makes a cache whose items have tags. tags returns those of an item, from its key alone: none, or up to 64 of any bytes but none
// empty; it is called at every read and write, must always return the same for the same key, and must not block. The key of the item
// "42" in Redis begins with config.Prefix + "item:", that of the tag "tenant:7" is config.Prefix + "tag:tenant:7". Statistics and
// telemetry show the generations as a cache of the name config.Name + " tags". The errors are those of [New].
func NewTagged[V any](client *Client, config Config[V], tags func(key string) []string) (*Tagged[V], error) {
	switch {
	case tags == nil:
		return nil, fmt.Errorf("nearcache: cache %q: the function of its tags is nil: it must return those of a key; use New for a cache without", config.Name)
	case config.Prefix == "":
		return nil, config.validate(client.options)
	case config.FailSafe.MaxAge != 0:
		return nil, configError(config.Name, "FailSafe", config.FailSafe, "cannot be had with tags: nothing tells what was invalidated while Redis is away")
	case config.Store != nil || config.Remove != nil:
		return nil, configError(config.Name, "Store or Remove", "set", "cannot be had with tags: change the source, and then call Set or Delete")
	}
	t := &Tagged[V]{tags: tags, away: away{slot: client.options.MaxStaleness / 2}, local: client.options.withoutRedis()}
	generations := Config[generation]{
		Name: config.Name + " tags", Prefix: config.Prefix + "tag:", TTL: generationLife,
		Codec: Codec[generation]{Encode: encodeGeneration, Decode: decodeGeneration},
	}
	if t.local {
		generations.Load = t.loadGeneration
	}
	var err error
	if t.generations, err = New(client, generations); err != nil {
		return nil, err
	}
	t.items, err = New(client, byKeyAlone(config))
	return t, err
}

// loadGeneration makes a generation of this node's own. While the bus is down L1 does not keep it, and readers share one all the same.
func (t *Tagged[V]) loadGeneration(_ context.Context, name string) (generation, error) {
	if t.generations.client.bus.Status().Live {
		return newGeneration(), nil
	}
	shared := t.away.generation(true)
	sum := sha256.Sum256(append(shared[:], name...))
	return generation(sum[:len(shared)]), nil
}

// byKeyAlone has the functions of a config see the keys that users know.
func byKeyAlone[V any](config Config[V]) Config[V] {
	config.Prefix += "item:"
	if load := config.Load; load != nil {
		config.Load = func(ctx context.Context, place string) (V, error) { return load(ctx, keyIn(place)) }
	}
	if entry := config.Entry; entry != nil {
		config.Entry = func(place string, value V) EntryOptions { return entry(keyIn(place), value) }
	}
	if loadMany := config.LoadMany; loadMany != nil {
		config.LoadMany = func(ctx context.Context, places []string) (map[string]V, error) {
			keys, placeOf := make([]string, len(places)), make(map[string]string, len(places))
			for i, place := range places {
				keys[i] = keyIn(place)
				placeOf[keys[i]] = place
			}
			// What was not asked for has no place, and is counted under its own name.
			rename := func(key string) string {
				if place, ok := placeOf[key]; ok {
					return place
				}
				return key
			}
			values, err := loadMany(ctx, keys)
			placed := make(map[string]V, len(values))
			for key, value := range values {
				placed[rename(key)] = value
			}
			return placed, errors.Join(renameKeys(err, rename)...)
		}
	}
	return config
}

func encodeGeneration(g generation) ([]byte, error) { return []byte(hex.EncodeToString(g[:])), nil }

func decodeGeneration(data []byte) (g generation, err error) {
	if n, err := hex.Decode(g[:], data[:min(len(data), 2*len(g))]); err != nil || n != len(g) || len(data) != 2*n {
		return g, errors.New("nearcache: not the generation of a tag")
	}
	return g, nil
}

// keyIn returns the key of the item that is kept under a generation.
func keyIn(place string) string { return place[located:] }

// placeOf is where a key is kept under a generation.
func placeOf(g generation, key string) string {
	var b strings.Builder
	b.Grow(located + len(key))
	var text [22]byte
	base64.RawURLEncoding.Encode(text[:], g[:])
	b.Write(text[:])
	b.WriteString(key)
	return b.String()
}

// tagName is the key of a tag's generation.
func tagName(tag string) string {
	if strings.HasPrefix(tag, everything) {
		return everything + tag
	}
	return tag
}

// own is the name of the tag that one item alone has, without Redis.
func own(key string) string { return everything + "=" + key }

// tagsOf returns the names of an item's tags, each once.
func (t *Tagged[V]) tagsOf(key string) ([]string, error) {
	names, err := t.namesOf(key)
	if err == nil && t.local {
		names = append(slices.Clip(names), own(key))
	}
	return names, err
}

func (t *Tagged[V]) namesOf(key string) ([]string, error) {
	if key == "" {
		return nil, t.items.checkKey(key)
	}
	tags := t.tags(key)
	if len(tags) > mostTags {
		return nil, fmt.Errorf("%w: %.100q of the cache %q has %d tags, and may have %d", ErrInvalidKey, key, t.Name(), len(tags), mostTags)
	}
	for i, tag := range tags {
		if err := t.checkTag(tag); err != nil {
			return nil, fmt.Errorf("%w: of the key %.100q", err, key)
		}
		if strings.HasPrefix(tag, everything) || slices.Contains(tags[:i], tag) {
			names := make([]string, 0, len(tags))
			for _, tag := range tags {
				if name := tagName(tag); !slices.Contains(names, name) {
					names = append(names, name)
				}
			}
			return names, nil
		}
	}
	return tags, nil
}

func (t *Tagged[V]) checkTag(tag string) error {
	if err := t.generations.checkKey(tagName(tag)); err != nil || tag == "" {
		return fmt.Errorf("%w: a tag of the cache %q is empty or too long", ErrInvalidKey, t.Name())
	}
	return nil
}

// generation returns that of a tag. Whoever finds none gives it one.
func (t *Tagged[V]) generation(ctx context.Context, name string, options ...ReadOption) (generation, error) {
	if t.local {
		return t.generations.Get(ctx, name) // which nothing but an announcement ends
	}
	g, err := t.generations.Get(ctx, name, options...)
	if errors.Is(err, ErrNotFound) {
		return t.generations.Update(ctx, name, func(now generation, exists bool) (generation, error) {
			if exists {
				return now, nil
			}
			return newGeneration(), nil
		})
	}
	return g, err
}

// place returns where an item is kept now. All generations are xored: the outcome is another one as soon as one of them is.
func (t *Tagged[V]) place(ctx context.Context, key string, options ...ReadOption) (string, error) {
	names, err := t.tagsOf(key)
	if err != nil {
		return "", err
	}
	sum, err := t.generation(ctx, everything, options...)
	for _, name := range names {
		if err != nil {
			return "", err
		}
		var g generation
		g, err = t.generation(ctx, name, options...)
		sum.add(g)
	}
	if err != nil {
		return "", err
	}
	return placeOf(sum, key), nil
}

func (g *generation) add(other generation) {
	for i := range g {
		g[i] ^= other[i]
	}
}

// placeToRead is place for a reader, who has the loader if Redis does not answer.
func (t *Tagged[V]) placeToRead(ctx context.Context, key string, options []ReadOption) (string, error) {
	place, err := t.place(ctx, key, boundsOf(options)...)
	if errors.Is(err, ErrUnavailable) && t.items.loads() {
		return placeOf(t.away.generation(len(options) == 0), key), nil
	}
	return place, err
}

// boundsOf returns the options that say how old an answer may be: the others are about the item alone.
func boundsOf(options []ReadOption) []ReadOption {
	if len(options) == 0 {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(options), func(o ReadOption) bool {
		_, bound := o.(stalenessOption)
		return !bound
	})
}

// places is place for several items, with a round trip for all tags that L1 does not know. failures says of each item why it has no place, or nil.
func (t *Tagged[V]) places(ctx context.Context, keys []string, options ...ReadOption) (places []string, failures []error) {
	places, failures = make([]string, len(keys)), make([]error, len(keys))
	names := []string{everything}
	tagsOf := make([][]string, len(keys))
	for i, key := range keys {
		tagsOf[i], failures[i] = t.tagsOf(key)
		names = append(names, tagsOf[i]...)
	}
	slices.Sort(names)
	names = slices.Compact(names)
	if t.local {
		options = nil
	}
	found, err := t.generations.GetMany(ctx, names, options...)
	failed := make(map[string]error)
	_ = splitKeyErrors(err, failed) // GetMany has no other errors
	for _, name := range names {
		if _, ok := found[name]; ok || failed[name] != nil {
			continue
		}
		found[name], failed[name] = t.generation(ctx, name, options...)
	}
	for i, key := range keys {
		sum := found[everything]
		failures[i] = cmp.Or(failures[i], failed[everything])
		for _, name := range tagsOf[i] {
			sum.add(found[name])
			failures[i] = cmp.Or(failures[i], failed[name])
		}
		places[i] = placeOf(sum, key)
	}
	return places, failures
}

// withPlace returns the places of the items that have one, and a KeyError for each of the others.
func withPlace(keys, places []string, failures []error) (placed []string, failed []error) {
	for i, failure := range failures {
		if failure == nil {
			placed = append(placed, places[i])
		} else {
			failed = append(failed, &KeyError{Key: keys[i], Err: failure})
		}
	}
	return placed, failed
}

// placesToWrite is places and withPlace for a writer, who writes nothing if a key or tag cannot be.
func (t *Tagged[V]) placesToWrite(ctx context.Context, keys []string) (placed []string, failed []error, err error) {
	places, failures := t.places(ctx, keys, Fresh())
	for _, failure := range failures {
		if errors.Is(failure, ErrInvalidKey) {
			return nil, nil, failure
		}
	}
	placed, failed = withPlace(keys, places, failures)
	return placed, failed, nil
}

// away gives readers a generation while Redis does not answer: one for all who come within a while, so that they share loads, and never the same
// again, so that nothing which was loaded without knowing of writes is found later.
type away struct {
	slot time.Duration

	mu    sync.Mutex
	now   generation
	until localcache.Instant
}

// generation returns one that is nobody else's if the reader does not share.
func (a *away) generation(shared bool) generation {
	if !shared {
		return newGeneration()
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if now := localcache.Now(); now >= a.until {
		a.now, a.until = newGeneration(), now.Add(a.slot)
	}
	return a.now
}

// Name returns Config.Name.
func (t *Tagged[V]) Name() string { return t.items.Name() }

// InvalidateTag makes all nodes forget every item that has one of the tags, and what Redis holds of them. When it has returned nil, reads on this
// node, and reads that begin more than their bound later on any other, load anew. After an error some of the tags may be
// invalidated and others not: call it again, it does no harm.
func (t *Tagged[V]) InvalidateTag(ctx context.Context, tags ...string) error {
	names := make([]string, len(tags))
	for i, tag := range tags {
		if err := t.checkTag(tag); err != nil {
			return err
		}
		names[i] = tagName(tag)
	}
	return t.renew(ctx, names)
}

// InvalidateAll is InvalidateTag for a tag that every item of the cache has.
func (t *Tagged[V]) InvalidateAll(ctx context.Context) error {
	return t.renew(ctx, []string{everything})
}

// renew has all nodes use other generations than before.
func (t *Tagged[V]) renew(ctx context.Context, names []string) error {
	if t.local {
		return t.generations.DeleteMany(ctx, names)
	}
	generations := make(map[string]generation, len(names))
	for _, name := range names {
		generations[name] = newGeneration()
	}
	return t.generations.SetMany(ctx, generations)
}

// announce has all nodes forget items, without Redis.
func (t *Tagged[V]) announce(ctx context.Context, keys ...string) error {
	names := make([]string, len(keys))
	for i, key := range keys {
		if err := t.items.checkKey(key); err != nil {
			return err
		}
		names[i] = own(key)
	}
	return t.renew(ctx, names)
}

// Clear is InvalidateAll, and then removes from Redis what is found no more, too, as [Cache.Clear] does: for its memory, since nobody reads it.
func (t *Tagged[V]) Clear(ctx context.Context, options BulkOptions) (removed int64, err error) {
	if err := t.InvalidateAll(ctx); err != nil || t.local {
		return 0, err
	}
	return t.items.Clear(ctx, options)
}

// Get is [Cache.Get].
func (t *Tagged[V]) Get(ctx context.Context, key string, options ...ReadOption) (V, error) {
	place, err := t.placeToRead(ctx, key, options)
	if err != nil {
		var none V
		return none, err
	}
	return t.items.Get(ctx, place, options...)
}

// GetItem is [Cache.GetItem].
func (t *Tagged[V]) GetItem(ctx context.Context, key string, options ...ReadOption) (Item[V], error) {
	place, err := t.placeToRead(ctx, key, options)
	if err != nil {
		return Item[V]{}, err
	}
	return t.items.GetItem(ctx, place, options...)
}

// GetMany is [Cache.GetMany].
func (t *Tagged[V]) GetMany(ctx context.Context, keys []string, options ...ReadOption) (map[string]V, error) {
	places, failures := t.places(ctx, keys, boundsOf(options)...)
	if t.items.loads() {
		g := t.away.generation(len(options) == 0)
		for i, key := range keys {
			if errors.Is(failures[i], ErrUnavailable) {
				places[i], failures[i] = placeOf(g, key), nil
			}
		}
	}
	places, failed := withPlace(keys, places, failures)
	found, err := t.items.GetMany(ctx, places, options...)
	items := make(map[string]V, len(found))
	for place, value := range found {
		items[keyIn(place)] = value
	}
	return items, errors.Join(append(failed, renameKeys(err, keyIn)...)...)
}

// Set is [Cache.Set].
func (t *Tagged[V]) Set(ctx context.Context, key string, value V, options ...WriteOption) error {
	if t.local {
		if _, err := t.items.encode(key, value); err != nil {
			return err
		}
		return t.announce(ctx, key)
	}
	place, err := t.place(ctx, key, Fresh())
	if err != nil {
		return err
	}
	return t.items.Set(ctx, place, value, options...)
}

// SetMany is [Cache.SetMany].
func (t *Tagged[V]) SetMany(ctx context.Context, items map[string]V, options ...WriteOption) error {
	keys := make([]string, 0, len(items))
	for key, value := range items {
		if t.local {
			if _, err := t.items.encode(key, value); err != nil {
				return err
			}
		}
		keys = append(keys, key)
	}
	if t.local {
		return t.announce(ctx, keys...)
	}
	places, failed, err := t.placesToWrite(ctx, keys)
	if err != nil {
		return err
	}
	placed := make(map[string]V, len(places))
	for _, place := range places {
		placed[place] = items[keyIn(place)]
	}
	return errors.Join(append(failed, renameKeys(t.items.SetMany(ctx, placed, options...), keyIn)...)...)
}

// Update is [Cache.Update].
func (t *Tagged[V]) Update(ctx context.Context, key string, change func(current V, exists bool) (V, error), options ...WriteOption) (V, error) {
	place, err := t.place(ctx, key, Fresh())
	if err != nil {
		var none V
		return none, err
	}
	return t.items.Update(ctx, place, change, options...)
}

// Touch is [Cache.Touch].
func (t *Tagged[V]) Touch(ctx context.Context, key string, options ...WriteOption) error {
	place, err := t.place(ctx, key, Fresh())
	if err != nil {
		return err
	}
	return t.items.Touch(ctx, place, options...)
}

// Delete is [Cache.Delete].
func (t *Tagged[V]) Delete(ctx context.Context, key string) error {
	if t.local {
		return t.announce(ctx, key)
	}
	place, err := t.place(ctx, key, Fresh())
	if err != nil {
		return err
	}
	return t.items.Delete(ctx, place)
}

// DeleteMany is [Cache.DeleteMany].
func (t *Tagged[V]) DeleteMany(ctx context.Context, keys []string) error {
	if t.local {
		return t.announce(ctx, keys...)
	}
	places, failed, err := t.placesToWrite(ctx, keys)
	if err != nil {
		return err
	}
	return errors.Join(append(failed, renameKeys(t.items.DeleteMany(ctx, places), keyIn)...)...)
}

// Warm is [Cache.Warm]. It ends at a key whose tags cannot be known.
func (t *Tagged[V]) Warm(ctx context.Context, keys iter.Seq[string], options BulkOptions) error {
	var failed error
	err := t.items.Warm(ctx, func(yield func(string) bool) {
		for key := range keys {
			var place string
			if place, failed = t.place(ctx, key); failed != nil || !yield(place) {
				return
			}
		}
	}, options)
	return errors.Join(append(renameKeys(err, keyIn), failed)...)
}

// Explain is [Cache.Explain], with the item's tags.
func (t *Tagged[V]) Explain(ctx context.Context, key string) Explanation {
	place, err := t.place(ctx, key)
	if err != nil {
		return Explanation{Key: key, Remote: RemoteExplanation{Err: err}}
	}
	e := t.items.Explain(ctx, place)
	e.Tags = t.tags(key)
	return e
}

// renameKeys gives each KeyError among joined ones the key that its reader knows.
func renameKeys(err error, rename func(string) string) []error {
	switch e := err.(type) { //nolint:errorlint // a wrapped one would lose what it is wrapped in
	case nil:
		return nil
	case *KeyError:
		return []error{&KeyError{Key: rename(e.Key), Err: e.Err}}
	case interface{ Unwrap() []error }:
		var renamed []error
		for _, joined := range e.Unwrap() {
			renamed = append(renamed, renameKeys(joined, rename)...)
		}
		if slices.ContainsFunc(renamed, func(err error) bool { _, ok := err.(*KeyError); return ok }) { //nolint:errorlint // as above
			return renamed
		}
	}
	return []error{err}
}
