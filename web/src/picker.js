// Picking a torrent: the hub's list, or a pasted magnet link.
import { $, make, named, say } from "./dom.js";
import * as hub from "./hub.js";
import { byName, bytes, plural } from "./numbers.js";

const SHOWN_MAX = 200;
const STATES = { waiting: "waiting", hashing: "being hashed", metadata: "waiting for metadata", refused: "refused" };
/** How often the list is asked for while it is looked at. */
const REFRESH_MS = 5000;

/**
 * What is to be opened by a magnet link: its info hash in hexadecimal. Null if it is none with a v1 info hash.
 */
export function magnetHash(text) {
  if (!/^magnet:\?/i.test(text)) return null;
  const topics = new URLSearchParams(text.slice(text.indexOf("?"))).getAll("xt");
  for (const topic of topics) {
    const found = /^urn:btih:([0-9a-f]{40}|[a-z2-7]{32})$/i.exec(topic);
    if (!found) continue;
    if (found[1].length === 40) return found[1].toLowerCase();
    const bits = [...found[1].toLowerCase()].map((c) => "abcdefghijklmnopqrstuvwxyz234567".indexOf(c).toString(2).padStart(5, "0")).join("");
    return bits.match(/.{4}/g).map((four) => Number.parseInt(four, 2).toString(16)).join("");
  }
  return null;
}

function wrongMagnet(text) {
  if (!text) return "Paste a magnet link: magnet:?xt=urn:btih:…";
  if (/^magnet:\?.*xt=urn:btmh:/i.test(text)) return "This torrent is of version 2 alone, which browsers cannot take part in. A mount can: wtfs mount 'magnet:…' DIRECTORY";
  return "This is no magnet link of a torrent. One has xt=urn:btih: and 40 or 32 characters in it.";
}

export class Picker {
  #list = [];
  #timer = 0;
  /** What torrents of repositories are of, by info hash. */
  #repositories = new Map();
  /** What of the list may be such, when that was asked. */
  #others = "";
  /** What is shown, to show it anew only when it is something else: a row that is being clicked must stay. */
  #shown = "";
  #onPick;
  /** `onPick` is given `{ hash }` of a torrent of the hub or `{ hash, magnet }`. */
  constructor(onPick) {
    this.#onPick = onPick;
    $("pick-search").addEventListener("input", () => this.#show());
    $("magnet-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#openMagnet($("magnet").value.trim());
    });
  }
  #openMagnet(text) {
    const field = $("magnet");
    const hash = /^[0-9a-f]{40}$/i.test(text) ? text.toLowerCase() : magnetHash(text);
    field.setCustomValidity(hash ? "" : wrongMagnet(text));
    if (!field.reportValidity()) {
      field.addEventListener("input", () => field.setCustomValidity(""), { once: true });
      return;
    }
    field.value = "";
    this.#onPick({ hash, magnet: text.length === 40 ? `magnet:?xt=urn:btih:${hash}` : text });
  }
  /** Whether the hub lists this torrent as ready. */
  isOfHub(hash) {
    return this.#list.some((entry) => entry.info_hash === hash && entry.state === "ready");
  }
  /** What the hub calls a torrent, which of a repository is more than the torrent's own name; null if it lists none. */
  nameOf(hash) {
    return this.#list.find((entry) => entry.info_hash === hash)?.name ?? null;
  }

  /** Shows the list and keeps it fresh, until `hide`. */
  async show() {
    $("pick").hidden = false;
    clearTimeout(this.#timer);
    await this.refresh();
    if (!$("pick").hidden) this.#timer = setTimeout(() => this.show(), REFRESH_MS);
  }
  hide() {
    $("pick").hidden = true;
    clearTimeout(this.#timer);
  }
  async refresh() {
    try {
      const list = await hub.torrents();
      // A repository's torrent goes by its commit: who looks for it knows the repository.
      const others = list.filter((entry) => entry.origin === "swarm").map((entry) => entry.info_hash).join();
      if (others !== this.#others) {
        this.#repositories = others ? await hub.repositories() : new Map();
        this.#others = others;
      }
      this.#list = list.map((entry) => ({ ...entry, name: this.#repositories.get(entry.info_hash) ?? entry.name })).sort((a, b) => byName(a.name, b.name));
      this.isThere = true;
      this.#show();
    } catch (error) {
      this.isThere = false;
      this.#list = [];
      this.#show();
      say($("pick-note"), `${error.message}: it is asked again every few seconds. What is kept below can be opened, and a magnet link whose trackers are elsewhere.`);
    }
  }
  #show() {
    delete $("choices").dataset.state;
    const words = $("pick-search").value.toLowerCase().split(/\s+/).filter(Boolean);
    const matching = this.#list.filter((entry) => words.every((word) => entry.name.toLowerCase().includes(word) || entry.info_hash?.startsWith(word)));
    const shown = matching.slice(0, SHOWN_MAX), signature = JSON.stringify(shown);
    if (signature !== this.#shown) {
      this.#shown = signature;
      const focused = document.activeElement?.dataset?.hash;
      $("choices").replaceChildren(...shown.map((entry) => this.#row(entry)));
      if (focused) document.querySelector(`#choices [data-hash="${CSS.escape(focused)}"]`)?.focus();
    }
    const more = matching.length - SHOWN_MAX;
    const note = this.#list.length === 0 ? "This hub shares nothing yet. Paste a magnet link, or start the hub with: wtfs serve --root /path/to/directory"
      : matching.length === 0 ? "No torrent matches."
      : more > 0 ? `${plural(more, "more torrent")}: search to find them.` : "";
    say($("pick-note"), note);
  }
  #row(entry) {
    const isKnown = entry.state === "ready" && entry.info_hash, isReady = isKnown && entry.info_hash.length === 40;
    const about = isKnown && !isReady ? "version 2 alone: not for browsers" : isReady ? `${bytes(entry.total_bytes)} · ${plural(entry.pieces, "piece")}` : STATES[entry.state] ?? entry.state;
    const button = make("button", { type: "button", "data-hash": entry.info_hash, title: entry.reason },
      make("span", { class: "name" }, named(entry.name)), make("span", { class: "about" }, about));
    button.disabled = !isReady;
    button.addEventListener("click", () => this.#onPick({ hash: entry.info_hash }));
    return make("li", {}, button);
  }
}
