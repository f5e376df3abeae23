package wstest

import (
	"bytes"
	"crypto/rand"
	"crypto/sha1"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// SampleKey and SampleAccept are the ones of RFC 6455, section 1.3.
const (
	SampleKey    = "dGhlIHNhbXBsZSBub25jZQ=="
	SampleAccept = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
)

// NewKey returns a random Sec-WebSocket-Key.
func NewKey() string {
	var key [16]byte
	rand.Read(key[:]) // never fails (crypto/rand)
	return base64.StdEncoding.EncodeToString(key[:])
}

// Accept returns the Sec-WebSocket-Accept for key (RFC 6455, section 4.2.2).
func Accept(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// HandshakeFields are the lines that make a GET a WebSocket handshake with key.
func HandshakeFields(key string) []string {
	return []string{
		"Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: " + key,
	}
}

// WriteText writes text as it is.
func (c *Conn) WriteText(text string) error {
	_, err := io.WriteString(writerOnly{c}, text)
	return err
}

// writerOnly hides WriteString, which a net.Conn could have and nobody would count.
type writerOnly struct{ io.Writer }

// WriteRequest writes the head of a request. fields are lines such as "Name: value".
// Without a Host among them there is one of proxy.example.
func (c *Conn) WriteRequest(method, target string, fields ...string) error {
	return c.WriteText(RequestHead(method, target, fields...))
}

// RequestHead returns what WriteRequest writes.
func RequestHead(method, target string, fields ...string) string {
	var head strings.Builder
	fmt.Fprintf(&head, "%s %s HTTP/1.1\r\n", method, target)
	if !hasField(fields, "Host") {
		head.WriteString("Host: proxy.example\r\n")
	}
	writeFields(&head, fields)
	return head.String()
}

func writeFields(head *strings.Builder, fields []string) {
	for _, field := range fields {
		head.WriteString(field + "\r\n")
	}
	head.WriteString("\r\n")
}

func hasField(fields []string, name string) bool {
	for _, field := range fields {
		if got, _, _ := strings.Cut(field, ":"); strings.EqualFold(got, name) {
			return true
		}
	}
	return false
}

// ReadResponse reads the head of the response to a request with method; its body
// reads on.
func (c *Conn) ReadResponse(method string) (*http.Response, error) {
	return http.ReadResponse(c.R, &http.Request{Method: method})
}

// Handshake opens a WebSocket: it writes a handshake with further fields and reads
// the response. Unless the status is 101 with the right Sec-WebSocket-Accept, there
// is an error as well as the response.
func (c *Conn) Handshake(target string, fields ...string) (*http.Response, error) {
	return c.HandshakeWith("", target, fields...)
}

// HandshakeWith is Handshake with text right after the handshake, in the same write,
// as a client sends that does not wait.
func (c *Conn) HandshakeWith(text, target string, fields ...string) (*http.Response, error) {
	key := NewKey()
	head := RequestHead("GET", target, append(HandshakeFields(key), fields...)...)
	if err := c.WriteText(head + text); err != nil {
		return nil, err
	}
	response, err := c.ReadResponse("GET")
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusSwitchingProtocols {
		return response, fmt.Errorf("status %d, want 101", response.StatusCode)
	}
	if got := response.Header.Get("Sec-Websocket-Accept"); got != Accept(key) {
		return response, fmt.Errorf("Sec-WebSocket-Accept is %q, want %q", got, Accept(key))
	}
	return response, nil
}

// ReadHead reads the head of a request or response, as bytes.
func (c *Conn) ReadHead() (string, error) {
	var head strings.Builder
	for {
		line, err := c.R.ReadString('\n')
		head.WriteString(line)
		if err != nil || line == "\r\n" {
			return head.String(), err
		}
	}
}

// ReadRequest reads one request with its body, which can then be read from memory.
func (c *Conn) ReadRequest() (*http.Request, error) {
	request, err := http.ReadRequest(c.R)
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(request.Body)
	request.Body = io.NopCloser(bytes.NewReader(body))
	return request, err
}

// WriteResponse writes a response of body with a Content-Length. status is such as
// "200 OK".
func (c *Conn) WriteResponse(status, body string, fields ...string) error {
	return c.WriteText(responseHead(status, append(fields, fmt.Sprintf("Content-Length: %d", len(body)))) + body)
}

// WriteResponseHead writes the head of a response.
func (c *Conn) WriteResponseHead(status string, fields ...string) error {
	return c.WriteText(responseHead(status, fields))
}

func responseHead(status string, fields []string) string {
	var head strings.Builder
	head.WriteString("HTTP/1.1 " + status + "\r\n")
	writeFields(&head, fields)
	return head.String()
}

// AcceptHandshake reads a handshake and accepts it with further fields.
func (c *Conn) AcceptHandshake(fields ...string) (*http.Request, error) {
	return c.AcceptHandshakeWith("", fields...)
}

// AcceptHandshakeWith is AcceptHandshake with text right after the 101, in the same
// write.
func (c *Conn) AcceptHandshakeWith(text string, fields ...string) (*http.Request, error) {
	request, err := c.ReadRequest()
	if err != nil {
		return nil, err
	}
	own := []string{
		"Connection: Upgrade", "Upgrade: websocket",
		"Sec-WebSocket-Accept: " + Accept(request.Header.Get("Sec-Websocket-Key")),
	}
	return request, c.WriteText(responseHead("101 Switching Protocols", append(own, fields...)) + text)
}
