// Package gossip carries the broadcast bus without a broker: the nodes talk to each other, and find each other by the
// SWIM protocol of HashiCorp's memberlist.
//
//	transport, err := gossip.New(gossip.Options{Bind: "10.0.0.7:7946", Seeds: []string{"10.0.0.5:7946", "10.0.0.6:7946"}})
//	bus, err := broadcast.New(broadcast.Options{Transport: transport})
//
// # Guarantees
//
// The package keeps the contract of package broadcast; this is what it adds to it.
//
// Delivery. A sender numbers its frames and sends each at once to every member, small ones in a UDP packet, large ones when a
// member that has heard of their number asks for them over TCP. What is lost on the way is repaired: a member that misses a
// number asks the sender, or anybody else who has the frame, until it comes. It is lost only if nobody retains it any more
// (Options.RetainBytes) or if it cannot be had for five seconds; the bus then reports it as a gap.
//
// Order. What one node sends arrives in the order in which it was sent, over all topics: what comes too early is held back
// until what is missing has been repaired.
//
// Blocking. Sending does not wait for the members. It fails while this node has not yet joined, and while it is isolated.
//
// Goroutines. A transport runs a few goroutines and those of memberlist, and listens on one UDP and one TCP port.
// All methods may be called from any goroutine. Close leaves no goroutine and no connection behind.
//
// # Partitions
//
// No broker decides who is right. While the network is divided each side goes on by itself; what the other side
// publishes meanwhile is delivered, or reported as a gap, after the two have found each other again, which they try every
// second. A cache that is kept up to date over gossip should therefore bound the life of its entries.
//
// A node that has lost all others is isolated: it reports an open gap, and refuses to send, until one is back, or until
// all have been gone for a minute and it takes itself for the last one.
//
// # Size
//
// A sender sends each small frame to every member itself: that is the shortest way, and the cost, in packets a second, is the
// number of messages times the number of members. It is meant for up to a few hundred nodes. Every node takes part
// in everything: it retains what others sent to help in repair, and gets the frames of topics that it does not listen to.
//
// # Security
//
// Without Options.Keyring anybody who reaches the port can join, read and forge. With it packets and streams are encrypted and
// authenticated with AES-GCM, and who has none of the keys is refused. Keys are rotated at run time, with memberlist's
// Keyring: AddKey on all nodes, UseKey on all nodes, RemoveKey on all nodes.
package gossip
