package browser

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/cdproto/storage"
	"github.com/chromedp/cdproto/target"
	"github.com/chromedp/chromedp"

	"github.com/caddy-watchrtc/watchrtc-proxy/e2e/internal/program"
)

// Page is a tab. What happens in it is in page.log.
type Page struct {
	Log *program.Log

	ctx context.Context
}

// Open opens a tab at url. If tb fails, a screenshot of it is kept.
func (b *Browser) Open(tb testing.TB, url string) *Page {
	tb.Helper()
	ctx, cancel := chromedp.NewContext(b.ctx)
	p := &Page{ctx: ctx, Log: program.NewLog(tb, "page")}
	tb.Cleanup(cancel)
	tb.Cleanup(func() {
		if tb.Failed() {
			p.Screenshot(tb, filepath.Join(program.Dir(tb), "page.png"), 1280, 900)
		}
	})
	chromedp.ListenTarget(ctx, p.note)
	p.run(tb, 30*time.Second, network.Enable(), runtime.Enable(), chromedp.Navigate(url))
	return p
}

// run runs actions, for at most patience.
func (p *Page) run(tb testing.TB, patience time.Duration, actions ...chromedp.Action) {
	tb.Helper()
	if err := chromedp.Run(p.ctx); err != nil { // opens the tab, which outlives this call
		tb.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	if err := chromedp.Run(ctx, actions...); err != nil {
		tb.Fatalf("page: %v", err)
	}
}

// note writes an event to the log.
func (p *Page) note(event any) {
	switch e := event.(type) {
	case *runtime.EventConsoleAPICalled:
		p.Log.Printf("console %s %s", e.Type, arguments(e.Args))
	case *runtime.EventExceptionThrown:
		p.Log.Printf("exception %s", e.ExceptionDetails.Error())
	case *network.EventRequestWillBeSent:
		p.Log.Printf("request %s %s", e.Request.Method, e.Request.URL)
	case *network.EventResponseReceived:
		p.Log.Printf("response %d %s %s", e.Response.Status, e.Response.Protocol, e.Response.URL)
	case *network.EventLoadingFailed:
		p.Log.Printf("failed %s %s", e.Type, e.ErrorText)
	case *network.EventWebSocketCreated:
		p.Log.Printf("websocket %s", e.URL)
	case *network.EventWebSocketHandshakeResponseReceived:
		p.Log.Printf("websocket response %d %s", e.Response.Status, e.Response.StatusText)
	case *network.EventWebSocketFrameError:
		p.Log.Printf("websocket error %s", e.ErrorMessage)
	case *network.EventWebSocketClosed:
		p.Log.Printf("websocket closed")
	}
}

func arguments(args []*runtime.RemoteObject) string {
	text := ""
	for _, arg := range args {
		if arg.Description != "" {
			text += arg.Description + " "
			continue
		}
		text += string(arg.Value) + " "
	}
	return text
}

// Eval evaluates an expression, or what its promise resolves to.
func Eval[T any](tb testing.TB, p *Page, expression string) T {
	tb.Helper()
	var result T
	p.run(tb, 60*time.Second, chromedp.Evaluate(expression, &result, func(params *runtime.EvaluateParams) *runtime.EvaluateParams {
		return params.WithAwaitPromise(true).WithReturnByValue(true)
	}))
	return result
}

// Run evaluates an expression for its effect.
func (p *Page) Run(tb testing.TB, expression string) {
	tb.Helper()
	Eval[any](tb, p, fmt.Sprintf("(async () => { %s; return null })()", expression))
}

// Await waits until an expression holds.
func (p *Page) Await(tb testing.TB, patience time.Duration, expression string) {
	tb.Helper()
	p.run(tb, patience+time.Second, chromedp.Poll(expression, nil,
		chromedp.WithPollingInterval(100*time.Millisecond), chromedp.WithPollingTimeout(patience)))
}

// Go has the tab go to another URL, and waits until it is loaded. That the browser makes
// a download of it is no error.
func (p *Page) Go(tb testing.TB, url string) {
	tb.Helper()
	p.run(tb, 30*time.Second, chromedp.ActionFunc(func(ctx context.Context) error {
		err := chromedp.Navigate(url).Do(ctx)
		if err != nil && strings.Contains(err.Error(), "net::ERR_ABORTED") {
			return nil
		}
		return err
	}))
}

// Title is what the tab shows, which needs no script.
func (p *Page) Title(tb testing.TB) string {
	tb.Helper()
	var title string
	p.run(tb, 10*time.Second, chromedp.ActionFunc(func(ctx context.Context) error {
		info, err := target.GetTargetInfo().Do(ctx)
		if err == nil {
			title = info.Title
		}
		return err
	}))
	return title
}

// SetCookie sets a cookie that the browser sends along with requests of other
// sites' pages too.
func (p *Page) SetCookie(tb testing.TB, url, cookie string) {
	tb.Helper()
	name, value, _ := strings.Cut(cookie, "=")
	p.run(tb, 10*time.Second, network.SetCookie(name, value).WithURL(url).WithSecure(true).WithSameSite(network.CookieSameSiteNone))
}

// Cookies returns every cookie of the profile.
func (p *Page) Cookies(tb testing.TB) []*network.Cookie {
	tb.Helper()
	var cookies []*network.Cookie
	p.run(tb, 10*time.Second, chromedp.ActionFunc(func(ctx context.Context) (err error) {
		cookies, err = storage.GetCookies().Do(ctx)
		return err
	}))
	return cookies
}

// Screenshot writes the whole page as it looks in a window of this size.
func (p *Page) Screenshot(tb testing.TB, file string, width, height int64) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, 20*time.Second)
	defer cancel()
	var png []byte
	err := chromedp.Run(ctx,
		emulation.SetDeviceMetricsOverride(width, height, 1, width < 600),
		chromedp.ActionFunc(func(ctx context.Context) (err error) {
			png, err = page.CaptureScreenshot().WithCaptureBeyondViewport(true).Do(ctx)
			return err
		}))
	if err == nil {
		err = os.WriteFile(file, png, 0o644)
	}
	if err != nil {
		tb.Errorf("screenshot: %v", err)
	}
}
