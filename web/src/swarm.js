// One torrent in this tab: webtorrent, what came from whom, and what its trackers say.
//
// Owns the client and the open torrent. Reads go through `reading.js`, which asks here for pieces; nothing is fetched
// that nobody asked for, unless everything is wanted. webtorrent's version is pinned: what stands behind its interface
// is used in four places (a piece that had to go, who connected, what a web seed is asked, a tracker to be tried again), all
// of them here.
import "./crypto.js";
import WebTorrent from "webtorrent/dist/webtorrent.min.js";
import * as hub from "./hub.js";
import { chunkStore } from "./shelf.js";
import { fetchRange } from "./web-seed.js";

/** Where a piece came from. */
export const FROM = { nobody: 0, kept: 1, webSeed: 2, browser: 3, native: 4 };
/** How often it is asked whether trackers that were lost are back; webtorrent itself may wait for minutes. */
const RETRY_MS = 3000;
const PEERS_MAX = 55;

/** Whose client a peer id tells of (BEP 20). */
function clientOf(peerId) {
  const id = (peerId ?? "").match(/../g)?.map((pair) => String.fromCharCode(Number.parseInt(pair, 16))).join("") ?? "";
  const found = /^-([A-Za-z]{2})([0-9A-Za-z]{4})-/.exec(id);
  if (!found) return { name: "unknown", isBrowser: false };
  const names = { WW: "WebTorrent", WD: "WebTorrent Desktop", WF: "wtfs" };
  const version = found[2].match(/\d/g)?.map(Number) ?? [];
  const name = names[found[1]] ?? found[1];
  return { name: found[1] === "WW" && version.length === 4 ? `${name} ${version[0] * 10 + version[1]}` : name, isBrowser: found[1] === "WW" };
}

export class Swarm extends EventTarget {
  #client;
  #shelf;
  #retry;
  #peerOf = new WeakMap();
  /** Of pieces that are coming: bytes by kind of source, in FROM's order. */
  #parts = new Map();
  /** The client of trackers whose answers are listened to. */
  #heard = null;
  /** The open torrent, or null. */
  torrent = null;
  /** Where each piece came from: one of FROM. */
  from = new Uint8Array(0);
  /** The last thing that went wrong with each tracker, by its address. */
  trackers = new Map();
  /** How many peers each tracker told of at last, this one among them, by its address. */
  known = new Map();
  usesWebSeed = true;
  isFetchingAll = false;
  /** Bytes got from each kind of source, in FROM's order. */
  got = [0, 0, 0, 0, 0];
  /** Bytes of pieces given to others. */
  sent = 0;
  /** How many pieces had to make room since the page was opened. */
  evictions = 0;
  /** When bytes last came, in `performance.now()`. */
  lastByteAt = 0;
  /** When the torrent was opened. */
  openedAt = 0;

  constructor(shelf, iceServers) {
    super();
    this.#shelf = shelf;
    this.#client = new WebTorrent({
      dht: false, lsd: false, utPex: false, natUpnp: false, natPmp: false, maxConns: PEERS_MAX,
      // Added here, by `#seedFromWeb`.
      webSeeds: false,
      tracker: { rtcConfig: { iceServers } },
    });
    this.#client.on("error", (error) => this.#tell("failed", error));
    shelf.onEvicted = (hash, index) => this.#evicted(hash, index);
    this.#retry = setInterval(() => this.#retryTrackers(), RETRY_MS);
  }
  #tell(kind, detail) {
    this.dispatchEvent(new CustomEvent(kind, { detail }));
  }
  /** How many bytes may be kept. */
  get keptMax() { return this.#shelf.bound; }
  get canWebRtc() { return WebTorrent.WEBRTC_SUPPORT; }

  /**
   * Opens a torrent in place of the one that is open: the bytes of a `.torrent`, or a magnet link. `isOfHub` gives it the
   * hub's tracker and web seed under the name by which this page reached the hub.
   */
  async open(source, { hash, isOfHub }) {
    await this.close();
    const options = {
      deselect: true, strategy: "sequential", store: chunkStore(this.#shelf),
      announce: [hub.trackerUrl()],
      urlList: [],
      storeCacheSlots: 0,
    };
    this.got = [0, 0, 0, 0, 0];
    this.sent = 0;
    this.lastByteAt = 0;
    this.openedAt = performance.now();
    this.trackers.clear();
    this.known.clear();
    this.isFetchingAll = false;
    const torrent = this.#client.add(source, options);
    this.torrent = torrent;
    torrent.on("error", (error) => { if (this.torrent === torrent) this.#failed(error); });
    torrent.on("warning", (warning) => { if (this.torrent === torrent) this.#warned(warning); });
    torrent.once("infoHash", () => this.#prepare(torrent, isOfHub));
    torrent.once("metadata", () => this.#described(torrent));
    torrent.once("ready", () => { if (this.torrent === torrent) this.#ready(torrent); });
    torrent.on("verified", (index) => { if (this.torrent === torrent) this.#verified(index); });
    torrent.on("wire", (wire) => this.#connected(torrent, wire));
    torrent.on("done", () => { if (this.torrent === torrent) this.#tell("changed"); });
    this.#tell("opened", { hash });
    return torrent;
  }
  async close() {
    const torrent = this.torrent;
    this.torrent = null;
    if (!torrent || torrent.destroyed) return;
    await new Promise((resolve) => {
      // A tracker that does not answer must not hold this up.
      const timer = setTimeout(resolve, 1500);
      torrent.destroy({ destroyStore: false }, () => { clearTimeout(timer); resolve(); });
    });
  }

  #prepare(torrent, isOfHub) {
    // Browsers have sockets for web sockets only, and pages over TLS only for such over TLS; the others would be warned
    // about at each announce.
    const isUsable = location.protocol === "https:" ? /^wss:/i : /^wss?:/i;
    torrent.announce = torrent.announce.filter((url) => isUsable.test(url));
    this.seeds = new Set(torrent.urlList ?? []);
    if (isOfHub) this.seeds.add(hub.seedUrl(torrent.infoHash));
    // Trackers are asked as soon as this is over.
    queueMicrotask(() => this.#listen(torrent));
  }
  #described(torrent) {
    if (this.torrent !== torrent) return;
    // A .torrent brings its web seeds along once more with its metadata; those of a magnet link are known already.
    for (const seed of torrent.urlList) this.seeds.add(seed);
    this.from = new Uint8Array(torrent.pieces.length);
    this.#parts.clear();
    this.#shelf.take({
      hash: torrent.infoHash, name: torrent.name, file: torrent.torrentFile,
      pieceLength: torrent.pieceLength, length: torrent.length,
    });
    this.#tell("described");
  }
  #ready(torrent) {
    this.#listen(torrent);
    this.#tell("ready");
    if (this.usesWebSeed) this.#seedFromWeb(torrent);
  }
  #verified(index) {
    // Several may have given blocks of it: it is of who gave most.
    const parts = this.torrent.ready ? this.#parts.get(index) : null;
    this.#parts.delete(index);
    this.from[index] = parts ? parts.indexOf(Math.max(...parts)) : FROM.kept;
    this.#tell("piece", index);
  }
  #failed(error) {
    this.torrent = null;
    this.#tell("failed", error);
  }
  #warned(warning) {
    const text = String(warning?.message ?? warning);
    const found = /wss?:\/\/\S+/.exec(text);
    if (found) this.trackers.set(found[0].replace(/[).,]+$/, ""), text);
    this.#tell("warned", text);
  }

  // ---- peers ------------------------------------------------------------------------------------------------------

  #connected(torrent, wire) {
    const isSeed = wire.type === "webSeed";
    const client = clientOf(wire.peerId);
    const kind = isSeed ? FROM.webSeed : client.isBrowser ? FROM.browser : FROM.native;
    this.#peerOf.set(wire, { kind, client: client.name });
    wire.on("piece", (index, offset, block) => {
      if (this.torrent !== torrent) return;
      let parts = this.#parts.get(index);
      if (!parts) this.#parts.set(index, parts = [0, 0, 0, 0, 0]);
      parts[kind] += block.length;
      this.got[kind] += block.length;
      this.lastByteAt = performance.now();
    });
    wire.on("upload", (length) => { if (this.torrent === torrent) this.sent += length; });
    wire.once("close", () => this.#tell("changed"));
    this.#tell("changed");
  }
  /** Who is connected: kind, client, address, rates and totals in bytes. */
  peers() {
    if (!this.torrent || this.torrent.destroyed) return [];
    const total = this.torrent.pieces?.length ?? 0;
    return [...this.torrent._peers.values()].filter((peer) => peer.wire && this.torrent.wires.includes(peer.wire)).map((peer) => {
      const { wire } = peer;
      const about = this.#peerOf.get(wire) ?? { kind: FROM.native, client: "unknown" };
      let host = wire.remoteAddress ?? "";
      if (about.kind === FROM.webSeed) {
        try { host = new URL(peer.id).host; } catch { host = ""; }
      }
      return {
        id: peer.id, kind: about.kind, host,
        client: about.kind === FROM.webSeed ? "HTTP" : about.client,
        down: wire.downloadSpeed(), up: wire.uploadSpeed(), downloaded: wire.downloaded, uploaded: wire.uploaded,
        isSeeder: wire.isSeeder || about.kind === FROM.webSeed,
        pieces: wire.isSeeder || !total ? total : shared(wire.peerPieces, total),
        isChoking: wire.peerChoking,
      };
    });
  }

  // ---- web seeds --------------------------------------------------------------------------------------------------

  #seedFromWeb(torrent) {
    for (const url of this.seeds) {
      if (!/^https?:/i.test(url)) continue;
      if (torrent._peers.has(url)) continue;
      torrent.addWebSeed(url);
      const connection = torrent._peers.get(url)?.conn;
      if (!connection) continue;
      connection.httpRequest = (index, offset, length, done) => {
        fetchRange(torrent, url, index * torrent.pieceLength + offset, length).then((bytes) => done(null, bytes), done);
      };
    }
  }
  /** Takes web seeds in or leaves them out. */
  setWebSeed(isUsed) {
    this.usesWebSeed = isUsed;
    const { torrent } = this;
    if (!torrent?.ready) return;
    if (isUsed) this.#seedFromWeb(torrent);
    else for (const peer of [...torrent._peers.values()]) if (peer.type === "webSeed") torrent.removePeer(peer);
    this.#tell("changed");
  }

  // ---- trackers ---------------------------------------------------------------------------------------------------

  /** The trackers of the open torrent, whether each is connected, and how many peers it knows. */
  trackerStates() {
    return (this.torrent?.discovery?.tracker?._trackers ?? []).map((tracker) => ({
      url: tracker.announceUrl,
      isConnected: tracker.socket?.connected === true,
      isLost: tracker.reconnecting === true,
      known: this.known.get(tracker.announceUrl),
    }));
  }
  /** Hears what trackers tell of who takes part, from the first answer on. */
  #listen(torrent) {
    const client = torrent.discovery?.tracker;
    if (this.torrent !== torrent || !client || client === this.#heard) return;
    this.#heard = client;
    client.on("update", ({ announce, complete, incomplete }) => {
      if (Number.isFinite(complete) && Number.isFinite(incomplete)) this.known.set(announce, complete + incomplete);
    });
  }
  /** Tries lost trackers again, once the hub answers or the way back is another one. */
  async #retryTrackers() {
    const lost = (this.torrent?.discovery?.tracker?._trackers ?? []).filter((tracker) => tracker.reconnecting && tracker.destroyed);
    if (lost.length === 0) return;
    const isHubThere = await hub.isThere();
    for (const tracker of lost) {
      const isOurs = tracker.announceUrl.replace(/\/$/, "") === hub.trackerUrl();
      if (!tracker.reconnecting || !tracker.destroyed || (isOurs && !isHubThere)) continue;
      clearTimeout(tracker.reconnectTimer);
      tracker._openSocket();
    }
  }

  // ---- pieces -----------------------------------------------------------------------------------------------------

  get pieceCount() { return this.torrent?.pieces?.length ?? 0; }
  has(index) { return this.torrent?.bitfield?.get(index) === true; }
  get haveCount() {
    let have = 0;
    for (const from of this.from) if (from) have += 1;
    return have;
  }
  /** Bytes of verified pieces. */
  get haveBytes() {
    const { torrent } = this;
    if (!torrent?.bitfield) return 0;
    const last = this.pieceCount - 1;
    return this.haveCount * torrent.pieceLength - (this.has(last) ? torrent.pieceLength - torrent.lastPieceLength : 0);
  }

  /** Wants pieces `first..=last` until the function it returns is called. Higher priorities first. */
  want(first, last, priority) {
    const { torrent } = this;
    torrent._select(first, last, priority, null, true);
    torrent.critical(first, Math.min(last, first + 1));
    return () => { if (!torrent.destroyed) torrent._deselect(first, last, true); };
  }
  /** Wants everything, or no longer. */
  setFetchAll(isWanted) {
    const { torrent } = this;
    if (!torrent?.ready || isWanted === this.isFetchingAll || this.pieceCount === 0) return;
    this.isFetchingAll = isWanted;
    if (isWanted) torrent.select(0, this.pieceCount - 1, 0);
    else torrent.deselect(0, this.pieceCount - 1);
    this.#tell("changed");
  }

  /** Waits until a piece is there. Rejects when the torrent is closed or `signal` is aborted. */
  arrived(index, signal) {
    const { torrent } = this;
    return new Promise((resolve, reject) => {
      const end = (settle, value) => {
        torrent.removeListener("verified", onVerified);
        torrent.removeListener("close", onClose);
        signal.removeEventListener("abort", onAbort);
        settle(value);
      };
      const onVerified = (verified) => { if (verified === index) end(resolve); };
      const onClose = () => end(reject, new Error("the torrent was closed"));
      const onAbort = () => end(reject, signal.reason);
      if (signal.aborted) return reject(signal.reason);
      if (this.has(index)) return resolve();
      torrent.on("verified", onVerified);
      torrent.once("close", onClose);
      signal.addEventListener("abort", onAbort);
    });
  }
  /** Bytes of a piece that is there; null if it went meanwhile. */
  piece(index, offset, length) {
    const { torrent } = this;
    return new Promise((resolve) => {
      torrent.store.get(index, { offset, length }, (error, bytes) => {
        if (!error) return resolve(bytes);
        if (this.has(index)) this.#evicted(torrent.infoHash, index);
        resolve(null);
      });
    });
  }
  /** A piece is no longer kept: it is missing again, and peers that understand it are told (BEP 54). */
  #evicted(hash, index) {
    const { torrent } = this;
    if (!torrent?.ready || torrent.infoHash !== hash || !this.has(index)) return;
    this.evictions += 1;
    torrent._markUnverified(index);
    torrent._reservations[index] = [];
    torrent.done = false;
    this.from[index] = FROM.nobody;
    this.#parts.delete(index);
    // What is wanted is wanted again.
    if (this.isFetchingAll) torrent.select(index, index, 0);
    for (const wire of torrent.wires) {
      if (wire.type !== "webSeed") wire.lt_donthave?.donthave(index);
    }
    this.#tell("piece", index);
  }
}

function shared(bitfield, total) {
  let have = 0;
  for (let index = 0; index < total; index += 1) if (bitfield.get(index)) have += 1;
  return have;
}
