// Package rabbittest starts a real RabbitMQ broker for tests: one node on free loopback ports, with its own home, name, port
// mapper and directories, beside whatever else runs on the machine.
//
// The broker's Erlang shell is fed from a pipe that only this process holds. That is how a test stops and starts the
// broker, closes its connections and looks into it without waiting seconds for rabbitmqctl to boot; and it is why the
// broker ends with the test, however that ends: when the pipe closes, the shell ends and takes the broker with it.
package rabbittest
