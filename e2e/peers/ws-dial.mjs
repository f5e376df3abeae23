// Opens a WebSocket as the SDK does, to a name taken for 127.0.0.1, prints the
// greeting and closes. Usage: node ws-dial.mjs URL ROOT
import { readFileSync } from "node:fs";
import { WebSocket } from "ws";

const [url, root] = process.argv.slice(2);
const lookup = (name, options, done) =>
  options.all ? done(null, [{ address: "127.0.0.1", family: 4 }]) : done(null, "127.0.0.1", 4);

const socket = new WebSocket(`${url}?apiKey=k`, "2.0", { ca: readFileSync(root), lookup });
socket.on("message", (data) => {
  console.log(`greeting ${data}`);
  socket.close(1000);
});
socket.on("close", (code) => process.exit(code === 1000 ? 0 : 1));
socket.on("error", (error) => console.log(`error ${error.message}`));
