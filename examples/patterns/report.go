package main

import (
	"fmt"
	"html"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/go-nearcache/nearcache/examples/internal/measure"
)

var columns = []string{
	"", "write to read elsewhere, p50 / p99", "writes/s", "bytes/write", "broker CPU/write",
	"staleness read: healthy / cut off / restart", "lost: cut off / restart", "reported", "back after: cut off / restart",
}

func (r result) cells() []string {
	cpu := "–"
	if r.cpuKnown {
		cpu = measure.Round(r.cpu).String()
	}
	stale, back := duration(r.healthy.stale)+" / "+duration(r.cut.stale), duration(r.cut.back)
	lost, reported := lostText(r.cut), r.cut.reported
	anyLost := r.cut.lost > 0
	if r.restart != nil {
		stale += " / " + duration(r.restart.stale)
		back += " / " + duration(r.restart.back)
		lost += " / " + lostText(*r.restart)
		anyLost = anyLost || r.restart.lost > 0
		reported = (reported || r.cut.lost == 0) && (r.restart.reported || r.restart.lost == 0)
	} else {
		stale, back, lost = stale+" / –", back+" / –", lost+" / –"
	}
	told := "nothing was lost"
	switch {
	case !r.cut.counted:
		told = "the link's loss flushes"
	case anyLost && reported:
		told = "yes"
	case anyLost:
		told = "**no**"
	}
	return []string{
		r.name, duration(r.latency.Median()) + " / " + duration(r.latency.Quantile(0.99)), fmt.Sprintf("%.0f", r.writes),
		fmt.Sprintf("%.0f", r.bytes), cpu, stale, lost, told, back,
	}
}

func lostText(o outcome) string {
	if !o.counted {
		return "–"
	}
	return fmt.Sprint(o.lost)
}

func duration(d time.Duration) string { return measure.Round(d.Round(10 * time.Microsecond)).String() }

// table is the results in Markdown.
func table(results []result) string {
	var b strings.Builder
	fmt.Fprintf(&b, "| %s |\n|%s\n", strings.Join(columns, " | "), strings.Repeat("---|", len(columns)))
	for _, r := range results {
		fmt.Fprintf(&b, "| %s |\n", strings.Join(r.cells(), " | "))
	}
	return b.String()
}

// chart draws how long a write takes to be read elsewhere.
func chart(results []result) string {
	const row, left, width = 44, 110, 560
	longest := time.Duration(1)
	for _, r := range results {
		longest = max(longest, r.latency.Quantile(0.99))
	}
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="13" role="img">`+"\n",
		left+width+110, row*len(results)+40)
	b.WriteString(`<rect width="100%" height="100%" fill="#fff"/><text x="10" y="22" font-weight="bold">From a write to its reading on another node: median and 99 %</text>` + "\n")
	for i, r := range results {
		y := 40 + i*row
		fmt.Fprintf(&b, `<text x="10" y="%d">%s</text>`+"\n", y+20, html.EscapeString(r.name))
		for j, bar := range []struct {
			value  time.Duration
			colour string
		}{{r.latency.Median(), "#2563eb"}, {r.latency.Quantile(0.99), "#93c5fd"}} {
			length := max(1, int(float64(width)*float64(bar.value)/float64(longest)))
			fmt.Fprintf(&b, `<rect x="%d" y="%d" width="%d" height="14" fill="%s"/><text x="%d" y="%d" font-size="11">%s</text>`+"\n",
				left, y+4+j*16, length, bar.colour, left+length+6, y+15+j*16, duration(bar.value))
		}
	}
	return b.String() + "</svg>\n"
}

// page is the results as a page for the browser.
func page(results []result) string {
	var b strings.Builder
	b.WriteString("<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>Patterns of communication</title>\n" +
		"<style>body{font:15px sans-serif;margin:2em auto;max-width:75em;padding:0 1em}table{border-collapse:collapse}" +
		"td,th{border:1px solid #ccc;padding:.4em .6em;text-align:left}svg{max-width:50em}</style>\n" +
		"<h1>Patterns of communication</h1>\n" + chart(results) + "<table><tr>")
	for _, column := range columns {
		fmt.Fprintf(&b, "<th>%s</th>", html.EscapeString(column))
	}
	b.WriteString("</tr>\n")
	for _, r := range results {
		b.WriteString("<tr>")
		for _, cell := range r.cells() {
			fmt.Fprintf(&b, "<td>%s</td>", html.EscapeString(strings.Trim(cell, "*")))
		}
		b.WriteString("</tr>\n")
	}
	return b.String() + "</table></html>\n"
}

// The table stands in the document between these.
const begin, end = "<!-- measured: make patterns -->\n", "<!-- end -->"

func writeDocs(directory string, results []result) error {
	document := filepath.Join(directory, "patterns-of-communication.md")
	content, err := os.ReadFile(document)
	if err != nil {
		return err
	}
	before, rest, ok := strings.Cut(string(content), begin)
	_, after, closed := strings.Cut(rest, end)
	if !ok || !closed {
		return fmt.Errorf("%s has no place for the table: it must have the lines %q and %q", document, strings.TrimSpace(begin), end)
	}
	for name, text := range map[string]string{
		document:                                  before + begin + table(results) + end + after,
		filepath.Join(directory, "patterns.svg"):  chart(results),
		filepath.Join(directory, "patterns.html"): page(results),
	} {
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}
