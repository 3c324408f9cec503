// The dashboard: shows what /stats says, and asks again as it changes.
//
// Owns the page's state. Everything that comes from the hub, names of torrents above all, is put into the page as text
// nodes and attributes, never as markup. Lives by one event stream; where that cannot be had it asks now and then.
"use strict";
(() => {
  const root = new URL("../", document.currentScript.src);
  const at = (path) => new URL(path, root).href;
  const $ = (id) => document.getElementById(id);
  const SVG = "http://www.w3.org/2000/svg";
  const PAGE_ROWS = matchMedia("(max-width: 760px)").matches ? 20 : 50;

  // ---- elements ----------------------------------------------------------------------------------------------

  /** An element with attributes and children; strings become text. */
  function make(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  }
  function draw(tag, attributes = {}, ...children) {
    const element = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  }
  /** Sets a text only if it is another one: selections and screen readers are left in peace. */
  function say(element, text) {
    if (element.textContent !== text) element.textContent = text;
  }

  /**
   * A name as it is shown. Characters that control what others look like (a name may say `exe.gnp` backwards) are shown
   * as what they are: unreadable.
   */
  const named = (name) => name.replaceAll(/[\p{Cc}\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/gu, "\ufffd");

  // ---- numbers -----------------------------------------------------------------------------------------------

  const grouped = new Intl.NumberFormat("en");
  const UNITS = ["B", "KB", "MB", "GB", "TB", "PB"];
  function count(n) {
    if (n >= 1e6) return (n / 1e6).toFixed(n >= 1e7 ? 1 : 2) + " M";
    return grouped.format(Math.round(n));
  }
  function scaled(n) {
    let unit = 0;
    while (n >= 999.5 && unit < UNITS.length - 1) { n /= 1000; unit += 1; }
    return [unit === 0 || n >= 100 ? n.toFixed(0) : n >= 10 ? n.toFixed(1) : n.toFixed(2), UNITS[unit]];
  }
  const bytes = (n) => scaled(n).join(" ");
  const rate = (n) => bytes(n) + "/s";
  const perSecond = (n) => (n >= 100 || n === 0 ? count(n) : n.toFixed(1));
  function span(seconds) {
    const days = Math.floor(seconds / 86400), hours = Math.floor(seconds / 3600) % 24, minutes = Math.floor(seconds / 60) % 60;
    if (days) return `${days} d ${hours} h`;
    if (hours) return `${hours} h ${minutes} min`;
    return minutes ? `${minutes} min` : `${Math.floor(seconds)} s`;
  }
  const plural = (n, one, many = one + "s") => `${count(n)} ${n === 1 ? one : many}`;
  /** A number with its unit in small. */
  function figure(element, number, unit) {
    const text = number + (unit ? " " + unit : "");
    if (element.dataset.text === text) return;
    element.dataset.text = text;
    element.replaceChildren(number, ...(unit ? [make("small", {}, unit)] : []));
  }

  // ---- theme -------------------------------------------------------------------------------------------------

  const prefersLight = matchMedia("(prefers-color-scheme: light)");
  function remembered() {
    try { return localStorage.getItem("wtfs-theme"); } catch { return null; }
  }
  function showTheme() {
    const chosen = remembered();
    const html = document.documentElement;
    if (chosen === "dark" || chosen === "light") html.dataset.theme = chosen; else delete html.dataset.theme;
    const shown = html.dataset.theme ?? (prefersLight.matches ? "light" : "dark");
    html.dataset.shown = shown;
    $("theme").setAttribute("aria-label", `Switch to the ${shown === "light" ? "dark" : "light"} theme`);
  }
  $("theme").addEventListener("click", () => {
    const next = document.documentElement.dataset.shown === "light" ? "dark" : "light";
    try { localStorage.setItem("wtfs-theme", next); } catch { /* Shown for this visit only. */ }
    document.documentElement.dataset.theme = next;
    showTheme();
  });
  prefersLight.addEventListener("change", showTheme);
  showTheme();

  // ---- the chart ---------------------------------------------------------------------------------------------

  const CHARTS = {
    traffic: { unit: rate, series: [["web_seed_bytes", "Web seed"], ["upload_bytes", "To peers"], ["download_bytes", "From peers"]] },
    announces: {
      unit: (n) => perSecond(n) + "/s",
      series: [["announces_http", "HTTP"], ["announces_udp", "UDP"], ["announces_websocket", "WebSocket"]],
    },
    peers: { unit: count, series: [["peers", "Peers"], ["swarms", "Swarms"]] },
  };
  const history = { times: [], values: new Map() };
  const view = { chart: "traffic", range: 900, cursor: null };

  function take(answer) {
    history.times = answer.unix_s;
    history.values = new Map(answer.series.map((column) => [column.name, column.values]));
    history.names = answer.series.map((column) => column.name);
    paint();
  }
  function add(point) {
    const last = history.times.at(-1);
    if (!point || !history.names || (last !== undefined && point.unix_s <= last)) return;
    history.times.push(point.unix_s);
    history.names.forEach((name, index) => history.values.get(name).push(point.values[index]));
    if (history.times.length > 720) {
      history.times.shift();
      for (const values of history.values.values()) values.shift();
    }
  }
  function step(most, isBytes) {
    // Even numbers on the axis: 1, 2 or 5 times a power of ten.
    const rough = Math.max(most, isBytes ? 1000 : 1) / 3;
    const power = 10 ** Math.floor(Math.log10(rough));
    return [1, 2, 5, 10].map((n) => n * power).find((n) => n >= rough);
  }
  const path = (points) => points.map(([x, y], i) => `${i ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");
  const clock = (unix, seconds) =>
    new Date(unix * 1000).toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit", ...(seconds ? { second: "2-digit" } : {}) });

  function paint() {
    const box = $("chart"), chart = CHARTS[view.chart];
    const width = box.clientWidth, height = box.clientHeight;
    if (!width || !history.names) return;
    const left = 66, right = 8, top = 10, bottom = 24;
    const end = history.times.at(-1) ?? Date.now() / 1000;
    // A hub that began a minute ago has a minute to show.
    const range = Math.min(view.range, Math.max(60, end - (history.times[0] ?? end))), start = end - range;
    let first = history.times.findIndex((time) => time >= start);
    if (first < 0) first = history.times.length;
    const times = history.times.slice(first);
    const lines = chart.series.map(([name, title], index) => ({ title, index, values: history.values.get(name).slice(first) }));
    const most = Math.max(0, ...lines.flatMap((line) => line.values));
    const each = step(most, view.chart === "traffic"), ceiling = Math.max(2, Math.ceil(most / each)) * each;
    const x = (time) => left + (time - start) / range * (width - left - right);
    const y = (value) => height - bottom - value / ceiling * (height - top - bottom);

    const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, role: "img" });
    for (let value = 0; value <= ceiling + each / 2; value += each) {
      svg.append(
        draw("line", { class: "grid", x1: left, x2: width - right, y1: y(value), y2: y(value) }),
        draw("text", { x: left - 10, y: y(value) + 4, "text-anchor": "end" }, chart.unit(value)),
      );
    }
    const ticks = width < 480 ? 2 : 5;
    for (let tick = 0; tick <= ticks; tick += 1) {
      const time = start + range * tick / ticks;
      const anchor = tick === 0 ? "start" : tick === ticks ? "end" : "middle";
      svg.append(draw("text", { x: x(time), y: height - 5, "text-anchor": anchor }, clock(time, range < 300)));
    }
    const calm = times.length < 2;
    if (calm) {
      svg.append(draw("text", { class: "calm", x: (width + left) / 2, y: height / 2 - 6, "text-anchor": "middle" }, "The first points are on their way"));
    }
    for (const line of calm ? [] : [...lines].reverse()) {
      // A hole in time (the page slept, the hub was restarted) is no line.
      let run = [];
      const flush = () => {
        if (run.length > 1) {
          const base = y(0);
          svg.append(
            draw("path", { class: `area s${line.index}`, d: `${path(run)}L${run.at(-1)[0].toFixed(1)} ${base}L${run[0][0].toFixed(1)} ${base}Z` }),
            draw("path", { class: `s${line.index}`, d: path(run) }),
          );
        }
        run = [];
      };
      times.forEach((time, i) => {
        if (i && time - times[i - 1] > 30) flush();
        run.push([x(time), y(line.values[i])]);
      });
      flush();
    }
    const latest = lines.map((line) => `${line.title} ${chart.unit(line.values.at(-1) ?? 0)}`);
    svg.setAttribute("aria-label", `Now: ${latest.join(", ")}`);
    const parts = [svg];
    if (view.cursor !== null && !calm) {
      const time = start + (view.cursor - left) / (width - left - right) * range;
      let near = 0;
      times.forEach((one, i) => { if (Math.abs(one - time) < Math.abs(times[near] - time)) near = i; });
      const cx = x(times[near]);
      svg.append(draw("line", { class: "cursor", x1: cx, x2: cx, y1: top, y2: height - bottom }));
      for (const line of lines) {
        svg.append(draw("circle", { class: `s${line.index}`, cx, cy: y(line.values[near]), r: 3.2, fill: "currentColor", stroke: "none" }));
      }
      const tip = make("div", { class: "tip" }, make("div", {}, clock(times[near], true)));
      for (const line of lines) {
        tip.append(make("div", {}, make("span", { class: `key s${line.index}` }, make("span", {}, line.title)), make("b", {}, chart.unit(line.values[near]))));
      }
      tip.style.left = `${Math.min(Math.max(cx + (cx > width / 2 ? -172 : 14), 0), Math.max(width - 160, 0))}px`;
      parts.push(tip);
    }
    box.replaceChildren(...parts);
    $("legend").replaceChildren(...lines.map((line) => make("li", { class: `s${line.index}` }, make("span", {}, line.title), make("b", {}, chart.unit(line.values.at(-1) ?? 0)))));
    for (const [name, series] of [["peers", ["peers"]], ["swarms", ["swarms"]], ["announces", ["announces_http", "announces_udp", "announces_websocket"]], ["sent", ["web_seed_bytes", "upload_bytes"]]]) {
      spark(document.querySelector(`[data-spark="${name}"]`), series);
    }
  }
  function spark(tile, series) {
    const from = Math.max(0, history.times.length - 60);
    const values = history.times.slice(from).map((_, i) => series.reduce((sum, name) => sum + history.values.get(name)[from + i], 0));
    const old = tile.querySelector("svg");
    const svg = draw("svg", { class: "spark", viewBox: "0 0 100 40", preserveAspectRatio: "none", "aria-hidden": "true" });
    const most = Math.max(...values, 0), least = Math.min(...values, most);
    if (values.length > 1 && most > 0) {
      const low = least > most * 0.5 ? least * 0.9 : 0;
      const points = values.map((value, i) => [i / (values.length - 1) * 100, 36 - (value - low) / (most - low || 1) * 32]);
      svg.append(draw("path", { class: "fill", d: `${path(points)}L100 40L0 40Z` }), draw("path", { class: "line", d: path(points) }));
    }
    if (old) old.replaceWith(svg); else tile.append(svg);
  }
  for (const button of document.querySelectorAll("[data-chart], [data-range]")) {
    button.addEventListener("click", () => {
      if (button.dataset.chart) view.chart = button.dataset.chart; else view.range = Number(button.dataset.range);
      for (const other of button.parentElement.children) other.setAttribute("aria-pressed", String(other === button));
      paint();
    });
  }
  $("chart").addEventListener("pointermove", (event) => {
    view.cursor = event.clientX - $("chart").getBoundingClientRect().left;
    paint();
  });
  $("chart").addEventListener("pointerleave", () => { view.cursor = null; paint(); });
  new ResizeObserver(() => paint()).observe($("chart"));

  // ---- the numbers -------------------------------------------------------------------------------------------

  const NAMES = { tcp: "TCP", utp: "uTP", webrtc: "WebRTC", web_seed: "Web seeds", memory: "Memory" };

  /** Rows of a name, a bar and a number, each kept while its name is there. */
  function bars(list, rows, write = count) {
    const most = Math.max(1, ...rows.map(([, value]) => value));
    rows.forEach(([name, value, ink], i) => {
      let row = list.children[i];
      if (!row) {
        row = make("div", {}, make("dt"), make("div", { class: "track" }, make("div")), make("dd"));
        list.append(row);
      }
      say(row.children[0], name);
      row.children[1].firstChild.className = ink;
      row.children[1].firstChild.style.width = `${value / most * 100}%`;
      say(row.children[2], write(value));
    });
    while (list.children.length > rows.length) list.lastChild.remove();
  }
  function meter(id, used, all, text) {
    const part = all ? Math.min(used / all, 1) : 0;
    $(`${id}-bar`).style.width = `${part * 100}%`;
    $(`${id}-bar`).className = part > 0.92 ? "full" : "";
    say($(`${id}-text`), text);
  }

  let stats = null;
  function show(now) {
    const isNewRun = stats && stats.hub.began_unix_s !== now.hub.began_unix_s;
    stats = now;
    if (isNewRun) loadHistory();
    const { tracker, rates, torrents, engine } = now;
    say($("place"), `${now.hub.public_url ?? location.host} · version ${now.hub.version}`);
    figure($("peers"), count(tracker.peers));
    say($("peers-note"), `${plural(tracker.seeders, "seeder")}, ${plural(tracker.peers - tracker.seeders, "leecher")}`);
    figure($("swarms"), count(tracker.torrents));
    say($("swarms-note"), torrents.total ? `${plural(torrents.total, "torrent")} here, ${bytes(torrents.total_bytes)}` : "no torrents here");
    const announces = rates.announces_http + rates.announces_udp + rates.announces_websocket;
    figure($("announces"), perSecond(announces), "a second");
    const all = tracker.http.announces + tracker.udp.announces + tracker.websocket.announces;
    say($("announces-note"), `${count(all)} since the start`);
    const [sent, unit] = scaled(rates.web_seed_bytes + rates.upload_bytes);
    figure($("sending"), sent, unit + "/s");
    const seeded = now.http.areas.find((area) => area.area === "web_seed").sent_bytes + engine.uploaded_bytes;
    say($("sending-note"), `${bytes(seeded)} since the start`);

    bars($("kinds"), [["IPv4", tracker.peers_v4, "s0"], ["IPv6", tracker.peers_v6, "s1"], ["WebRTC", tracker.peers_browser, "s3"]]);
    const kinds = Object.entries(engine.sources).map(([kind, n], i) => [NAMES[kind] ?? kind, n, `s${i % 5}`]);
    bars($("connected"), kinds.length ? kinds : [["Peers", 0, "s0"]]);
    const classes = [["IPv4", "ipv4", "s0"], ["IPv6", "ipv6", "s1"], ["Private", "private", "s2"], ["This machine", "loopback", "s4"], ["Not known", "unknown", "s3"]];
    const total = classes.reduce((sum, [, key]) => sum + now.addresses[key], 0);
    const stack = $("addresses"), legend = $("addresses-legend");
    if (!stack.children.length) {
      for (const [name, , ink] of classes) {
        stack.append(make("div", { class: ink }));
        legend.append(make("li", { class: ink }, make("span", {}, name), make("b")));
      }
    }
    classes.forEach(([, key], i) => {
      stack.children[i].style.width = `${total ? now.addresses[key] / total * 100 : 0}%`;
      stack.children[i].hidden = now.addresses[key] === 0;
      say(legend.children[i].lastChild, count(now.addresses[key]));
    });
    stack.setAttribute("aria-label", classes.map(([name, key]) => `${name}: ${now.addresses[key]}`).join(", "));

    const { cache, disk, process } = now;
    const limit = cache.limit_bytes;
    meter("cache", cache.used_bytes, limit, limit === null ? `${bytes(cache.used_bytes)} used, no limit` : `${bytes(cache.used_bytes)} of ${bytes(limit)}`);
    if (disk.total_bytes !== null) meter("disk", disk.total_bytes - disk.free_bytes, disk.total_bytes, `${bytes(disk.free_bytes)} free of ${bytes(disk.total_bytes)}`);
    if (process.open_files !== null) meter("files", process.open_files, process.open_files_max, `${count(process.open_files)} of ${count(process.open_files_max ?? 0)}`);
    say($("process-text"), process.resident_bytes === null ? "–" : `${bytes(process.resident_bytes)} of memory`);
    const share = process.cpu_seconds === null || now.hub.uptime_s < 1 ? "" : `, ${(process.cpu_seconds / now.hub.uptime_s * 100).toFixed(1)} % CPU`;
    say($("uptime-text"), `up ${span(now.hub.uptime_s)}${share}`);

    hashing(now.hashing, torrents);
    add(now.point);
    if (view.cursor === null) paint();
    refresh();
  }
  /** What is being hashed, in places that are kept free for it: nothing moves when it comes and goes. */
  function hashing([one], torrents) {
    const bar = $("progress"), waiting = torrents.waiting ? `${plural(torrents.waiting, "torrent")} waiting to be hashed` : "";
    bar.hidden = !one;
    if (!one) return say($("hashing"), waiting);
    const percent = (one.total_bytes ? Math.min(one.hashed_bytes / one.total_bytes, 1) * 100 : 0).toFixed(0);
    say($("hashing"), `Hashing ${named(one.name)}: ${percent} % of ${bytes(one.total_bytes)}${torrents.waiting ? `, ${count(torrents.waiting)} more waiting` : ""}`);
    $("hashing").title = named(one.name);
    bar.setAttribute("aria-valuenow", percent);
    bar.firstChild.style.width = `${percent}%`;
  }

  // ---- the table ---------------------------------------------------------------------------------------------

  /** What torrents of repositories are of, by info hash. */
  const repositories = new Map();
  const table = { q: "", sort: "name", order: "asc", offset: 0, asked: 0, shown: "", loading: null, again: false, timer: 0 };
  const STATES = { ready: "Ready", hashing: "Hashing", waiting: "Waiting", metadata: "Metadata", refused: "Refused" };

  /** Asks for the table anew, if something in it may have changed and not more than every two seconds. */
  function refresh() {
    const { torrents } = stats;
    const key = JSON.stringify([torrents, stats.hub.is_ready]);
    const age = performance.now() - table.asked;
    if (document.hidden || age < 2000) return;
    if (key !== table.shown || torrents.hashing || age > 10000) load();
  }
  async function load() {
    if (table.loading) { table.again = true; return; }
    table.asked = performance.now();
    table.shown = stats ? JSON.stringify([stats.torrents, stats.hub.is_ready]) : "";
    const query = new URLSearchParams({ q: table.q, sort: table.sort, order: table.order, offset: table.offset, limit: PAGE_ROWS });
    table.loading = ask(`stats/torrents?${query}`);
    try {
      showPage(await table.loading);
    } catch {
      // The banner says so once the stream is lost too; what is shown stays.
      table.shown = "";
    } finally {
      table.loading = null;
      if (table.again) { table.again = false; load(); }
    }
  }
  function showPage(page) {
    table.offset = page.offset;
    const body = $("rows"), known = new Map([...body.children].map((row) => [row.dataset.key, row]));
    const rows = page.rows.map((entry) => {
      const key = `${entry.info_hash ?? ""} ${entry.name}`;
      const row = known.get(key) ?? blank(key);
      fill(row, entry);
      return row;
    });
    // Rows that stay in their place are not touched: focus and selections are left in peace.
    rows.forEach((row, i) => { if (body.children[i] !== row) body.insertBefore(row, body.children[i] ?? null); });
    while (body.children.length > rows.length) body.lastChild.remove();
    say($("count"), !page.total ? "" : page.matching < page.total ? `${count(page.matching)} of ${count(page.total)}` : count(page.total));
    $("table").hidden = rows.length === 0;
    $("empty").hidden = rows.length !== 0;
    if (!rows.length) empty(page.total);
    const pages = Math.ceil(page.matching / PAGE_ROWS);
    $("pages").hidden = pages < 2;
    $("previous").disabled = page.offset === 0;
    $("next").disabled = page.offset + rows.length >= page.matching;
    say($("page-text"), `${count(page.offset + 1)}–${count(page.offset + rows.length)} of ${count(page.matching)}`);
  }
  function empty(total) {
    const isSearch = total > 0, isReady = stats?.hub.is_ready ?? true;
    say($("empty-title"), isSearch ? "No torrent matches" : isReady ? "Nothing is shared yet" : "Looking through the shared directories");
    say($("empty-text"), isSearch
      ? "Try a part of the name, or the beginning of an info hash."
      : isReady ? "Put a file or a directory into a shared directory, or start the hub with one:" : "What stands in them shows here as it is found.");
    $("empty-code").hidden = isSearch || !isReady;
  }
  function cell(kind, ...children) {
    return make("td", { role: "cell", class: kind }, ...children);
  }
  function blank(key) {
    const row = make("tr", { role: "row" },
      cell("", make("span", { class: "name" }), make("span", { class: "hash" })),
      cell("number"),
      cell("number", make("span", { class: "seeds" }), " / ", make("span", { class: "leeches" })),
      cell("", make("span", { class: "badge" })),
      cell("", make("div", { class: "actions" })));
    row.dataset.key = key;
    return row;
  }
  function fill(row, entry) {
    const [name, size, peers, state, links] = row.children;
    // A repository's torrent goes by its commit: who looks for it knows the repository.
    const called = named(repositories.get(entry.info_hash) ?? entry.name);
    say(name.firstChild, called);
    name.firstChild.title = called;
    say(name.lastChild, entry.reason ? named(entry.reason) : entry.info_hash ?? "no info hash yet");
    if (entry.reason) name.lastChild.title = entry.reason;
    say(size, entry.total_bytes || entry.state === "ready" ? bytes(entry.total_bytes) : "–");
    say(peers.firstChild, count(entry.seeders));
    say(peers.lastChild, count(entry.leechers));
    peers.title = `${plural(entry.seeders, "seeder")}, ${plural(entry.leechers, "leecher")}`;
    peers.classList.toggle("zero", entry.seeders + entry.leechers === 0);
    const badge = state.firstChild;
    badge.dataset.state = entry.state;
    const part = entry.hashed_bytes !== undefined && entry.total_bytes
      ? ` ${Math.floor(entry.hashed_bytes / entry.total_bytes * 100)} %`
      : entry.state === "ready" && entry.pieces_present < entry.pieces ? ` ${Math.floor(entry.pieces_present / entry.pieces * 100)} % here` : "";
    say(badge, (STATES[entry.state] ?? entry.state) + part);
    const actions = links.firstChild, hash = entry.info_hash;
    if (actions.dataset.hash === (hash ?? "") || (hash && entry.state !== "ready" && entry.state !== "metadata")) return;
    actions.dataset.hash = hash ?? "";
    if (!hash) { actions.replaceChildren(); return; }
    const file = at(`torrent/${hash}.torrent`);
    const magnet = make("a", { class: "magnet", href: brief(hash, entry.name, file) }, "Magnet");
    magnet.setAttribute("aria-label", `Open the magnet link of ${called}`);
    actions.replaceChildren(...opening(hash, called), magnet, copying(at(`magnet/${hash}`), called), downloading(file, called));
  }
  /** Browsers take part in torrents of version 1, and in hybrids. */
  function opening(hash, called) {
    if (hash.length !== 40) return [];
    return [make("a", { class: "open", href: at(`browser/#${hash}`), "aria-label": `Open ${called} in this browser` }, "Open")];
  }
  function copying(from, called) {
    const copy = make("button", { type: "button", class: "copy", "aria-label": `Copy the magnet link of ${called}` }, "Copy magnet");
    copy.addEventListener("click", () => copyMagnet(from));
    return copy;
  }
  const downloading = (file, called) =>
    make("a", { class: "torrent", href: file, download: "", "aria-label": `Download the .torrent file of ${called}` }, ".torrent");
  /** A magnet link that leads to the .torrent, which has all the rest. */
  function brief(hash, name, file) {
    const topic = hash.length === 64 ? `urn:btmh:1220${hash}` : `urn:btih:${hash}`;
    return `magnet:?xt=${topic}&dn=${encodeURIComponent(name)}&xs=${encodeURIComponent(file)}&tr=${encodeURIComponent(at("announce"))}`;
  }
  async function copyMagnet(from) {
    try {
      const answer = await fetch(from, { headers: { accept: "text/plain" } });
      if (!answer.ok) throw new Error(String(answer.status));
      await copy((await answer.text()).trim());
      toast("The magnet link is copied");
    } catch {
      toast("The magnet link could not be copied");
    }
  }
  async function copy(text) {
    // Pages over plain HTTP from another machine have no clipboard but this older one.
    if (navigator.clipboard && window.isSecureContext) return navigator.clipboard.writeText(text);
    const area = make("textarea", { class: "hidden", readonly: "" });
    area.value = text;
    document.body.append(area);
    const focused = document.activeElement;
    area.select();
    const isCopied = document.execCommand("copy");
    area.remove();
    focused?.focus();
    if (!isCopied) throw new Error("no clipboard");
  }
  let toasted = 0;
  function toast(text) {
    say($("toast"), text);
    $("toast").classList.add("is-shown");
    clearTimeout(toasted);
    toasted = setTimeout(() => $("toast").classList.remove("is-shown"), 2600);
  }
  $("search").addEventListener("input", () => {
    clearTimeout(table.timer);
    table.timer = setTimeout(() => { table.q = $("search").value; table.offset = 0; load(); }, 150);
  });
  for (const button of document.querySelectorAll("[data-sort]")) {
    button.addEventListener("click", () => {
      const key = button.dataset.sort;
      const isDown = table.sort === key ? table.order === "asc" : key === "size" || key === "peers";
      Object.assign(table, { sort: key, order: isDown ? "desc" : "asc", offset: 0 });
      for (const head of document.querySelectorAll("th[aria-sort]")) head.removeAttribute("aria-sort");
      button.parentElement.setAttribute("aria-sort", isDown ? "descending" : "ascending");
      load();
    });
  }
  $("previous").addEventListener("click", () => { table.offset = Math.max(0, table.offset - PAGE_ROWS); load(); });
  $("next").addEventListener("click", () => { table.offset += PAGE_ROWS; load(); });

  // ---- what is kept of Hugging Face --------------------------------------------------------------------------

  const FILLS_MAX = 5;
  const MODEL_STATES = { ready: "ready", preparing: "hashing", failed: "refused" };
  /** Looked at now and then, behind everything else: each look is at files. */
  async function loadModels() {
    if (!document.hidden) {
      try {
        const now = await ask("hf-stats");
        // A hub without the proxy says so for good.
        if (now === null) return;
        showModels(now);
      } catch { /* Comes with the next one. */ }
    }
    setTimeout(loadModels, 4000);
  }
  function showModels(now) {
    $("models").hidden = !(now.upstream_requests || now.blobs || now.models.length);
    bars($("models-bytes"), [
      ["From upstream", now.upstream_bytes, "s3"],
      ["To clients", now.served_bytes, "s0"],
      ["To peers", now.peer_bytes, "s1"],
      ["Between peers", now.exchanged_bytes, "s2"],
    ], bytes);
    const [sum, all] = now.fills.reduce(([sum, all], fill) => [sum + fill.present_bytes, all + fill.bytes], [0, 0]);
    showFills(now.fills);
    const before = repositories.size;
    for (const model of now.models) if (model.info_hash) repositories.set(model.info_hash, model.repo + (model.path === undefined ? "" : `/${model.path}`));
    if (repositories.size > before) load();
    say($("fills"), now.fills.length ? `Fetching ${plural(now.fills.length, "file")}: ${bytes(sum)} of ${bytes(all)}` : "");
    say($("models-count"), `${plural(now.blobs, "file")}, ${bytes(now.blobs_bytes)}`);
    const body = $("models-rows"), known = new Map([...body.children].map((row) => [row.dataset.key, row]));
    const rows = now.models.map((model) => {
      const path = model.path === undefined ? "" : `/${model.path}`, key = `${model.repo}@${model.commit}${path}`;
      const row = known.get(key) ?? blank(key);
      fillModel(row, model, path);
      return row;
    });
    rows.forEach((row, i) => { if (body.children[i] !== row) body.insertBefore(row, body.children[i] ?? null); });
    while (body.children.length > rows.length) body.lastChild.remove();
    $("models-table").hidden = rows.length === 0;
  }
  /** How far the files are that are being fetched, those that somebody waits for first. */
  function showFills(fills) {
    const shown = [...fills].sort((a, b) => b.waiting - a.waiting || b.bytes - a.bytes).slice(0, FILLS_MAX);
    const list = $("fills-list"), known = new Map([...list.children].map((row) => [row.dataset.id, row]));
    const rows = shown.map((fill) => {
      let row = known.get(fill.id);
      if (!row) {
        row = make("li", { "data-id": fill.id }, make("span", { class: "hash" }), make("div", { class: "track s3", role: "progressbar", "aria-valuemin": "0", "aria-valuemax": "100" }, make("div")), make("span", { class: "far" }));
        say(row.firstChild, named(fill.id));
        row.children[1].setAttribute("aria-label", `Fetched of ${named(fill.id)}`);
      }
      const percent = fill.bytes ? Math.floor(fill.present_bytes / fill.bytes * 100) : 100;
      row.children[1].setAttribute("aria-valuenow", percent);
      row.children[1].firstChild.style.width = `${percent}%`;
      say(row.lastChild, `${percent} % of ${bytes(fill.bytes)}${fill.waiting ? `, ${plural(fill.waiting, "read")} waiting` : ""}`);
      return row;
    });
    rows.forEach((row, i) => { if (list.children[i] !== row) list.insertBefore(row, list.children[i] ?? null); });
    while (list.children.length > rows.length) list.lastChild.remove();
  }
  function fillModel(row, model, path) {
    const [name, size, peers, state, links] = row.children;
    say(name.firstChild, named(model.repo + path));
    name.firstChild.title = named(`${model.repo}@${model.commit}${path}`);
    say(name.lastChild, named(model.reason ?? model.commit));
    say(size, bytes(model.total_bytes));
    if (peers.children.length) peers.replaceChildren();
    say(peers, bytes(model.uploaded_bytes));
    const badge = state.firstChild, part = model.total_bytes ? Math.floor(model.present_bytes / model.total_bytes * 100) : 100;
    badge.dataset.state = MODEL_STATES[model.state] ?? model.state;
    say(badge, model.state === "preparing" ? `Preparing ${part} %`
      : model.state === "failed" ? "Failed"
      : model.is_seeded ? "Seeded" : `Kept, ${part} % here`);
    const actions = links.firstChild, hash = model.info_hash, key = `${hash} ${model.is_seeded}`;
    if (!hash || actions.dataset.hash === key) return;
    actions.dataset.hash = key;
    const called = named(model.repo + path), place = `${model.repo}@${model.commit}${path.split("/").map(encodeURIComponent).join("/")}`;
    // The page can open what the hub gives to peers.
    actions.replaceChildren(...(model.is_seeded ? opening(hash, called) : []), copying(at(`magnet/${place}`), called), downloading(at(`torrent/${place}`), called));
  }

  // ---- the line to the hub -----------------------------------------------------------------------------------

  async function ask(path) {
    const answer = await fetch(at(path), { cache: "no-store", headers: { accept: "application/json" } });
    if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
    return answer.json();
  }
  async function loadHistory() {
    try { take(await ask("stats/history")); } catch { /* Comes with the next connection. */ }
  }
  const line = { source: null, tries: 0, heard: 0, timer: 0 };
  const SAID = { connecting: "Connecting", live: "Live", polling: "Every 5 s", lost: "Disconnected" };
  function state(name) {
    const link = $("link");
    if (link.dataset.state !== name) { link.dataset.state = name; say($("link-text"), SAID[name]); }
    const isLost = name === "lost";
    document.body.classList.toggle("is-lost", isLost);
    $("banner").hidden = !isLost;
    if (isLost) say($("banner"), stats ? "The hub cannot be reached. These are its last numbers; trying again." : "The hub cannot be reached. Trying again.");
  }
  function hear(text) {
    line.heard = performance.now();
    line.tries = 0;
    show(JSON.parse(text));
  }
  function connect() {
    clearTimeout(line.timer);
    line.source?.close();
    const source = new EventSource(at("stats/stream"));
    line.source = source;
    source.addEventListener("open", loadHistory);
    source.addEventListener("stats", (event) => { state("live"); hear(event.data); });
    source.addEventListener("error", () => { source.close(); poll(); });
  }
  /** Without a stream: asks once, and tries the stream again later, ever more seldom. */
  async function poll() {
    line.tries += 1;
    try {
      const tries = line.tries;
      const now = await ask("stats");
      if (!history.names) await loadHistory();
      // One broken stream is replaced at once; a hub that gives none is asked in between.
      if (tries > 1) state("polling");
      hear(JSON.stringify(now));
      line.tries = tries;
    } catch {
      state("lost");
    }
    const pause = line.tries < 2 ? 500 : 5000;
    line.timer = setTimeout(connect, pause);
  }
  // A stream that is open and silent for long is dead: a machine slept, a router forgot it.
  setInterval(() => {
    if (line.source?.readyState === EventSource.OPEN && performance.now() - line.heard > 45000) connect();
  }, 5000);
  addEventListener("online", connect);
  document.addEventListener("visibilitychange", () => { if (!document.hidden && stats) { paint(); refresh(); } });

  load();
  loadModels();
  connect();
})();
