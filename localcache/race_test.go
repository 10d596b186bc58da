//go:build race

package localcache

// raceDetector makes everything about ten times as slow.
const raceDetector = true
