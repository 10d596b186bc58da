package main

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// A round is a stretch of faults that overlap, at the end of which all is healed and everything is compared.
type round struct {
	Length time.Duration
	Lanes  [][]event // what one lane does follows one after the other; lanes do not wait for each other
}

// An event is one fault: when it begins in its round, what it is, whom it hits, and for how long.
type event struct {
	At     time.Duration
	Kind   string
	Node   int
	Length time.Duration
	Dice   uint64 // decides what else there is to decide
}

// A lane draws its faults from a deck until all have come, and shuffles again.
type lane struct {
	name             string
	deck             []string
	shortest, length time.Duration // of a fault
	pause            time.Duration // before a fault, at most
}

// lanes say which faults may overlap which. They leave room for L1 to fill: a fault that finds it empty shows nothing.
func lanes() []lane {
	const ms = time.Millisecond
	return []lane{
		{"network", networkFaults(), 100 * ms, 2500 * ms, 3000 * ms},
		{"second network", networkFaults(), 50 * ms, 1500 * ms, 5000 * ms},
		{"server", serverFaults(), 100 * ms, 1500 * ms, 3500 * ms},
		{"process", processFaults(), 500 * ms, 2500 * ms, 3000 * ms},
	}
}

// roundLength is the time between two audits.
const roundLength = 30 * time.Second

// schedule is a pure function of its arguments: the faults of a run of the given length on so many nodes.
func schedule(seed uint64, length time.Duration, nodes int) (rounds []round) {
	var dealers []*dealer
	for i, l := range lanes() {
		dealers = append(dealers, &dealer{lane: l, rng: rand.New(rand.NewPCG(seed, uint64(i)))})
	}
	for left := length; left > 0; left -= roundLength {
		r := round{Length: min(left, roundLength)}
		for _, d := range dealers {
			var events []event
			for at := d.between(0, d.pause); ; {
				if len(d.left) == 0 {
					d.left = slices.Clone(d.deck)
					d.rng.Shuffle(len(d.left), func(i, j int) { d.left[i], d.left[j] = d.left[j], d.left[i] })
				}
				e := event{At: at, Kind: d.left[0], Node: d.rng.IntN(nodes), Length: d.between(d.shortest, d.length), Dice: d.rng.Uint64()}
				if at+e.Length > r.Length {
					break
				}
				d.left = d.left[1:]
				events = append(events, e)
				at += e.Length + d.between(0, d.pause)
			}
			r.Lanes = append(r.Lanes, events)
		}
		rounds = append(rounds, r)
	}
	return rounds
}

// A dealer deals the faults of one lane.
type dealer struct {
	lane
	rng  *rand.Rand
	left []string // in the deck
}

func (d *dealer) between(shortest, longest time.Duration) time.Duration {
	return shortest + time.Duration(d.rng.Int64N(int64(longest-shortest)))
}

func (e event) String() string {
	return fmt.Sprintf("%-8v %-22s node %d, %v", e.At.Round(time.Millisecond), e.Kind, e.Node, e.Length.Round(time.Millisecond))
}

// describe prints a schedule.
func describe(rounds []round) string {
	var b strings.Builder
	for i, r := range rounds {
		fmt.Fprintf(&b, "round %d, %v\n", i+1, r.Length)
		for j, l := range lanes() {
			fmt.Fprintf(&b, "  %s\n", l.name)
			for _, e := range r.Lanes[j] {
				fmt.Fprintf(&b, "    %v\n", e)
			}
		}
	}
	return b.String()
}
