//go:build kafkabroker

// With this build tag the tests run on a real Apache Kafka, started from the jars in the directory that
// NEARCACHE_KAFKA_JARS names: see scripts/test-kafka.

package kafka_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

const jarsVariable = "NEARCACHE_KAFKA_JARS"

// startCluster returns the broker, which all tests share: starting one takes seconds. Topics are never used twice.
func startCluster(t testing.TB) cluster {
	t.Helper()
	startOnce.Do(func() {
		shared = &realBroker{jars: os.Getenv(jarsVariable)}
		cleanup = shared.close
		shared.prepare(t)
		shared.Start(t)
	})
	if !shared.ready {
		t.Fatal("the broker did not start")
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the broker's last words:\n%s", shared.lastWords())
		}
	})
	return shared
}

var (
	startOnce sync.Once
	shared    *realBroker
)

// realBroker is one node in KRaft mode: broker and controller.
type realBroker struct {
	jars    string
	dir     string
	port    int
	command *exec.Cmd
	input   io.Closer
	ready   bool
}

func (b *realBroker) Addr() string { return fmt.Sprintf("127.0.0.1:%d", b.port) }

func (b *realBroker) java(arguments ...string) []string {
	return append([]string{
		"java", "-Xmx512m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp", filepath.Join(b.jars, "*"),
	}, arguments...)
}

// prepare chooses ports, and formats the storage.
func (b *realBroker) prepare(t testing.TB) {
	t.Helper()
	if b.jars == "" {
		t.Fatalf("%s is not set: run scripts/test-kafka, which fetches Kafka and runs these tests", jarsVariable)
	}
	var err error
	if b.dir, err = os.MkdirTemp("", "kafkatest-"); err != nil {
		t.Fatal(err)
	}
	var ports [2]int
	for i := range ports {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close()
		ports[i] = listener.Addr().(*net.TCPAddr).Port
	}
	b.port = ports[0]
	settings := []string{
		"process.roles=broker,controller",
		"node.id=1",
		fmt.Sprintf("controller.quorum.voters=1@127.0.0.1:%d", ports[1]),
		fmt.Sprintf("listeners=PLAINTEXT://127.0.0.1:%d,CONTROLLER://127.0.0.1:%d", ports[0], ports[1]),
		fmt.Sprintf("advertised.listeners=PLAINTEXT://127.0.0.1:%d", ports[0]),
		"controller.listener.names=CONTROLLER",
		"log.dirs=" + filepath.Join(b.dir, "data"),
		"offsets.topic.replication.factor=1",
		"offsets.topic.num.partitions=1",
		"transaction.state.log.replication.factor=1",
		"transaction.state.log.min.isr=1",
		"transaction.state.log.num.partitions=1",
		"group.initial.rebalance.delay.ms=0",
		"auto.create.topics.enable=false",
		"broker.session.timeout.ms=2000", // how long the controller remembers a broker that was killed
		"broker.heartbeat.interval.ms=500",
	}
	if err := os.WriteFile(b.config(), []byte(strings.Join(settings, "\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	format := b.java("kafka.tools.StorageTool", "format", "-t", "nearcacheTestClusterAA", "-c", b.config())
	if output, err := exec.Command(format[0], format[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("format: %v\n%s", err, output)
	}
}

func (b *realBroker) config() string { return filepath.Join(b.dir, "server.properties") }

// Start runs the broker and waits until it makes topics. It ends when its input does, at the latest when this process
// ends: Java does not heed its input, so a shell waits for the end of it.
func (b *realBroker) Start(t testing.TB) {
	t.Helper()
	output, err := os.OpenFile(filepath.Join(b.dir, "output"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer output.Close()
	b.command = exec.Command("/bin/sh", append([]string{"-c", `"$@" & read _; kill -9 $!`, "sh"}, b.java("kafka.Kafka", b.config())...)...)
	b.command.Stdout, b.command.Stderr = output, output
	b.command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if b.input, err = b.command.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := b.command.Start(); err != nil {
		t.Fatal(err)
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(b.Addr()))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		request := kmsg.NewPtrCreateTopicsRequest()
		request.TimeoutMillis = 1000
		topic := kmsg.NewCreateTopicsRequestTopic()
		topic.Topic, topic.NumPartitions, topic.ReplicationFactor = "ready", 1, 1
		request.Topics = append(request.Topics, topic)
		response, err := request.RequestWith(ctx, client)
		if err == nil && (response.Topics[0].ErrorCode == 0 || response.Topics[0].ErrorCode == 36) { // it exists
			b.ready = true
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("the broker is not ready: %v\n%s", err, b.lastWords())
		}
	}
}

func (b *realBroker) lastWords() []byte {
	words, _ := os.ReadFile(filepath.Join(b.dir, "output"))
	return words[max(0, len(words)-8<<10):]
}

// Stop kills the broker.
func (b *realBroker) Stop(testing.TB) { b.kill() }

func (b *realBroker) kill() {
	if b.command != nil {
		_ = syscall.Kill(-b.command.Process.Pid, syscall.SIGKILL)
		_ = b.command.Wait()
		_ = b.input.Close()
		b.command = nil
	}
}

func (b *realBroker) close() {
	b.kill()
	_ = os.RemoveAll(b.dir)
}
