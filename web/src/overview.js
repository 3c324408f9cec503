// What the open torrent is doing: how much is here, the rates, who is connected, and what the trackers say.
import { $, figure, make, named, say } from "./dom.js";
import { bytes, count, duration, percent, plural, rate, scaled } from "./numbers.js";
import { labelOf, nameOf } from "./piecemap.js";
import { whyWaiting } from "./reading.js";
import { FROM } from "./swarm.js";

const perSecond = (n) => { const [number, unit] = scaled(n); return [number, `${unit}/s`]; };

export class Overview {
  #swarm;
  #rows = new Map();
  constructor(swarm) { this.#swarm = swarm; }

  /** The state of the page's connection: `[state, words]` for the pill. */
  get state() {
    const { torrent } = this.#swarm;
    if (!torrent) return ["idle", "Nothing open"];
    const trackers = this.#swarm.trackerStates();
    if (!torrent.ready) return ["connecting", torrent.metadata ? "Checking pieces" : "Finding metadata"];
    if (!this.#swarm.canWebRtc) return ["polling", "Web seeds only"];
    if (trackers.some((tracker) => tracker.isConnected)) return ["live", "In the swarm"];
    if (trackers.length && trackers.every((tracker) => tracker.isLost)) return ["lost", "No tracker"];
    return ["polling", "Connecting"];
  }

  show() {
    const { torrent } = this.#swarm;
    if (!torrent || torrent.destroyed) return;
    const peers = this.#swarm.peers();
    const have = this.#swarm.haveBytes, share = torrent.length ? have / torrent.length : torrent.metadata ? 1 : 0;
    const whole = Math.floor(share * 100);
    $("have-bar").style.width = `${share * 100}%`;
    $("have-meter").setAttribute("aria-valuenow", whole);
    figure($("have"), torrent.metadata ? scaled(have) : ["–", ""]);
    say($("have-note"), torrent.metadata ? `${percent(share)} of ${bytes(torrent.length)}` : "waiting for metadata");
    const down = peers.reduce((sum, peer) => sum + peer.down, 0);
    figure($("down"), perSecond(down));
    const isLeft = this.#swarm.isFetchingAll && down > 0 && have < torrent.length;
    say($("down-note"), isLeft ? `${duration((torrent.length - have) / down)} left` : `${bytes(this.#swarm.got.reduce((a, b) => a + b))} received`);
    figure($("up"), perSecond(peers.reduce((sum, peer) => sum + peer.up, 0)));
    say($("up-note"), `${bytes(this.#swarm.sent)} sent`);
    const rtc = peers.filter((peer) => peer.kind !== FROM.webSeed).length;
    figure($("peers"), [count(peers.length), ""]);
    say($("peers-note"), `${rtc} by WebRTC, ${plural(peers.length - rtc, "web seed")}`);
    this.#showPeers(peers);
    this.#showTrackers();
    const all = $("fetch-all"), isDone = torrent.ready && have >= torrent.length;
    const isTooLarge = !isDone && torrent.length > this.#swarm.keptMax;
    all.disabled = !torrent.ready || isDone || isTooLarge;
    all.title = isTooLarge ? "It is larger than what may be kept in this browser: read what you need of it, or choose a larger bound" : "";
    all.setAttribute("aria-pressed", String(this.#swarm.isFetchingAll && !isDone));
    say(all, isDone ? "Everything is here" : this.#swarm.isFetchingAll ? "Stop fetching" : "Fetch everything");
  }

  /** Why nobody is connected, and what helps. */
  #alone() {
    const swarm = this.#swarm, states = swarm.trackerStates();
    if (!swarm.canWebRtc) return "This browser has no WebRTC: only web seeds can be used.";
    if (states.length && states.every((tracker) => tracker.isLost)) return "Nobody is connected, and no tracker can be reached: it is tried again every few seconds.";
    if (!whyWaiting(swarm, swarm.openedAt)) return "Nobody is connected yet.";
    if (!states.some((tracker) => tracker.known > 1)) return "Nobody is connected: no tracker knows anybody else who takes part. Somebody has to seed it: a hub, wtfs seed, a mount, or another tab.";
    return "Nobody is connected: others are known, but none can be reached from this browser. They may take part over TCP alone, or a firewall is between.";
  }
  #showPeers(peers) {
    $("peer-none").hidden = peers.length > 0;
    say($("peer-none"), this.#alone());
    const list = $("peer-list");
    const seen = new Set(peers.map((peer) => peer.id));
    for (const [id, row] of this.#rows) if (!seen.has(id)) { row.remove(); this.#rows.delete(id); }
    for (const peer of peers) {
      let row = this.#rows.get(peer.id);
      if (!row) {
        row = make("li", {}, make("span", { class: "mark", "aria-hidden": "true" }), make("span", { class: "who" }), make("span", { class: "speed" }), make("span", { class: "more" }));
        this.#rows.set(peer.id, row);
        list.append(row);
      }
      const [, who, speed, more] = row.children;
      row.dataset.from = nameOf(peer.kind);
      row.dataset.downloaded = peer.downloaded;
      row.dataset.uploaded = peer.uploaded;
      row.title = labelOf(peer.kind);
      say(who, peer.kind === FROM.webSeed ? "Web seed" : peer.client);
      say(speed, `↓ ${rate(peer.down)}  ↑ ${rate(peer.up)}`);
      const has = this.#swarm.pieceCount ? `has ${percent(peer.pieces / this.#swarm.pieceCount)}` : "";
      say(more, [peer.host, has, `${bytes(peer.downloaded)} from it`, peer.kind === FROM.webSeed ? "" : `${bytes(peer.uploaded)} to it`].filter(Boolean).join(" · "));
    }
  }
  #showTrackers() {
    const states = this.#swarm.trackerStates();
    const list = $("trackers");
    while (list.childElementCount > states.length) list.lastChild.remove();
    states.forEach((tracker, at) => {
      if (!list.children[at]) list.append(make("li", {}, make("span", { class: "badge" }, make("span", {}))));
      const row = list.children[at], badge = row.firstChild;
      badge.dataset.state = tracker.isConnected ? "ready" : tracker.isLost ? "refused" : "waiting";
      row.title = this.#swarm.trackers.get(tracker.url) ?? "";
      const others = tracker.known === undefined ? "" : tracker.known > 1 ? ` · ${plural(tracker.known - 1, "other")}` : " · nobody else";
      say(badge.firstChild, `${named(tracker.url.replace(/^wss?:\/\//, ""))}${tracker.isConnected ? others : tracker.isLost ? ": cannot be reached" : ": connecting"}`);
    });
  }
}
