package broadcast

import (
	"context"
	"fmt"
	"maps"
	"strconv"
	"sync"
	"sync/atomic"
)

const (
	requestHeader = "nearcache-request"  // the request's number: "origin/epoch/number"
	replyToHeader = "nearcache-reply-to" // the topic for replies
	replyPrefix   = "nearcache-replies/" // and how its name begins
)

// Replies are what came back of a [Bus.Request].
type Replies struct {
	// Messages are the replies in the order they came, at most one of each node.
	Messages []Message
	// Missing are the nodes that are known to listen ([Bus.Presence]) and had not replied when the context ended.
	Missing []string
}

// Request publishes a message and gathers a reply from every node, this one included if its subscription has [ReceiveOwn].
// It returns when every node that is known to listen on the topic has replied, or when ctx ends: with what has come by
// then, which is no error. ctx must end at some time. Nodes are known only if this bus is subscribed to the topic itself;
// otherwise Request waits for the end of ctx. Replies to all requests on a topic reach all nodes that make requests on it.
//
// Errors: those of [Bus.Publish] and [Bus.Subscribe].
func (b *Bus) Request(ctx context.Context, m Message) (Replies, error) {
	if ctx.Done() == nil {
		return Replies{}, fmt.Errorf("broadcast: Request needs a context that ends, to know how long to wait for replies")
	}
	topic := replyPrefix + m.Topic
	if err := b.requests.listen(ctx, b, topic); err != nil {
		return Replies{}, err
	}
	g := &gathering{replied: make(map[string]bool), news: make(chan struct{}, 1)}
	id := m.requestID(b)
	b.requests.open.Store(id, g)
	defer b.requests.open.Delete(id)

	headers := make(map[string]string, len(m.Headers)+2)
	maps.Copy(headers, m.Headers)
	headers[requestHeader], headers[replyToHeader] = id, topic
	m.Headers = headers
	expected := b.expected(m.Topic)
	if err := b.Publish(ctx, m); err != nil {
		return Replies{}, err
	}
	for {
		if replies := g.result(expected); len(expected) > 0 && len(replies.Missing) == 0 {
			return replies, nil
		}
		select {
		case <-g.news:
		case <-ctx.Done():
			return g.result(expected), nil
		}
	}
}

// Reply answers a message that was sent with [Bus.Request]; a handler calls it. On any other message it does nothing.
func (b *Bus) Reply(ctx context.Context, request Message, reply Message) error {
	id, topic := request.Headers[requestHeader], request.Headers[replyToHeader]
	if id == "" || topic != replyPrefix+request.Topic {
		return nil
	}
	headers := make(map[string]string, len(reply.Headers)+1)
	maps.Copy(headers, reply.Headers)
	headers[requestHeader] = id
	reply.Headers, reply.Topic = headers, topic
	return b.Publish(ctx, reply)
}

func (m *Message) requestID(b *Bus) string {
	number := b.requests.last.Add(1)
	return b.options.Origin + "/" + strconv.FormatUint(b.epoch, 36) + "/" + strconv.FormatUint(number, 36)
}

// expected are the origins whose replies end a gathering early.
func (b *Bus) expected(topic string) []string {
	value, ok := b.receivers.Load(topic)
	if !ok {
		return nil
	}
	r := value.(*receiver)
	r.mu.Lock()
	own := r.receiveOwn > 0
	r.mu.Unlock()
	var origins []string
	for _, p := range r.presence() {
		if own || p.Origin != b.options.Origin {
			origins = append(origins, p.Origin)
		}
	}
	return origins
}

// requests are the gatherings under way, and the topics on which replies are heard.
type requests struct {
	last atomic.Uint64
	open sync.Map // request's number → *gathering

	mu     sync.Mutex
	topics map[string]bool
}

// listen subscribes to a topic of replies; the subscription lasts until the bus is closed.
func (q *requests) listen(ctx context.Context, b *Bus, topic string) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.topics[topic] {
		return nil
	}
	_, err := b.Subscribe(ctx, topic, Handler{Message: func(_ context.Context, m Message) error {
		if g, ok := q.open.Load(m.Headers[requestHeader]); ok {
			g.(*gathering).add(m)
		}
		return nil
	}}, ReceiveOwn())
	if err != nil {
		return err
	}
	if q.topics == nil {
		q.topics = make(map[string]bool)
	}
	q.topics[topic] = true
	return nil
}

// gathering is one request's replies.
type gathering struct {
	news chan struct{}

	mu      sync.Mutex
	replied map[string]bool
	replies []Message
}

func (g *gathering) add(m Message) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.replied[m.Origin] {
		return
	}
	g.replied[m.Origin] = true
	g.replies = append(g.replies, m)
	select {
	case g.news <- struct{}{}:
	default:
	}
}

func (g *gathering) result(expected []string) Replies {
	g.mu.Lock()
	defer g.mu.Unlock()
	result := Replies{Messages: append([]Message(nil), g.replies...)}
	for _, origin := range expected {
		if !g.replied[origin] {
			result.Missing = append(result.Missing, origin)
		}
	}
	return result
}
