// Package mutant tests the oracle: near caches that each lack one part of the protocol, and a sound one, run against a simulated Redis
// whose orderings are as bad as the real one's may be. The oracle has to catch each by the rule that the missing part upholds, and
// has to find nothing to say against the sound one.
//
// The caches share nothing with the library; they are as small as a cache can be that has every part once.
package mutant
