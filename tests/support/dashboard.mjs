// Drives Chromium over the dashboard and checks what a person would: `node dashboard.mjs PLAYWRIGHT CHROMIUM HUB ROOT`.
// Prints what it has seen, a line each, and ends with 1 at the first thing that is wrong.
import assert from "node:assert/strict";
import { writeFile } from "node:fs/promises";
import { setTimeout as pause } from "node:timers/promises";
const [playwright, executablePath, hub, root] = process.argv.slice(2);
const { chromium } = await import(playwright);
const HOSTILE = `<img src=x onerror="window.ran=1">`;
const args = [
  "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync", "--no-proxy-server",
];
const browser = await chromium.launch({ executablePath, args, timeout: 100_000 });
const problems = [], foreign = [];
try {
  const context = await browser.newContext({ colorScheme: "dark", viewport: { width: 1280, height: 900 } });
  context.setDefaultTimeout(60_000);
  await context.grantPermissions(["clipboard-read", "clipboard-write"], { origin: hub });
  await context.addInitScript(() => {
    document.addEventListener("securitypolicyviolation", (event) => console.error(`policy: ${event.violatedDirective} ${event.blockedURI}`));
  });
  const page = await context.newPage();
  let isEnding = false;
  page.on("console", (message) => { if (!isEnding && ["error", "warning"].includes(message.type())) problems.push(message.text()); });
  page.on("pageerror", (error) => problems.push(error.message));
  page.on("request", (request) => { if (!request.url().startsWith(hub)) foreign.push(request.url()); });
  const rows = page.locator("#rows tr");
  const named = (name) => rows.filter({ has: page.locator(".name", { hasText: name }) });

  await page.goto(`${hub}/`);
  await page.waitForSelector('#link[data-state="live"]');
  await named(HOSTILE).waitFor();
  assert.equal(await named(HOSTILE).locator(".name").textContent(), HOSTILE);
  assert.equal(await page.evaluate(() => window.ran), undefined);
  assert.equal(await page.locator('main img, [src="x"]').count(), 0);
  console.log("a hostile name is text");

  await writeFile(`${root}/added while watching.bin`, Buffer.alloc(300_000, 7));
  await named("added while watching.bin").locator('.badge[data-state="ready"]').waitFor();
  console.log("what is added shows by itself");

  await page.fill("#search", "WATCHING added");
  await page.waitForFunction(() => document.querySelectorAll("#rows tr").length === 1);
  assert.equal(await rows.first().locator(".name").textContent(), "added while watching.bin");
  await page.fill("#search", "there is no such name");
  await page.waitForFunction(() => document.querySelector("#empty-title").checkVisibility());
  assert.equal(await page.textContent("#empty-title"), "No torrent matches");
  await page.fill("#search", "");
  await page.waitForFunction(() => document.querySelectorAll("#rows tr").length > 2);
  console.log("the search filters");

  await page.click('[data-sort="size"]');
  await page.waitForSelector('th[aria-sort="descending"] [data-sort="size"]');
  await page.waitForFunction(() => document.querySelector("#rows .name").textContent === "large.bin");
  console.log("the table is sorted");

  const row = named("added while watching.bin");
  const hash = await row.locator(".hash").textContent();
  await row.locator(".copy").click();
  await page.waitForSelector("#toast.is-shown");
  const told = (await (await fetch(`${hub}/magnet/${hash}`)).text()).trim();
  assert.equal(await page.evaluate(() => navigator.clipboard.readText()), told);
  assert.ok(told.startsWith(`magnet:?xt=urn:btih:${hash}`), told);
  const link = await row.locator(".magnet").getAttribute("href");
  assert.ok(link.startsWith(`magnet:?xt=urn:btih:${hash}&`), link);
  const torrent = await fetch(await row.locator(".torrent").getAttribute("href"));
  assert.equal(torrent.headers.get("content-type"), "application/x-bittorrent");
  console.log("links lead to the torrent");

  await page.waitForFunction(() => document.querySelectorAll("#chart path").length > 0);
  await page.click('[data-chart="announces"]');
  await page.waitForFunction(() => document.querySelectorAll("#chart path").length > 0);
  assert.match(await page.locator("#chart svg").getAttribute("aria-label"), /HTTP .*UDP .*WebSocket/);
  console.log("the chart is drawn");

  for (const [width, height] of [[1280, 900], [768, 900], [360, 740]]) {
    await page.setViewportSize({ width, height });
    const [content, window] = await page.evaluate(() => [document.documentElement.scrollWidth, document.documentElement.clientWidth]);
    assert.ok(content <= window, `${content} in ${window}`);
    assert.ok(await row.locator(".copy").isVisible());
  }
  console.log("it fits wide and narrow");

  const ground = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  const dark = await ground();
  await page.click("#theme");
  const light = await ground();
  assert.notEqual(dark, light);
  await page.reload();
  assert.equal(await ground(), light);
  await page.waitForSelector('#link[data-state="live"]');
  console.log("the theme is remembered");

  const unnamed = await page.evaluate(() => [...document.querySelectorAll("button, a, input")].filter((element) => {
    const label = element.labels?.[0]?.textContent ?? "";
    return !(element.getAttribute("aria-label") ?? element.textContent + label).trim();
  }).length);
  assert.equal(unnamed, 0);
  assert.deepEqual(problems, []);
  assert.deepEqual(foreign, []);
  console.log("nothing is reported and nobody else is asked");

  // From here on the console tells of a hub that is gone.
  isEnding = true;
  console.log("end the hub");
  await page.waitForSelector('#link[data-state="lost"]');
  assert.ok(await page.locator("#banner").isVisible());
  console.log("a lost hub is told");
  await page.waitForSelector('#link[data-state="live"]');
  assert.ok(!(await page.locator("#banner").isVisible()));
  console.log("it comes back by itself");
} finally {
  await browser.close();
  await pause(0);
}
