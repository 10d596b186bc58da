//go:build !race

package localcache

const raceDetector = false
