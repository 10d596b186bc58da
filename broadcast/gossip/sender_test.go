package gossip

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/go-nearcache/nearcache/broadcast"
)

// taker keeps what a transport delivers.
type taker struct {
	frames []string
	gaps   []broadcast.Gap
}

func (r *taker) Frame(data []byte)     { r.frames = append(r.frames, string(data)) }
func (r *taker) Gap(gap broadcast.Gap) { r.gaps = append(r.gaps, gap) }

// unconnected makes a transport that has begun, without a network, and listens on the topic "t".
func unconnected(t testing.TB) (*Transport, *taker) {
	t.Helper()
	options, _, _, err := Options{}.validate()
	if err != nil {
		t.Fatal(err)
	}
	transport := newTransport(options)
	transport.begun, transport.packet = true, 1300
	close(transport.live)
	r := new(taker)
	transport.listeners["t"] = &listener{transport: transport, topic: "t", receiver: r}
	return transport, r
}

func framesOf(numbers ...uint64) []byte {
	message := []byte{kindFrames}
	for _, n := range numbers {
		message = appendSized(message, appendFrame(nil, "peer", n, "t", []byte{'a' + byte(n)}))
	}
	return message
}

func digestOf(teller string, s state) []byte {
	return appendState(appendString([]byte{kindDigest}, teller), s)
}

func (r *taker) want(t *testing.T, frames ...string) {
	t.Helper()
	if !slices.Equal(r.frames, frames) {
		t.Errorf("delivered %q, want %q", r.frames, frames)
	}
}

func TestFramesAreDeliveredInOrderAndOnce(t *testing.T) {
	t.Parallel()
	transport, r := unconnected(t)
	const count = 20
	var sent []uint64
	var want []string
	for n := uint64(1); n <= count; n++ {
		sent = append(sent, n, n)
		want = append(want, string([]byte{'a' + byte(n)}))
	}
	rand.Shuffle(len(sent), func(i, j int) { sent[i], sent[j] = sent[j], sent[i] })
	for _, n := range sent {
		(*delegate)(transport).NotifyMsg(framesOf(n))
	}
	r.want(t, want...)
	if s := transport.senders["peer"]; !s.askAt.IsZero() || len(s.held) != 0 || s.size != 0 {
		t.Errorf("everything has come, and still held are %d frames of %d bytes, the next question is at %v", len(s.held), s.size, s.askAt)
	}
}

func TestWhatIsMissingIsAskedForAndGivenUp(t *testing.T) {
	t.Parallel()
	transport, r := unconnected(t)
	d := (*delegate)(transport)
	d.NotifyMsg(framesOf(1, 4, 6))
	s := transport.senders["peer"]
	if got, want := s.missing(), []span{{"peer", 2, 3}, {"peer", 5, 5}}; !slices.Equal(got, want) {
		t.Errorf("missing are %v, want %v", got, want)
	}
	r.want(t, "b")

	d.NotifyMsg(digestOf("peer", state{sender: "peer", highest: 6, oldest: 4})) // 2 and 3 are retained no more
	r.want(t, "b", "e")

	transport.asksLocked(time.Now().Add(repairTimeout)) // and 5 cannot be had
	r.want(t, "b", "e", "g")
	if len(r.gaps) > 0 {
		t.Errorf("losses that later messages tell of were reported by the transport too: %v", r.gaps)
	}

	d.NotifyMsg(digestOf("other", state{sender: "peer", highest: 9})) // nothing is behind this loss
	if s.informant != "other" {
		t.Errorf("%q is asked for help, want the one who told", s.informant)
	}
	transport.asksLocked(time.Now().Add(2 * repairTimeout))
	if len(r.gaps) != 1 || !r.gaps[0].MustFlush() || s.next != 10 {
		t.Errorf("gaps %v, next %d; want one gap, and 10", r.gaps, s.next)
	}
	d.NotifyMsg(framesOf(9, 10))
	r.want(t, "b", "e", "g", "k")
}

func TestANodeThatJoinsDoesNotAskForThePast(t *testing.T) {
	t.Parallel()
	transport, r := unconnected(t)
	transport.begun = false
	d := (*delegate)(transport)
	d.MergeRemoteState(digestOf("seed", state{sender: "peer", highest: 7}), true)
	transport.begun = true
	d.NotifyMsg(framesOf(9))
	if got, want := transport.senders["peer"].missing(), []span{{"peer", 8, 8}}; !slices.Equal(got, want) {
		t.Errorf("missing are %v, want %v", got, want)
	}
	d.NotifyMsg(framesOf(8))
	r.want(t, "i", "j")
}

func TestStoreRetainsTheNewest(t *testing.T) {
	t.Parallel()
	s := newStore(10 * (overhead + 10))
	for n := uint64(1); n <= 5000; n++ {
		s.add(id{"peer", n}, make([]byte, 10))
		if len(s.frames) > 10 || s.bytes > s.limit || len(s.order) > 4096 {
			t.Fatalf("after %d frames: %d kept, %d bytes, %d in order", n, len(s.frames), s.bytes, len(s.order))
		}
	}
	if s.oldest() != 4991 || s.frames[id{"peer", 5000}] == nil {
		t.Errorf("the oldest is %d, want 4991", s.oldest())
	}
	s.add(id{"peer", 5001}, make([]byte, 1<<20))
	if s.oldest() != 5001 {
		t.Errorf("the newest was not kept: the oldest is %d", s.oldest())
	}
}

func FuzzMessage(f *testing.F) {
	f.Add([]byte(nil))
	f.Add(framesOf(1, 2, 5))
	f.Add(digestOf("peer", state{sender: "peer", highest: maxNumber - 1, oldest: maxNumber - 1, left: true}))
	f.Add(appendSpan(append(appendString([]byte{kindWant}, "peer"), flagReliable), span{"peer", 1, maxNumber - 1}))
	f.Fuzz(func(t *testing.T, message []byte) {
		transport, _ := unconnected(t)
		d := (*delegate)(transport)
		d.NotifyMsg(framesOf(1, 3))
		d.NotifyMsg(message)
		if len(transport.wants) > 0 {
			transport.answer(<-transport.wants)
		}
		now := time.Now()
		transport.asksLocked(now.Add(time.Second))
		transport.digestsLocked(now, true)
		transport.asksLocked(now.Add(2 * repairTimeout))
		for name, s := range transport.senders {
			if s.next <= s.highest && s.askAt.IsZero() || s.next > maxNumber {
				t.Errorf("%q: next %d, highest %d, and nothing is asked for", name, s.next, s.highest)
			}
		}
	})
}
