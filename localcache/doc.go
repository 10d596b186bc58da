// Package localcache is the in-process tier of a near cache.
package localcache
