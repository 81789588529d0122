// Drives nats.ws or wsconnect of @nats-io/nats-core over WebSocket; prints OK, or throws. The socket itself is the library `ws`,
// since Node's own takes neither certificates nor headers.
// usage: node websocket_client.mjs <node_modules folder> <nats.ws | nats-core> <options in JSON>
// options: url, subject; deflate (offer it, and want it taken or not: "yes", "no"; absent: do not offer), headers {}, ca, cert, key
// (files), seed (of an nkey, for `jwt`), jwt, refused (part of the error that is expected).
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";

const [, , modules, which, text] = process.argv;
const options = JSON.parse(text);
const require = createRequire(join(modules, "x.js"));
const WebSocket = require("ws");
const library = require(which === "nats.ws" ? "nats.ws" : "@nats-io/nats-core");
const connect = which === "nats.ws" ? library.connect : library.wsconnect;
const decode = (data) => new TextDecoder().decode(data);
const encode = (s) => new TextEncoder().encode(s);
const need = (condition, what) => {
  if (!condition) throw new Error(what);
};
const file = (path) => (path ? readFileSync(path) : undefined);

const sockets = [];
function open(url) {
  const socket = new WebSocket(url, {
    perMessageDeflate: options.deflate !== undefined && { threshold: 0 },
    headers: options.headers ?? {},
    ca: file(options.ca),
    cert: file(options.cert),
    key: file(options.key),
  });
  sockets.push(socket);
  return socket;
}
globalThis.WebSocket = class {
  constructor(url) {
    return open(url); // nats.ws has no other way in
  }
};

async function connected() {
  const authenticator = options.jwt
    ? library.jwtAuthenticator(options.jwt, options.seed ? encode(options.seed) : undefined)
    : undefined;
  const wsFactory = (url) => ({ socket: open(url), encrypted: url.startsWith("wss:") });
  return await connect({ servers: options.url, reconnect: false, authenticator, timeout: 20000, wsFactory });
}

if (options.refused !== undefined) {
  let error = "";
  await connected().catch((e) => (error = `${e.name} ${e.code ?? ""} ${e.message}`));
  need(error && error.toLowerCase().includes(options.refused.toLowerCase()), `refused with "${error}"`);
  console.log("OK");
  process.exit(0);
}

const [a, b] = [await connected(), await connected()];
if (options.deflate !== undefined) {
  const taken = sockets.every((socket) => socket.extensions.includes("permessage-deflate"));
  need(taken === (options.deflate === "yes"), `extensions: ${sockets.map((socket) => socket.extensions)}`);
}
const { subject } = options;
// Small ones, and one that fills several reads; what compresses well and what does not.
const payloads = [encode(""), encode("x"), encode("abc ".repeat(50000)), new Uint8Array(500000)];
for (let at = 0; at < 500000; at++) payloads[3][at] = (Math.imul(at, 2654435761) >>> 13) & 255;
const got = [];
const sub = b.subscribe(`${subject}.*`, { max: 300 });
await b.flush();
for (let n = 0; n < 300; n++) a.publish(`${subject}.${n % 5}`, n % 50 === 0 ? payloads[(n / 50) % 4] : encode(`${n}`));
for await (const m of sub) got.push(m.data);
need(got.length === 300, `${got.length} messages`);
got.forEach((data, n) => {
  const expected = n % 50 === 0 ? payloads[(n / 50) % 4] : encode(`${n}`);
  need(Buffer.compare(Buffer.from(data), Buffer.from(expected)) === 0, `message ${n}`);
});
b.subscribe(`${subject}svc`, { callback: (_, m) => m.respond(encode(`re:${decode(m.data)}`)) });
await b.flush();
const replies = await Promise.all(
  Array.from({ length: 100 }, (_, n) => a.request(`${subject}svc`, encode(`${n}`), { timeout: 20000 }))
);
replies.forEach((m, n) => need(decode(m.data) === `re:${n}`, `reply ${n}`));
await Promise.all([a.drain(), b.drain()]);
console.log("OK");
