// A WebSocket client or server of npm's `ws`, in the hands of the tests: `node ws.js client|server SETTINGS`.
// Commands come on standard input, events go to standard output, one JSON object a line; remote.py says which.
"use strict";

const readline = require("node:readline");
const { WebSocket, WebSocketServer } = require("ws");

const [role, settings] = [process.argv[2], JSON.parse(process.argv[3])];
const maxPayload = settings.max_size ?? 0; // 0: any

function tell(event) {
  process.stdout.write(JSON.stringify(event) + "\n");
}

function follow(websocket, socket) {
  tell({ event: "open", subprotocol: websocket.protocol, extensions: websocket.extensions });
  websocket.on("message", (data, isBinary) =>
    tell(isBinary ? { event: "binary", data: data.toString("base64") } : { event: "text", text: data.toString() }),
  );
  websocket.on("pong", (data) => tell({ event: "pong", data: data.toString("base64") }));
  websocket.on("error", (error) => console.error(`ws: ${error.message}`)); // a close event follows
  websocket.on("close", (code, reason) => tell({ event: "close", code, reason: reason.toString() }));
  const commands = {
    send: ({ data, fin }) => websocket.send(Buffer.from(data, "base64"), { fin }),
    text: ({ text }) => websocket.send(text),
    ping: ({ data }) => websocket.ping(Buffer.from(data, "base64")),
    close: ({ code, reason }) => websocket.close(code, reason),
    raw: ({ data }) => socket.write(Buffer.from(data, "base64")),
  };
  lines.on("line", (line) => {
    const command = JSON.parse(line);
    commands[command.do](command);
  });
}

function connect() {
  const subprotocols = settings.subprotocol ? [settings.subprotocol] : [];
  const options = { maxPayload, perMessageDeflate: true, ...(settings.origin && { origin: settings.origin }) };
  const websocket = new WebSocket(`ws://127.0.0.1:${settings.port}`, subprotocols, options);
  const refused = (status) => tell({ event: "refused", status });
  const failed = () => refused(null);
  let socket;
  websocket.once("upgrade", (response) => (socket = response.socket));
  websocket.once("unexpected-response", (request, response) => {
    refused(response.statusCode);
    request.destroy();
  });
  websocket.once("error", failed);
  websocket.once("open", () => {
    websocket.off("error", failed);
    follow(websocket, socket);
  });
}

function serve() {
  const server = new WebSocketServer({
    host: "127.0.0.1",
    port: 0,
    maxPayload,
    perMessageDeflate: true,
    handleProtocols: (offered) => (offered.has(settings.subprotocol) ? settings.subprotocol : false),
  });
  server.once("connection", (websocket, request) => follow(websocket, request.socket));
  server.once("listening", () => tell({ event: "listening", port: server.address().port }));
}

const lines = readline.createInterface({ input: process.stdin });
lines.on("close", () => process.exit());
({ client: connect, server: serve })[role]();
