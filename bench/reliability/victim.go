package main

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// victim is an endpoint in a process of its own, which will be killed.
type victim struct {
	cmd *exec.Cmd
	out io.ReadCloser
}

// startVictim hands a connection to a new process, and returns once the tunnel
// is open.
func startVictim(tcp *net.TCPConn, role role) (*victim, error) {
	defer tcp.Close()
	file, err := tcp.File()
	if err != nil {
		return nil, err
	}
	defer file.Close()
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	arg, err := json.Marshal(role)
	if err != nil {
		return nil, err
	}
	v := &victim{cmd: exec.Command(self, "endpoint", string(arg))}
	v.cmd.ExtraFiles = []*os.File{file}
	v.cmd.Stderr = os.Stderr
	v.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if v.out, err = v.cmd.StdoutPipe(); err != nil {
		return nil, err
	}
	if err := v.cmd.Start(); err != nil {
		return nil, err
	}
	timer := time.AfterFunc(patience, func() { _ = v.cmd.Process.Kill() })
	defer timer.Stop()
	if _, err := readAccepted(v.out); err != nil {
		return nil, errors.Join(fmt.Errorf("a process to be killed did not start: %w", err), v.cmd.Process.Kill(), v.cmd.Wait())
	}
	return v, nil
}

// kill kills it and returns how much of its payload was accepted, as far as it
// could tell.
func (v *victim) kill() (accepted int64) {
	_ = v.cmd.Process.Kill()
	for {
		n, err := readAccepted(v.out)
		if err != nil {
			break
		}
		accepted = n
	}
	_ = v.cmd.Wait()
	return accepted
}

func readAccepted(r io.Reader) (int64, error) {
	var b [8]byte
	_, err := io.ReadFull(r, b[:])
	return int64(binary.BigEndian.Uint64(b[:])), err
}

// runVictim is what the process does: it sends until it is killed, and tells
// after each message how much has been accepted.
func runVictim(arg string) error {
	var role role
	if err := json.Unmarshal([]byte(arg), &role); err != nil {
		return err
	}
	conn, err := net.FileConn(os.NewFile(3, "tunnel"))
	if err != nil {
		return err
	}
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return fmt.Errorf("%T is no TCP connection", conn)
	}
	e, err := establish(tcp, role)
	if err != nil {
		return err
	}
	if role.Reads {
		go e.receive(func() {})
	}
	for size := 1000; ; size = size*7%16000 + 1 {
		accepted, err := e.ledger.accepted()
		if err != nil {
			return err
		}
		if _, err := os.Stdout.Write(binary.BigEndian.AppendUint64(nil, uint64(accepted))); err != nil {
			return err
		}
		if err := e.send(size); err != nil {
			time.Sleep(patience) // The proxy has ended the tunnel. This end is still to be killed.
			return nil
		}
	}
}
