package redistest

import (
	"os/exec"
	"syscall"
)

// bindToParent makes the kernel kill the command when the thread that starts it ends; process keeps that thread for as long as
// the command runs. The own process group keeps a Ctrl-C in the terminal from reaching the server before the program that
// started it has had its say.
func bindToParent(command *exec.Cmd) {
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
}

// watchParent has nothing to do where the kernel does it.
func watchParent(int) (stop func(), err error) { return func() {}, nil }
