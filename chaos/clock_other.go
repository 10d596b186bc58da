//go:build !darwin

package main

import "golang.org/x/sys/unix"

// sharedClock is the clock that Go's monotonic one runs with.
const sharedClock = unix.CLOCK_MONOTONIC
