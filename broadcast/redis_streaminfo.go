package broadcast

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"

	"github.com/redis/rueidis"
)

// firstID is the position before every entry.
const firstID = "0-0"

// streamInfo is what XINFO STREAM tells.
type streamInfo struct {
	lastID  string // of the last entry ever added
	firstID string // of the first entry that is there
	length  uint64
	added   uint64 // entries ever added
	counted bool   // added is known: Redis 7 and later
	missing bool   // there is no such stream
}

// noStream is the info of a stream that does not exist.
var noStream = streamInfo{lastID: firstID, firstID: firstID, counted: true, missing: true}

// beginsAfter guesses, without counts, whether entries after position have gone: it is so if the first that is there comes
// later, unless that happens to be the very next. Better to report a loss too many.
func (i streamInfo) beginsAfter(position string) bool {
	if i.length == 0 {
		return compareIDs(i.lastID, position) > 0
	}
	return position != firstID && compareIDs(i.firstID, position) > 0
}

func parseStreamInfo(result rueidis.RedisResult) (streamInfo, error) {
	message, err := result.ToMessage()
	if err != nil {
		if isNoKey(err) {
			return noStream, nil
		}
		return streamInfo{}, err
	}
	return infoOf(message)
}

func isNoKey(err error) bool {
	answer, ok := rueidis.IsRedisErr(err)
	return ok && strings.Contains(answer.Error(), "no such key")
}

func infoOf(message rueidis.RedisMessage) (streamInfo, error) {
	info := streamInfo{lastID: firstID, firstID: firstID}
	if err := message.Error(); err != nil {
		if isNoKey(err) {
			return noStream, nil
		}
		return info, redisError(err)
	}
	fields, err := message.AsMap()
	if err != nil {
		return info, fmt.Errorf("broadcast: XINFO STREAM: %w", err)
	}
	number := func(name string) uint64 {
		field := fields[name]
		n, parseErr := field.AsUint64()
		if parseErr != nil && err == nil {
			err = fmt.Errorf("broadcast: XINFO STREAM: %s: %w", name, parseErr)
		}
		return n
	}
	info.length = number("length")
	if _, info.counted = fields["entries-added"]; info.counted {
		info.added = number("entries-added")
	}
	last := fields["last-generated-id"]
	if info.lastID, err = last.ToString(); err != nil {
		return info, fmt.Errorf("broadcast: XINFO STREAM: last-generated-id: %w", err)
	}
	if first, ok := fields["first-entry"]; ok && first.IsArray() {
		entry, err := first.AsXRangeSlice()
		if err != nil {
			return info, fmt.Errorf("broadcast: XINFO STREAM: first-entry: %w", err)
		}
		info.firstID = entry.ID
	}
	return info, nil
}

// compareIDs orders stream IDs, which are two numbers.
func compareIDs(a, b string) int {
	aTime, aCount := splitID(a)
	bTime, bCount := splitID(b)
	return cmp.Or(cmp.Compare(aTime, bTime), cmp.Compare(aCount, bCount))
}

func splitID(id string) (time, count uint64) {
	left, right, _ := strings.Cut(id, "-")
	time, _ = strconv.ParseUint(left, 10, 64)
	count, _ = strconv.ParseUint(right, 10, 64)
	return time, count
}
