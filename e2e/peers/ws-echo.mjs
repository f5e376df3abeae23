// An echo server with the npm package ws. Usage: node ws-echo.mjs CERT KEY
// It prints "listening PORT", and "closed CODE REASON" for each end.
import { readFileSync } from "node:fs";
import { createServer } from "node:https";
import { WebSocketServer } from "ws";

const [cert, key] = process.argv.slice(2).map((file) => readFileSync(file));
const server = createServer({ cert, key });
const sockets = new WebSocketServer({ server, perMessageDeflate: { threshold: 0 }, maxPayload: 64 << 20 });

sockets.on("connection", (socket) => {
  socket.on("message", (data, isBinary) => {
    const command = isBinary ? null : /^close:(\d+):(.*)$/.exec(data.toString());
    if (command) socket.close(Number(command[1]), command[2]);
    else socket.send(data, { binary: isBinary });
  });
  socket.on("close", (code, reason) => console.log(`closed ${code} ${reason}`));
  socket.on("error", (error) => console.log(`error ${error.message}`));
});
server.listen(0, "127.0.0.1", () => console.log(`listening ${server.address().port}`));
