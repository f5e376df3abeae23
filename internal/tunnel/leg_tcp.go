package tunnel

import "net"

// readyTCPSource waits until the connection is readable and only then takes a
// buffer.
type readyTCPSource struct {
	conn  *net.TCPConn
	ready readiness
}

// newReadyTCPSource returns nil where this is not possible.
func newReadyTCPSource(conn *net.TCPConn) source {
	s := &readyTCPSource{conn: conn}
	if !s.ready.init(conn) {
		return nil
	}
	return s
}

func (s *readyTCPSource) receive() (*buffer, int, error) {
	if err := s.ready.wait(); err != nil {
		return nil, 0, err
	}
	return bufferedSource{s.conn}.receive()
}
