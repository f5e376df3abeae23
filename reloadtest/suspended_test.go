//go:build unix

package reloadtest

import (
	"crypto/tls"
	"io"
	"syscall"
	"testing"
	"time"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

// TestSuspendedAfterHalfClose: a client has said all that it had to say, and the process is
// suspended for longer than the relay has to finish. The relay does so meanwhile, and all of
// it arrives once the process goes on.
func TestSuspendedAfterHalfClose(t *testing.T) {
	if testing.Short() {
		t.Skip("takes longer than a tunnel lingers")
	}
	for _, engine := range []string{"on", "off"} {
		t.Run("event loops "+engine, func(t *testing.T) {
			t.Parallel()
			const size = 1 << 20 // the system takes it from the relay, and the proxy needs many turns
			ended, answer, answered := make(chan struct{}), make(chan struct{}), make(chan error, 1)
			relay := wstest.NewRelay(t, testCA.Issue("localhost", "127.0.0.1").ServerConfig(), func(c *wstest.Conn) {
				if _, err := c.AcceptHandshake(); err != nil {
					return
				}
				io.Copy(io.Discard, c.R)
				close(ended)
				<-answer
				_, err := c.Write(make([]byte, size))
				answered <- err
			})
			dir := writeCertificates(t)
			cfg := config{dir: dir, addr: reserve(t), upstream: relay.Addr}
			p := startProxy(t, dir, "a", cfg.addr, cfg.String(), "WATCHRTC_PROXY_EVENT_LOOPS="+engine)
			conn, err := tls.Dial("tcp", cfg.addr, clientTLS())
			if err != nil {
				t.Fatal(err)
			}
			client := wstest.NewConn(conn, true)
			defer client.Drop()
			if _, err := client.Handshake("/websocket?sessionId=1", "Host: localhost"); err != nil {
				t.Fatal(err)
			}
			client.CloseWrite()
			<-ended
			p.signal(syscall.SIGSTOP)
			close(answer)
			if err := <-answered; err != nil {
				t.Fatal(err)
			}
			time.Sleep(6 * time.Second)
			p.signal(syscall.SIGCONT)
			if got, err := client.ReadToEnd(); len(got) != size || err != nil {
				t.Errorf("%d bytes of %d came, then %v", len(got), size, err)
			}
		})
	}
}
