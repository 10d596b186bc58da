package localcache

import "testing"

// A value is carried to a later fill only if no invalidation lies between the two tokens, and not across epochs.
func TestCarry(t *testing.T) {
	c, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	shard := c.NewShard()
	shard.Renew(Now())
	view := NewView[string](c, "carry")
	k := view.Key("k")
	if view.Carry(k, view.Token(k, shard)) != nil {
		t.Error("nothing is there")
	}
	fill := func(value string) {
		t.Helper()
		if result := view.Fill(k, view.Token(k, shard), value, Never, 0); result != Filled {
			t.Fatal(result)
		}
		c.Wait()
	}
	fill("one")
	token := view.Token(k, shard)
	if carried := view.Carry(k, token); carried == nil || *carried != "one" {
		t.Fatalf("%v", carried)
	}
	if view.Carry(view.Key("another"), token) != nil {
		t.Error("another key's value is carried")
	}
	// The generation moves before the entry is removed: that an entry is still there says nothing.
	c.stripe(k).Add(1)
	if view.Carry(k, view.Token(k, shard)) != nil {
		t.Error("carried across an invalidation that is under way")
	}
	view.Invalidate(k, Tracking)
	fill("two")
	before := view.Token(k, shard)
	shard.Flush()
	if view.Carry(k, view.Token(k, shard)) != nil {
		t.Error("carried into another epoch")
	}
	shard.Suspend()
	if view.Carry(k, view.Token(k, shard)) != nil || view.Carry(k, Token{}) != nil {
		t.Error("carried under a token that can lead to no fill")
	}
	if view.Carry(k, before) != nil && view.Fill(k, before, "late", Never, 0) != FillEpoch {
		t.Error("filled under a token of an epoch that is over")
	}
	c.Close()
	if view.Carry(k, before) != nil {
		t.Error("carried by a closed cache")
	}
}

func TestDerive(t *testing.T) {
	c, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	view := NewView[string](c, "derive")
	seen := make(map[Key]bool)
	for _, name := range []string{"a", "b"} {
		k := view.Key(name)
		seen[k] = true
		for n := range uint64(1000) {
			seen[k.Derive(n+1)] = true
		}
	}
	if len(seen) != 2002 {
		t.Errorf("%d different keys, want 2002", len(seen))
	}
}
