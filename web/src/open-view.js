// Showing a file in the page: film and sound by the service worker, which streams what is asked for; pictures and text
// out of memory, within limits. Nothing of a torrent becomes a part of this page: media play, text is text.
import { $, make, save, say } from "./dom.js";
import { bytes, percent } from "./numbers.js";
import { readAll, readRange, whyWaiting } from "./reading.js";
import { Streaming } from "./streaming.js";

/** The largest file that is taken into memory to be shown or saved. */
const WHOLE_BYTES_MAX = 256 * 2 ** 20;
const TEXT_BYTES_MAX = 256 * 2 ** 10;
/** Whether files of any size can be saved: written to the disk as they come. */
const canSaveAnySize = "showSaveFilePicker" in window;
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
  #saving = null;
  /** What is waited for, and since when. */
  #doing = "";
  #waitsSince = 0;
  #url = null;
  #streaming;
  constructor(swarm) {
    this.#swarm = swarm;
    this.#streaming = new Streaming(swarm);
    $("open-save").addEventListener("click", () => this.#save());
    $("open-again").addEventListener("click", () => { this.#end(); void this.open(); });
    // While nothing comes, it is said why.
    setInterval(() => {
      const note = $("open-note");
      if (note.dataset.state === "waiting") say(note, [this.#doing, whyWaiting(this.#swarm, this.#waitsSince)].filter(Boolean).join(" "));
    }, 1000);
  }
  take(file) {
    this.#end();
    this.#saving?.abort(new DOMException("another file is shown", "AbortError"));
    this.#file = file;
    $("open-save").hidden = !file || (file.length > WHOLE_BYTES_MAX && !canSaveAnySize);
  }
  #tell(text, state = "") {
    $("open-note").dataset.state = state;
    say($("open-note"), text);
  }
  #wait(doing) {
    this.#doing = doing;
    this.#waitsSince = performance.now();
    this.#tell(doing, "waiting");
  }
  #end() {
    this.#running?.abort(new DOMException("another file is shown", "AbortError"));
    this.#running = null;
    this.#streaming.end();
    // A media element goes on asking until it is told that it has nothing.
    for (const media of $("shown").querySelectorAll("video, audio, img")) { media.removeAttribute("src"); media.load?.(); }
    $("shown").replaceChildren();
    $("open-error").hidden = true;
    $("open-again").hidden = true;
    this.#tell("");
    if (this.#url) URL.revokeObjectURL(this.#url);
    this.#url = null;
  }

  async open() {
    if (!this.#file || this.#running) return;
    const file = this.#file, running = this.#running = new AbortController();
    const kind = kindOf(file.name);
    try {
      if (!kind) return this.#tell("This kind of file is not shown here. Read its bytes, or save it.");
      this.#wait("Opening…");
      await this.#show(file, kind, running.signal);
    } catch (error) {
      if (running.signal.aborted) return;
      this.#fail(error.message);
    }
  }
  #fail(text) {
    this.#tell("");
    say($("open-error"), text);
    $("open-error").hidden = false;
    $("open-again").hidden = !kindOf(this.#file?.name ?? "");
  }
  async #show(file, [kind, type], signal) {
    if (kind === "text") {
      const shown = Math.min(file.length, TEXT_BYTES_MAX);
      const text = new TextDecoder().decode(await readAll(this.#swarm, file, 0, shown, signal));
      $("shown").replaceChildren(make("pre", { tabindex: "0" }, text));
      return this.#tell(shown < file.length ? `The first ${bytes(shown)} of ${bytes(file.length)}.` : "");
    }
    const element = kind === "image" ? make("img", { alt: file.name }) : make(kind, { controls: "", preload: "metadata", "aria-label": file.name });
    let reason = null;
    element.addEventListener("error", () => {
      if (!signal.aborted) this.#fail(reason?.message ?? "This browser cannot show the file: it is of a kind that it does not know, or it is damaged.");
    });
    element.addEventListener(kind === "image" ? "load" : "loadedmetadata", () => this.#tell(""));
    // It plays faster than bytes come.
    element.addEventListener("waiting", () => this.#wait("Waiting for what comes next…"));
    for (const told of ["playing", "canplay"]) element.addEventListener(told, () => this.#tell(""));
    if (kind !== "image" && await this.#streaming.canStream()) {
      signal.throwIfAborted();
      $("shown").replaceChildren(element);
      element.src = this.#streaming.show(file, type, (error) => { reason = error; });
      return;
    }
    if (file.length > WHOLE_BYTES_MAX) {
      throw new Error(kind === "image" ? `The picture is larger than ${bytes(WHOLE_BYTES_MAX)}.`
        : `The file is larger than ${bytes(WHOLE_BYTES_MAX)}, and this page cannot stream: service workers need https or a loopback address.`);
    }
    const whole = await readAll(this.#swarm, file, 0, file.length, signal);
    signal.throwIfAborted();
    this.#url = URL.createObjectURL(new Blob([whole], { type }));
    $("shown").replaceChildren(element);
    element.src = this.#url;
  }
  async #save() {
    const file = this.#file, button = $("open-save");
    const running = this.#saving = new AbortController();
    button.disabled = true;
    $("open-error").hidden = true;
    try {
      if (file.length > WHOLE_BYTES_MAX) await this.#saveLarge(file, running.signal);
      else save(new Blob([await readAll(this.#swarm, file, 0, file.length, running.signal)]), file.name);
    } catch (error) {
      if (error.name !== "AbortError") this.#fail(error.message);
      $("open-again").hidden = true;
    } finally {
      button.disabled = false;
      say(button, "Save the file");
    }
  }
  /** Writes to the disk as it comes, where the browser lets a page do that. */
  async #saveLarge(file, signal) {
    const handle = await window.showSaveFilePicker({ suggestedName: file.name });
    const target = await handle.createWritable();
    try {
      let done = 0;
      for await (const chunk of readRange(this.#swarm, file, 0, file.length, signal)) {
        await target.write(chunk);
        done += chunk.length;
        say($("open-save"), `Saving ${percent(done / file.length)}`);
      }
      await target.close();
    } catch (error) {
      await target.abort().catch(() => {});
      throw error;
    }
  }
}
