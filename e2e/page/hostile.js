// What a hostile relay would have run as the operator's origin. NAME tells how it came
// to run.
for (const attempt of [
  () => (globalThis.hostileRan ??= []).push("NAME"),
  () => parent.postMessage("NAME", "*"),
  () => postMessage("NAME"),
  () => (onconnect = (e) => e.ports[0].postMessage("NAME")),
  () => (document.title = "NAME"),
  () => (document.cookie = "NAME".replace(/;.*/, "").replaceAll(" ", "+") + "=1; Path=/; Secure; SameSite=None"),
  () => (localStorage["NAME"] = "1"),
  () => indexedDB.open("NAME"),
  () => caches.open("NAME"),
  () => navigator.serviceWorker.register("/websocket/hostile?kind=script&type=text/javascript&name=worker", { scope: "/" }),
  () => fetch("/act?NAME", { method: "POST" }),
]) {
  try {
    Promise.resolve(attempt()).catch(() => {});
  } catch {}
}
