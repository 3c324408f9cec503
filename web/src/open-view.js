// Showing a file in the page: film and sound by the service worker, which streams what is asked for; pictures and text
// out of memory, within limits. Nothing of a torrent becomes a part of this page: media play, text is text.
import { $, make, save, say } from "./dom.js";
import { bytes } from "./numbers.js";
import { readAll } from "./reading.js";

/** The largest file that is taken into memory to be shown or saved. */
const WHOLE_BYTES_MAX = 256 * 2 ** 20;
const TEXT_BYTES_MAX = 256 * 2 ** 10;
const KINDS = {
  video: { mp4: "video/mp4", m4v: "video/mp4", webm: "video/webm", ogv: "video/ogg", mov: "video/quicktime", mkv: "video/x-matroska" },
  audio: { mp3: "audio/mpeg", m4a: "audio/mp4", aac: "audio/aac", ogg: "audio/ogg", oga: "audio/ogg", opus: "audio/ogg", wav: "audio/wav", flac: "audio/flac", weba: "audio/webm" },
  image: { png: "image/png", jpg: "image/jpeg", jpeg: "image/jpeg", gif: "image/gif", webp: "image/webp", avif: "image/avif", bmp: "image/bmp", ico: "image/x-icon", svg: "image/svg+xml" },
  text: { txt: 1, md: 1, json: 1, jsonl: 1, csv: 1, tsv: 1, log: 1, yaml: 1, yml: 1, toml: 1, ini: 1, xml: 1, html: 1, htm: 1, css: 1, js: 1, ts: 1, py: 1, rs: 1, c: 1, h: 1, cpp: 1, go: 1, sh: 1, sql: 1, srt: 1, vtt: 1, jinja: 1, model_index: 1 },
};

/** What a file can be shown as, by its name: `[kind, type]`, or null. */
export function kindOf(name) {
  const end = name.toLowerCase().split(".").at(-1);
  if (/^(readme|license|licence|changelog|notice|authors|makefile|dockerfile)$/.test(end)) return ["text", null];
  for (const [kind, types] of Object.entries(KINDS)) if (Object.hasOwn(types, end)) return [kind, types[end]];
  return null;
}

export class OpenView {
  #swarm;
  #file = null;
  #running = null;
  #url = null;
  #isStreaming = null;
  constructor(swarm) {
    this.#swarm = swarm;
    $("open-save").addEventListener("click", () => this.#save());
  }
  take(file) {
    this.#end();
    this.#file = file;
    $("open-save").hidden = !file || file.length > WHOLE_BYTES_MAX;
  }
  #end() {
    this.#running?.abort(new DOMException("another file is shown", "AbortError"));
    this.#running = null;
    // A media element goes on asking until it is told that it has nothing.
    for (const media of $("shown").querySelectorAll("video, audio, img")) { media.removeAttribute("src"); media.load?.(); }
    $("shown").replaceChildren();
    $("open-error").hidden = true;
    say($("open-note"), "");
    if (this.#url) URL.revokeObjectURL(this.#url);
    this.#url = null;
  }

  async open() {
    if (!this.#file || this.#running) return;
    const file = this.#file, running = this.#running = new AbortController();
    const kind = kindOf(file.name);
    try {
      if (!kind) return say($("open-note"), "This kind of file is not shown here. Read its bytes, or save it.");
      say($("open-note"), "Opening…");
      await this.#show(file, kind, running.signal);
    } catch (error) {
      if (running.signal.aborted) return;
      this.#fail(error.message);
    }
  }
  #fail(text) {
    say($("open-note"), "");
    say($("open-error"), text);
    $("open-error").hidden = false;
  }
  async #show(file, [kind, type], signal) {
    if (kind === "text") {
      const shown = Math.min(file.length, TEXT_BYTES_MAX);
      const text = new TextDecoder().decode(await readAll(this.#swarm, file, 0, shown, signal));
      $("shown").replaceChildren(make("pre", { tabindex: "0" }, text));
      return say($("open-note"), shown < file.length ? `The first ${bytes(shown)} of ${bytes(file.length)}.` : "");
    }
    const element = kind === "image" ? make("img", { alt: file.name }) : make(kind, { controls: "", preload: "metadata", "aria-label": file.name });
    element.addEventListener("error", () => { if (!signal.aborted) this.#fail("The browser cannot show this file, or it did not come."); });
    element.addEventListener(kind === "image" ? "load" : "loadedmetadata", () => say($("open-note"), ""));
    if (kind !== "image" && await this.#canStream()) {
      signal.throwIfAborted();
      $("shown").replaceChildren(element);
      element.src = file.streamURL;
      return;
    }
    if (file.length > WHOLE_BYTES_MAX) throw new Error(`The file is larger than ${bytes(WHOLE_BYTES_MAX)}, and this page cannot stream: service workers need https or a loopback address.`);
    const whole = await readAll(this.#swarm, file, 0, file.length, signal);
    this.#url = URL.createObjectURL(new Blob([whole], { type }));
    $("shown").replaceChildren(element);
    element.src = this.#url;
  }
  /** Registers the service worker, once. */
  #canStream() {
    this.#isStreaming ??= (async () => {
      if (!navigator.serviceWorker) return false;
      try {
        await navigator.serviceWorker.register("./sw.js", { scope: "./" });
        const registration = await navigator.serviceWorker.ready;
        if (!navigator.serviceWorker.controller) {
          await new Promise((resolve) => {
            navigator.serviceWorker.addEventListener("controllerchange", resolve, { once: true });
            // Where it never takes over, whole files are read instead.
            setTimeout(resolve, 5000);
          });
        }
        if (!navigator.serviceWorker.controller) return false;
        this.#swarm.client.createServer({ controller: registration, origin: false });
        return true;
      } catch (error) {
        console.info(`no streaming: ${error.message}`);
        return false;
      }
    })();
    return this.#isStreaming;
  }
  async #save() {
    const file = this.#file, button = $("open-save");
    button.disabled = true;
    $("open-error").hidden = true;
    const running = new AbortController();
    try {
      save(new Blob([await readAll(this.#swarm, file, 0, file.length, running.signal)]), file.name);
    } catch (error) {
      this.#fail(error.message);
    } finally {
      button.disabled = false;
    }
  }
}
