// Package redistest starts real Redis and Valkey servers for tests, benchmarks and examples.
//
// Guarantees:
//
//   - A server listens on loopback only, on a port of its own, and keeps its files in a private temporary directory that is
//     removed at the end. Two processes that start servers at once never share a port: a server that cannot bind is started
//     again on another one, and a server is only handed out once it has named its own process id over the wire.
//   - Run and Start return when the server answers, not after a pause.
//   - Close (which Start registers as a cleanup) kills the server and waits for it. A server also dies with the process that
//     started it, even if that process is killed: on Linux through the parent death signal, elsewhere through a watching
//     shell.
//   - A missing binary is an error that names the command that installs it. Nothing is ever skipped.
//
// The binary is the one named by the environment variable NEARCACHE_REDIS_SERVER, else redis-server, else valkey-server, as
// found in PATH. NEARCACHE_REDIS_SETTINGS adds to its configuration.
//
// Every server has an administrator (user [AdminUser]) besides whatever users a test defines, so that a test may take rights
// from the default user, or switch it off, and still inspect the server with [Server.Do]. Never expose such a server.
//
// All methods may be called from several goroutines; those that stop or start the process take turns.
package redistest
