// Drives one of the npm clients through what every client must be able to do; prints OK, or throws.
// usage: node node_client.mjs <node_modules folder> <nats | transport-node> <port> <subject> <core | reconnect>
// In "reconnect" it prints READY when it is connected, and OK when messages come again after a reconnect.
import { createRequire } from "node:module";
import { join } from "node:path";

const [, , modules, which, port, subject, part] = process.argv;
const require = createRequire(join(modules, "x.js"));
const library = which === "nats" ? require("nats") : require("@nats-io/transport-node");
const { connect, headers } = library;
const text = new TextDecoder();
const bytes = (s) => new TextEncoder().encode(s);
const open = () =>
  connect({ servers: `127.0.0.1:${port}`, reconnectTimeWait: 50, maxReconnectAttempts: -1, waitOnFirstConnect: true });
const need = (condition, what) => {
  if (!condition) throw new Error(what);
};

async function core() {
  const [a, b, c] = [await open(), await open(), await open()];
  // publish, subscribe, wildcard, headers, order
  const sub = b.subscribe(`${subject}.*`, { max: 100 });
  await b.flush();
  for (let i = 0; i < 100; i++) {
    const h = headers();
    h.set("n", `${i}`);
    a.publish(`${subject}.${i % 7}`, bytes(`${i}`), { headers: h });
  }
  let next = 0;
  for await (const m of sub) {
    need(text.decode(m.data) === `${next}` && m.headers.get("n") === `${next}`, `order at ${next}`);
    next++;
  }
  need(next === 100, "100 messages");
  // requests to a queue group
  const served = [0, 0];
  [b, c].forEach((nc, n) =>
    nc.subscribe(`${subject}svc`, {
      queue: "q",
      callback: (_, m) => {
        served[n]++;
        m.respond(bytes(`re:${text.decode(m.data)}`));
      },
    })
  );
  await Promise.all([b.flush(), c.flush()]);
  for (const noMux of [false, true]) {
    const replies = await Promise.all(
      Array.from({ length: 100 }, (_, i) => a.request(`${subject}svc`, bytes(`${i}`), { timeout: 20000, noMux }))
    );
    replies.forEach((r, i) => need(text.decode(r.data) === `re:${i}`, `reply ${i}`));
  }
  need(served[0] + served[1] === 200 && Math.min(...served) > 20, `served ${served}`);
  // nobody there
  let refused = "";
  await a.request(`${subject}nobody`, bytes(""), { timeout: 20000 }).catch((e) => (refused = `${e.name} ${e.code} ${e.message}`));
  need(/503|no ?responders/i.test(refused), `no responders: ${refused}`);
  need((await a.rtt()) >= 0, "rtt");
  // drain: all that was sent before is delivered
  let drained = 0;
  c.subscribe(`${subject}drain`, { callback: () => drained++ });
  await c.flush();
  for (let i = 0; i < 500; i++) a.publish(`${subject}drain`);
  await a.flush();
  await c.drain();
  need(drained === 500, `drained ${drained}`);
  await Promise.all([a.drain(), b.drain()]);
}

async function reconnect() {
  const a = await open();
  let heard = 0;
  a.subscribe(`${subject}`, { callback: () => heard++ });
  await a.flush();
  let again = false;
  (async () => {
    for await (const s of a.status()) if (s.type === "reconnect") again = true;
  })();
  console.log("READY");
  while (!again) await new Promise((r) => setTimeout(r, 10));
  a.publish(`${subject}`);
  while (!heard) await new Promise((r) => setTimeout(r, 10));
  await a.close();
}

await (part === "core" ? core() : reconnect());
console.log("OK");
