package tunnel

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// crypto/tls cannot ask for another handshake as a server; OpenSSL can.
func TestRelayRenegotiates(t *testing.T) {
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("needs openssl")
	}
	relay, say, said := startRenegotiator(t, openssl)
	clientLeg, client := tcpPair(t)
	r := newFixture(t, 0)
	tunnel := r.lease.Open(Info{}, ConnLeg(clientLeg, nil, false), ConnLeg(relay, nil, false), 0)
	for _, word := range []string{"before\n", "after\n", "at last\n"} {
		io.WriteString(say, word)
		got := make([]byte, len(word))
		client.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err := io.ReadFull(client, got); err != nil || string(got) != word {
			t.Fatalf("%q, %v; want %q", got, err, word)
		}
		io.WriteString(say, "R\n") // another handshake
		for said.Scan() && !strings.HasPrefix(said.Text(), "SSL_do_handshake") {
		}
	}
	client.Close()
	tunnel.Wait()
}

// TestRelayRenegotiatesBehindData has data and the request for another handshake come at
// once. The leg is as the plugin makes it: nobody sets deadlines for its reads.
func TestRelayRenegotiatesBehindData(t *testing.T) {
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("needs openssl")
	}
	first, say, said := startRenegotiator(t, openssl)
	go func() {
		for said.Scan() { // or it would be held up
		}
	}()
	addr := collect(t, first.RemoteAddr().String())
	first.Close()
	relay, err := tls.Dial("tcp", addr, &tls.Config{
		MaxVersion: tls.VersionTLS12, InsecureSkipVerify: true, Renegotiation: tls.RenegotiateFreelyAsClient,
	})
	if err != nil {
		t.Fatal(err)
	}
	clientLeg, client := tcpPair(t)
	r := newFixture(t, 0)
	tunnel := r.lease.Open(Info{}, ConnLeg(clientLeg, nil, false), ConnLeg(relay, nil, true), 0)
	for _, size := range []int{wakeSize / 2, wakeSize, 2 * wakeSize, 3000, 1} {
		word := strings.Repeat("x", size) + "\n"
		io.WriteString(say, word)
		time.Sleep(collectFor / 4) // for OpenSSL, which takes a command that comes alone
		io.WriteString(say, "R\n")
		got := make([]byte, len(word))
		client.SetReadDeadline(time.Now().Add(10 * time.Second))
		if n, err := io.ReadFull(client, got); err != nil || string(got) != word {
			t.Fatalf("%d of %d bytes, %v", n, len(word), err)
		}
		time.Sleep(5 * collectFor) // for the rest of the handshake
	}
	client.Close()
	tunnel.Wait()
}

// collectFor is how long collect holds back what it has.
const collectFor = 60 * time.Millisecond

// collect returns an address that leads to a server, whose bytes it hands on as few pieces
// of what has come within collectFor.
func collect(t *testing.T, server string) (addr string) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		client, err := listener.Accept()
		if err != nil {
			return
		}
		defer client.Close()
		conn, err := net.Dial("tcp", server)
		if err != nil {
			return
		}
		defer conn.Close()
		go io.Copy(conn, client)
		buf := make([]byte, 64<<10)
		for {
			if _, err := conn.Read(buf[:1]); err != nil {
				return
			}
			time.Sleep(collectFor)
			conn.SetReadDeadline(time.Now().Add(time.Millisecond))
			n, _ := conn.Read(buf[1:])
			conn.SetReadDeadline(time.Time{})
			client.Write(buf[:1+n])
		}
	}()
	return listener.Addr().String()
}

// startRenegotiator starts a TLS 1.2 server and connects to it. It sends what is
// written to say, and tells what it does in said.
func startRenegotiator(t *testing.T, openssl string) (conn *tls.Conn, say io.Writer, said *bufio.Scanner) {
	files, err := serverLeaf.WriteFiles(t.TempDir(), "server")
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := listener.Addr().(*net.TCPAddr).Port
	listener.Close()
	server := exec.Command(openssl, "s_server", "-accept", fmt.Sprint(port), "-cert", files.Both, "-key", files.Both, "-tls1_2")
	stdin, err := server.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := server.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		server.Process.Kill()
		server.Wait()
	})
	config := &tls.Config{
		MaxVersion: tls.VersionTLS12, InsecureSkipVerify: true, Renegotiation: tls.RenegotiateFreelyAsClient,
	}
	for until := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		conn, err := tls.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port), config)
		if err == nil {
			return conn, stdin, bufio.NewScanner(stdout)
		}
		if time.Now().After(until) {
			t.Fatal(err)
		}
	}
}
