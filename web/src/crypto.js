// SHA-1 where the browser has none: pages from addresses that are neither loopback nor https get no `crypto.subtle`,
// and webtorrent cannot verify a piece without it. Must be imported before webtorrent.
import { sha1 } from "@noble/hashes/legacy.js";
import { sha256 } from "@noble/hashes/sha2.js";

const KNOWN = { "sha-1": sha1, "sha-256": sha256 };

if (!globalThis.crypto.subtle) {
  Object.defineProperty(globalThis.crypto, "subtle", {
    value: {
      async digest(algorithm, data) {
        const input = data instanceof ArrayBuffer ? new Uint8Array(data) : new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
        return KNOWN[algorithm.toLowerCase()](input).buffer;
      },
    },
  });
}

/** A SHA-256 that is fed piece by piece. */
export const sha256Stream = () => sha256.create();
