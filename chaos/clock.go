package main

import (
	"time"

	"golang.org/x/sys/unix"

	"github.com/go-nearcache/nearcache/internal/oracle"
)

// clockOffset returns how far sharedClock, which is one for all processes, is ahead of this process's oracle.Now, and by how much
// that may be wrong.
func clockOffset() (offset, uncertainty time.Duration, err error) {
	uncertainty = time.Hour
	for range 100 {
		var ts unix.Timespec
		before := oracle.Now()
		if err := unix.ClockGettime(sharedClock, &ts); err != nil {
			return 0, 0, err
		}
		if width := oracle.Now().Sub(before); width < uncertainty {
			offset, uncertainty = time.Duration(ts.Nano())-time.Duration(before), width
		}
	}
	return offset, uncertainty, nil
}
