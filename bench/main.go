// Command bench measures nearcache side by side with what it is built on and what people use instead, against a Redis server that it
// starts itself, and prints one table of ratios. Contenders take turns in short rounds within one run, and the medians of the
// rounds are compared, so that a busy machine slows all of them alike.
//
//	go run . [-only hit,miss] [-rounds 21]
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/go-nearcache/nearcache/internal/redistest"
)

// A row is one line of the table: a figure, and the bound that it should keep.
type row struct {
	what   string
	figure string
	bound  string
	kept   bool
}

// suite measures one subject and returns its rows.
type suite struct {
	name string
	run  func(ctx context.Context, server *redistest.Server, rounds int) ([]row, error)
}

var suites = []suite{
	{"hit", hits},
	{"features", features},
	{"miss", misses},
	{"getmany", getMany},
	{"invalidate", invalidations},
	{"load", loads},
	{"memory", memory},
	{"wrap", wraps},
	{"telemetry", observed},
	{"bus", buses},
	{"trackers", trackers},
}

func main() {
	only := flag.String("only", "", "the suites to run, separated by commas; all by default")
	rounds := flag.Int("rounds", 21, "rounds of each contender")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *only, *rounds); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, only string, rounds int) error {
	server, err := redistest.Run(ctx, redistest.Config{})
	if err != nil {
		return err
	}
	defer server.Close()
	fmt.Printf("%s %s/%s, %d processors, Redis %s, %d rounds of each\n\n", runtime.Version(), runtime.GOOS, runtime.GOARCH, runtime.GOMAXPROCS(0), server.Version(), rounds)

	missed := 0
	for _, s := range suites {
		if only != "" && !slices.Contains(strings.Split(only, ","), s.name) {
			continue
		}
		rows, err := s.run(ctx, server, rounds)
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		missed += show(s.name, rows)
	}
	if missed > 0 {
		fmt.Printf("%d figures are out of their bounds\n", missed)
	}
	return nil
}

func show(title string, rows []row) (missed int) {
	fmt.Println(title)
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 3, ' ', 0)
	for _, r := range rows {
		verdict := ""
		switch {
		case r.bound == "":
		case r.kept:
			verdict = "kept"
		default:
			verdict = "MISSED"
			missed++
		}
		fmt.Fprintf(w, "  %s\t%s\t%s\t%s\n", r.what, r.figure, r.bound, verdict)
	}
	_ = w.Flush()
	fmt.Println()
	return missed
}
