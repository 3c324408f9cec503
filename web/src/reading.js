// Reading byte ranges of a file on demand, in order, out of verified pieces.
//
// Asks for what is read and a little ahead of it, and for nothing else. A read ends with all its bytes or with an error:
// `Stalled` when nothing came for a while, or the reason it was called off for.
import { FROM } from "./swarm.js";

/** How much is asked for ahead of where a read stands: at first little, then as much as it has read. A film whose index is at
 * its end is read in three places before it shows anything, and whoever jumps does not want what lies behind. */
const AHEAD_BYTES_MIN = 2 ** 20;
const AHEAD_BYTES_MAX = 64 * 2 ** 20;
const AHEAD_PIECES_MIN = 2;
/** How long a read waits while no byte comes at all. */
export const PATIENCE_MS = 60_000;
const PRIORITY = 2;

/** Nothing came. */
export class Stalled extends Error {}

/** How long nothing comes before it is said why. */
const SILENCE_MS = 5_000;

/** Why nothing comes to who waits since `since` (in `performance.now()`), as a sentence; empty while bytes come. */
export function whyWaiting(swarm, since) {
  if (!swarm.torrent || performance.now() - Math.max(swarm.lastByteAt, since) < SILENCE_MS) return "";
  const reason = reasonOf(swarm);
  return `${reason[0].toUpperCase()}${reason.slice(1)}.`;
}

/** Why a read has to wait so long, as a part of a sentence. */
function reasonOf(swarm) {
  // A web seed always counts as connected: it is asked anew for each piece.
  const all = swarm.peers(), peers = all.filter((peer) => peer.kind !== FROM.webSeed);
  if (peers.length > 0) return peers.every((peer) => peer.isChoking) ? "all peers keep us waiting (choked)" : "the peers that are connected do not send it";
  const silent = all.length > 0 ? "the web seed does not answer, and " : "";
  const trackers = swarm.trackerStates();
  if (trackers.length > 0 && trackers.every((tracker) => !tracker.isConnected)) return `${silent}no tracker can be reached, so no peer can be found`;
  return `${silent}nobody who has it is connected`;
}

/**
 * The bytes `start..end` of a file, as chunks in order. `signal` calls it off.
 */
export async function* readRange(swarm, file, start, end, signal) {
  const { torrent } = swarm;
  const piece = torrent.pieceLength;
  let at = file.offset + start;
  const stop = file.offset + end;
  if (at >= stop) return;
  const last = Math.floor((stop - 1) / piece);
  const began = at;
  // What is fetched ahead must not push out what is read next.
  const most = Math.min(AHEAD_BYTES_MAX, swarm.keptMax / 4);
  let wanted = null;
  let wantedLast = -1;
  let evictions = swarm.evictions;
  try {
    while (at < stop) {
      const index = Math.floor(at / piece);
      const ahead = Math.max(AHEAD_PIECES_MIN, Math.floor(Math.min(most, Math.max(AHEAD_BYTES_MIN, at - began)) / piece));
      // Moved on when half of what was asked for is read, so that there is always some.
      if (wantedLast < last && (wanted === null || index + ahead / 2 > wantedLast)) {
        wanted?.();
        wantedLast = Math.min(last, index + ahead - 1);
        wanted = swarm.want(index, wantedLast, PRIORITY);
      } else if (!swarm.has(index) && evictions !== swarm.evictions) {
        // It was here and had to make room: it is not asked for a second time unless it is wanted anew.
        wanted?.();
        wanted = swarm.want(index, wantedLast, PRIORITY);
      }
      evictions = swarm.evictions;
      const offset = at - index * piece;
      const length = Math.min(piece - offset, stop - at);
      await arrived(swarm, index, signal);
      const bytes = await swarm.piece(index, offset, length);
      // It had to make room before it was read: once more.
      if (bytes === null) continue;
      at += length;
      yield bytes;
    }
  } finally {
    wanted?.();
  }
}

/** Waits for a piece as long as anything comes. */
async function arrived(swarm, index, signal) {
  if (swarm.has(index)) return signal.throwIfAborted();
  const stalled = new AbortController();
  const began = performance.now();
  const timer = setInterval(() => {
    const silent = performance.now() - Math.max(began, swarm.lastByteAt);
    if (silent > PATIENCE_MS) stalled.abort(new Stalled(`Piece ${index} did not come within ${PATIENCE_MS / 1000} s: ${reasonOf(swarm)}.`));
  }, 1000);
  try {
    await swarm.arrived(index, AbortSignal.any([signal, stalled.signal]));
  } finally {
    clearInterval(timer);
  }
}

/** All bytes of a short range at once. */
export async function readAll(swarm, file, start, end, signal) {
  const whole = new Uint8Array(end - start);
  let at = 0;
  for await (const bytes of readRange(swarm, file, start, end, signal)) {
    whole.set(bytes, at);
    at += bytes.length;
  }
  return whole;
}
