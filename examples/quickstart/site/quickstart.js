// Loads the SDK, points it at the proxy, makes a call from this page to itself, and
// ticks off how far each of them got.

// The version is pinned, and the browser checks that it got just that file.
const cdn = {
	src: "https://unpkg.com/@testrtc/watchrtc-sdk@1.43.1/lib/index.js",
	integrity: "sha384-IaWrOK3yBQP77958ODyxE2g1qP7F5frG69km4owNVRWCHuRqwl2MT0jYjF7CDS4X",
};

const session = {
	rtcApiKey: "quickstart-key",
	rtcRoomId: "quickstart",
	rtcPeerId: `browser-${crypto.randomUUID().slice(0, 8)}`,
	proxyUrl: `wss://${location.host}/websocket`,
};

function mark(id, state, text) {
	const step = document.getElementById(id);
	step.dataset.state = state;
	step.querySelector("span").textContent = text;
}

// sdkSource is the CDN's file, or in a network without it, a copy on this site:
// ?sdk=/path. No other origin may put a script here.
function sdkSource() {
	const path = new URLSearchParams(location.search).get("sdk");
	if (!path) {
		return cdn;
	}
	const copy = new URL(path, location.origin);
	if (copy.origin !== location.origin) {
		throw new Error("?sdk= must be a path on this site.");
	}
	return { src: copy.href };
}

function loadSDK() {
	const source = sdkSource();
	return new Promise((resolve, reject) => {
		const script = Object.assign(document.createElement("script"), source, { crossOrigin: "anonymous" });
		script.onload = resolve;
		script.onerror = () => reject(new Error(`${source.src} could not be loaded. ` +
			"Is this computer offline, or does an extension or firewall block it? " +
			"A copy in examples/quickstart/site/ can be used with ?sdk=/its-name.js."));
		document.head.append(script);
	});
}

function watchConnection() {
	window.watchRTC.addStateListener(({ connectionStatus, reason }) => {
		const connected = connectionStatus === "connected";
		mark("proxy", connected ? "done" : "failed", connected ? session.proxyUrl : `disconnected: ${reason || "no reason given"}`);
		document.getElementById("send-event").disabled = !connected;
	});
}

// call connects two ends in this page by a data channel, which needs no camera, and
// keeps some data flowing.
async function call() {
	const [caller, callee] = [new RTCPeerConnection(), new RTCPeerConnection()];
	caller.onicecandidate = ({ candidate }) => callee.addIceCandidate(candidate);
	callee.onicecandidate = ({ candidate }) => caller.addIceCandidate(candidate);
	const channel = caller.createDataChannel("chat");
	const opened = new Promise((resolve) => { channel.onopen = resolve; });

	await caller.setLocalDescription(await caller.createOffer());
	await callee.setRemoteDescription(caller.localDescription);
	await callee.setLocalDescription(await callee.createAnswer());
	await caller.setRemoteDescription(callee.localDescription);
	await opened;
	setInterval(() => channel.send("hello"), 1000);
}

function watchRelay() {
	document.querySelector("[data-relay-view]").addEventListener("relaystate", ({ detail: state }) => {
		const mine = state.connections.find((connection) => connection.identity.peer === session.rtcPeerId);
		if (mine) {
			mark("relay", "done", `room ${session.rtcRoomId}, peer ${session.rtcPeerId}, from ${mine.client}`);
		}
	});
}

function sendEvent() {
	window.watchRTC.addEvent({ name: "hello from the quickstart", type: "global", parameters: { at: new Date().toISOString() } });
}

// sendTrace does what the SDK does when it has no WebSocket.
async function sendTrace() {
	await fetch("/websocket/trace", {
		method: "POST",
		headers: { "Content-Type": "application/json" },
		body: JSON.stringify({
			projectId: session.rtcApiKey,
			rtcRoomId: session.rtcRoomId,
			rtcPeerId: session.rtcPeerId,
			data: ["hello from the quickstart", null, null, Date.now()],
		}),
	});
}

async function run() {
	watchRelay();
	document.getElementById("send-event").addEventListener("click", sendEvent);
	document.getElementById("send-trace").addEventListener("click", sendTrace);

	await attempt("sdk", loadSDK, "@testrtc/watchrtc-sdk");
	window.watchRTC.init(session);
	watchConnection();
	mark("call", "waiting", "calling …");
	await attempt("call", call, "two ends in this page, by a data channel");
	mark("proxy", "waiting", "takes about three seconds …");
}

async function attempt(step, action, success) {
	try {
		await action();
	} catch (error) {
		mark(step, "failed", error.message);
		throw error;
	}
	mark(step, "done", success);
}

run();
