package main

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"

	"github.com/caddy-watchrtc/watchrtc-proxy/bench/internal/load"
)

// allAttacks are tried in this order.
var allAttacks = []attack{
	{
		by: "client", what: "gives a false address in X-Forwarded-For", ours: "replaced",
		client: func(a *arena) (string, error) {
			return a.relayGets("X-Forwarded-For", "203.0.113.9", "believed", "replaced")
		},
	},
	{
		by: "client", what: "hides its address by Connection: X-Forwarded-For", ours: "the relay gets it",
		client: func(a *arena) (string, error) {
			if _, err := a.ask("GET", "", "Connection: X-Forwarded-For"); err != nil {
				return "", err
			}
			return a.whether(func(r *http.Request) bool { return r.Header.Get("X-Forwarded-For") != "" }, "the relay gets it", "hidden"), nil
		},
	},
	{
		by: "client", what: "sends cookies of the operator's domain", ours: "removed",
		client: func(a *arena) (string, error) {
			return a.relayGets("Cookie", "login=secret", "forwarded", "removed")
		},
	},
	{
		by: "client", what: "smuggles a request behind Content-Length and Transfer-Encoding", ours: "not smuggled",
		client: func(a *arena) (string, error) {
			const smuggled = "0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: relay.test\r\n\r\n"
			_, err := a.ask("POST", smuggled, fmt.Sprintf("Content-Length: %d", len(smuggled)), "Transfer-Encoding: chunked")
			return a.whether(func(r *http.Request) bool { return r.URL.Path == "/smuggled" }, "smuggled", "not smuggled"), err
		},
	},
	{
		by: "client", what: "sends 2 MiB of header fields", ours: "431",
		client: func(a *arena) (string, error) {
			return a.outcome(a.ask("GET", "", "X-Long: "+strings.Repeat("x", 2<<20)))
		},
	},
	{
		by: "client", what: "sends a handshake without a key", ours: "400, the relay is not asked",
		client: func(a *arena) (string, error) {
			return a.askedToo(a.ask("GET", "", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"))
		},
	},
	{
		by: "client", what: "sends a handshake with a body", ours: "400, the relay is not asked",
		client: func(a *arena) (string, error) {
			return a.askedToo(a.ask("GET", "body", append(wstest.HandshakeFields(wstest.NewKey()), "Content-Length: 4")...))
		},
	},
	{
		by: "client", what: "20 of them never read what the relay sends, 64 MiB for each", ours: "the relay has to wait",
		relay: func(e *exchange) {
			_ = e.WriteResponseHead("101 Switching Protocols", "Connection: Upgrade", "Upgrade: websocket",
				"Sec-WebSocket-Accept: "+wstest.Accept(e.request.Header.Get("Sec-Websocket-Key")))
			e.pour(string(wstest.Encode(false, wstest.Frame{Fin: true, Opcode: wstest.Binary, Payload: make([]byte, 64<<10)})))
		},
		client: neverRead,
	},
	{
		by: "client", what: "drops handshakes as fast as it can, before and after the 101", ours: "others are served",
		client: func(a *arena) (string, error) {
			return a.othersServed(load.DropHandshakes(a.ctx, a.target, a.drops))
		},
	},
	{
		by: "client", what: "1,000 of them send half of a request's head and wait", ours: "others are served",
		client: func(a *arena) (string, error) {
			for range 1000 {
				conn, err := a.dial()
				if err != nil {
					return "", err
				}
				defer conn.Close()
				if err := conn.WriteText("GET " + path + " HTTP/1.1\r\nHost: pro"); err != nil {
					return "", err
				}
			}
			return a.othersServed(nil)
		},
	},
	{
		by: "client", what: "4 of them send frames of one byte for 3 s as fast as they can", ours: "others are served",
		client: floodSmallFrames,
	},
	{
		by: "relay", what: "sets cookies and policies for the domain", ours: "0 of 9 reach the browser",
		relay: func(e *exchange) { _ = e.WriteResponse("200 OK", "fine", domainFields...) },
		client: func(a *arena) (string, error) {
			reply, err := a.ask("GET", "")
			passed := 0
			for _, field := range domainFields {
				name, value, _ := strings.Cut(field, ": ")
				if slices.Contains(reply.header.Values(name), value) {
					passed++
				}
			}
			return fmt.Sprintf("%d of %d reach the browser", passed, len(domainFields)), err
		},
	},
	{
		by: "relay", what: "responds with an HTML page", ours: "sandboxed",
		relay: func(e *exchange) {
			_ = e.WriteResponse("200 OK", "<script>alert(document.cookie)</script>", "Content-Type: text/html")
		},
		client: func(a *arena) (string, error) {
			reply, err := a.ask("GET", "")
			if strings.Contains(reply.header.Get("Content-Security-Policy"), "sandbox") {
				return "sandboxed", err
			}
			return "runs as the operator's", err
		},
	},
	{
		by: "relay", what: "names another of its pages in X-Accel-Redirect", ours: "removed",
		relay: func(e *exchange) {
			if e.number == 1 {
				_ = e.WriteResponse("200 OK", "fine", "X-Accel-Redirect: /elsewhere")
			} else {
				_ = e.WriteResponse("200 OK", "elsewhere")
			}
		},
		client: func(a *arena) (string, error) {
			reply, err := a.ask("GET", "")
			switch {
			case reply.body == "elsewhere":
				return "obeyed", err
			case reply.header.Get("X-Accel-Redirect") != "":
				return "passed on", err
			}
			return "removed", err
		},
	},
	{
		by: "relay", what: "switches protocols though nobody asked", ours: "502",
		relay: func(e *exchange) {
			_ = e.WriteResponseHead("101 Switching Protocols", "Connection: Upgrade", "Upgrade: websocket")
			e.Close()
		},
		client: func(a *arena) (string, error) { return a.outcome(a.ask("POST", "fine", "Content-Length: 4")) },
	},
	{
		by: "relay", what: "accepts another handshake's key", ours: "502",
		relay: func(e *exchange) {
			_ = e.WriteResponseHead("101 Switching Protocols", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Accept: "+wstest.SampleAccept)
			e.Close()
		},
		client: func(a *arena) (string, error) { return a.outcome(a.upgrade()) },
	},
	{
		by: "relay", what: "sends 103 without end", ours: "502",
		relay: func(e *exchange) {
			e.pour(strings.Repeat("HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n", 100))
			e.Close()
		},
		client: readInterim,
	},
	{
		by: "relay", what: "sends header fields without end", ours: "502",
		relay: func(e *exchange) {
			_ = e.WriteText("HTTP/1.1 200 OK\r\n")
			e.pour(strings.Repeat("X-Field: value\r\n", 100))
			e.Close()
		},
		client: func(a *arena) (string, error) { return a.outcome(a.ask("GET", "")) },
	},
	{
		by: "relay", what: "gives two lengths", ours: "502",
		relay: func(e *exchange) {
			_ = e.WriteText("HTTP/1.1 200 OK\r\nContent-Length: 4\r\nContent-Length: 8\r\n\r\nfinefine")
		},
		client: func(a *arena) (string, error) { return a.outcome(a.ask("GET", "")) },
	},
	{
		by: "relay", what: "breaks off within a chunk", ours: "broken off",
		relay: func(e *exchange) {
			_ = e.WriteText("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nfine\r\n8\r\nhal")
			e.Close()
		},
		client: func(a *arena) (string, error) {
			reply, err := a.ask("GET", "")
			switch {
			case err == nil && reply.status == http.StatusOK && reply.err == nil:
				return "looks whole", nil
			case reply.status == http.StatusOK:
				return "broken off", err
			}
			return reply.String(), err
		},
	},
	{
		by: "relay", what: "sends a second response behind the first", ours: "it goes nowhere",
		relay: func(e *exchange) {
			if e.number == 1 {
				_ = e.WriteText("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfineHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison")
			} else {
				_ = e.WriteResponse("200 OK", "fine")
			}
		},
		client: func(a *arena) (string, error) {
			for range 20 {
				if reply, err := a.ask("GET", ""); err != nil || reply.body != "fine" {
					return "another client gets it", err
				}
			}
			return "it goes nowhere", nil
		},
	},
	{
		by: "relay", what: "closes a connection that it kept when a GET comes", ours: "asked once",
		relay:  closeKept,
		client: func(a *arena) (string, error) { return a.timesAsked("GET") },
	},
	{
		by: "relay", what: "closes a connection that it kept when a POST comes", ours: "asked once",
		relay:  closeKept,
		client: func(a *arena) (string, error) { return a.timesAsked("POST") },
	},
}

// domainFields are what a third party has no business to say for an operator's domain.
var domainFields = []string{
	"Set-Cookie: a=b; Domain=proxy.test", `Clear-Site-Data: "cookies", "storage"`, "Strict-Transport-Security: max-age=0",
	`Alt-Svc: h3=":443"`, "Service-Worker-Allowed: /", `NEL: {"report_to":"a","max_age":1}`, `Reporting-Endpoints: a="https://elsewhere.test/"`,
	"Content-Security-Policy: default-src *", "Origin-Agent-Cluster: ?1",
}

func (a *arena) outcome(r reply, err error) (string, error) { return r.String(), err }

// askedToo is the outcome, and whether the relay was asked.
func (a *arena) askedToo(r reply, err error) (string, error) {
	if len(a.relay.seen()) == 0 {
		return r.String() + ", the relay is not asked", err
	}
	return r.String() + ", the relay is asked", err
}

// whether says yes if there was a request to the relay for which f is true.
func (a *arena) whether(f func(*http.Request) bool, yes, no string) string {
	if slices.ContainsFunc(a.relay.seen(), f) {
		return yes
	}
	return no
}

// relayGets sends a field and says yes if the relay gets a field of the name that begins
// with its value.
func (a *arena) relayGets(name, value, yes, no string) (string, error) {
	if _, err := a.ask("GET", "", name+": "+value); err != nil {
		return "", err
	}
	return a.whether(func(r *http.Request) bool { return strings.HasPrefix(r.Header.Get(name), value) }, yes, no), nil
}

// othersServed opens a WebSocket after an attack, or while it lasts.
func (a *arena) othersServed(err error) (string, error) {
	if err != nil {
		return "", err
	}
	tunnels, err := load.OpenTunnels(a.ctx, a.target, 1)
	if err != nil {
		return "others are not served", nil
	}
	tunnels.Close()
	return "others are served", nil
}

// neverRead opens WebSockets and waits until the relay has no more to send, or nobody
// to send it to.
func neverRead(a *arena) (string, error) {
	const clients = 20
	for range clients {
		conn, err := a.dial()
		if err != nil {
			return "", err
		}
		defer conn.Close()
		if err := conn.WriteRequest("GET", path, append(wstest.HandshakeFields(wstest.NewKey()), "Host: proxy.test")...); err != nil {
			return "", err
		}
	}
	time.Sleep(3 * time.Second)
	if a.relay.poured.Load() < clients*64<<20 {
		return "the relay has to wait", nil
	}
	return "all is taken", nil
}

// floodSmallFrames is bounded by time, and by what the proxy takes.
func floodSmallFrames(a *arena) (string, error) {
	frames := []byte(strings.Repeat(string(wstest.Encode(true, wstest.Message("x"))), 1000))
	var clients sync.WaitGroup
	errs := make([]error, 4)
	for i := range errs {
		clients.Go(func() {
			conn, err := a.dial()
			if err != nil {
				errs[i] = err
				return
			}
			defer conn.Close()
			if _, errs[i] = conn.Handshake(path, "Host: proxy.test"); errs[i] != nil {
				return
			}
			go func() { // The relay takes them for messages and ends: no one reads what it says.
				for {
					if _, err := conn.Next(); err != nil {
						return
					}
				}
			}()
			errs[i] = conn.SetWriteDeadline(time.Now().Add(3 * time.Second))
			for errs[i] == nil {
				_, errs[i] = conn.Write(frames)
			}
			if errors.Is(errs[i], os.ErrDeadlineExceeded) {
				errs[i] = nil
			}
		})
	}
	clients.Wait()
	return a.othersServed(errors.Join(errs...))
}

// readInterim reads responses up to the last.
func readInterim(a *arena) (string, error) {
	conn, err := a.dial()
	if err != nil {
		return "", err
	}
	defer conn.Close()
	reply := a.askOver(conn, "GET", "")
	passed := 0
	for reply.status == http.StatusEarlyHints {
		passed++
		response, err := conn.ReadResponse("GET")
		switch {
		case err == nil:
			reply.status = response.StatusCode
		case passed < 10000:
			return "some are passed on", nil
		default:
			return "passed on without end", nil
		}
	}
	return reply.String(), nil
}

// closeKept keeps a connection after its first request, and closes it at the second.
func closeKept(e *exchange) {
	if e.onConn == 1 && e.number == 1 {
		_ = e.WriteResponse("200 OK", "fine")
		return
	}
	e.Close()
}

// timesAsked is how often the relay gets what it breaks.
func (a *arena) timesAsked(method string) (string, error) {
	for range 2 {
		if _, err := a.ask(method, "fine", "Content-Length: 4"); err != nil {
			return "", err
		}
	}
	switch n := len(a.relay.seen()) - 1; n {
	case 0:
		return "never asked", nil
	case 1:
		return "asked once", nil
	default:
		return fmt.Sprintf("asked %d times", n), nil
	}
}
