// Peers that misbehave at the tracker or on the data channel, in a page. Driven by driver.mjs.
//
// `kind` is what they do:
//   silent     takes offers and never answers
//   garbage    answers offers with nonsense, and offers nonsense
//   mute       opens the channel and says nothing
//   half       says half a handshake, and then nothing
//   cut        says a handshake and the beginning of a message, and then nothing
//   endless    announces a message of four gigabytes
//   flood      says a handshake, and messages that nobody asked for, as fast as they go
//   liar       says a handshake and that it has everything, and gives what it is asked for as noise

const told = { offers: 0, offered: 0, answered: 0, opened: 0, closed: 0, sent: 0, errors: [] };
const latin = (bytes) => String.fromCharCode(...bytes);
const bytesOf = (hex) => Uint8Array.from(hex.match(/../g), (pair) => Number.parseInt(pair, 16));
const random = (length) => crypto.getRandomValues(new Uint8Array(length));
const FLOOD_BYTES_MAX = 24 * 2 ** 20;
const GARBAGE = ["", "v=0\r\n", "garbage", `v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\na=fingerprint:sha-256 ${"00:".repeat(5000)}\r\n`, "x".repeat(40_000)];
const open = new Set();

function message(kind, payload = new Uint8Array(0)) {
  const whole = new Uint8Array(5 + payload.length);
  new DataView(whole.buffer).setUint32(0, 1 + payload.length);
  whole[4] = kind;
  whole.set(payload, 5);
  return whole;
}

class Hostile {
  constructor({ kind, tracker, hash, pieces }) {
    Object.assign(this, { kind, pieces, hash: bytesOf(hash), id: new Uint8Array([...new TextEncoder().encode("-WW0300-"), ...random(12).map((byte) => 65 + byte % 26)]) });
    this.socket = new WebSocket(tracker);
    this.socket.onmessage = ({ data }) => this.hear(JSON.parse(data)).catch((error) => told.errors.push(error.message));
    this.ready = new Promise((resolve, reject) => {
      this.socket.onopen = () => this.announce().then(resolve, reject);
      this.socket.onerror = () => reject(new Error("the tracker refuses"));
    });
  }
  say(more) { this.socket.send(JSON.stringify({ action: "announce", info_hash: latin(this.hash), peer_id: latin(this.id), ...more })); }
  async announce() {
    const offers = [];
    if (this.kind === "garbage") for (const sdp of GARBAGE) offers.push({ offer_id: latin(random(20)), offer: { type: "offer", sdp } });
    else if (this.kind !== "silent") {
      this.pending = new Map();
      for (let i = 0; i < 2; i += 1) {
        const connection = this.connection(), id = latin(random(20));
        this.use(connection.createDataChannel(id.slice(0, 10)));
        await connection.setLocalDescription(await connection.createOffer());
        await gathered(connection);
        this.pending.set(id, connection);
        offers.push({ offer_id: id, offer: connection.localDescription.toJSON() });
      }
    }
    told.offered += offers.length;
    this.say({ uploaded: 0, downloaded: 0, left: 0, event: "started", numwant: 5, offers });
  }
  async hear(heard) {
    if (heard.offer) {
      told.offers += 1;
      const back = (sdp) => this.say({ to_peer_id: heard.peer_id, offer_id: heard.offer_id, answer: { type: "answer", sdp } });
      if (this.kind === "silent") return;
      if (this.kind === "garbage") {
        told.answered += 1;
        return back(GARBAGE[told.answered % GARBAGE.length]);
      }
      const connection = this.connection();
      connection.ondatachannel = ({ channel }) => this.use(channel);
      await connection.setRemoteDescription(heard.offer);
      await connection.setLocalDescription(await connection.createAnswer());
      await gathered(connection);
      told.answered += 1;
      back(connection.localDescription.sdp);
    }
    if (heard.answer) await this.pending?.get(heard.offer_id)?.setRemoteDescription(heard.answer);
  }
  connection() {
    const connection = new RTCPeerConnection({ iceServers: [] });
    open.add(connection);
    return connection;
  }
  use(channel) {
    channel.binaryType = "arraybuffer";
    channel.onopen = () => { told.opened += 1; this.misbehave(channel).catch((error) => told.errors.push(error.message)); };
    channel.onclose = () => { told.closed += 1; };
    channel.onmessage = ({ data }) => { if (this.kind === "liar") this.lie(channel, new Uint8Array(data)); };
  }
  handshake() {
    const reserved = new Uint8Array(8);
    return new Uint8Array([19, ...new TextEncoder().encode("BitTorrent protocol"), ...reserved, ...this.hash, ...this.id]);
  }
  async misbehave(channel) {
    const shake = this.handshake();
    if (this.kind === "mute") return;
    if (this.kind === "half") return channel.send(shake.slice(0, 30));
    channel.send(shake);
    if (this.kind === "cut") return channel.send(message(5, new Uint8Array(64)).slice(0, 20));
    if (this.kind === "endless") {
      channel.send(new Uint8Array([255, 255, 255, 255, 20]));
      return this.pour(channel, () => random(16_384));
    }
    if (this.kind === "liar") {
      channel.send(message(5, all(this.pieces)));
      channel.send(message(1));
      return;
    }
    const have = new Uint8Array(4);
    const chunks = [message(9, new Uint8Array(2)), message(4, have), message(2), message(3), message(20, random(16_000)), message(99, random(10_000))];
    await this.pour(channel, () => chunks[Math.floor(Math.random() * chunks.length)]);
  }
  /** Sends as fast as the channel takes it, up to a bound. */
  async pour(channel, next) {
    while (channel.readyState === "open" && told.sent < FLOOD_BYTES_MAX) {
      if (channel.bufferedAmount > 2 ** 20) { await new Promise((resolve) => setTimeout(resolve, 5)); continue; }
      const chunk = next();
      channel.send(chunk);
      told.sent += chunk.length;
    }
  }
  lie(channel, bytes) {
    // Requests come as whole messages from whoever is tested; the handshake and the rest are passed over.
    for (let at = 0; at + 17 <= bytes.length; at += 1) {
      if (bytes[at + 3] !== 13 || bytes[at + 4] !== 6 || bytes[at] || bytes[at + 1] || bytes[at + 2]) continue;
      const view = new DataView(bytes.buffer, bytes.byteOffset + at);
      const length = view.getUint32(13);
      if (length > 131_072) continue;
      const block = new Uint8Array(8 + length);
      block.set(bytes.subarray(at + 5, at + 13));
      block.set(random(Math.min(length, 65_536)), 8);
      channel.send(message(7, block));
      told.sent += length;
      at += 16;
    }
  }
}

function all(pieces) {
  const field = new Uint8Array(Math.ceil(pieces / 8)).fill(255);
  if (pieces % 8) field[field.length - 1] = (255 << (8 - pieces % 8)) & 255;
  return field;
}
function gathered(connection) {
  if (connection.iceGatheringState === "complete") return Promise.resolve();
  return new Promise((resolve) => connection.addEventListener("icegatheringstatechange", () => { if (connection.iceGatheringState === "complete") resolve(); }));
}

const peers = [];
export async function start({ count, ...options }) {
  for (let i = 0; i < count; i += 1) peers.push(new Hostile(options));
  await Promise.all(peers.map((peer) => peer.ready));
}
const say = () => ({ ...told, isPoured: told.sent >= FLOOD_BYTES_MAX });
export { say as told };
