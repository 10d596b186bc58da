package nearcache

import (
	"context"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"

	"github.com/go-nearcache/nearcache/localcache"
)

// CacheStores keep the replies of rueidis clients that do their own tracking, one store for each of their connections, in one L1 with one budget:
// for code that stays with rueidis.NewClient, whose own cache has CacheSizeEachConn for every connection.
//
//	stores, err := nearcache.NewCacheStores(64 << 20)
//	client, err := rueidis.NewClient(rueidis.ClientOption{NewCacheStoreFn: stores.NewStore, …})
//
// Each connection has an epoch: when it breaks, nothing that it protected can be served from that moment on. What [Client.Rueidis] adds is not
// here: no bound while a connection is half open, no reads of own writes, and a read ends for all who wait for it when its first caller
// leaves. Clients of any servers may share the stores. All methods may be called from any goroutine.
type CacheStores struct {
	local *localcache.Cache
	view  *localcache.View[replies]
	last  atomic.Uint64
}

// NewCacheStores makes the L1 of the stores: maxBytes is the budget for all of them, as Options.MaxBytes, and 0 means its default. The error is
// about maxBytes.
func NewCacheStores(maxBytes int64) (*CacheStores, error) {
	if !layoutKnown() {
		return nil, errLayout
	}
	if maxBytes == 0 {
		maxBytes = DefaultMaxBytes
	}
	local, err := localcache.New(localcache.Options{MaxBytes: maxBytes})
	if err != nil {
		return nil, err
	}
	return &CacheStores{local: local, view: localcache.NewView[replies](local, rueidisName)}, nil
}

// NewStore is a rueidis.NewCacheStoreFn: rueidis calls it for each connection. The option's CacheSizeEachConn is not used.
func (s *CacheStores) NewStore(rueidis.CacheStoreOption) rueidis.CacheStore {
	store := &cacheStore{stores: s, id: s.last.Add(1), shard: s.local.NewShard(), flights: make(map[string]map[string]*storeFlight)}
	store.shard.Renew(localcache.Now())
	return store
}

// Stats returns what the stores hold together.
func (s *CacheStores) Stats() localcache.Stats { return s.local.Stats() }

// Close drops everything. Clients that still use the stores go on without a cache.
func (s *CacheStores) Close() { s.local.Close() }

// cacheStore is the store of one connection. rueidis calls Update, Cancel of what was answered, and Delete on the goroutine that reads the
// connection, in the order in which the server wrote: a reply that comes after a push was read after the write.
type cacheStore struct {
	stores *CacheStores
	id     uint64 // whose keys these are: other connections have other servers
	shard  *localcache.Shard

	mu      sync.Mutex
	flights map[string]map[string]*storeFlight // by key and command; nil: closed
	landed  []*storeFlight                     // the last ones, which L1 may not show yet
}

// mostLanded is how many replies a store serves by itself until L1 does.
const mostLanded = 64

type storeFlight struct {
	key, command string
	most         int64         // Unix milliseconds: the end that its first caller asked for
	done         chan struct{} // closed when what follows is set
	message      rueidis.RedisMessage
	err          error
	over         bool // guarded by the store's mutex, unlike what is read after done
}

// Wait is the method of rueidis.CacheEntry.
func (f *storeFlight) Wait(ctx context.Context) (rueidis.RedisMessage, error) {
	select {
	case <-f.done:
		return f.message, f.err
	default:
	}
	select {
	case <-f.done:
		return f.message, f.err
	case <-ctx.Done():
		return rueidis.RedisMessage{}, ctx.Err()
	}
}

func (s *cacheStore) hash(key string) localcache.Key { return s.stores.view.Key(key).Derive(s.id) }

func (s *cacheStore) Flight(key, command string, ttl time.Duration, now time.Time) (rueidis.RedisMessage, rueidis.CacheEntry) {
	milliseconds := now.UnixMilli()
	if found, result := s.stores.view.Get(s.hash(key), localcache.Now(), math.MinInt64); result == localcache.Hit {
		if reply := found.to(command); reply != nil && reply.message.CachePXAT() > milliseconds {
			return reply.message, nil
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.flights == nil {
		return rueidis.RedisMessage{}, nil
	}
	if f := s.flights[key][command]; f != nil {
		if !f.over {
			return rueidis.RedisMessage{}, f
		}
		if f.message.CachePXAT() > milliseconds {
			return f.message, nil
		}
	}
	if s.flights[key] == nil {
		s.flights[key] = make(map[string]*storeFlight, 1)
	}
	s.flights[key][command] = &storeFlight{key: key, command: command, most: now.Add(ttl).UnixMilli(), done: make(chan struct{})}
	return rueidis.RedisMessage{}, nil
}

func (s *cacheStore) Update(key, command string, message rueidis.RedisMessage) (pxat int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.flights[key][command]
	if f == nil || f.over {
		return 0
	}
	pxat = message.CachePXAT()
	if pxat < 0 || pxat > f.most {
		pxat = f.most
	}
	kept, err := cached(&message, pxat)
	if err != nil { // rueidis does not understand its own form
		kept = message
		setExpiry(&kept, pxat)
	}
	f.message = kept
	s.land(f)
	deadline := localcache.Now().Add(time.Until(time.UnixMilli(pxat)))
	view, k := s.stores.view, s.hash(key)
	token := view.Token(k, s.shard)
	added := cachedReply{command: command, message: kept, deadline: deadline}
	all := replies{first: added}
	if old := view.Carry(k, token); old != nil {
		all = old.with(added, localcache.Now())
	}
	view.Fill(k, token, all, all.deadline(), all.cost()+int64(len(command)))
	return pxat
}

// land ends a flight that has a reply, and keeps it for a while.
func (s *cacheStore) land(f *storeFlight) {
	f.over = true
	close(f.done)
	if s.landed = append(s.landed, f); len(s.landed) > mostLanded {
		s.forget(s.landed[0])
		s.landed = append(s.landed[:0], s.landed[1:]...)
	}
}

// forget drops a flight that is over, unless another has taken its place.
func (s *cacheStore) forget(f *storeFlight) {
	commands := s.flights[f.key]
	if commands[f.command] == f {
		if delete(commands, f.command); len(commands) == 0 {
			delete(s.flights, f.key)
		}
	}
}

func (s *cacheStore) Cancel(key, command string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f := s.flights[key][command]; f != nil && !f.over {
		f.over, f.err = true, err
		s.forget(f)
		close(f.done)
	}
}

func (s *cacheStore) Delete(keys []rueidis.RedisMessage) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if keys == nil {
		s.shard.Flush()
		for _, f := range s.landed {
			s.forget(f)
		}
		s.landed = nil
		return
	}
	for _, message := range keys {
		key, err := message.ToString()
		if err != nil {
			continue
		}
		s.stores.view.Invalidate(s.hash(key), localcache.Tracking)
		for _, f := range s.flights[key] {
			if f.over {
				s.forget(f)
			}
		}
	}
}

func (s *cacheStore) Close(err error) {
	s.shard.Close() // before anything else: nothing is served from here on
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, commands := range s.flights {
		for _, f := range commands {
			if !f.over {
				f.over, f.err = true, err
				close(f.done)
			}
		}
	}
	s.flights, s.landed = nil, nil
}
