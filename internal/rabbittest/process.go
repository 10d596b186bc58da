package rabbittest

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
)

// process is a child that ends when its standard input does, at the latest when this process ends.
type process struct {
	command *exec.Cmd
	input   io.WriteCloser
	exited  chan struct{} // closed once the process is reaped

	mu sync.Mutex // held while a line is written
}

// startProcess starts a command with a pipe as its input. Its output goes to a file rather than through this process, so that
// nothing has to be read.
func startProcess(output *os.File, environment []string, name string, arguments ...string) (*process, error) {
	p := &process{command: exec.Command(name, arguments...), exited: make(chan struct{})}
	p.command.Env = environment
	p.command.Stdout, p.command.Stderr = output, output
	// A Ctrl-C in the terminal must not reach it before the test has had its say.
	p.command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var err error
	if p.input, err = p.command.StdinPipe(); err != nil {
		return nil, fmt.Errorf("rabbittest: start %s: %w", name, err)
	}
	if err := p.command.Start(); err != nil {
		return nil, fmt.Errorf("rabbittest: start %s: %w", name, err)
	}
	go func() {
		defer close(p.exited)
		_ = p.command.Wait() // the exit status of a killed process says nothing; the log does
	}()
	return p, nil
}

func (p *process) running() bool {
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

// write sends a line to the process.
func (p *process) write(line string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, err := io.WriteString(p.input, line+"\n")
	return err
}

// kill ends the process group and waits for the process.
func (p *process) kill() {
	_ = syscall.Kill(-p.command.Process.Pid, syscall.SIGKILL) // the only error is that it has ended already
	<-p.exited
	_ = p.input.Close()
}
