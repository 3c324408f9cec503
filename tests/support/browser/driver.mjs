// Drives Chromium for the tests: `node driver.mjs PLAYWRIGHT CHROMIUM WEBTORRENT HERE`.
//
// Reads commands from standard input, a JSON object a line, and answers each with a line `{"id": .., "ok": ..}` or
// `{"id": .., "error": ..}`. Commands run side by side. A tab is either a page of the hub, driven as a person would, or a
// bare page with webtorrent.js in it (peer.js) or with hand-made signalling (hostile.js), served from here.
import { createReadStream } from "node:fs";
import { createServer, request as httpRequest } from "node:http";
import { connect } from "node:net";
import { createInterface } from "node:readline";
import { setTimeout as pause } from "node:timers/promises";
import { pathToFileURL } from "node:url";

import { Path } from "./path.mjs";

const [playwright, executablePath, webtorrent, here] = process.argv.slice(2);
const { chromium } = await import(pathToFileURL(playwright).href);
const PATIENCE_MS = 280_000;
const args = [
  "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync", "--no-proxy-server",
];

// ---- what bare pages are made of ---------------------------------------------------------------------------------------

const PAGE = "<!doctype html><meta charset=utf-8><title>peer</title>";
const served = new Map([["/webtorrent.js", webtorrent], ["/peer.js", `${here}/peer.js`], ["/hostile.js", `${here}/hostile.js`]]);
const server = createServer((request, response) => {
  const { pathname } = new URL(request.url, "http://x");
  const file = served.get(pathname);
  if (pathname !== "/" && !file) { response.writeHead(404).end(); return; }
  response.writeHead(200, { "content-type": pathname === "/" ? "text/html" : pathname.endsWith(".js") ? "text/javascript" : "application/octet-stream", "cache-control": "no-store" });
  if (file) createReadStream(file).pipe(response); else response.end(PAGE);
});
await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
const origin = `http://127.0.0.1:${server.address().port}`;
function serve(path) {
  const at = `/file/${served.size}`;
  served.set(at, path);
  return origin + at;
}

// ---- tabs --------------------------------------------------------------------------------------------------------------

const browser = await chromium.launch({ executablePath, args, timeout: PATIENCE_MS });
const contexts = new Map(), tabs = new Map();
/** Tabs of one profile share what the browser keeps. */
async function contextOf(profile) {
  if (!contexts.has(profile)) {
    contexts.set(profile, (async () => {
      const context = await browser.newContext({ colorScheme: "dark", viewport: { width: 1280, height: 900 } });
      context.setDefaultTimeout(PATIENCE_MS);
      await context.addInitScript(() => document.addEventListener("securitypolicyviolation", (event) => console.error(`policy: ${event.violatedDirective} ${event.blockedURI}`)));
      return context;
    })());
  }
  return contexts.get(profile);
}
async function newTab(name, profile) {
  const page = await (await contextOf(profile ?? name)).newPage();
  const tab = { page, problems: [], hosts: new Set() };
  tabs.set(name, tab);
  page.on("console", (message) => { if (message.type() === "error") tab.problems.push(message.text()); });
  page.on("pageerror", (error) => tab.problems.push(error.message));
  const ask = (url) => { if (/^(http|ws)s?:/.test(url)) tab.hosts.add(new URL(url).host); };
  page.on("request", (request) => ask(request.url()));
  page.on("websocket", (socket) => ask(socket.url()));
  return tab;
}
function tab(name) {
  const found = tabs.get(name);
  if (!found) throw new Error(`there is no tab ${name}`);
  return found.page;
}
async function bare(name, module) {
  const { page } = await newTab(name);
  await page.goto(`${origin}/`);
  await page.evaluate(async (url) => { window.peer = await import(url); }, `${origin}/${module}.js`);
  return page;
}

// ---- the page of the hub -----------------------------------------------------------------------------------------------

const settled = '#range-facts[data-state="done"], #range-facts[data-state="failed"]';
async function read(page, press) {
  await page.evaluate(() => { document.querySelector("#range-facts").dataset.state = "asked"; });
  await press();
  await page.waitForSelector(settled);
  if (await page.getAttribute("#range-facts", "data-state") === "failed") throw new Error(`the read failed: ${await page.textContent("#range-error")}`);
  return { sha256: await page.textContent("#range-hash"), told: await page.textContent("#range-told"), start: await page.inputValue("#range-start"), length: await page.inputValue("#range-length") };
}
/** What the page says of its pieces: how many are here, and from whom. */
async function pieces(page) {
  return page.evaluate(async () => {
    // The map is drawn once a frame.
    await new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve)));
    const number = (element) => Number((element?.textContent ?? "0").replaceAll(",", "").split(" ")[0]) || 0;
    const from = Object.fromEntries([...document.querySelectorAll("#map-legend li")].map((row) => [row.dataset.from, number(row.lastChild)]));
    return { have: number(document.querySelector("#map-count")), from };
  });
}

const commands = {
  // A bare peer: `role` is "seed" or "leech". With `delayMs` all others are so far away, each way.
  async open({ tab: name, role, torrent, data, trackers, strategy, delayMs }) {
    const page = await bare(name, "peer");
    if (delayMs) {
      const path = new Path(delayMs);
      tabs.get(name).path = path;
      await page.exposeFunction("stretch", (description) => path.stretch(description));
    }
    return page.evaluate((options) => window.peer.open(options), {
      library: `${origin}/webtorrent.js`, role, torrent: serve(torrent), data: data && serve(data), trackers, strategy,
    });
  },
  async done({ tab: name }) { return tab(name).evaluate(() => window.peer.done()); },
  // What went over the long way of a bare peer.
  async carried({ tab: name }) { return tabs.get(name).path.told; },
  async stats({ tab: name }) { return tab(name).evaluate(() => window.peer.stats()); },
  async hostile({ tab: name, ...options }) {
    const page = await bare(name, "hostile");
    return page.evaluate((given) => window.peer.start(given), options);
  },
  // Waits until hostile peers say so of themselves: "open", "dropped" or "poured".
  async told({ tab: name, until }) {
    await tab(name).waitForFunction((what) => {
      const told = window.peer.told();
      const isDropped = told.opened > 0 && told.opened === told.closed;
      return { open: told.opened > 0, dropped: isDropped, poured: isDropped || told.isPoured }[what];
    }, until, { polling: 200 });
    return tab(name).evaluate(() => window.peer.told());
  },
  async close({ tab: name }) {
    await tab(name).close();
    tabs.delete(name);
  },
  // The tab's process dies as one dies that ran out of memory: nobody is told anything.
  async crash({ tab: name }) {
    const page = tab(name);
    const session = await page.context().newCDPSession(page);
    const crashed = new Promise((resolve) => page.once("crash", resolve));
    session.send("Page.crash").catch(() => {});
    await crashed;
    tabs.delete(name);
  },

  // The page of the hub.
  async visit({ tab: name, profile, url, isWebSeeded, keep, storage, hasWebRtc }) {
    const { page } = await newTab(name, profile);
    if (hasWebRtc === false) await page.addInitScript(() => {
      for (const kind of ["RTCPeerConnection", "webkitRTCPeerConnection"]) delete window[kind];
    });
    if (storage === "none") await page.addInitScript(() => {
      for (const kind of ["indexedDB", "localStorage", "sessionStorage"]) Object.defineProperty(window, kind, { get() { throw new DOMException("denied", "SecurityError"); } });
    });
    // A disk that is full after so many pieces.
    if (storage > 0) await page.addInitScript((most) => {
      const { put } = IDBObjectStore.prototype;
      let taken = 0;
      IDBObjectStore.prototype.put = function (...what) {
        if (this.name === "pieces" && taken >= most) throw new DOMException("full", "QuotaExceededError");
        taken += this.name === "pieces" ? 1 : 0;
        return put.apply(this, what);
      };
    }, storage);
    if (keep) await page.addInitScript((bytes) => localStorage.setItem("wtfs-keep-bytes", String(bytes)), keep);
    if (isWebSeeded === false) await page.addInitScript(() => localStorage.setItem("wtfs-web-seed", "off"));
    await page.addInitScript(() => {
      const Connection = window.RTCPeerConnection;
      window.iceServers = [];
      if (Connection) window.RTCPeerConnection = class extends Connection {
        constructor(given, ...more) {
          super(given, ...more);
          window.iceServers.push(given.iceServers);
        }
      };
    });
    await page.goto(url);
    await page.waitForSelector('body[data-started="yes"]');
  },
  /** What the dashboard says of repositories: their torrents' names, where they lead, and the bytes that it tells of. */
  async models({ tab: name, url }) {
    const { page } = await newTab(name);
    await page.goto(url);
    await page.waitForSelector("#models-rows .open");
    await page.waitForFunction(() => {
      const names = (rows) => [...document.querySelectorAll(`${rows} .name`)].map((one) => one.textContent);
      return names("#models-rows").every((one) => names("#rows").includes(one));
    });
    return page.evaluate(() => ({
      models: [...document.querySelectorAll("#models-rows tr")].map((row) => ({ name: row.querySelector(".name").textContent, open: row.querySelector(".open").getAttribute("href") })),
      bytes: Object.fromEntries([...document.querySelectorAll("#models-bytes dt")].map((title) => [title.textContent, title.parentElement.querySelector("dd").textContent])),
    }));
  },
  async pick({ tab: name, torrent, file, state }) {
    const page = tab(name);
    if (torrent) await page.locator("#choices button", { hasText: torrent }).click();
    await page.waitForSelector(`#link[data-state="${state ?? "live"}"]`);
    if (file) await page.locator("#files button", { hasText: file }).click();
  },
  async magnet({ tab: name, magnet }) {
    const page = tab(name);
    await page.fill("#magnet", magnet);
    await page.click('#magnet-form button[type="submit"]');
    await page.waitForSelector('#link[data-state="live"]');
  },
  async read({ tab: name, start, length }) {
    const page = tab(name);
    await page.click("#tab-read");
    await page.fill("#range-start", String(start));
    await page.fill("#range-length", String(length));
    return read(page, () => page.click("#range-read"));
  },
  async move({ tab: name, direction }) {
    const page = tab(name);
    return read(page, () => page.click(direction === "back" ? "#range-back" : "#range-forward"));
  },
  async whole({ tab: name }) {
    const page = tab(name);
    await page.click("#tab-read");
    return read(page, () => page.click("#range-all"));
  },
  async hex({ tab: name }) { return (await tab(name).textContent("#hex")).split("\n")[0]; },
  async tensors({ tab: name, names }) {
    const page = tab(name);
    await page.click("#tab-tensors");
    for (const tensor of names) await page.check(`[data-tensor="${tensor}"] input`);
    await page.click("#tensor-load");
    await page.waitForSelector('#tensor-note[data-state="done"]');
    return page.evaluate((asked) => asked.map((tensor) => {
      const cells = document.querySelector(`[data-tensor="${tensor}"]`).children;
      return { name: tensor, dtype: cells[2].textContent, shape: cells[3].textContent, told: cells[5].firstChild.textContent, sha256: cells[5].lastChild.textContent };
    }), names);
  },
  async fetchAll({ tab: name }) {
    const page = tab(name);
    await page.click("#fetch-all");
    await page.waitForFunction(() => document.querySelector("#fetch-all").textContent === "Everything is here");
    return pieces(page);
  },
  async pieces({ tab: name }) { return pieces(tab(name)); },
  async reload({ tab: name }) {
    const page = tab(name);
    await page.reload();
    await page.waitForSelector('#link[data-state="live"]');
    return pieces(page);
  },
  async link({ tab: name, state }) {
    await tab(name).waitForSelector(`#link[data-state="${state}"]`);
    return { alert: await tab(name).locator("#alert").isVisible() ? await tab(name).textContent("#alert") : null };
  },
  async kept({ tab: name }) {
    // It is shown every few seconds.
    await tab(name).waitForFunction(() => Number(document.querySelector("#kept-bar").dataset.used) > 0);
    return Number(await tab(name).getAttribute("#kept-bar", "data-used"));
  },
  /** What the site answers for a path below the page, as to a person who follows a link. */
  async status({ tab: name, path }) {
    const page = await tab(name).context().newPage();
    const answer = await page.goto(new URL(path, tab(name).url()).href);
    await page.close();
    return answer.status();
  },
  async text({ tab: name, selector }) { return (await tab(name).textContent(selector)).trim(); },
  async waitText({ tab: name, selector, text }) {
    await tab(name).waitForFunction(([where, what]) => document.querySelector(where)?.textContent.includes(what), [selector, text]);
  },
  async click({ tab: name, selector }) { await tab(name).click(selector); },
  async playable({ tab: name }) {
    await tab(name).waitForFunction(() => document.querySelector("#shown audio, #shown video")?.readyState >= 1);
    return tab(name).evaluate(() => { const media = document.querySelector("#shown audio, #shown video"); return { duration: media.duration, source: media.src.split(":")[0], path: media.getAttribute("src") }; });
  },
  /** Jumps to a second of what plays, and waits until it could go on there. */
  async seek({ tab: name, to }) {
    await tab(name).evaluate(async (second) => {
      const media = document.querySelector("#shown audio, #shown video");
      media.currentTime = second;
      if (media.seeking) await new Promise((resolve) => media.addEventListener("seeked", resolve, { once: true }));
    }, to);
    await tab(name).waitForFunction(() => document.querySelector("#shown audio, #shown video").readyState >= 2);
    return tab(name).evaluate(() => document.querySelector("#shown audio, #shown video").currentTime);
  },
  /** What the page says to a link that is none. */
  async refused({ tab: name, magnet }) {
    const page = tab(name);
    await page.fill("#magnet", magnet);
    await page.press("#magnet", "Enter");
    return page.evaluate(() => document.querySelector("#magnet").validationMessage);
  },
  /** A magnet link that nobody may know. */
  async paste({ tab: name, magnet }) {
    await tab(name).fill("#magnet", magnet);
    await tab(name).press("#magnet", "Enter");
  },
  async press({ tab: name, keys }) { for (const key of keys) await tab(name).keyboard.press(key); },
  /** Waits until the element of this id has the focus. */
  async waitFocus({ tab: name, focus }) { await tab(name).waitForFunction((wanted) => document.activeElement.id === wanted, focus); },
  /** By which servers each connection was to find a way: first tried alone, then together. */
  async iceServers({ tab: name, until }) {
    await tab(name).waitForFunction((count) => window.iceServers.length >= count, until);
    return tab(name).evaluate(() => window.iceServers);
  },
  /** Which hosts were asked for anything. */
  async hosts({ tab: name }) { return [...tabs.get(name).hosts]; },
  /** Puts a site of somebody else's in front, which has the hub below a path. */
  async front({ addr, prefix, hub }) {
    const [host, port] = addr.split(":"), at = new URL(hub);
    const below = (url) => url.slice(prefix.length) || "/";
    const front = createServer((request, response) => {
      if (!request.url.startsWith(prefix)) { response.writeHead(404).end(); return; }
      const asked = httpRequest({ host: at.hostname, port: at.port, path: below(request.url), method: request.method, headers: request.headers }, (answer) => {
        response.writeHead(answer.statusCode, answer.headers);
        answer.pipe(response);
      });
      asked.on("error", () => response.destroy());
      response.on("close", () => asked.destroy());
      request.pipe(asked);
    });
    front.on("upgrade", (request, socket) => {
      const line = connect(at.port, at.hostname, () => {
        const headers = Object.entries(request.headers).map(([name, value]) => `${name}: ${value}\r\n`).join("");
        line.write(`${request.method} ${below(request.url)} HTTP/1.1\r\n${headers}\r\n`);
        socket.pipe(line).pipe(socket);
      });
      line.on("error", () => socket.destroy());
      socket.on("error", () => line.destroy());
    });
    await new Promise((resolve) => front.listen(Number(port), host, resolve));
    front.unref();
  },
  async fits({ tab: name, width }) {
    const page = tab(name);
    await page.setViewportSize({ width, height: 800 });
    return page.evaluate(() => {
      const unnamed = [...document.querySelectorAll("button, a, input, select")].filter((element) => {
        const label = [...element.labels ?? []].map((one) => one.textContent).join("");
        return !(element.getAttribute("aria-label") ?? element.textContent + label).trim();
      });
      return { content: document.documentElement.scrollWidth, window: document.documentElement.clientWidth, unnamed: unnamed.length };
    });
  },
  async shot({ tab: name, path }) { await tab(name).screenshot({ path, fullPage: true }); },
  async problems({ tab: name }) { return tabs.get(name).problems; },
  async memory({ tab: name }) {
    const session = await tab(name).context().newCDPSession(tab(name));
    await session.send("HeapProfiler.collectGarbage");
    const { usedSize } = await session.send("Runtime.getHeapUsage");
    await session.detach();
    return usedSize;
  },
};

console.log(JSON.stringify({ ready: true }));
for await (const line of createInterface({ input: process.stdin })) {
  const { id, command, ...options } = JSON.parse(line);
  const say = (answer) => console.log(JSON.stringify({ id, ...answer }));
  Promise.resolve().then(() => commands[command](options)).then((ok) => say({ ok: ok ?? null }), (error) => say({ error: error.message }));
}
// Standard input is closed when the test is over.
server.close();
server.closeAllConnections();
await Promise.race([browser.close(), pause(10_000)]);
process.exit(0);
