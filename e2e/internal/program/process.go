package program

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"
)

// stopGrace is how long a process may take to end before it is killed: longer
// than Caddy takes to drain at its defaults.
const stopGrace = 40 * time.Second

// ErrExited is why a wait ends when its process does.
var ErrExited = errors.New("the process has exited")

// Process is a program that takes part in a test.
type Process struct {
	Log *Log

	cmd    *exec.Cmd
	exited context.Context
}

// Start runs cmd until tb ends, in a process group of its own.
func Start(tb testing.TB, name string, cmd *exec.Cmd) *Process {
	tb.Helper()
	p := &Process{Log: NewLog(tb, name), cmd: cmd}
	cmd.Stdout, cmd.Stderr = p.Log, p.Log
	cmd.Env = append(append(os.Environ(), cmd.Env...), runVar+"="+runID)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = time.Second // a child's child may hold the pipe
	if err := cmd.Start(); err != nil {
		tb.Fatalf("starting %s: %v", name, err)
	}
	exited, cancel := context.WithCancelCause(context.Background())
	p.exited = exited
	go func() {
		err := cmd.Wait()
		p.Log.Printf("%s: ended: %v", name, cmd.ProcessState)
		cancel(fmt.Errorf("%w: %s: %v", ErrExited, name, err))
	}()
	tb.Cleanup(p.end)
	return p
}

// end makes sure that nothing of the process group is left.
func (p *Process) end() {
	p.Stop()
	_ = syscall.Kill(-p.Pid(), syscall.SIGKILL) // usually nothing is left
}

// Pid is the process's id.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Signal sends sig to the process.
func (p *Process) Signal(sig os.Signal) { _ = p.cmd.Process.Signal(sig) }

// Stop ends the process as a service manager would, and returns its exit code.
func (p *Process) Stop() int {
	p.Signal(syscall.SIGTERM)
	return p.Wait(stopGrace)
}

// Wait waits for the process to end by itself, and kills it if it takes longer
// than patience.
func (p *Process) Wait(patience time.Duration) int {
	select {
	case <-p.exited.Done():
	case <-time.After(patience):
		p.Log.Printf("killed: it did not end within %v", patience)
		p.Signal(syscall.SIGKILL)
		<-p.exited.Done()
	}
	return p.cmd.ProcessState.ExitCode()
}

// Await waits for a line of the log, or for the end of the process.
func (p *Process) Await(tb testing.TB, patience time.Duration, words ...string) string {
	tb.Helper()
	ctx, cancel := context.WithTimeout(p.exited, patience)
	defer cancel()
	line, err := p.Log.Await(ctx, words...)
	if err != nil {
		tb.Fatal(err)
	}
	return line
}

// Exited is done when the process is. Its cause says how that came.
func (p *Process) Exited() context.Context { return p.exited }
