package nearcache

import (
	"context"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/redis/rueidis"
)

// breaking is a rueidis.Client whose connection breaks after the first reply, once.
type breaking struct {
	rueidis.Client
	sent []string
}

func (b *breaking) DoMulti(_ context.Context, commands ...rueidis.Completed) []rueidis.RedisResult {
	results := make([]rueidis.RedisResult, len(commands))
	whole := len(b.sent) > 0
	for i, command := range commands {
		b.sent = append(b.sent, strings.Join(command.Commands(), " "))
		if results[i] = rueidis.NewResult(nothing, nil); i > 0 && !whole {
			results[i] = rueidis.NewErrorResult(io.ErrUnexpectedEOF)
		}
	}
	return results
}

// Of reads that lose their connection, those that were answered are not sent again: rueidis has given their memory to other commands.
func TestRueidisSendsAgainWhatWasNotAnswered(t *testing.T) {
	var builder rueidis.Builder
	redis := &breaking{}
	results := writeThrough{Client: redis}.DoMulti(t.Context(),
		builder.Arbitrary("GET", "a").ReadOnly(), builder.Arbitrary("GET", "b").ReadOnly(), builder.Arbitrary("GET", "c").ReadOnly())
	for i, result := range results {
		if !rueidis.IsRedisNil(result.Error()) {
			t.Errorf("reply %d: %v", i, result.Error())
		}
	}
	if want := []string{"GET a", "GET b", "GET c", "GET b", "GET c"}; !slices.Equal(redis.sent, want) {
		t.Errorf("sent %q, want %q", redis.sent, want)
	}
}
