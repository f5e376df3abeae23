package e2e

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"

	"github.com/caddy-watchrtc/watchrtc-proxy/e2e/internal/browser"
	"github.com/caddy-watchrtc/watchrtc-proxy/e2e/internal/caddy"
	"github.com/caddy-watchrtc/watchrtc-proxy/e2e/internal/program"
)

const quickstart = "../examples/quickstart"

// TestQuickstart opens the example's page as its reader does, with a copy of the
// SDK in place of the public one, and keeps pictures of it.
func TestQuickstart(t *testing.T) {
	site := filepath.Join(program.Dir(t), "site")
	if err := os.CopyFS(site, os.DirFS(quickstart+"/site")); err != nil {
		t.Fatal(err)
	}
	sdk, err := filepath.Abs("node_modules/watchrtc-sdk-" + sdkNew + "/lib/index.js")
	if err == nil {
		err = os.Symlink(sdk, filepath.Join(site, "sdk.js"))
	}
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(quickstart + "/Caddyfile")
	if err != nil {
		t.Fatal(err)
	}
	binary, err := caddy.BuildDev(buildDir) // the example has a stand-in relay in it
	if err != nil {
		t.Fatal(err)
	}
	edge, relayPort := port(wstest.FreeAddr(t)), port(wstest.FreeAddr(t))
	config := strings.NewReplacer(
		":8443", ":"+edge,
		":9443", ":"+relayPort,
		"examples/quickstart/site", site,
	).Replace(string(content))
	proxy := caddy.Start(t, caddy.Config{Binary: binary, Whole: config})

	page := browser.Start(t, browser.NoQUIC).Open(t, "https://localhost:"+edge+"/?sdk=/sdk.js")
	for _, step := range []string{"sdk", "call", "proxy", "relay"} {
		page.Await(t, patience, `document.getElementById("`+step+`").dataset.state === "done"`)
	}
	page.Run(t, `document.getElementById("send-event").click(); document.getElementById("send-trace").click()`)
	for _, shown := range []string{"hello from the quickstart", "getstats", "/trace"} {
		page.Await(t, patience, `document.querySelector("[data-relay-view]").textContent.includes("`+shown+`")`)
	}

	// The connection outlives a reload, at the proxy and at the stand-in relay.
	proxy.Do(t, http.MethodPost, "/load", "text/caddyfile", config+"# changed")
	page.Run(t, `watchRTC.addEvent({ name: "after-the-reload", type: "global" })`)
	page.Await(t, patience, `document.querySelector("[data-relay-view]").textContent.includes("after-the-reload")`)
	if text := browser.Eval[string](t, page, `document.querySelector(".status").textContent`); text != "1 connection open, 1 since the relay started" {
		t.Errorf("after a reload: %s", text)
	}

	if text := browser.Eval[string](t, page, "document.body.innerText"); strings.Contains(text, "quickstart-key") {
		t.Error("the page shows the key")
	}
	checkWidth(t, page, "quickstart-desktop.png", 1280)
	checkWidth(t, page, "quickstart-phone.png", 390)
	if lines := proxy.Log.Find("quickstart-key"); len(lines) > 0 {
		t.Errorf("the proxy logs the key: %q", lines)
	}
}

// checkWidth keeps a picture of the page at this width, and checks that nothing
// sticks out of it.
func checkWidth(t *testing.T, page *browser.Page, name string, width int64) {
	t.Helper()
	page.Screenshot(t, filepath.Join("artifacts", name), width, 844)
	if got := browser.Eval[int64](t, page, "document.documentElement.scrollWidth"); got > width {
		t.Errorf("the page is %d wide in a window of %d", got, width)
	}
}
