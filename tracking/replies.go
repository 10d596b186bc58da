package tracking

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
)

// The replies of the server, as rueidis decodes them: string, int64, float64, bool, error, []any, map[string]any, nil.

// helloReply is what HELLO says of the server and the connection.
type helloReply struct {
	product    string // "redis", "valkey"
	version    string
	protocol   int64
	connection int64 // the id in CLIENT LIST
	mode       string
}

// modeCluster is how HELLO names the mode of a node of a cluster.
const modeCluster = "cluster"

func parseHello(reply any) (helloReply, error) {
	fields, err := asMap(reply)
	if err != nil {
		return helloReply{}, fmt.Errorf("reply of HELLO: %w", err)
	}
	var hello helloReply
	hello.product, _ = fields["server"].(string)
	hello.version, _ = fields["version"].(string)
	hello.connection, _ = fields["id"].(int64)
	hello.mode, _ = fields["mode"].(string)
	var ok bool
	if hello.protocol, ok = fields["proto"].(int64); !ok {
		return helloReply{}, fmt.Errorf("reply of HELLO: no protocol version in %s", brief(reply))
	}
	return hello, nil
}

// How ROLE and INFO name the roles.
const (
	primaryRole = "master"
	replicaRole = "slave"
)

// parseRole returns the first element of the reply of ROLE: "master", "slave" or "sentinel".
func parseRole(reply any) (string, error) {
	if fields, ok := reply.([]any); ok && len(fields) > 0 {
		if role, ok := fields[0].(string); ok {
			return role, nil
		}
	}
	return "", fmt.Errorf("reply of ROLE is not a role: %s", brief(reply))
}

// parseReplication reads the reply of INFO replication.
func parseReplication(reply any) (role string, position Position, err error) {
	text, ok := reply.(string)
	if !ok {
		return "", Position{}, fmt.Errorf("reply of INFO is not a text: %s", brief(reply))
	}
	fields := make(map[string]string)
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimRight(line, "\r\n"), ":")
		fields[name] = value
	}
	role, position.History = fields["role"], fields["master_replid"]
	offset := "master_repl_offset"
	if role == replicaRole {
		offset = "slave_repl_offset" // what it has applied
		position.Source = net.JoinHostPort(fields["master_host"], fields["master_port"])
	}
	position.Offset, err = strconv.ParseInt(fields[offset], 10, 64)
	if role == replicaRole && fields["master_link_status"] != "up" {
		position.Offset = -1 // as ROLE has it
	}
	if role == "" || position.History == "" || err != nil {
		return "", Position{}, fmt.Errorf("reply of INFO does not say the role, master_replid or %s: %s", offset, brief(reply))
	}
	return role, position, nil
}

// checkTracking returns an error if the server's own view of the link (CLIENT TRACKINGINFO) is not a broadcast of exactly these
// prefixes.
func checkTracking(reply any, prefixes []string) error {
	fields, err := asMap(reply)
	if err != nil {
		return fmt.Errorf("reply of CLIENT TRACKINGINFO: %w", err)
	}
	if flags := asStrings(fields["flags"]); !slices.Contains(flags, "bcast") {
		return fmt.Errorf("the server does not broadcast to this connection: its flags are %s", brief(flags))
	}
	got, want := asStrings(fields["prefixes"]), slices.Clone(prefixes)
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		return fmt.Errorf("the server follows %d prefixes where %d were asked for, or others", len(got), len(want))
	}
	return nil
}

// asMap accepts a map, and the flat array that stands for one in RESP2.
func asMap(reply any) (map[string]any, error) {
	switch reply := reply.(type) {
	case map[string]any:
		return reply, nil
	case []any:
		if len(reply)%2 == 1 {
			return nil, fmt.Errorf("an array of %d elements is not a map", len(reply))
		}
		fields := make(map[string]any, len(reply)/2)
		for i := 0; i < len(reply); i += 2 {
			name, ok := reply[i].(string)
			if !ok {
				return nil, fmt.Errorf("a map has a name that is no string: %s", brief(reply[i]))
			}
			fields[name] = reply[i+1]
		}
		return fields, nil
	}
	return nil, fmt.Errorf("not a map: %s", brief(reply))
}

// asStrings returns the strings in an array, without whatever else is in it.
func asStrings(reply any) []string {
	elements, _ := reply.([]any)
	texts := make([]string, 0, len(elements))
	for _, element := range elements {
		if text, ok := element.(string); ok {
			texts = append(texts, text)
		}
	}
	return texts
}

// brief returns the beginning of a reply for an error.
func brief(reply any) string { return fmt.Sprintf("%.100q", fmt.Sprint(reply)) }
