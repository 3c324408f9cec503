// A bare webtorrent.js peer in a page: the reference that wtfs must get along with. Driven by driver.mjs.

/** Pieces in memory, as webtorrent's abstract chunk store. */
class Memory {
  #pieces = [];
  constructor(chunkLength) { this.chunkLength = chunkLength; }
  put(index, bytes, done = () => {}) { this.#pieces[index] = bytes; queueMicrotask(() => done(null)); }
  get(index, options, done) {
    if (typeof options === "function") [options, done] = [null, options];
    const piece = this.#pieces[index], from = options?.offset ?? 0;
    queueMicrotask(() => (piece ? done(null, piece.subarray(from, options?.length ? from + options.length : undefined)) : done(new Error("missing"))));
  }
  close(done = () => {}) { queueMicrotask(done); }
  destroy(done = () => {}) { queueMicrotask(done); }
}

/** Whom this tab is told of it is to reach by where `stretch`, which the driver lends, says. */
function goTheLongWay() {
  const { setRemoteDescription } = RTCPeerConnection.prototype;
  RTCPeerConnection.prototype.setRemoteDescription = async function ({ type, sdp }) {
    return setRemoteDescription.call(this, { type, sdp: await window.stretch(sdp) });
  };
}

let torrent;
/** When the first and the last byte came, in `performance.now()`. */
const came = { first: 0, last: 0 };
const seen = new Map();
export async function open({ library, role, torrent: torrentUrl, data, trackers, strategy }) {
  if (window.stretch) goTheLongWay();
  const { default: WebTorrent } = await import(library);
  const bytesOf = async (url) => new Uint8Array(await (await fetch(url)).arrayBuffer());
  // Without servers: everything is on this machine.
  const client = new WebTorrent({ tracker: { rtcConfig: { iceServers: [] } }, webSeeds: false, dht: false, lsd: false });
  const errors = [];
  client.on("error", (error) => errors.push(error.message));
  const file = await bytesOf(torrentUrl);
  const options = { announce: trackers, store: Memory, strategy: strategy ?? "rarest" };
  if (role === "seed") {
    const bytes = await bytesOf(data);
    options.skipVerify = true;
    options.store = class extends Memory {
      constructor(chunkLength) {
        super(chunkLength);
        for (let index = 0; index * chunkLength < bytes.length; index += 1) this.put(index, bytes.subarray(index * chunkLength, (index + 1) * chunkLength));
      }
    };
  }
  torrent = client.add(file, options);
  torrent.on("download", () => {
    came.last = performance.now();
    came.first ||= came.last;
  });
  torrent.on("wire", (wire) => seen.set(wire.peerId, wire));
  await new Promise((resolve, reject) => {
    torrent.once("ready", resolve);
    torrent.once("error", reject);
  });
  // Only what the tracker answers shows that others can find this peer.
  await new Promise((resolve) => torrent.discovery.tracker.once("update", resolve));
  return { errors };
}

/** Waits until everything is here; the SHA-256 of it, and of whom. */
export async function done() {
  if (!torrent.done) await new Promise((resolve) => torrent.once("done", resolve));
  const pieces = [];
  for (let index = 0; index < torrent.pieces.length; index += 1) {
    pieces.push(await new Promise((resolve, reject) => torrent.store.get(index, (error, bytes) => (error ? reject(error) : resolve(bytes)))));
  }
  const digest = await crypto.subtle.digest("SHA-256", await new Blob(pieces).arrayBuffer());
  return { sha256: Array.from(new Uint8Array(digest), (byte) => byte.toString(16).padStart(2, "0")).join(""), transfer: { bytes: torrent.length, seconds: (came.last - came.first) / 1000 }, ...stats() };
}

export function stats() {
  const name = (hex) => String.fromCharCode(...(hex.match(/../g) ?? []).map((pair) => Number.parseInt(pair, 16))).slice(1, 3);
  return {
    progress: torrent.progress,
    wires: torrent.wires.length,
    peers: [...seen.values()].map((wire) => ({ client: name(wire.peerId ?? ""), downloaded: wire.downloaded, uploaded: wire.uploaded, isOpen: !wire.destroyed })),
    memory: performance.memory?.usedJSHeapSize,
  };
}
