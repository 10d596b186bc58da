package redistest

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
)

// A process is one run of a server binary. Its exit is waited for exactly once, by the goroutine that started it.
type process struct {
	command *exec.Cmd
	exited  chan struct{} // closed once the process is reaped
}

func startProcess(binary string, args []string, logFile *os.File) (*process, error) {
	p := &process{command: exec.Command(binary, args...), exited: make(chan struct{})}
	p.command.Stdout = logFile
	p.command.Stderr = logFile
	bindToParent(p.command)
	started := make(chan error)
	go func() {
		// The parent death signal of Linux follows the thread that started the child, and a thread ends with a goroutine that
		// is locked to it. So this goroutine keeps its thread until the child is gone.
		runtime.LockOSThread()
		if err := p.command.Start(); err != nil {
			started <- err
			return
		}
		stopWatch, err := watchParent(p.command.Process.Pid)
		if err != nil {
			_ = p.command.Process.Kill()
			_ = p.command.Wait()
			started <- err
			return
		}
		started <- nil
		_ = p.command.Wait() // The exit status of a killed server says nothing; the log does.
		stopWatch()
		close(p.exited)
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("redistest: start %s: %w", binary, err)
	}
	return p, nil
}

func (p *process) pid() int { return p.command.Process.Pid }

func (p *process) running() bool {
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

func (p *process) signal(s syscall.Signal) error {
	if err := p.command.Process.Signal(s); err != nil {
		return fmt.Errorf("redistest: send %v to process %d: %w", s, p.pid(), err)
	}
	return nil
}

// kill ends the process, stopped or not, and waits for it.
func (p *process) kill() {
	_ = p.command.Process.Kill() // The only error is that it has ended already.
	<-p.exited
}
