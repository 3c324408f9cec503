// Pieces kept over reloads, within a bound: IndexedDB, or memory where the browser lends no database, or no more room.
//
// Owns what is kept of which torrent and what has to go. Kept bytes are never trusted for having been kept: whoever takes
// a torrent up again hashes its pieces first (webtorrent does, before it offers or reads one). The bound holds for all
// torrents together; what goes first belongs to torrents that are closed, longest unused first, then to the piece of the
// open one that was used longest ago.

const NAME = "wtfs-pieces";
const MEMORY_BYTES_MAX = 250e6;
/** The bounds a user may choose. */
export const BOUNDS = [250e6, 1e9, 2e9, 8e9, 32e9, 128e9];
export const BOUND_MIN = 2 ** 20;
export const BOUND_DEFAULT = 2e9;

/** There is no room for a piece, even with nothing else kept. */
export class StorageFull extends Error {
  constructor() {
    super("The pieces of this torrent are larger than what may be kept here: choose a larger bound below.");
  }
}

const asked = (request) => new Promise((resolve, reject) => {
  request.onsuccess = () => resolve(request.result);
  request.onerror = () => reject(request.error);
});

class Database {
  static async open() {
    const request = indexedDB.open(NAME, 1);
    request.onupgradeneeded = () => {
      request.result.createObjectStore("pieces");
      request.result.createObjectStore("torrents", { keyPath: "hash" });
    };
    const database = new Database();
    database.db = await asked(request);
    // Another tab wants to delete or upgrade: it must not wait for us.
    database.db.onversionchange = () => database.db.close();
    return database;
  }
  isLasting = true;
  #stores(mode) {
    const transaction = this.db.transaction(["pieces", "torrents"], mode, { durability: "relaxed" });
    return [transaction.objectStore("pieces"), transaction.objectStore("torrents"), transaction];
  }
  #done(transaction) {
    return new Promise((resolve, reject) => {
      transaction.oncomplete = () => resolve();
      transaction.onabort = () => reject(transaction.error ?? new DOMException("", "AbortError"));
      transaction.onerror = () => {};
    });
  }
  async list() {
    const [pieces, torrents] = this.#stores("readonly");
    return Promise.all([asked(torrents.getAll()), asked(pieces.getAllKeys())]);
  }
  async get(hash, index) {
    return asked(this.#stores("readonly")[0].get([hash, index]));
  }
  async put(hash, index, bytes) {
    const [pieces, , transaction] = this.#stores("readwrite");
    pieces.put(bytes, [hash, index]);
    return this.#done(transaction);
  }
  async remove(hash, index) {
    const [pieces, , transaction] = this.#stores("readwrite");
    pieces.delete([hash, index]);
    return this.#done(transaction);
  }
  async note(record) {
    const [, torrents, transaction] = this.#stores("readwrite");
    torrents.put(record);
    return this.#done(transaction);
  }
  async forget(hash) {
    const [pieces, torrents, transaction] = this.#stores("readwrite");
    pieces.delete(IDBKeyRange.bound([hash], [hash, []]));
    torrents.delete(hash);
    return this.#done(transaction);
  }
}

/** The same over memory, for browsers that keep nothing. */
class Memory {
  isLasting = false;
  /** By info hash and index, those that came first before the others. */
  pieces = new Map();
  bytes = 0;
  async list() { return [[], []]; }
  async get(hash, index) { return this.pieces.get(`${hash} ${index}`); }
  async put(hash, index, bytes) {
    await this.remove(hash, index);
    this.pieces.set(`${hash} ${index}`, bytes);
    this.bytes += bytes.length;
  }
  async remove(hash, index) { this.#drop(`${hash} ${index}`); }
  async note() {}
  async forget(hash) {
    for (const key of this.pieces.keys()) if (key.startsWith(hash)) this.#drop(key);
  }
  #drop(key) {
    this.bytes -= this.pieces.get(key)?.length ?? 0;
    this.pieces.delete(key);
  }
}

export class Shelf {
  /** Bytes kept in all, but for those in memory because the disk is full. */
  used = 0;
  /** Whether the browser gave less room than the bound. */
  isFull = false;
  /** Whether what is kept outlives the page. */
  isLasting = true;
  /** Called with (hash, index) when a piece of an open torrent had to go. */
  onEvicted = () => {};
  /** As the user chose it, and as much of it as there is room for. */
  #chosen;
  #bound;
  /** While room is made because the disk has less than was promised. */
  #lessening = null;
  /** How many pieces wait to see whether that helped. */
  #trying = 0;
  #backend;
  /** What found no room on the disk. */
  #spilled = new Memory();
  /** By info hash: the torrent's record, and the bytes of each kept piece, least recently used first. */
  #torrents = new Map();
  #open = new Set();

  static async start(bound) {
    const shelf = new Shelf();
    try {
      shelf.#backend = await Database.open();
      await shelf.#take();
    } catch (error) {
      console.info(`pieces are kept in memory only: ${error.message}`);
      shelf.#backend = new Memory();
      shelf.#torrents.clear();
      shelf.used = 0;
    }
    shelf.isLasting = shelf.#backend.isLasting;
    shelf.#chosen = bound;
    shelf.#takeRoom();
    return shelf;
  }
  /** Believes once more in all the room that was promised. */
  #takeRoom() {
    this.isFull = false;
    this.#bound = this.isLasting ? this.#chosen : Math.min(this.#chosen, MEMORY_BYTES_MAX);
  }
  async #take() {
    const [records, keys] = await this.#backend.list();
    for (const record of records) this.#torrents.set(record.hash, { record, pieces: new Map() });
    for (const [hash, index] of keys) {
      const torrent = this.#torrents.get(hash);
      if (!torrent) continue;
      const { pieceLength, length } = torrent.record;
      this.#count(torrent, index, Math.min(pieceLength, length - index * pieceLength));
    }
  }
  #count(torrent, index, bytes) {
    this.used += bytes - (torrent.pieces.get(index) ?? 0);
    torrent.pieces.delete(index);
    torrent.pieces.set(index, bytes);
  }

  get bound() { return this.#bound + (this.isFull || this.#trying > 0 ? MEMORY_BYTES_MAX : 0); }
  /** Changes the bound; what is too much goes at once. */
  async setBound(bound) {
    this.#chosen = bound;
    this.#takeRoom();
    await this.#makeRoom(0).catch(() => {});
  }

  /** The kept torrents, last used first: their records with `bytes`. */
  kept() {
    const all = [...this.#torrents.values()].map(({ record, pieces }) => ({
      ...record,
      bytes: pieces.values().reduce((sum, bytes) => sum + bytes, 0),
    }));
    return all.filter((entry) => entry.bytes > 0).sort((a, b) => b.usedAt - a.usedAt);
  }
  /** The `.torrent` of a torrent that was open once. */
  torrentFile(hash) {
    return this.#torrents.get(hash)?.record.file;
  }

  /** A torrent is used from now on. */
  async take({ hash, name, file, pieceLength, length }) {
    const pieces = this.#torrents.get(hash)?.pieces ?? new Map();
    const record = { hash, name, file, pieceLength, length, usedAt: Date.now() };
    this.#torrents.set(hash, { record, pieces });
    this.#open.add(hash);
    await this.#backend.note(record).catch(() => {});
  }
  release(hash) {
    this.#open.delete(hash);
    void this.#spilled.forget(hash);
  }

  has(hash, index) {
    return (this.#torrents.get(hash)?.pieces.has(index) ?? false) || this.#spilled.pieces.has(`${hash} ${index}`);
  }

  async get(hash, index) {
    const spilled = await this.#spilled.get(hash, index);
    if (spilled) return spilled;
    const torrent = this.#torrents.get(hash);
    const size = torrent?.pieces.get(index);
    if (size === undefined) throw new Error(`piece ${index} is not kept`);
    const bytes = await this.#backend.get(hash, index);
    if (!bytes || bytes.length !== size) {
      // Another tab made room, or the browser did.
      if (torrent.pieces.delete(index)) this.used -= size;
      throw new Error(`piece ${index} is gone`);
    }
    if (torrent.pieces.has(index)) this.#count(torrent, index, size);
    return bytes;
  }

  async put(hash, index, bytes) {
    const torrent = this.#torrents.get(hash);
    if (!torrent) throw new Error("the torrent is not open");
    // A view into something larger would be kept with all of it.
    const own = bytes.byteLength === bytes.buffer.byteLength ? bytes : bytes.slice();
    if (!this.isFull && await this.#store(torrent, hash, index, own)) return;
    if (!this.isFull) {
      // The disk has less than we were promised: live with what there is. What goes may take a while to free the room
      // that it had, so not everything goes for one piece; one makes room, however many wait for it.
      this.#lessening ??= this.#lessen().finally(() => { this.#lessening = null; });
      this.#trying += 1;
      try {
        await this.#lessening;
        if (!this.isFull && await this.#store(torrent, hash, index, own)) return;
        this.isFull = true;
      } finally {
        this.#trying -= 1;
      }
    }
    await this.#spill(hash, index, own);
  }
  /** Whether the disk took a piece. */
  async #store(torrent, hash, index, bytes) {
    await this.#makeRoom(bytes.length);
    this.#count(torrent, index, bytes.length);
    try {
      await this.#backend.put(hash, index, bytes);
      return true;
    } catch (error) {
      this.#uncount(torrent, index);
      if (error.name === "QuotaExceededError") return false;
      throw error;
    }
  }
  async #lessen() {
    const less = Math.floor(this.used * 0.9);
    // With nothing to let go there is nothing to live with.
    if (less < BOUND_MIN) this.isFull = true;
    else this.#bound = Math.min(this.#bound, less);
    await this.#makeRoom(0);
  }
  /** Keeps a piece in memory, in place of the one that is there longest. */
  async #spill(hash, index, bytes) {
    if (bytes.length > MEMORY_BYTES_MAX) throw new StorageFull();
    await this.#spilled.put(hash, index, bytes);
    for (const key of this.#spilled.pieces.keys()) {
      if (this.#spilled.bytes <= MEMORY_BYTES_MAX) break;
      const [oldHash, oldIndex] = key.split(" ");
      await this.#spilled.remove(oldHash, Number(oldIndex));
      this.onEvicted(oldHash, Number(oldIndex));
    }
  }
  #uncount(torrent, index) {
    this.used -= torrent.pieces.get(index) ?? 0;
    torrent.pieces.delete(index);
  }

  async #makeRoom(bytes) {
    if (bytes > this.#bound && bytes > 0) throw new StorageFull();
    while (this.used + bytes > this.#bound) {
      const closed = this.kept().filter((entry) => !this.#open.has(entry.hash)).at(-1);
      if (closed) {
        await this.forget(closed.hash);
        continue;
      }
      const victim = [...this.#torrents.values()].find(({ pieces }) => pieces.size > 0);
      if (!victim) return;
      const [index] = victim.pieces.keys();
      this.#uncount(victim, index);
      this.onEvicted(victim.record.hash, index);
      await this.#backend.remove(victim.record.hash, index);
    }
  }

  /** Lets all pieces of a torrent go. */
  async forget(hash) {
    const torrent = this.#torrents.get(hash);
    if (!torrent) return;
    for (const key of this.#spilled.pieces.keys()) {
      if (key.startsWith(hash) && this.#open.has(hash)) this.onEvicted(hash, Number(key.split(" ")[1]));
    }
    await this.#spilled.forget(hash);
    for (const index of torrent.pieces.keys()) {
      this.#uncount(torrent, index);
      if (this.#open.has(hash)) this.onEvicted(hash, index);
    }
    if (!this.#open.has(hash)) this.#torrents.delete(hash);
    await this.#backend.forget(hash);
    if (this.#open.has(hash)) await this.#backend.note(torrent.record);
  }
  /** Lets everything go. */
  async clear() {
    for (const hash of [...this.#torrents.keys()]) await this.forget(hash);
    this.#takeRoom();
  }
}

const CACHED_BYTES_MAX = 64 * 2 ** 20;

/**
 * The shelf as webtorrent's abstract chunk store, for one torrent. Keeps the last few pieces in memory: peers ask for a
 * piece block by block.
 */
export function chunkStore(shelf) {
  return class {
    #recent = new Map();
    constructor(chunkLength, { torrent }) {
      this.chunkLength = chunkLength;
      this.hash = torrent.infoHash;
      this.recentMax = Math.max(1, Math.min(20, Math.floor(CACHED_BYTES_MAX / chunkLength)));
    }
    put(index, bytes, done = () => {}) {
      shelf.put(this.hash, index, bytes).then(() => done(null), done);
    }
    #take(index) {
      const known = this.#recent.get(index);
      if (known) return known;
      const reading = shelf.get(this.hash, index);
      this.#recent.set(index, reading);
      reading.catch(() => this.#recent.delete(index));
      for (const oldest of this.#recent.keys()) {
        if (this.#recent.size <= this.recentMax) break;
        this.#recent.delete(oldest);
      }
      return reading;
    }
    get(index, options, done) {
      if (typeof options === "function") [options, done] = [null, options];
      const from = options?.offset ?? 0;
      // Told here and now: tens of thousands of pieces that are not there are asked about at the start.
      if (!shelf.has(this.hash, index)) {
        this.#recent.delete(index);
        return queueMicrotask(() => done(new Error(`piece ${index} is not kept`)));
      }
      this.#take(index).then(
        (bytes) => done(null, from || options?.length ? bytes.subarray(from, options?.length ? from + options.length : undefined) : bytes),
        done,
      );
    }
    close(done = () => {}) {
      this.#recent.clear();
      shelf.release(this.hash);
      queueMicrotask(() => done(null));
    }
    destroy(done = () => {}) {
      shelf.release(this.hash);
      shelf.forget(this.hash).then(() => done(null), done);
    }
  };
}
