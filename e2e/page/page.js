// What the tests see of the SDK: its states and errors, when it asked for WebSockets,
// when it had them, and how they closed. This script comes before the SDK.
const states = [];
const attempts = [];
const opened = [];
const closes = [];
const socketErrors = [];

window.WebSocket = class extends WebSocket {
  constructor(...args) {
    super(...args);
    attempts.push(Math.round(performance.now()));
    this.addEventListener("open", () => opened.push(Math.round(performance.now())));
    this.addEventListener("close", (e) => closes.push({ code: e.code, reason: e.reason, wasClean: e.wasClean }));
  }
};

// start sets the SDK up and makes the call that has it connect.
async function start(proxyUrl, room) {
  watchRTC.init({ rtcApiKey: "e2e-key", rtcRoomId: room, rtcPeerId: "e2e-peer", proxyUrl, logLevel: "debug" });
  watchRTC.addStateListener((state) => {
    states.push(state);
    document.getElementById("states").textContent = JSON.stringify(states);
  });
  // Release 1.38.3 has no such errors.
  watchRTC.subscribe?.("onSocketError", (error) => socketErrors.push({ code: error.errorCode, text: error.message }));
  await call();
}

// call connects two peers of this page by a data channel.
async function call() {
  const [a, b] = [new RTCPeerConnection(), new RTCPeerConnection()];
  a.onicecandidate = (e) => e.candidate && b.addIceCandidate(e.candidate);
  b.onicecandidate = (e) => e.candidate && a.addIceCandidate(e.candidate);
  const channel = a.createDataChannel("e2e");
  const opened = new Promise((resolve) => (channel.onopen = resolve));
  await a.setLocalDescription(await a.createOffer());
  await b.setRemoteDescription(a.localDescription);
  await b.setLocalDescription(await b.createAnswer());
  await a.setRemoteDescription(b.localDescription);
  await opened;
}

// post does what the SDK does, and returns what page code can see of the response.
async function post(url) {
  try {
    const response = await fetch(url, {
      method: "POST", mode: "cors", cache: "no-cache", credentials: "same-origin",
      headers: { "Content-Type": "application/json" }, body: JSON.stringify({ data: ["post"] }),
    });
    return { status: response.status, text: await response.text() };
  } catch (error) {
    return { status: 0, text: String(error) };
  }
}

const connected = () => states.some((s) => s.connectionStatus === "connected");
const connections = () => states.filter((s) => s.connectionStatus === "connected").length;

// runQuality has the SDK fetch its configuration for a network test. The test
// itself is quality.js.
async function runQuality() {
  const result = await watchRTC.qualityrtc.run({ options: { codeUrl: "/quality.js" } });
  if (!result?.ran) throw new Error("the network test did not run: " + JSON.stringify(result));
}

// failGetUserMedia asks for a device that is not there, which the SDK reports.
async function failGetUserMedia() {
  const failed = await navigator.mediaDevices
    .getUserMedia({ audio: { deviceId: { exact: "no such device" } } })
    .then(() => false, () => true);
  if (!failed) throw new Error("getUserMedia found a device");
}
