package tunnel

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"time"
)

// testTLS tries, with a connection in memory, whether crypto/tls works as leg_tls.go
// expects. Names and types of its fields may stay while their meaning changes; then
// lent buffers could carry one client's bytes to another.
func testTLS() (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v", r)
		}
	}()
	if !layout.ok {
		return errors.New("a field is missing or has another type")
	}
	server, sender, err := connectInMemory()
	if err != nil {
		return err
	}
	t := &tlsTest{server: server, sender: sender, wire: new(memoryWire)}
	*netConnOf(server) = t.wire
	for _, step := range []struct {
		what string
		try  func() error
	}{
		{"letting go of the configuration", t.tryConfig},
		{"reading from a lent buffer", t.tryWhole},
		{"reading records one after another", t.tryTogether},
		{"reading a record in two parts", t.tryParts},
		{"reading after a KeyUpdate", t.tryKeyUpdate},
	} {
		if err := step.try(); err != nil {
			return fmt.Errorf("%s: %w", step.what, err)
		}
	}
	return nil
}

type tlsTest struct {
	server *tls.Conn
	sender *recordSender
	wire   *memoryWire
	record record
	n      byte // tells messages apart
}

// message returns n bytes unlike those of other messages.
func (t *tlsTest) message(n int) []byte {
	t.n++
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(i>>8) ^ byte(i) + t.n
	}
	return p
}

func (t *tlsTest) tryConfig() error {
	if configOf(t.server) == nil || (*configOf(t.server)).MinVersion != tls.VersionTLS13 {
		return errors.New("it is not where it should be")
	}
	trimHandshake(t.server)
	*configOf(t.server) = bareConfig
	return nil
}

func (t *tlsTest) tryWhole() error {
	want := t.message(bufferSize)
	t.wire.in.Write(t.sender.record(recordApplicationData, want))
	return t.expect(want, nil)
}

func (t *tlsTest) tryTogether() error {
	first, second := t.message(100), t.message(3000)
	t.wire.in.Write(t.sender.record(recordApplicationData, first))
	t.wire.in.Write(t.sender.record(recordApplicationData, second))
	return t.expect(append(first, second...), nil)
}

func (t *tlsTest) tryParts() error {
	want := t.message(5000)
	record := t.sender.record(recordApplicationData, want)
	for _, cut := range []int{3, 2000} {
		t.wire.in.Write(record[:cut])
		lendRecord(t.server, &t.record, nil)
		if n, err := t.server.Read(make([]byte, 1)); n > 0 || err != errWouldBlock {
			return fmt.Errorf("a part of a record gave %d bytes and %v", n, err)
		}
		if inputOf(t.server).Len() > 0 {
			return errors.New("there is plaintext of a part")
		}
		partial := takeRecordBack(t.server, nil)
		if !bytes.Equal(partial, record[:cut]) {
			return errors.New("the part is not what was sent")
		}
		clear(t.record[:])
		t.wire.in.Write(record[cut:])
		if err := t.expect(want, partial); err != nil {
			return err
		}
		want = t.message(5000)
		record = t.sender.record(recordApplicationData, want)
	}
	t.wire.in.Write(record)
	return t.expect(want, nil)
}

func (t *tlsTest) tryKeyUpdate() error {
	t.wire.out.Reset()
	want := t.message(700)
	t.wire.in.Write(t.sender.keyUpdate(true))
	t.wire.in.Write(t.sender.record(recordApplicationData, want))
	if err := t.expect(want, nil); err != nil {
		return err
	}
	if t.wire.out.Len() == 0 {
		return errors.New("it was not answered")
	}
	trimHandshake(t.server)
	if handOf(t.server).Cap() > 0 {
		return errors.New("the buffer for handshake messages has not become free")
	}
	return nil
}

// expect reads, with a buffer that is lent and taken back, and checks that what comes
// is want and nothing else.
func (t *tlsTest) expect(want, partial []byte) error {
	lendRecord(t.server, &t.record, partial)
	buf := takeBuffer()
	defer giveBuffer(buf)
	var got []byte
	for len(got) < len(want) {
		n, err := t.server.Read(buf[:])
		if err != nil {
			return fmt.Errorf("after %d bytes: %w", len(got), err)
		}
		got = append(got, buf[:n]...)
		if len(got) < len(want) && !holdsInput(t.server) && t.wire.in.Len() == 0 {
			return fmt.Errorf("%d bytes of %d came", len(got), len(want))
		}
	}
	if !bytes.Equal(got, want) {
		return errors.New("the bytes have changed")
	}
	if holdsInput(t.server) {
		return errors.New("there is input left")
	}
	if rest := takeRecordBack(t.server, nil); len(rest) > 0 {
		return errors.New("there is ciphertext left")
	}
	clear(t.record[:]) // whoever still refers to it reads zeros
	if n, err := t.server.Read(buf[:]); n > 0 || err != errWouldBlock {
		return fmt.Errorf("then came %d bytes and %v", n, err)
	}
	takeRecordBack(t.server, nil)
	return nil
}

// memoryWire is a connection that never blocks.
type memoryWire struct {
	net.Conn // nil: nothing else is called
	in, out  bytes.Buffer
}

func (w *memoryWire) Read(p []byte) (int, error) {
	n, err := w.in.Read(p)
	if err == io.EOF {
		err = errWouldBlock
	}
	return n, err
}

func (w *memoryWire) Write(p []byte) (int, error) { return w.out.Write(p) }

// connectInMemory returns the server's end of a TLS 1.3 connection and what sends to
// it in the client's place.
func connectInMemory() (*tls.Conn, *recordSender, error) {
	certificate, err := selfSigned()
	if err != nil {
		return nil, nil, err
	}
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	deadline := time.Now().Add(10 * time.Second)
	a.SetDeadline(deadline)
	b.SetDeadline(deadline)
	var secrets bytes.Buffer
	server := tls.Server(a, &tls.Config{
		Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS13, SessionTicketsDisabled: true,
	})
	client := tls.Client(b, &tls.Config{InsecureSkipVerify: true, KeyLogWriter: &secrets}) // both ends are ours
	failed := make(chan error, 1)
	go func() { failed <- server.Handshake() }()
	err = client.Handshake()
	if err != nil {
		a.Close()
	}
	if err := errors.Join(err, <-failed); err != nil {
		return nil, nil, err
	}
	sender, err := newRecordSender(client.ConnectionState().CipherSuite, "CLIENT_TRAFFIC_SECRET_0", secrets.String())
	return server, sender, err
}

func selfSigned() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}
