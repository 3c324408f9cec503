// The service worker: streams what media elements of the page ask for out of the torrent that is open there.
//
// Answers film and sound alone, and only the page that asks: an address of a torrent's file that is opened as a page or
// a script goes to the hub, which has nothing there. So nothing that is in a torrent ever runs as a part of this site,
// and another tab, which may have nothing of it, is not asked. What it answers with comes from `streaming.js`, a chunk for
// each that the browser takes.

const MEDIA = new Set(["audio", "video"]);
/** How long a page may take to begin to answer: it does at once, or it is gone. */
const PATIENCE_MS = 10_000;
const base = new URL("stream/", self.registration.scope).pathname;

self.addEventListener("install", () => self.skipWaiting());
self.addEventListener("activate", (event) => event.waitUntil(self.clients.claim()));
self.addEventListener("fetch", (event) => {
  const { request, clientId } = event;
  const { origin, pathname } = new URL(request.url);
  if (origin !== self.location.origin || !pathname.startsWith(base) || request.method !== "GET") return;
  // A page with an open stream asks for this now and then: a worker that nobody asks anything is ended, its streams too.
  if (pathname === `${base}awake` && request.mode !== "navigate") event.respondWith(new Response(null, { status: 204 }));
  else if (MEDIA.has(request.destination) && clientId) event.respondWith(stream(request, pathname.slice(base.length), clientId));
});

async function stream(request, name, clientId) {
  const page = await self.clients.get(clientId);
  if (!page) return Response.error();
  const { port1: port, port2 } = new MessageChannel();
  const heard = new Promise((resolve) => {
    port.onmessage = ({ data }) => resolve(data);
    setTimeout(resolve, PATIENCE_MS);
  });
  page.postMessage({ kind: "stream", name, range: request.headers.get("range") }, [port2]);
  const head = await heard;
  if (!head) return Response.error();
  if (!head.hasBody) {
    port.close();
    return new Response(null, head);
  }
  const body = new ReadableStream({
    pull: (controller) => new Promise((resolve) => {
      port.onmessage = ({ data }) => {
        if (data.bytes) controller.enqueue(data.bytes);
        else if (data.isEnd) controller.close();
        else controller.error(new TypeError("the bytes did not come"));
        if (!data.bytes) port.close();
        resolve();
      };
      port.postMessage("next");
    }),
    cancel() {
      port.postMessage("cancel");
      port.close();
    },
  }, { highWaterMark: 1 });
  return new Response(body, head);
}
