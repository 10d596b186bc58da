package oracle

import "fmt"

// A Rule is one thing that a cache promises. Package documentation says what each means.
type Rule int

// The rules.
const (
	Kept Rule = iota // no rule is broken
	BoundedStaleness
	FreshRead
	ReadYourWrites
	MonotonicReads
	StaleFill
	LeaseOverdue
	ExpiredRead
	ForeignValue
	ruleCount
)

// Rules lists all that can be broken.
func Rules() []Rule {
	rules := make([]Rule, 0, ruleCount-1)
	for rule := Kept + 1; rule < ruleCount; rule++ {
		rules = append(rules, rule)
	}
	return rules
}

func (r Rule) String() string {
	names := [ruleCount]string{
		"kept", "bounded staleness", "fresh read", "read your writes", "monotonic reads", "stale fill", "lease overdue", "expired read", "foreign value",
	}
	if r < 0 || r >= ruleCount {
		return fmt.Sprintf("Rule(%d)", int(r))
	}
	return names[r]
}

// A Demand is how recent a reader asked its reads to be.
type Demand int

// What readers ask for.
const (
	Default Demand = iota // the bound of its node
	Tighter               // a bound below that
	Looser                // a bound above that
	Fresh                 // linearizable
	Fenced                // the default, after a fence: no older than the beginning of the fence
	Direct                // read from Redis itself, past the cache
)

func (d Demand) String() string {
	return [...]string{"default", "tighter", "looser", "fresh", "fenced", "direct"}[d]
}

// A Tier is where a value came from, as far as the reader can tell.
type Tier int

// The tiers.
const (
	Unknown Tier = iota
	Local        // L1
	Remote       // Redis, or the source
)

func (t Tier) String() string { return [...]string{"unknown", "L1", "remote"}[t] }
