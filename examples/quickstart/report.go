package main

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/go-nearcache/nearcache/examples/internal/measure"
)

// width is that of a line of the timeline.
const width = 97

// A timeline prints what happens as it happens, and the summary at the end.
type timeline struct {
	out    io.Writer
	colour bool
	began  time.Time // of the heading
	count  int       // steps so far
}

// Codes of ANSI terminals.
const (
	bold  = "1"
	dim   = "2"
	red   = "31"
	green = "32"
	cyan  = "36"
)

func (t *timeline) paint(code, text string) string {
	if !t.colour {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

func (t *timeline) heading(title, subtitle string) {
	t.began = time.Now()
	fmt.Fprintf(t.out, "\n%s\n%s\n", t.paint(bold, title), t.paint(dim, subtitle))
}

func (t *timeline) step(title string) {
	t.count++
	fmt.Fprintf(t.out, "\n%s\n", t.paint(bold, fmt.Sprintf("%d  %s", t.count, title)))
}

// event prints one line: when, who, what, and how long it took if that was measured.
func (t *timeline) event(who string, took time.Duration, what string) {
	if took > 0 {
		what = fmt.Sprintf("%-70s %s", what, t.paint(bold, fmt.Sprintf("%8v", measure.Round(took))))
	}
	// Padded before it is painted: the codes would count as width.
	fmt.Fprintf(t.out, "%s  %s %s\n", t.clock(), t.paint(cyan, fmt.Sprintf("%-6s", who)), what)
}

// note prints a line of its own for what was not seen.
func (t *timeline) note(what string) {
	fmt.Fprintf(t.out, "%s  %s\n", t.clock(), t.paint(red, what))
}

func (t *timeline) clock() string {
	return t.paint(dim, fmt.Sprintf("%7.3f s", time.Since(t.began).Seconds()))
}

// An outcome is what became of a promise.
type outcome string

const (
	seen    outcome = "yes"
	notSeen outcome = "NO"
	leftOut outcome = "-"
)

type check struct {
	promise  string
	outcome  outcome
	evidence string
}

type measurement struct {
	what    string
	samples measure.Samples
}

type summary struct {
	checks   []check
	measured []measurement
}

func (s summary) allSeen() bool {
	return !slices.ContainsFunc(s.checks, func(c check) bool { return c.outcome == notSeen })
}

func (t *timeline) summary(s summary) {
	rule := t.paint(dim, strings.Repeat("─", width))
	fmt.Fprintf(t.out, "\n%s\n%-44s %-5s %s\n%s\n", t.paint(bold, "Summary"), "promised", "seen", "evidence", rule)
	for _, c := range s.checks {
		colour := map[outcome]string{seen: green, notSeen: red, leftOut: dim}[c.outcome]
		fmt.Fprintf(t.out, "%-44s %s %s\n", c.promise, t.paint(colour, fmt.Sprintf("%-5s", c.outcome)), c.evidence)
	}
	fmt.Fprintf(t.out, "\n%-44s %9s %9s %9s\n%s\n", "measured", "median", "99 %", "samples", rule)
	for _, m := range s.measured {
		fmt.Fprintf(t.out, "%-44s %9v %9v %9d\n", m.what, measure.Round(m.samples.Median()), measure.Round(m.samples.Quantile(0.99)), len(m.samples))
	}
	fmt.Fprintln(t.out)
}

// isTerminal reports whether colours are welcome.
func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0 && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
}
