//go:build !linux

package redistest

import (
	"fmt"
	"os/exec"
	"strconv"
	"syscall"
)

// bindToParent keeps a Ctrl-C in the terminal from reaching the server before the program that started it has had its say.
func bindToParent(command *exec.Cmd) {
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
}

// watchParent starts a shell that kills pid once this process is gone: the shell waits on a pipe whose other end only this
// process holds. stop ends the watch and waits for the shell.
func watchParent(pid int) (stop func(), err error) {
	watch := exec.Command("/bin/sh", "-c", `read _; kill -9 "$0"`, strconv.Itoa(pid))
	watch.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	pipe, err := watch.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("redistest: watch of the parent process: %w", err)
	}
	if err := watch.Start(); err != nil {
		return nil, fmt.Errorf("redistest: watch of the parent process: %w", err)
	}
	return func() {
		_ = watch.Process.Kill()
		_ = watch.Wait()
		_ = pipe.Close()
	}, nil
}
