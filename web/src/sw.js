// The service worker: streams what media elements of the page ask for out of the torrent.
//
// Answers nothing but pictures, sound and film: an address of a torrent's file that is opened as a page or a script goes
// to the hub, which has nothing there. So nothing that is in a torrent ever runs as a part of this site.
import answer from "webtorrent/lib/worker-server.js";

const MEDIA = new Set(["audio", "image", "video"]);

self.addEventListener("install", () => self.skipWaiting());
self.addEventListener("activate", (event) => event.waitUntil(self.clients.claim()));
self.addEventListener("fetch", (event) => {
  // The page itself asks for two addresses that keep the worker awake and find out what it can; they hold nothing.
  const isKeep = /\/webtorrent\/(keepalive|cancel)\/$/.test(event.request.url) && event.request.mode !== "navigate";
  if (!isKeep && !MEDIA.has(event.request.destination)) return;
  const response = answer(event);
  if (response) event.respondWith(response);
});
