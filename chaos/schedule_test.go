package main

import (
	"reflect"
	"slices"
	"testing"
	"time"
)

func TestScheduleIsAFunctionOfTheSeed(t *testing.T) {
	const length, nodes = 10 * time.Minute, 5
	rounds := schedule(7, length, nodes)
	if !reflect.DeepEqual(rounds, schedule(7, length, nodes)) {
		t.Error("one seed gave two schedules")
	}
	if reflect.DeepEqual(rounds, schedule(8, length, nodes)) {
		t.Error("two seeds gave one schedule")
	}
	if longer := schedule(7, 2*length, nodes); !reflect.DeepEqual(rounds, longer[:len(rounds)]) {
		t.Error("a longer run does not begin as a shorter one")
	}
}

func TestScheduleHasEveryFault(t *testing.T) {
	const length, nodes = 2 * time.Minute, 5
	count := map[string]int{}
	hit := map[int]int{}
	total := time.Duration(0)
	for _, r := range schedule(1, length, nodes) {
		total += r.Length
		for i, events := range r.Lanes {
			end := time.Duration(0)
			for _, e := range events {
				count[e.Kind]++
				hit[e.Node]++
				if e.At < end || e.At+e.Length > r.Length {
					t.Errorf("lane %d: %v begins before %v, or ends after %v", i, e, end, r.Length)
				}
				end = e.At + e.Length
				if e.Length > 4*time.Second {
					t.Errorf("%v is longer than a toxic can hold back bytes", e)
				}
				faultOf(e.Kind) // exists
			}
		}
	}
	if total != length {
		t.Errorf("the rounds last for %v", total)
	}
	for _, kind := range slices.Concat(networkFaults(), serverFaults(), processFaults()) {
		if count[kind] == 0 {
			t.Errorf("no %q within %v", kind, length)
		}
	}
	if len(hit) != nodes {
		t.Errorf("hit: %v", hit)
	}
}
