package tracking

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func TestDoubtEndsTheLinkThatItIsAbout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, r := newFakeServer(t), newRecorder(t)
		tracker := open(t, timed(f, r))
		first := tracker.Status().Epoch
		evidence := errors.New("a write was not announced")

		tracker.Doubt(first+1, evidence)
		if n := r.count("lost"); n != 0 {
			t.Fatalf("evidence about another link ended this one: %d losses", n)
		}

		tracker.Doubt(first, evidence)
		calls := r.all()
		if last := calls[len(calls)-1]; last.method != "lost" || !errors.Is(last.err, evidence) || !errors.Is(last.err, ErrLinkDown) {
			t.Errorf("when Doubt returns, the handler was told last: %v", last)
		}
		if status := tracker.Status(); status.Live || !errors.Is(status.LastError, evidence) {
			t.Errorf("%+v", status)
		}
		tracker.Doubt(first, evidence) // again, without a link

		time.Sleep(time.Second)
		if status := tracker.Status(); !status.Live || status.Epoch != first+1 {
			t.Fatalf("no new link: %+v", status)
		}
		tracker.Doubt(first, evidence) // late
		if n := r.count("lost"); n != 1 {
			t.Errorf("%d losses, want 1", n)
		}
	})
}
