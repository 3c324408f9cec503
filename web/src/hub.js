// What the page asks the hub for. The hub stands one step above the page, under whatever path it was put.

const root = new URL("../", document.baseURI);
const at = (path) => new URL(path, root);

/** The hub's address as people know it. */
export const place = root.host + root.pathname.replace(/\/$/, "");
export const dashboard = root.href;

/** The hub's tracker for browsers. */
export function trackerUrl() {
  const url = at("announce");
  url.protocol = root.protocol === "https:" ? "wss:" : "ws:";
  return url.href;
}

/** Where a torrent's files are to be had over HTTP (BEP 19). */
export const seedUrl = (hash) => at(`seed/${hash}/`).href;
export const torrentUrl = (hash) => at(`torrent/${hash}.torrent`).href;

/** The hub does not answer, or not as it should. */
export class HubError extends Error {}

async function ask(path) {
  let response;
  try {
    response = await fetch(at(path), { cache: "no-cache", signal: AbortSignal.timeout(30_000) });
  } catch {
    throw new HubError("The hub cannot be reached");
  }
  if (response.status === 404) throw new HubError("The hub does not have this torrent, or not yet");
  if (!response.ok) throw new HubError(`The hub answered ${response.status}`);
  return response;
}

/** What the hub wants its pages to know: the servers for finding a way through NAT. */
export async function configuration() {
  return (await ask("browser/config.json")).json();
}

/** The torrents the hub lists. */
export async function torrents() {
  return (await (await ask("torrents")).json()).torrents;
}

/** What torrents of Hugging Face repositories are of, by info hash; nothing where the hub does not tell. */
export async function repositories() {
  try {
    const models = (await (await ask("hf-stats")).json())?.models ?? [];
    return new Map(models.map(({ info_hash: hash, repo, path }) => [hash, path === undefined ? repo : `${repo}/${path}`]));
  } catch {
    return new Map();
  }
}

/** The `.torrent` of an info hash, as bytes. */
export async function torrentFile(hash) {
  return new Uint8Array(await (await ask(`torrent/${hash}.torrent`)).arrayBuffer());
}

export async function magnet(hash) {
  return (await (await ask(`magnet/${hash}`)).text()).trim();
}

/** Whether the hub answers at all. */
export async function isThere() {
  try {
    await ask("healthz");
    return true;
  } catch {
    return false;
  }
}
