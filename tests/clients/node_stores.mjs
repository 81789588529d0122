// Drives @nats-io/kv and @nats-io/obj over @nats-io/transport-node; prints OK, or throws.
// usage: node node_stores.mjs <node_modules folder> <port> <bucket> <mebibytes>
import { createHash, randomBytes } from "node:crypto";
import { createRequire } from "node:module";
import { join } from "node:path";

const [, , modules, port, bucket, mebibytes] = process.argv;
const require = createRequire(join(modules, "x.js"));
const { connect } = require("@nats-io/transport-node");
const { jetstream, jetstreamManager } = require("@nats-io/jetstream");
const { Kvm } = require("@nats-io/kv");
const { Objm } = require("@nats-io/obj");
const same = (a, b, what) => {
  if (JSON.stringify(a) !== JSON.stringify(b)) throw new Error(`${what}: ${JSON.stringify(a)} is not ${JSON.stringify(b)}`);
};
const refused = async (promise) => {
  try {
    await promise;
  } catch (e) {
    return e.code ?? e.message;
  }
  throw new Error("was not refused");
};
const open = () => connect({ servers: `127.0.0.1:${port}` });
const sha256 = (data) => createHash("sha256").update(data).digest("base64url");

async function keys(a, b) {
  const kv = await new Kvm(jetstream(a, { timeout: 20000 })).create(bucket, { history: 5, markerTTL: 60000 });
  const other = await new Kvm(jetstream(b, { timeout: 20000 })).open(bucket);
  const watch = await other.watch({ key: "a.*" });
  for (let i = 0; i < 7; i++) await kv.put(`a.${i % 2}`, `${i}`);
  let seen = [];
  for await (const e of watch) {
    seen.push([e.key, e.string(), e.revision]);
    if (seen.length === 7) break;
  }
  same(seen, Array.from({ length: 7 }, (_, i) => [`a.${i % 2}`, `${i}`, i + 1]), "watch");
  same((await other.get("a.0")).string(), "6", "get");
  same((await other.get("a.0", { revision: 3 })).string(), "2", "get of a revision");
  same(await refused(kv.create("a.0", "x")), 10071, "create of what is there");
  same(await kv.create("b", "1", "60s"), 8, "create");
  same(await kv.update("b", "2", 8), 9, "update");
  same(await refused(kv.update("b", "3", 8)), 10071, "update of an older one");
  await kv.delete("a.1");
  await kv.purge("a.0");
  const history = [];
  for await (const e of await other.history({ key: "a.*" })) history.push([e.key, e.operation]);
  same(history, [["a.1", "PUT"], ["a.1", "PUT"], ["a.1", "PUT"], ["a.1", "DEL"], ["a.0", "PURGE"]], "history");
  const names = [];
  for await (const k of await other.keys()) names.push(k);
  same(names, ["b"], "keys");
  same((await kv.purgeDeletes(0)).purged > 0, true, "purged");
  same((await other.status()).values, 2, "values");
  same(await kv.destroy(), true, "destroy");
}

async function objects(a, b) {
  const store = await new Objm(jetstream(a, { timeout: 30000 })).create(bucket);
  const other = await new Objm(jetstream(b, { timeout: 30000 })).open(bucket);
  const piece = randomBytes(1 << 20);
  const hash = createHash("sha256");
  let left = Number(mebibytes);
  const source = new ReadableStream({
    pull(controller) {
      if (left-- === 0) return controller.close();
      hash.update(piece);
      controller.enqueue(new Uint8Array(piece));
    },
  });
  const info = await store.put({ name: "big", description: "d" }, source, { timeout: 50000 });
  const digest = hash.digest("base64url");
  const unpadded = (s) => s.replace(/^SHA-256=/, "").replace(/=+$/, "");
  same([info.size, unpadded(info.digest)], [piece.length * Number(mebibytes), digest], "put");
  const got = await other.get("big");
  const back = createHash("sha256");
  let size = 0;
  for (const reader = got.data.getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) break;
    size += value.length;
    back.update(value);
  }
  same([(await got.error) ?? null, size, back.digest("base64url")], [null, info.size, digest], "get");
  await store.putBlob({ name: "small" }, new Uint8Array(piece.subarray(0, 1000)));
  same(sha256(await other.getBlob("small")), sha256(piece.subarray(0, 1000)), "blob");
  await store.link("link", await store.info("small"));
  same((await other.getBlob("link")).length, 1000, "through a link");
  await store.update("small", { name: "renamed", description: "n" });
  same((await other.list()).map((o) => o.name).sort(), ["big", "link", "renamed"], "list");
  same((await store.delete("big")).success, true, "delete");
  same((await other.status()).size < 5000, true, "size after a deletion");
  same((await store.seal()).sealed, true, "seal");
  same(typeof (await refused(other.putBlob({ name: "x" }, new Uint8Array(1)))) !== "undefined", true, "sealed");
  same(await store.destroy(), true, "destroy");
}

const [a, b] = [await open(), await open()];
await keys(a, b);
await objects(a, b);
same((await (await jetstreamManager(a)).getAccountInfo()).api.level, 2, "level");
await Promise.all([a.close(), b.close()]);
console.log("OK");
