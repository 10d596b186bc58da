package tracking

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-nearcache/nearcache/internal/redistest"
)

// positions keeps what Options.Position is told.
type positions struct {
	mu   sync.Mutex
	last Position
	asOf time.Time
}

func (p *positions) note(asOf time.Time, at Position) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asOf, p.last = asOf, at
}

func (p *positions) get() (time.Time, Position) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asOf, p.last
}

// Once a replica's link has delivered up to where its primary was, its handler has been told of every write that the primary had acknowledged.
func TestPositions(t *testing.T) {
	t.Parallel()
	primary := redistest.Start(t, redistest.Config{})
	replica := redistest.StartReplica(t, primary, redistest.Config{})
	ofPrimary, ofReplica := new(positions), new(positions)
	handler := newRecorder(t)
	options := func(s *redistest.Server, r *recorder, p *positions) Options {
		return Options{Redis: s.ClientOption(), Prefixes: []string{"k:"}, Handler: r, Position: p.note}
	}
	mine := open(t, options(primary, newRecorder(t), ofPrimary))
	follower := options(replica, handler, ofReplica)
	follower.Replica = true
	theirs := open(t, follower)
	for i := range 200 {
		primary.Do(t, "SET", fmt.Sprint("k:", i), "v")
		acknowledged := time.Now()
		fence(t, mine)
		asOf, at := ofPrimary.get()
		if asOf.Before(acknowledged) {
			t.Fatalf("a fence confirmed %v, and the write was acknowledged at %v", asOf, acknowledged)
		}
		for {
			fence(t, theirs)
			if _, now := ofReplica.get(); now.History == at.History && now.Offset >= at.Offset {
				break
			}
		}
		if handler.count("invalidate") != i+1 {
			t.Fatalf("of %d writes the handler was told of %d", i+1, handler.count("invalidate"))
		}
	}
}

func TestReplicaIsNoPrimary(t *testing.T) {
	t.Parallel()
	primary := redistest.Start(t, redistest.Config{})
	replica := redistest.StartReplica(t, primary, redistest.Config{})
	options := Options{Redis: primary.ClientOption(), Prefixes: []string{"k:"}, Handler: newRecorder(t), Replica: true}
	if _, err := Open(t.Context(), options); !errors.Is(err, ErrLinkDown) || !strings.Contains(err.Error(), "connect to a replica") {
		t.Errorf("a primary for a replica: %v", err)
	}
	options.Redis, options.Replica, options.Position = replica.ClientOption(), false, new(positions).note
	if _, err := Open(t.Context(), options); !errors.Is(err, ErrNotPrimary) {
		t.Errorf("a replica for a primary: %v", err)
	}
	replica.Do(t, "ACL", "SETUSER", "default", "-info")
	options.Replica = true
	if _, err := Open(t.Context(), options); !errors.Is(err, ErrNoTracking) || !strings.Contains(err.Error(), "+info") {
		t.Errorf("without the right to INFO: %v", err)
	}
	options.Position = nil
	recorder := newRecorder(t)
	options.Handler = recorder
	tracker := open(t, options)
	fence(t, tracker)
	options.Topology = func(Topology) {}
	if _, err := Open(t.Context(), options); err == nil || !strings.Contains(err.Error(), "Options.Replica") {
		t.Errorf("with Topology: %v", err)
	}
}

func TestReplicationReplies(t *testing.T) {
	t.Parallel()
	role, position, err := parseReplication("# Replication\r\nrole:slave\r\nmaster_host:h\r\nmaster_port:1\r\nmaster_link_status:up\r\nmaster_replid:abc\r\nmaster_repl_offset:9\r\nslave_repl_offset:7\r\n")
	if err != nil || role != replicaRole || position != (Position{History: "abc", Offset: 7, Source: "h:1"}) {
		t.Errorf("%q at %+v, %v", role, position, err)
	}
	_, position, err = parseReplication("role:slave\r\nmaster_host:h\r\nmaster_port:1\r\nmaster_link_status:down\r\nmaster_replid:abc\r\nslave_repl_offset:7\r\n")
	if err != nil || position.Offset != -1 {
		t.Errorf("cut off, at %+v, %v", position, err)
	}
	role, position, err = parseReplication("role:master\r\nmaster_replid:abc\r\nmaster_repl_offset:9\r\n")
	if err != nil || role != primaryRole || position != (Position{History: "abc", Offset: 9}) {
		t.Errorf("%q at %+v, %v", role, position, err)
	}
	for _, wrong := range []any{
		nil, int64(1), "", "role:master\r\n", "role:master\r\nmaster_replid:abc\r\n", "role:slave\r\nmaster_replid:abc\r\nmaster_repl_offset:9\r\n",
		"role:master\r\nmaster_replid:abc\r\nmaster_repl_offset:many\r\n", "master_replid:abc\r\nmaster_repl_offset:9\r\n",
	} {
		if role, position, err := parseReplication(wrong); err == nil {
			t.Errorf("%q is %q at %+v", wrong, role, position)
		}
	}
}
