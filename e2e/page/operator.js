// The operator's page: it does with what a relay sends whatever a page can do, and tells
// what is left of its origin afterwards.
const heard = [];
addEventListener("message", (e) => heard.push(String(e.data)));

// settled waits until an element or a worker has loaded or failed. What the browser
// makes a download of says neither.
const settled = (target) =>
  new Promise((resolve) => {
    for (const event of ["load", "error", "message"]) target.addEventListener(event, resolve);
    setTimeout(resolve, 1000);
  });

const element = (name, attributes) => {
  const e = Object.assign(document.createElement(name), attributes);
  const done = settled(e);
  document.body.append(e);
  return done;
};

const started = (worker, port = worker) => {
  port.addEventListener("message", (e) => heard.push(String(e.data)));
  port.start?.();
  const done = settled(worker);
  return port === worker ? done : Promise.race([done, settled(port)]);
};

const ways = {
  script: (src) => element("script", { src }),
  module: (src) => element("script", { src, type: "module" }),
  import: (src) => import(src).catch(() => {}),
  worker: (url) => started(new Worker(url)),
  "module worker": (url) => started(new Worker(url, { type: "module" })),
  "shared worker": (url) => { const w = new SharedWorker(url); return started(w, w.port); },
  "service worker": (url) => navigator.serviceWorker.register(url).catch(() => {}),
  "service worker for all": (url) => navigator.serviceWorker.register(url, { scope: "/" }).catch(() => {}),
  iframe: (src) => element("iframe", { src }),
  object: (data) => element("object", { data }),
  embed: (src) => element("embed", { src }),
  image: (src) => element("img", { src }),
  form: (action) => {
    const name = "frame" + document.forms.length;
    const done = element("iframe", { name });
    const form = Object.assign(document.createElement("form"), { action, method: "post", target: name });
    document.body.append(form);
    return done.then(() => {
      const loaded = settled(document.getElementsByName(name)[0]);
      form.submit();
      return loaded;
    });
  },
  websocket: (url) => settled(new WebSocket(url.replace("https:", "wss:"))),
  fetch: (url) => fetch(url, { method: "POST", body: "{}" }).catch(() => {}),
};

// use uses url in one way. Its own name is in the query.
async function use(way, url) {
  await ways[way](url);
}

// left is what an origin has that a script could have changed.
async function left() {
  await fetch("/");
  return {
    scripts: globalThis.hostileRan ?? [],
    messages: heard,
    cookies: document.cookie.split("; "),
    localStorage: Object.keys(localStorage),
    databases: (await indexedDB.databases()).map((d) => d.name),
    caches: await caches.keys(),
    workers: (await navigator.serviceWorker.getRegistrations()).map((r) => r.scope),
  };
}
