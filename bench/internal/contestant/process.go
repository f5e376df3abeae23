package contestant

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// Process is a running contestant or relay, with the processes it started.
type Process struct {
	Addr  string // where it accepts connections
	Admin string // of a Caddy: its admin endpoint

	name   string
	cmd    *exec.Cmd
	log    string
	exited chan struct{}
	err    error // how it exited; valid once exited is closed
}

func start(ctx context.Context, dir, name, addr string, env, command []string) (*Process, error) {
	p := &Process{Addr: addr, name: name, log: filepath.Join(dir, name+".log"), exited: make(chan struct{})}
	log, err := os.Create(p.log)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	p.cmd = exec.Command(command[0], command[1:]...)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	// Nothing in the caller's environment, such as GOGC, changes a contestant.
	p.cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir}, env...)
	// A process group of its own, so that ^C reaches this program alone, which then
	// stops it. If this program is killed, so is the contestant.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.exited)
	}()
	if err := p.awaitListening(ctx); err != nil {
		p.Stop()
		return nil, err
	}
	return p, nil
}

func (p *Process) awaitListening(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	for {
		conn, err := net.Dial("tcp", p.Addr)
		if err == nil {
			return conn.Close()
		}
		select {
		case <-p.exited:
			return p.Explain(fmt.Errorf("%s exited: %v", p.name, p.err))
		case <-ctx.Done():
			return p.Explain(fmt.Errorf("%s does not listen: %w", p.name, ctx.Err()))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// PID is the process's own number.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Explain adds to err what the process wrote to its log.
func (p *Process) Explain(err error) error {
	b, _ := os.ReadFile(p.log)
	return fmt.Errorf("%w\n%s", err, b[max(0, len(b)-2000):])
}

// Stop ends the process, and after a while kills what is left of its group.
func (p *Process) Stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.exited:
	case <-time.After(5 * time.Second):
	}
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
	<-p.exited
}
