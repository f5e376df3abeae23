// Shows what the relay received inside the element marked data-relay-view, and
// tells that element of each new state by a "relaystate" event. All data comes from
// strangers, so it only ever becomes text nodes.

const view = document.querySelector("[data-relay-view]");
const pollEvery = 1000;
const unfolded = new Set();
let shown = "";

function element(tag, attributes, ...children) {
	const node = document.createElement(tag);
	for (const [name, value] of Object.entries(attributes)) {
		node.setAttribute(name, value);
	}
	node.append(...children);
	return node;
}

function card(title, ...children) {
	return element("section", { class: "card" }, element("h2", {}, title), ...children);
}

function clock(time) {
	return new Date(time).toLocaleTimeString([], { hour12: false });
}

function bytes(count) {
	if (count < 1024) {
		return `${count} B`;
	}
	return count < 1 << 20 ? `${(count / 1024).toFixed(1)} KiB` : `${(count / (1 << 20)).toFixed(1)} MiB`;
}

function plural(count, one) {
	return `${count} ${one}${count === 1 ? "" : "s"}`;
}

function whose(identity) {
	return [identity.room, identity.peer, identity.session].filter(Boolean).join(" / ") || "not known yet";
}

function connectionState(connection) {
	if (connection.open) {
		return element("span", { class: "good" }, "open");
	}
	const ended = connection.closeCode === 1006 ? "bad" : "soft";
	return element("span", { class: ended, title: connection.closeReason ?? "" }, `closed ${connection.closeCode}`);
}

const connectionColumns = [
	["#", (c) => String(c.id)],
	["State", connectionState],
	["X-Forwarded-For", (c) => c.client || element("span", { class: "soft" }, "none")],
	["Room / peer / session", (c) => whose(c.identity)],
	["Received", (c) => `${c.stats.messagesIn} · ${bytes(c.stats.bytesIn)}`],
	["Sent", (c) => `${c.stats.messagesOut} · ${bytes(c.stats.bytesOut)}`],
	["Opened", (c) => element("span", { class: "nowrap" }, clock(c.openedAt))],
];

function connectionTable(connections) {
	const head = connectionColumns.map(([label]) => element("th", { scope: "col" }, label));
	const rows = connections.map((connection) => element("tr", { title: connection.uri },
		...connectionColumns.map(([label, show]) => element("td", { "data-label": label }, element("span", {}, show(connection))))));
	return element("table", {}, element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...rows));
}

// pretty lays JSON out; text that was cut short stays as it is.
function pretty(text) {
	try {
		return JSON.stringify(JSON.parse(text), null, 2);
	} catch {
		return text;
	}
}

// foldable keeps open what its reader has opened, though the list is built anew.
function foldable(key, summary, text) {
	const node = element("details", {}, element("summary", {}, ...summary, element("span", { class: "preview" }, text)),
		element("pre", {}, pretty(text)));
	node.open = unfolded.has(key);
	node.addEventListener("toggle", () => node.open ? unfolded.add(key) : unfolded.delete(key));
	return node;
}

function message(m) {
	const size = m.compressed ? `${bytes(m.size)}, expanded` : bytes(m.size);
	return foldable(`message ${m.connection} ${m.seq}`,
		[element("span", { class: "soft" }, clock(m.time)), `#${m.connection}`, element("span", { class: "soft" }, size)], m.text);
}

function request(r) {
	const client = r.client || "no X-Forwarded-For";
	return foldable(`request ${r.time}`,
		[element("span", { class: "soft" }, clock(r.time)), `${r.method} ${r.uri}`, element("span", { class: "soft" }, client)], r.text);
}

function listOr(empty, items) {
	return items.length > 0 ? items : [element("p", { class: "empty" }, empty)];
}

function render(state) {
	const connections = state.connections.length > 0
		? [connectionTable(state.connections)]
		: listOr("No WebSocket yet.", []);
	view.replaceChildren(
		element("p", { class: "status good", role: "status" },
			`${plural(state.open, "connection")} open, ${state.opened} since the relay started`),
		card("Connections", ...connections),
		card("Latest messages", ...listOr("No message yet.", state.messages.map(message))),
		card("HTTPS requests", ...listOr("No request yet.", state.requests.map(request))),
	);
}

function renderLost() {
	view.querySelector(".status")?.remove();
	view.prepend(element("p", { class: "status bad", role: "status" }, "The relay does not answer. Trying again …"));
}

async function poll() {
	try {
		const answer = await fetch("/_relay/state", { cache: "no-store" });
		if (!answer.ok) {
			throw new Error(answer.statusText);
		}
		const text = await answer.text();
		const state = JSON.parse(text);
		if (text !== shown) {
			render(state);
			view.dispatchEvent(new CustomEvent("relaystate", { detail: state }));
		}
		shown = text;
	} catch {
		renderLost();
		shown = "";
	}
	setTimeout(poll, pollEvery);
}

poll();
