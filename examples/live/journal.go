package main

import (
	"fmt"
	"strings"
	"sync"
	"time"
)

// journal is what has happened, for people, and the write whose pushes are being watched.
type journal struct {
	mu      sync.Mutex
	next    int
	entries []entry
	pending map[string]*written // by key
}

type entry struct {
	ID   int    `json:"id"`
	At   string `json:"at"`
	Kind string `json:"kind"` // write, server, link or trouble
	Text string `json:"text"`
}

// written is a write that nodes are hearing of.
type written struct {
	by      string
	version int
	began   time.Time
	entry   int
	heard   []string
	last    time.Duration // after the write began
}

const keptEntries = 40

func (j *journal) add(kind, text string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.append(kind, text)
}

func (j *journal) append(kind, text string) int {
	j.next++
	j.entries = append(j.entries, entry{ID: j.next, At: time.Now().Format("15:04:05.000"), Kind: kind, Text: text})
	if len(j.entries) > keptEntries {
		j.entries = j.entries[1:]
	}
	return j.next
}

// wrote notes a write, and has those watched who hear of it.
func (j *journal) wrote(by, key string, version int, began time.Time) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.pending == nil {
		j.pending = make(map[string]*written)
	}
	w := &written{by: by, version: version, began: began}
	w.entry = j.append("write", w.text(key))
	j.pending[key] = w
}

// heard notes that a push evicted a key from a node's memory.
func (j *journal) heard(node, key string, at time.Time) {
	j.mu.Lock()
	defer j.mu.Unlock()
	w := j.pending[key]
	if w == nil || at.Before(w.began) {
		return
	}
	w.heard = append(w.heard, node)
	w.last = max(w.last, at.Sub(w.began))
	for i := range j.entries {
		if j.entries[i].ID == w.entry {
			j.entries[i].Text = w.text(key)
		}
	}
}

func (w *written) text(key string) string {
	by := w.by
	if len(by) == 1 {
		by = "Node " + by
	}
	text := fmt.Sprintf("%s wrote %s v%d", by, key, w.version)
	switch len(w.heard) {
	case 0:
		return text
	case 1:
		return fmt.Sprintf("%s: pushed out of the memory of %s after %.2f ms", text, w.heard[0], w.last.Seconds()*1000)
	}
	return fmt.Sprintf("%s: pushed out of the memory of %s within %.2f ms", text, strings.Join(w.heard, ", "), w.last.Seconds()*1000)
}

func (j *journal) all() []entry {
	j.mu.Lock()
	defer j.mu.Unlock()
	return append([]entry{}, j.entries...)
}
