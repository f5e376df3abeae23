// Shows what the relay received inside the element marked data-relay-view, and
// tells that element of each new state by a "relaystate" event. All data comes from
// strangers, so it only ever becomes text nodes.

const view = document.querySelector("[data-relay-view]");
const pollEvery = 1000;
let shown = ""; // the state as last received

function element(tag, attributes, ...children) {
	const node = document.createElement(tag);
	for (const [name, value] of Object.entries(attributes)) {
		node.setAttribute(name, value);
	}
	node.append(...children);
	return node;
}

// card adds a titled box to the page and returns the part of it that changes.
function card(title) {
	const body = element("div", {});
	view.append(element("section", { class: "card" }, element("h2", {}, title), body));
	return body;
}

const status = element("p", { class: "status", role: "status" });
view.replaceChildren(status);
const connections = card("Connections");
const messages = card("Latest messages");
const requests = card("HTTPS requests");

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

function traffic(messages, size) {
	return `${plural(messages, "message")}, ${bytes(size)}`;
}

function soft(text) {
	return element("span", { class: "soft" }, text);
}

function whose(identity) {
	return [identity.room, identity.peer, identity.session].filter(Boolean).join(" / ") || "not known yet";
}

function connectionState(connection) {
	if (connection.open) {
		return element("span", { class: "good" }, "open");
	}
	const kind = connection.closeCode === 1006 ? "bad" : "soft";
	return element("span", { class: kind, title: connection.closeReason ?? "" }, `closed ${connection.closeCode}`);
}

const connectionColumns = [
	["#", (c) => String(c.id)],
	["State", connectionState],
	["X-Forwarded-For", (c) => c.client || soft("none")],
	["Room / peer / session", (c) => whose(c.identity)],
	["Received", (c) => traffic(c.stats.messagesIn, c.stats.bytesIn)],
	["Sent", (c) => traffic(c.stats.messagesOut, c.stats.bytesOut)],
	["Opened", (c) => clock(c.openedAt)],
];

function connectionTable(list) {
	const head = connectionColumns.map(([label]) => element("th", { scope: "col" }, label));
	const rows = list.map((connection) => element("tr", { title: connection.uri },
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

function foldable(summary, text) {
	return element("details", {},
		element("summary", {}, ...summary, element("span", { class: "preview" }, text)),
		element("pre", {}, pretty(text)));
}

function message(m) {
	const size = element("span", { class: "soft size" }, m.compressed ? `${bytes(m.size)} compressed` : bytes(m.size));
	return foldable([soft(clock(m.time)), `#${m.connection}`, size], m.text);
}

function request(r) {
	const what = element("span", { class: "long" }, `${r.method} ${r.uri}`);
	const client = element("span", { class: "soft long" }, r.client || "no X-Forwarded-For");
	return foldable([soft(clock(r.time)), what, client], r.text);
}

// update brings a list of foldables up to date. Items never change and new ones come
// first, so those on the page stay, with what their reader has unfolded or selected.
function update(list, items, build, empty) {
	const keys = items.map((item) => `${item.time} ${item.connection} ${item.seq}`);
	const kept = new Set();
	for (const node of [...list.children]) {
		if (keys.includes(node.dataset.key)) {
			kept.add(node.dataset.key);
		} else {
			node.remove();
		}
	}
	for (let i = items.length - 1; i >= 0; i--) {
		if (!kept.has(keys[i])) {
			const node = build(items[i]);
			node.dataset.key = keys[i];
			list.prepend(node);
		}
	}
	if (items.length === 0) {
		list.replaceChildren(nothing(empty));
	}
}

function nothing(text) {
	return element("p", { class: "empty" }, text);
}

function say(kind, text) {
	status.className = `status ${kind}`;
	status.textContent = text;
}

function render(state) {
	say(state.open > 0 ? "good" : "soft", `${plural(state.open, "connection")} open, ${state.opened} since the relay started`);
	connections.replaceChildren(state.connections.length > 0 ? connectionTable(state.connections) : nothing("No WebSocket yet."));
	update(messages, state.messages, message, "No message yet.");
	update(requests, state.requests, request, "No request yet.");
}

async function poll() {
	try {
		const response = await fetch("/_relay/state", { cache: "no-store" });
		if (!response.ok) {
			throw new Error(response.statusText);
		}
		const text = await response.text();
		const state = JSON.parse(text);
		if (text !== shown) {
			render(state);
			view.dispatchEvent(new CustomEvent("relaystate", { detail: state }));
		}
		shown = text;
	} catch {
		say("bad", "The relay does not respond. Trying again …");
		shown = "";
	}
	setTimeout(poll, pollEvery);
}

poll();
