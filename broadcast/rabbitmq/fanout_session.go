package rabbitmq

import (
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/go-nearcache/nearcache/broadcast"
)

const (
	checkPeriod = 5 * time.Second // at least, between two checks of a topic's binding
	rebindDelay = time.Second     // before a binding that failed is tried again
)

// session is one connection that consumes the queue. Everything about it happens on the goroutine of run.
type session struct {
	*fanout
	conn    *connection
	channel *amqp.Channel

	pending map[string]func() // what to do when a mark comes back
	again   bool              // a binding has failed and must be tried again
}

// serve holds one session until it is lost. It calls up when messages are being delivered.
func (t *fanout) serve(up func()) error {
	conn, err := t.dial("consumes")
	if err != nil {
		return err
	}
	defer conn.close()
	s := &session{fanout: t, conn: conn, pending: make(map[string]func())}
	if err := s.claimQueue(); err != nil {
		return err
	}
	// What is bound anew is told so before anything is delivered.
	if err := s.reconcile(); err != nil {
		return err
	}
	deliveries, err := s.consume()
	if err != nil {
		return err
	}
	up()
	return s.deliver(deliveries)
}

// claimQueue makes sure that the queue is there, and that marks get into it.
func (s *session) claimQueue() error {
	if s.created {
		err := s.conn.do(func(channel *amqp.Channel) error {
			_, err := channel.QueueDeclarePassive(s.queue, true, false, false, false, nil)
			return err
		})
		switch {
		case hasCode(err, amqp.NotFound):
			clear(s.bound) // it was deleted, and what was in it is lost
			s.created = false
		case err != nil:
			return err
		}
	}
	if !s.created {
		err := s.conn.do(func(channel *amqp.Channel) error {
			_, err := channel.QueueDeclare(s.queue, true, false, false, false, s.options.queueArguments())
			return err
		})
		if hasCode(err, amqp.NotFound) {
			// It is on a node of the cluster that is away, and no other can make it anew. Another queue can be made.
			s.queue = s.newQueueName()
		}
		if err != nil {
			return fmt.Errorf("rabbitmq: declare the queue of the node: %w", rejection(err))
		}
		s.created = true
	}
	err := s.conn.do(func(channel *amqp.Channel) error {
		nodes := s.options.Prefix + nodesName
		if err := channel.ExchangeDeclare(nodes, amqp.ExchangeDirect, true, false, false, false, nil); err != nil {
			return err
		}
		return channel.QueueBind(s.queue, s.queue, nodes, false, nil)
	})
	if err != nil {
		return fmt.Errorf("rabbitmq: bind the queue of the node for marks: %w", rejection(err))
	}
	return nil
}

// consume begins the delivery. It is exclusive, so that a connection of this node that the broker has not yet noticed
// to be dead cannot take its share: until the broker notices, consume fails.
func (s *session) consume() (<-chan amqp.Delivery, error) {
	var err error
	if s.channel, err = s.conn.Channel(); err != nil {
		return nil, err
	}
	if err := s.channel.Qos(prefetch, 0, false); err != nil {
		return nil, err
	}
	const autoAck, exclusive, noLocal, noWait = false, true, false, false
	deliveries, err := s.channel.Consume(s.queue, "", autoAck, exclusive, noLocal, noWait, nil)
	if err != nil {
		return nil, fmt.Errorf("rabbitmq: consume the queue of the node: %w", err)
	}
	return deliveries, nil
}

// deliver hands over what comes until the session is lost or the transport closed.
func (s *session) deliver(deliveries <-chan amqp.Delivery) error {
	closes := s.channel.NotifyClose(make(chan *amqp.Error, 1))
	returns := s.channel.NotifyReturn(make(chan amqp.Return, 1))
	acks := newAcknowledger(s.channel)
	defer acks.timer.Stop()
	stuck := time.NewTimer(markTimeout)
	defer stuck.Stop()
	rebind := time.NewTimer(rebindDelay)
	defer rebind.Stop()
	if err := s.awaitCatchUp(); err != nil {
		return err
	}
	for {
		select {
		case d, ok := <-deliveries:
			if !ok {
				return s.ended(closes)
			}
			stuck.Reset(markTimeout)
			s.take(d)
			acks.add(d)
		case <-acks.timer.C:
			acks.flush()
		case <-s.changed:
			if err := s.reconcile(); err != nil {
				return err
			}
		case <-rebind.C:
			if s.again {
				s.again = false
				s.wake()
			}
			rebind.Reset(rebindDelay)
		case <-returns: // a mark that is in no queue
			return errNoMark
		case <-stuck.C:
			if len(s.pending) > 0 {
				return errNoMark
			}
			stuck.Reset(markTimeout)
		case <-s.ctx.Done():
			_, _ = s.channel.QueueDelete(s.queue, false, false, false) // if that fails it expires
			return broadcast.ErrClosed
		}
	}
}

// ended says why the deliveries have ended.
func (s *session) ended(closes <-chan *amqp.Error) error {
	if !s.channel.IsClosed() {
		// It was the broker's will. What the queue has lost meanwhile nobody knows.
		clear(s.bound)
		return errCancelled
	}
	return lossOf(closes)
}

// take hands over one delivery.
func (s *session) take(d amqp.Delivery) {
	if d.Type == markType {
		if action := s.pending[d.MessageId]; action != nil {
			delete(s.pending, d.MessageId)
			action()
		}
		return
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	l := s.listeners[d.Exchange]
	if l == nil {
		return
	}
	if number, own := s.publisher.ownNumber(d.MessageId); own {
		l.cameBack(number)
	}
	l.receiver.Frame(d.Body)
}

// mark sends this node a message by way of its queue: when it comes back, everything has been delivered that was in the queue
// when it was sent.
func (s *session) mark(action func()) error {
	id := rand.Text() // unlike those of earlier sessions, which may still be in the queue
	s.pending[id] = action
	message := amqp.Publishing{Type: markType, MessageId: id, DeliveryMode: amqp.Transient}
	const mandatory, immediate = true, false
	_, err := s.channel.PublishWithDeferredConfirm(s.options.Prefix+nodesName, s.queue, mandatory, immediate, message)
	return err
}

// awaitCatchUp lets the listeners that were cut off know when all that has been stored for them is delivered.
func (s *session) awaitCatchUp() error {
	s.mu.RLock()
	down := false
	for _, l := range s.listeners {
		down = down || l.down
	}
	s.mu.RUnlock()
	if !down {
		return nil
	}
	return s.mark(func() {
		s.mu.RLock()
		defer s.mu.RUnlock()
		for exchange, l := range s.listeners {
			if l.down && s.bound[exchange] {
				l.down = false
				l.receiver.Gap(broadcast.Gap{Reason: broadcast.Resumed})
			}
		}
	})
}

// reconcile binds the queue to what is listened on, unbinds it from the rest, and checks what there is to check.
func (s *session) reconcile() error {
	s.mu.RLock()
	wanted := make([]*fanoutListener, 0, len(s.listeners))
	for _, l := range s.listeners {
		wanted = append(wanted, l)
	}
	var unwanted []string
	for exchange := range s.bound {
		if s.listeners[exchange] == nil {
			unwanted = append(unwanted, exchange)
		}
	}
	s.mu.RUnlock()

	for _, exchange := range unwanted {
		delete(s.bound, exchange)
		err := s.conn.do(func(channel *amqp.Channel) error { return channel.QueueUnbind(s.queue, "", exchange, nil) })
		if err != nil && s.conn.IsClosed() {
			return err
		}
	}
	for _, l := range wanted {
		if l.takeLost() {
			delete(s.bound, l.exchange)
		}
		if !s.bound[l.exchange] {
			switch err := s.bind(l.exchange); {
			case err == nil:
				s.rebound(l)
			case s.conn.IsClosed():
				return err
			case errors.Is(err, broadcast.ErrRejected) && !l.confirmed:
				l.fail(err)
			default:
				s.again = true
			}
		}
		if s.bound[l.exchange] && !l.confirmed {
			l.confirmed = true
			close(l.live)
		}
		if number, ok := l.overdue(); ok && s.channel != nil {
			if err := s.mark(func() { l.verify(number) }); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *session) bind(exchange string) error {
	err := s.conn.do(func(channel *amqp.Channel) error {
		if err := channel.ExchangeDeclare(exchange, amqp.ExchangeFanout, true, false, false, false, nil); err != nil {
			return err
		}
		return channel.QueueBind(s.queue, "", exchange, false, nil)
	})
	if err != nil {
		return fmt.Errorf("rabbitmq: bind the queue of the node to %s: %w", exchange, rejection(err))
	}
	return nil
}

// rebound notes that the queue is bound to a listener's exchange: for the first time, or after what came meanwhile was lost.
func (s *session) rebound(l *fanoutListener) {
	s.bound[l.exchange] = true
	l.cameBack(s.publisher.number.Load())
	if !l.confirmed {
		return
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.listeners[l.exchange] == l {
		l.down = false
		l.receiver.Gap(broadcast.Gap{Reason: broadcast.Trimmed})
	}
}

func hasCode(err error, code int) bool {
	answer, ok := errors.AsType[*amqp.Error](err)
	return ok && answer.Server && answer.Code == code
}
