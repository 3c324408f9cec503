// What a web seed gives of a range of a torrent (BEP 19), in place of webtorrent's own way of asking.
//
// That one asks for the pads of hybrid torrents too, which no server has, and for names as they stand, which with `#`, `?`
// or `%` in them are something else. An answer counts only if it is the range that was asked for: a server that knows no
// ranges would send all of a file for each piece.

const PATIENCE_MS = 60_000;

/** Whether a file only fills the space up to the next piece (BEP 47): it is zeros, and nowhere to be had. */
export const isPad = (file) => /(^|\/)\.pad\/\d+$/.test(file.path);

/** A path as it stands in an address. */
export const encodePath = (path) => path.split("/").map(encodeURIComponent).join("/");

/** The bytes `start..start + length` of a torrent, from the seed at `address`. */
export async function fetchRange(torrent, address, start, length) {
  const bytes = new Uint8Array(length), end = start + length;
  await Promise.all(torrent.files.map(async (file) => {
    const from = Math.max(start, file.offset), to = Math.min(end, file.offset + file.length);
    if (from >= to || isPad(file)) return;
    const part = await ask(urlOf(torrent, address, file), from - file.offset, to - file.offset, file.length);
    bytes.set(part, from - start);
  }));
  return bytes;
}

/** Below an address that ends in a slash files are called by their paths; that of one file is taken as it stands else. */
function urlOf(torrent, address, file) {
  if (torrent.files.length === 1 && !address.endsWith("/")) return address;
  return `${address}${address.endsWith("/") ? "" : "/"}${encodePath(file.path)}`;
}

async function ask(url, start, end, length) {
  const response = await fetch(url, {
    cache: "no-store", credentials: "omit", headers: { range: `bytes=${start}-${end - 1}` }, signal: AbortSignal.timeout(PATIENCE_MS),
  });
  const isWhole = response.status === 200 && start === 0 && end === length;
  const told = /^bytes (\d+)-(\d+)\//.exec(response.headers.get("content-range") ?? "");
  const isPart = response.status === 206 && (!told || (Number(told[1]) === start && Number(told[2]) === end - 1));
  if (!isWhole && !isPart) {
    await response.body?.cancel();
    throw new Error(`the web seed answered ${response.status}, not with the range that was asked for`);
  }
  const bytes = new Uint8Array(await response.arrayBuffer());
  if (bytes.length !== end - start) throw new Error("the web seed answered with another range");
  return bytes;
}
