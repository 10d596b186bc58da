package tracking

// Doubt gives up the link that is live under this [Status.Epoch], as if its connection had failed, and a new one is made. It is
// for whoever has evidence that the link does not announce what it should, which the link itself cannot know: a write that was
// acknowledged before a fence and not announced after it. The handler has been told of the loss when Doubt returns. Of a link
// that is no longer the live one nothing can be said by now, and nothing happens.
//
// Like Fence it must not be called from a Handler.
func (t *Tracker) Doubt(epoch uint64, evidence error) {
	t.delivery.Lock()
	l := t.current.Load()
	current := l != nil && t.Status().Epoch == epoch
	t.delivery.Unlock()
	if current {
		l.fail(l.trouble("doubt", evidence, ""))
	}
}
