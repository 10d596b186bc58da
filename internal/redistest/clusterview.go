package redistest

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// A ClusterView is a cluster as one of its nodes sees it.
type ClusterView struct{ Nodes []ClusterNode }

// A ClusterNode is one line of CLUSTER NODES.
type ClusterNode struct {
	ID      string
	Primary string // the id of its primary, if it is a replica
	Slots   [][2]int
	flags   []string
}

// ClusterView asks the server for its view of the cluster that it belongs to.
func (s *Server) ClusterView(ctx context.Context) (ClusterView, error) {
	text, err := s.Command(ctx, "CLUSTER", "NODES").ToString()
	if err != nil {
		return ClusterView{}, fmt.Errorf("redistest: CLUSTER NODES on %s: %w", s.Addr(), err)
	}
	return parseClusterNodes(text)
}

func parseClusterNodes(text string) (view ClusterView, err error) {
	for line := range strings.Lines(verbatim(text)) {
		fields := strings.Fields(line)
		if len(fields) < 8 {
			return view, fmt.Errorf("redistest: a line of CLUSTER NODES is too short: %q", line)
		}
		node := ClusterNode{ID: fields[0], flags: strings.Split(fields[2], ",")}
		if fields[3] != "-" {
			node.Primary = fields[3]
		}
		for _, field := range fields[8:] {
			if strings.HasPrefix(field, "[") {
				continue // a slot on the move
			}
			first, last, isRange := strings.Cut(field, "-")
			if !isRange {
				last = first
			}
			var slots [2]int
			for i, number := range []string{first, last} {
				if slots[i], err = strconv.Atoi(number); err != nil {
					return view, fmt.Errorf("redistest: a slot of CLUSTER NODES: %w", err)
				}
			}
			node.Slots = append(node.Slots, slots)
		}
		view.Nodes = append(view.Nodes, node)
	}
	return view, nil
}

func (v ClusterView) node(id string) (ClusterNode, bool) {
	i := slices.IndexFunc(v.Nodes, func(n ClusterNode) bool { return n.ID == id })
	if i < 0 {
		return ClusterNode{}, false
	}
	return v.Nodes[i], true
}

// owners says who owns what and who follows whom, to compare two views by.
func (v ClusterView) owners() string {
	var owners []string
	for _, node := range v.Nodes {
		owners = append(owners, fmt.Sprint(node.ID, node.Slots, node.Primary))
	}
	slices.Sort(owners)
	return strings.Join(owners, " ")
}

func (n ClusterNode) has(flag string) bool { return slices.Contains(n.flags, flag) }

func (n ClusterNode) owns(slot int) bool {
	return slices.ContainsFunc(n.Slots, func(r [2]int) bool { return r[0] <= slot && slot <= r[1] })
}
