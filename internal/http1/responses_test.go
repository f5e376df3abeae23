package http1

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"slices"
	"strings"
	"testing"
)

const ok = "HTTP/1.1 200 OK\r\n"

// responseTests has what a server may say, and then perhaps close the connection.
var responseTests = []struct {
	name, method, raw string
	closes            bool

	status        int // 0: RoundTrip fails
	body, trailer string
	broken        bool // reading the body fails
	kept          bool
}{
	{name: "length", raw: ok + "Content-Length: 4\r\n\r\nbody", status: 200, body: "body", kept: true},
	{name: "no body", raw: ok + "Content-Length: 0\r\n\r\n", status: 200, kept: true},
	{name: "chunked", raw: ok + "Transfer-Encoding: chunked\r\n\r\n2\r\nbo\r\n2;x=y\r\ndy\r\n0\r\n\r\n", status: 200, body: "body", kept: true},
	{name: "chunked, empty", raw: ok + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", status: 200, kept: true},
	{name: "trailers", raw: ok + "Trailer: Sum\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\nSum: 9\r\n\r\n", status: 200, body: "body", trailer: "9", kept: true},
	{name: "until close", raw: ok + "\r\nbody", closes: true, status: 200, body: "body"},
	{name: "HTTP/1.0", raw: "HTTP/1.0 200 OK\r\nContent-Length: 4\r\n\r\nbody", status: 200, body: "body"},
	{name: "HTTP/1.0 keep-alive", raw: "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 4\r\n\r\nbody", status: 200, body: "body", kept: true},
	{name: "HEAD", method: "HEAD", raw: ok + "Content-Length: 4\r\n\r\n", status: 200, kept: true},
	{name: "HEAD, chunked", method: "HEAD", raw: ok + "Transfer-Encoding: chunked\r\n\r\n", status: 200, kept: true},
	{name: "204", raw: "HTTP/1.1 204 No Content\r\n\r\n", status: 204, kept: true},
	{name: "304", raw: "HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\n\r\n", status: 304, kept: true},
	{name: "500", raw: "HTTP/1.1 500 Oh\r\nContent-Length: 4\r\n\r\nbody", status: 500, body: "body"},
	{name: "close", raw: ok + "Connection: close\r\nContent-Length: 4\r\n\r\nbody", status: 200, body: "body"},
	{name: "close, no body", raw: "HTTP/1.1 204 No Content\r\nConnection: x, Close\r\n\r\n", status: 204},
	{name: "101", raw: "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n", status: 101},
	{name: "after 100", raw: "HTTP/1.1 100 Continue\r\n\r\n" + ok + "Content-Length: 4\r\n\r\nbody", status: 200, body: "body", kept: true},
	{name: "bare LF", raw: "HTTP/1.1 200 OK\nContent-Length: 4\n\nbody", status: 200, body: "body", kept: true},

	// What follows a response belongs to no request.
	{name: "surplus", raw: ok + "Content-Length: 4\r\n\r\nbody" + ok + "\r\n", status: 200, body: "body"},
	{name: "surplus byte", raw: ok + "Content-Length: 4\r\n\r\nbodyX", status: 200, body: "body"},
	{name: "surplus to nothing", raw: ok + "Content-Length: 0\r\n\r\n" + ok + "\r\n", status: 200},
	{name: "surplus to 204", raw: "HTTP/1.1 204 No Content\r\nContent-Length: 4\r\n\r\nbody", status: 204},
	{name: "surplus to 304", raw: "HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\n\r\nbody", status: 304},
	{name: "surplus to HEAD", method: "HEAD", raw: ok + "Content-Length: 4\r\n\r\nbody", status: 200},
	{name: "surplus to chunks", raw: ok + "Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n" + ok + "\r\n", status: 200, body: "body"},
	{name: "length and chunks", raw: ok + "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + ok + "\r\n", status: 200},

	{name: "cut off", raw: ok + "Content-Length: 5\r\n\r\nbody", closes: true, status: 200, body: "body", broken: true},
	{name: "chunks cut off", raw: ok + "Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n", closes: true, status: 200, body: "body", broken: true},
	{name: "bad chunk", raw: ok + "Transfer-Encoding: chunked\r\n\r\nx\r\n", status: 200, broken: true},
	{name: "bad trailer", raw: ok + "Transfer-Encoding: chunked\r\n\r\n0\r\n" + strings.Repeat("A: b\r\n", 2000) + "\r\n", status: 200, broken: true},

	{name: "nothing", closes: true},
	{name: "half a head", raw: ok + "Content-", closes: true},
	{name: "no HTTP", raw: "SSH-2.0-OpenSSH\r\n\r\n"},
	{name: "status 000", raw: "HTTP/1.1 000 Nothing\r\nContent-Length: 0\r\n\r\n"},
	{name: "status 099", raw: "HTTP/1.1 099 Less\r\nContent-Length: 0\r\n\r\n"},
	{name: "no status", raw: "HTTP/1.1 OK\r\n\r\n"},
	{name: "bad field", raw: ok + "no colon\r\n\r\n"},
	{name: "bad length", raw: ok + "Content-Length: -4\r\n\r\nbody"},
	{name: "two lengths", raw: ok + "Content-Length: 4\r\nContent-Length: 5\r\n\r\nbody."},
	{name: "unknown coding", raw: ok + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"},
	{name: "bad 1xx", raw: "HTTP/1.1 103 Early\r\nno colon\r\n\r\n" + ok + "\r\n"},
}

func TestResponses(t *testing.T) {
	both(t, func(t *testing.T, secure bool) {
		for _, test := range responseTests {
			t.Run(test.name, func(t *testing.T) {
				t.Parallel()
				ended := make(chan bool, 1)
				s := newServer(t, secure, func(p *peer) {
					if p.n > 1 {
						echo(p)
						return
					}
					p.request()
					p.send(test.raw)
					if test.closes {
						p.Close()
					} else {
						echo(p)
					}
					ended <- true
				})
				p := s.pool()
				method := test.method
				if method == "" {
					method = "POST"
				}
				response, err := p.RoundTrip(newRequest(t.Context(), method, "x"))
				if err != nil {
					if test.status != 0 {
						t.Fatal(err)
					}
					receive(t, ended)
					s.want(1, 1)
					return
				}
				if response.StatusCode != test.status {
					t.Errorf("status %d, want %d", response.StatusCode, test.status)
				}
				body, err := io.ReadAll(response.Body)
				if string(body) != test.body || (err != nil) != test.broken {
					t.Errorf("body %q, error %v", body, err)
				}
				if got := response.Trailer.Get("Sum"); got != test.trailer {
					t.Errorf("trailer %q", got)
				}
				if !test.kept {
					receive(t, ended) // before Close
				}
				response.Body.Close()
				got, conn := post(t, p, "next")
				if got != "next" || (conn == "1") != test.kept {
					t.Errorf("got %q over connection %s", got, conn)
				}
				s.want(map[bool]int64{true: 1, false: 2}[test.kept], 2)
			})
		}
	})
}

// TestSurplusRecords has what comes after the response in TLS records of its own, which
// crypto/tls has read from the socket, but has not given out.
func TestSurplusRecords(t *testing.T) {
	for _, body := range []string{"", "body"} {
		for _, surplus := range []string{ok + "Content-Length: 4\r\n\r\nevil", "\n"} {
			s := newServer(t, true, func(p *peer) {
				if p.n > 1 {
					echo(p)
					return
				}
				p.request()
				p.cork.hold()
				p.response(body)
				p.send(surplus)
				p.cork.release()
				echo(p)
			})
			p := s.pool()
			post(t, p, body)
			if got, conn := post(t, p, "next"); got != "next" || conn != "2" {
				t.Errorf("got %q over connection %s", got, conn)
			}
			s.want(2, 2)
		}
	}
}

// TestFarewellAfterTheResponse has TLS end in the same segment as the response, and
// the connection stay open.
func TestFarewellAfterTheResponse(t *testing.T) {
	for _, body := range []string{"", "body"} {
		s := newServer(t, true, func(p *peer) {
			if p.n > 1 {
				echo(p)
				return
			}
			p.request()
			p.cork.hold()
			p.response(body)
			p.Conn.(interface{ CloseWrite() error }).CloseWrite()
			p.cork.release()
			p.end()
		})
		p := s.pool()
		post(t, p, body)
		if got, conn := post(t, p, "next"); got != "next" || conn != "2" {
			t.Errorf("got %q over connection %s", got, conn)
		}
	}
}

// TestUnreadResponse closes a response's body before its end.
func TestUnreadResponse(t *testing.T) {
	both(t, func(t *testing.T, secure bool) {
		for name, raw := range map[string]string{
			"all there": ok + "Content-Length: 4\r\n\r\nbody",
			"awaited":   ok + "Content-Length: 4000\r\n\r\nbody",
			"chunked":   ok + "Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n",
		} {
			t.Run(name, func(t *testing.T) {
				ended := make(chan bool, 2)
				s := newServer(t, secure, func(p *peer) { p.request(); p.send(raw); p.end(); ended <- true })
				p := s.pool()
				response, err := p.RoundTrip(newRequest(t.Context(), "POST", "x"))
				if err != nil {
					t.Fatal(err)
				}
				response.Body.Read(make([]byte, 3))
				response.Body.Close()
				receive(t, ended)
				response.Body.Close()
				if kept(p) != 0 {
					t.Error("kept")
				}
			})
		}
	})
}

func TestInterimResponses(t *testing.T) {
	s := newServer(t, false, func(p *peer) {
		p.request()
		p.send("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
		p.send("HTTP/1.1 102 Processing\r\n\r\n" + ok + "Content-Length: 4\r\n\r\nbody")
		p.end()
	})
	p := s.pool()
	var got []string
	refuse := errors.New("refused")
	var refused bool
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
		Got1xxResponse: func(code int, header textproto.MIMEHeader) error {
			got = append(got, fmt.Sprint(code, header.Get("Link")))
			if refused {
				return refuse
			}
			return nil
		},
	})
	response, err := p.RoundTrip(newRequest(ctx, "POST", "x"))
	if err != nil {
		t.Fatal(err)
	}
	readAll(t, response)
	if want := []string{"100", "103</a>", "102"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	refused = true
	p.Close()
	if _, err := p.RoundTrip(newRequest(ctx, "POST", "x")); !errors.Is(err, refuse) {
		t.Errorf("error %v", err)
	}
}

// TestEndlessInterimResponses has a server that never comes to the point.
func TestEndlessInterimResponses(t *testing.T) {
	s := newServer(t, false, func(p *peer) {
		p.request()
		for {
			if _, err := io.WriteString(p, "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"); err != nil {
				return
			}
		}
	})
	if _, err := s.pool().RoundTrip(newRequest(t.Context(), "POST", "x")); !errors.Is(err, errHeaderTooLarge) {
		t.Errorf("error %v", err)
	}
}

// TestMaxHeader counts bytes, whatever the body.
func TestMaxHeader(t *testing.T) {
	both(t, func(t *testing.T, secure bool) {
		const limit = 6000
		head := ok + "Content-Length: 20000\r\nField: "
		head += strings.Repeat("f", limit-len(head)-4) + "\r\n\r\n"
		body := strings.Repeat("b", 20000)
		for _, interim := range []string{"", "HTTP/1.1 103 Early Hints\r\n\r\n"} {
			for _, over := range []int{0, 1, 100000} {
				s := newServer(t, secure, func(p *peer) {
					p.request()
					p.send(interim + strings.Replace(head, "f\r", strings.Repeat("f", over+1)+"\r", 1) + body)
					p.end()
				})
				p := s.pool()
				p.MaxHeader = limit + int64(len(interim))
				response, err := p.RoundTrip(newRequest(t.Context(), "POST", "x"))
				if over > 0 {
					if !errors.Is(err, errHeaderTooLarge) {
						t.Errorf("%d bytes more: error %v", over, err)
					}
					continue
				}
				if err != nil {
					t.Fatal(err)
				}
				if readAll(t, response) != body {
					t.Error("another body")
				}
			}
		}
	})
}

// TestResponseIsWhole compares the response's parts with those of http.Transport.
func TestResponseIsWhole(t *testing.T) {
	for _, test := range responseTests {
		if test.status == 0 || test.status == http.StatusSwitchingProtocols {
			continue
		}
		s := newServer(t, false, func(p *peer) { p.request(); p.send(test.raw); p.cork.Close() })
		transport := &http.Transport{DisableCompression: true, DisableKeepAlives: true}
		var got [2]string
		for n, sender := range []http.RoundTripper{s.pool(), transport} {
			req := newRequest(t.Context(), test.method, "")
			req.URL.Host = s.ln.Addr().String()
			response, err := sender.RoundTrip(req)
			if err != nil {
				t.Fatal(test.name, ": ", err)
			}
			body, _ := io.ReadAll(response.Body)
			response.Body.Close()
			got[n] = fmt.Sprint(response.Status, response.Proto, response.ContentLength, response.TransferEncoding, response.Header, string(body), response.Trailer)
		}
		if got[0] != got[1] {
			t.Errorf("%s:\n%s\nhttp.Transport:\n%s", test.name, got[0], got[1])
		}
	}
}
