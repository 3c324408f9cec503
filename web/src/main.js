// The page: a BitTorrent peer in a browser tab.
//
// Owns what is open and in what order things start; each part of the page is a module of its own. What is open stands
// behind the `#` of the address, so that a reload and a link lead to it.
import { $, choices, copy, named, say, showOnly, toast } from "./dom.js";
import { Files } from "./files.js";
import * as hub from "./hub.js";
import { KeptView, chosenBound } from "./kept-view.js";
import { OpenView, kindOf } from "./open-view.js";
import { Overview } from "./overview.js";
import { Picker } from "./picker.js";
import { PieceMap } from "./piecemap.js";
import { RangeView } from "./range-view.js";
import { Shelf, StorageFull } from "./shelf.js";
import { Swarm } from "./swarm.js";
import { TensorsView } from "./tensors-view.js";
import { startTheme } from "./theme.js";

const TICK_MS = 500;

function alarm(text) {
  say($("alert"), text ?? "");
  $("alert").hidden = !text;
}

/** Whether the browser takes a server: one that it does not would keep it from connecting at all. */
function isTaken(server) {
  try {
    new RTCPeerConnection({ iceServers: [server] }).close();
    return true;
  } catch (error) {
    console.info(`a server of the hub's is left out: ${error.message}`);
    return false;
  }
}

async function start() {
  say($("place"), hub.place);
  let iceServers = [];
  try {
    iceServers = ((await hub.configuration()).ice_servers ?? []).filter(isTaken);
  } catch (error) {
    alarm(`${error.message}. What is kept here can still be opened.`);
  }
  const shelf = await Shelf.start(chosenBound());
  const swarm = new Swarm(shelf, iceServers);
  const map = new PieceMap(swarm);
  const overview = new Overview(swarm);
  const views = { read: new RangeView(swarm), tensors: new TensorsView(swarm), open: new OpenView(swarm) };
  const files = new Files((file, path) => choose(file, path));
  const picker = new Picker((what) => go(what));
  const kept = new KeptView(shelf, (what) => go(what));
  /** What was pasted, by info hash: an address holds the hash alone. Outlives a reload of this tab. */
  const pasted = {
    get(hash) {
      try { return sessionStorage.getItem(`wtfs-magnet-${hash}`) ?? undefined; } catch { return this[hash]; }
    },
    set(hash, magnet) {
      try { sessionStorage.setItem(`wtfs-magnet-${hash}`, magnet); } catch { this[hash] = magnet; }
    },
  };
  /** What a torrent goes by here. */
  const titleOf = (name) => named(picker.nameOf(swarm.torrent?.infoHash) ?? name);

  startTheme(() => map.repaint());

  // ---- what is open -------------------------------------------------------------------------------------------------

  function go({ hash, magnet }) {
    if (magnet) pasted.set(hash, magnet);
    if (location.hash === `#${hash}`) return follow();
    location.hash = hash;
  }
  async function follow() {
    const hash = /^#([0-9a-f]{40})$/i.exec(location.hash)?.[1].toLowerCase();
    if (hash && swarm.torrent?.infoHash === hash) return;
    alarm(null);
    shut();
    if (!hash) {
      const isFocusLost = document.activeElement === document.body || $("torrent").contains(document.activeElement);
      await swarm.close();
      void picker.show();
      if (isFocusLost && document.body.dataset.started) $("pick-search").focus();
      return tick();
    }
    const isFocusLost = $("pick").contains(document.activeElement) || $("kept").contains(document.activeElement);
    picker.hide();
    $("torrent").hidden = false;
    say($("name"), "Opening…");
    say($("hash"), hash);
    // What was pressed is hidden now: who uses the keyboard goes on where the torrent begins.
    if (isFocusLost) $("name").focus();
    try {
      await open(hash);
    } catch (error) {
      alarm(error.message);
      shut();
      void picker.show();
    }
    tick();
  }
  async function open(hash) {
    await picker.refresh();
    const isOfHub = picker.isOfHub(hash);
    let source = isOfHub ? await hub.torrentFile(hash) : shelf.torrentFile(hash);
    source ??= pasted.get(hash);
    if (!source && !picker.isThere) throw new Error("The hub cannot be reached, and nothing of this torrent is kept here.");
    source ??= `magnet:?xt=urn:btih:${hash}`;
    if (location.hash.slice(1).toLowerCase() !== hash) return;
    const torrent = await swarm.open(source, { hash, isOfHub });
    if (typeof source === "string" && !torrent.metadata) {
      const said = new URLSearchParams(source.slice(source.indexOf("?"))).get("dn");
      say($("name"), said ? named(said) : "Waiting for somebody who knows what it is…");
    }
  }
  function shut() {
    $("torrent").hidden = true;
    $("file").hidden = true;
    for (const view of Object.values(views)) view.take(null);
    files.take(null);
    swarm.from = new Uint8Array(0);
    map.repaint();
    document.title = "wtfs peer";
    delete document.body.dataset.ready;
  }

  swarm.addEventListener("described", () => {
    const { torrent } = swarm;
    say($("name"), titleOf(torrent.name));
    say($("hash"), torrent.infoHash);
    document.title = `${titleOf(torrent.name)} · wtfs`;
    map.repaint();
    files.take(torrent);
    tick();
  });
  swarm.addEventListener("ready", () => { document.body.dataset.ready = swarm.torrent.infoHash; tick(); });
  swarm.addEventListener("piece", (event) => map.changed(event.detail));
  swarm.addEventListener("changed", () => tick());
  swarm.addEventListener("failed", (event) => {
    const error = event.detail;
    alarm(error instanceof StorageFull ? error.message : `The torrent cannot be used: ${error?.message ?? error}`);
    shut();
    picker.show();
  });

  $("close").addEventListener("click", () => { location.hash = ""; });
  $("fetch-all").addEventListener("click", () => { swarm.setFetchAll(!swarm.isFetchingAll); tick(); });
  $("copy-magnet").addEventListener("click", async () => {
    const { torrent } = swarm;
    if (!torrent) return;
    let link = torrent.magnetURI;
    if (picker.isOfHub(torrent.infoHash)) link = await hub.magnet(torrent.infoHash).catch(() => link);
    await copy(link, "The magnet link is on the clipboard");
  });
  $("web-seed").checked = choices.get("web-seed") !== "off";
  swarm.usesWebSeed = $("web-seed").checked;
  $("web-seed").addEventListener("change", () => {
    choices.set("web-seed", $("web-seed").checked ? "on" : "off");
    swarm.setWebSeed($("web-seed").checked);
    tick();
  });

  // ---- the chosen file ----------------------------------------------------------------------------------------------

  function choose(file, path) {
    $("file").hidden = false;
    say($("file-title"), named(path));
    for (const view of Object.values(views)) view.take(file);
    const isTensors = file.name.endsWith(".safetensors");
    $("tab-tensors").hidden = !isTensors;
    turn(isTensors ? "tensors" : kindOf(file.name) ? "open" : "read");
    // A list of many files may leave it out of sight; one that is alone needs no looking for.
    if (swarm.torrent?.files.length > 1) $("file").scrollIntoView({ block: "nearest" });
  }
  function turn(name, isFocused) {
    for (const tab of ["read", "tensors", "open"]) {
      const button = $(`tab-${tab}`), isShown = tab === name;
      button.setAttribute("aria-selected", String(isShown));
      button.tabIndex = isShown ? 0 : -1;
    }
    showOnly($(name), $("read"), $("tensors"), $("open"));
    if (isFocused) $(`tab-${name}`).focus();
    if (swarm.torrent?.ready) views[name].open?.();
    else swarm.addEventListener("ready", () => { if (!$(name).hidden) views[name].open?.(); }, { once: true });
  }
  for (const tab of ["read", "tensors", "open"]) $(`tab-${tab}`).addEventListener("click", () => turn(tab));
  document.querySelector("#file [role=tablist]").addEventListener("keydown", (event) => {
    const tabs = ["read", "tensors", "open"].filter((tab) => !$(`tab-${tab}`).hidden);
    const at = tabs.findIndex((tab) => $(`tab-${tab}`).tabIndex === 0);
    const next = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: -1 }[event.key];
    if (next === undefined) return;
    turn(tabs.at(next % tabs.length), true);
    event.preventDefault();
  });

  // ---- now ----------------------------------------------------------------------------------------------------------

  let wasReachable = true;
  function tick() {
    if (swarm.isFetchingAll && swarm.torrent?.length > swarm.keptMax) {
      // There was less room than was promised: what comes would only push out what is here.
      swarm.setFetchAll(false);
      toast("There is not enough room for everything: fetching was stopped");
    }
    overview.show();
    const [state, words] = overview.state;
    $("link").dataset.state = state;
    say($("link-text"), words);
    const isLost = state === "lost";
    if (isLost && wasReachable && $("alert").hidden) alarm("No tracker can be reached: no new peer can be found until one is back. Peers that are connected stay.");
    if (!isLost && !wasReachable && $("alert").textContent.startsWith("No tracker")) {
      alarm(null);
      toast("A tracker is back");
    }
    wasReachable = !isLost;
    if (performance.now() - keptAt > 2000) {
      keptAt = performance.now();
      kept.show();
    }
  }
  let keptAt = -Infinity;
  setInterval(tick, TICK_MS);
  addEventListener("hashchange", follow);
  // Peers are told at once, and not left to find out.
  addEventListener("pagehide", () => { void swarm.close(); });
  addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });
  await follow();
  document.body.dataset.started = "yes";
}

start().catch((error) => {
  console.error(error);
  alarm(`The page cannot start: ${error.message}`);
});
