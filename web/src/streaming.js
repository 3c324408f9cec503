// Streaming to media elements: the page's side of the service worker (`sw.js`).
//
// Every stream is a read like any other (`reading.js`): it asks for what is played and a little ahead, however long the
// film is, and gives nothing that the element does not take. A stream ends with the file it belongs to.
import { readRange } from "./reading.js";

/** How many streams one element may have: after a jump not every browser says that it needs the old one no more. */
const STREAMS_MAX = 4;
/** A worker that nobody asks anything is ended after half a minute. */
const AWAKE_MS = 15_000;

/** `bytes=FIRST-LAST` of a request as `[start, end]`, end excluded; null if there is none such (RFC 9110, 14.1.2). */
export function parseRange(header, length) {
  const found = /^bytes=(\d*)-(\d*)$/.exec(header?.trim() ?? "");
  if (!found || (!found[1] && !found[2])) return null;
  if (!found[1]) return [Math.max(0, length - Number(found[2])), length];
  return [Number(found[1]), found[2] ? Math.min(length, Number(found[2]) + 1) : length];
}

export class Streaming {
  #swarm;
  /** What is streamed: `{ name, file, type, onFailed }`. */
  #shown = null;
  #streams = [];
  #started = null;
  #awake = 0;
  #serial = 0;
  constructor(swarm) { this.#swarm = swarm; }

  /** Whether this browser streams; registers the service worker, once. */
  canStream() {
    this.#started ??= this.#start().catch((error) => {
      console.info(`no streaming: ${error.message}`);
      return false;
    });
    return this.#started;
  }
  async #start() {
    const { serviceWorker } = navigator;
    if (!serviceWorker) return false;
    await serviceWorker.register("./sw.js", { scope: "./" });
    await serviceWorker.ready;
    if (!serviceWorker.controller) {
      await new Promise((resolve) => {
        serviceWorker.addEventListener("controllerchange", resolve, { once: true });
        // Where it never takes over, whole files are read instead.
        setTimeout(resolve, 5000);
      });
    }
    if (!serviceWorker.controller) return false;
    serviceWorker.addEventListener("message", ({ data, ports }) => {
      if (data?.kind === "stream" && ports.length === 1) this.#answer(data, ports[0]);
    });
    serviceWorker.startMessages();
    return true;
  }

  /** The address of a file for a media element, until `end`. `onFailed` is told why bytes do not come. */
  show(file, type, onFailed) {
    this.end();
    this.#serial += 1;
    // The end of the name tells some players what it is.
    const name = `${this.#serial}/${encodeURIComponent(file.name)}`;
    this.#shown = { name, file, type, onFailed };
    return `./stream/${name}`;
  }
  /** Ends all streams. */
  end() {
    this.#shown = null;
    for (const stop of this.#streams.splice(0)) stop();
  }

  #answer({ name, range }, port) {
    const shown = this.#shown;
    const headers = { "cache-control": "no-store", "x-content-type-options": "nosniff", "accept-ranges": "bytes" };
    if (shown?.name !== name) return port.postMessage({ status: 404, headers, hasBody: false });
    const { file, type, onFailed } = shown;
    const asked = parseRange(range, file.length);
    const [start, end] = asked ?? [0, file.length];
    if (start >= end) {
      return port.postMessage({ status: 416, headers: { ...headers, "content-range": `bytes */${file.length}` }, hasBody: false });
    }
    headers["content-type"] = type;
    headers["content-length"] = String(end - start);
    if (asked) headers["content-range"] = `bytes ${start}-${end - 1}/${file.length}`;

    const running = new AbortController();
    const chunks = readRange(this.#swarm, file, start, end, running.signal);
    const stop = () => {
      running.abort(new DOMException("it is not needed any more", "AbortError"));
      port.close();
      // A generator that is not waiting for anything only learns of it this way.
      void chunks.return();
      this.#streams = this.#streams.filter((other) => other !== stop);
      this.#keepAwake();
    };
    port.onmessage = async ({ data }) => {
      if (data !== "next") return stop();
      try {
        const { value, done } = await chunks.next();
        if (running.signal.aborted) return;
        // A view is sent with all that it is a view of, unless it is cut out.
        const bytes = done ? null : value.slice();
        port.postMessage(done ? { isEnd: true } : { bytes }, done ? [] : [bytes.buffer]);
        if (done) stop();
      } catch (error) {
        if (running.signal.aborted) return;
        port.postMessage({ isEnd: false });
        stop();
        onFailed(error);
      }
    };
    while (this.#streams.length >= STREAMS_MAX) this.#streams[0]();
    this.#streams.push(stop);
    this.#keepAwake();
    port.postMessage({ status: asked ? 206 : 200, headers, hasBody: true });
  }
  #keepAwake() {
    clearInterval(this.#awake);
    if (this.#streams.length > 0) this.#awake = setInterval(() => fetch("./stream/awake").catch(() => {}), AWAKE_MS);
  }
}
