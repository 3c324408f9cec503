// Reading any range of bytes of a file: where from, how many, on and back; as hexadecimal and text, with its SHA-256.
import { sha256Stream } from "./crypto.js";
import { $, make, save, say } from "./dom.js";
import { bytes, count, duration, hex, parseBytes, plural, rate } from "./numbers.js";
import { readRange, whyWaiting } from "./reading.js";

/** How much of a read is held for being looked at and saved. The hash is over all of it. */
const HELD_BYTES_MAX = 64 * 2 ** 20;
const PAGE_BYTES = 512;
const ROW_BYTES = 16;

export class RangeView {
  #swarm;
  #file = null;
  #running = null;
  #held = new Uint8Array(0);
  #start = 0;
  #page = 0;
  constructor(swarm) {
    this.#swarm = swarm;
    $("range-form").addEventListener("submit", (event) => { event.preventDefault(); this.#read(); });
    $("range-back").addEventListener("click", () => this.#move(-1));
    $("range-forward").addEventListener("click", () => this.#move(1));
    $("range-all").addEventListener("click", () => { this.#fill(0, this.#file.length); this.#read(); });
    $("range-stop").addEventListener("click", () => this.stop());
    $("range-save").addEventListener("click", () => save(new Blob([this.#held]), `${this.#file.name}.${this.#start}-${this.#start + this.#held.length}`));
    $("hex-previous").addEventListener("click", () => this.#turn(this.#page - 1));
    $("hex-next").addEventListener("click", () => this.#turn(this.#page + 1));
    for (const id of ["range-start", "range-length"]) $(id).addEventListener("input", () => $(id).setCustomValidity(""));
  }
  /** Takes another file. */
  take(file) {
    this.stop();
    this.#file = file;
    this.#held = new Uint8Array(0);
    for (const id of ["range-error", "range-meter", "range-facts", "hex-box", "range-save"]) $(id).hidden = true;
    say($("range-note"), "");
    if (file) this.#fill(0, Math.min(65536, file.length));
  }
  stop() { this.#running?.abort(new DOMException("stopped", "AbortError")); }

  #fill(start, length) {
    $("range-start").value = String(start);
    $("range-length").value = String(length);
    for (const id of ["range-start", "range-length"]) $(id).setCustomValidity("");
  }
  #asked() {
    const [startField, lengthField] = [$("range-start"), $("range-length")];
    const start = parseBytes(startField.value), length = parseBytes(lengthField.value);
    startField.setCustomValidity(start === null ? "A number of bytes, such as 4096, 64 KiB or 0x1000"
      : start > this.#file.length ? `The file ends at ${this.#file.length}` : "");
    lengthField.setCustomValidity(length === null ? "A number of bytes, such as 4096, 64 KiB or 1.5 MB" : "");
    if (!$("range-form").reportValidity()) return null;
    return { start, end: Math.min(this.#file.length, start + length) };
  }
  #move(direction) {
    const asked = this.#asked();
    if (!asked) return;
    const length = Math.max(1, parseBytes($("range-length").value));
    const start = direction < 0 ? Math.max(0, asked.start - length) : Math.min(Math.max(0, this.#file.length - 1), asked.start + length);
    this.#fill(start, length);
    this.#read();
  }

  async #read() {
    const asked = this.#asked();
    if (!asked || !this.#swarm.torrent) return;
    this.stop();
    const running = this.#running = new AbortController();
    const { start, end } = asked;
    const held = new Uint8Array(Math.min(end - start, HELD_BYTES_MAX));
    const hash = sha256Stream();
    const began = performance.now();
    let done = 0, shownAt = 0, cameAt = began;
    $("range-error").hidden = true;
    $("range-facts").hidden = false;
    $("range-facts").dataset.state = "reading";
    say($("range-told"), `${count(start)}–${count(end)}`);
    say($("range-said"), "");
    say($("range-hash"), "…");
    $("range-stop").hidden = false;
    $("range-save").hidden = true;
    const tell = () => {
      const seconds = (performance.now() - began) / 1000;
      $("range-meter").hidden = done >= end - start;
      $("range-bar").style.width = `${end > start ? done / (end - start) * 100 : 100}%`;
      $("range-meter").setAttribute("aria-valuenow", Math.floor(end > start ? done / (end - start) * 100 : 100));
      say($("range-note"), this.#running === running ? whyWaiting(this.#swarm, cameAt) : "");
      say($("range-bytes"), `${bytes(done)} of ${bytes(end - start)}`);
      say($("range-time"), `${duration(seconds)}${done ? ` · ${rate(done / seconds)}` : ""}`);
    };
    const ticker = setInterval(tell, 250);
    tell();
    try {
      for await (const chunk of readRange(this.#swarm, this.#file, start, end, running.signal)) {
        if (done < held.length) held.set(chunk.subarray(0, held.length - done), done);
        hash.update(chunk);
        done += chunk.length;
        cameAt = performance.now();
        if (done === chunk.length || performance.now() - shownAt > 400) {
          shownAt = performance.now();
          this.#show(held.subarray(0, Math.min(done, held.length)), start, end - start);
          // A long read that never waits would leave the page no turn.
          await new Promise((resolve) => setTimeout(resolve));
        }
      }
      if (running.signal.aborted) throw running.signal.reason;
      this.#show(held, start, end - start);
      say($("range-hash"), hex(hash.digest()));
      $("range-facts").dataset.state = "done";
      say($("range-said"), `${plural(done, "byte")} read`);
      $("range-save").hidden = held.length < end - start || done === 0;
    } catch (error) {
      if (this.#running !== running) return;
      $("range-facts").dataset.state = "failed";
      say($("range-hash"), "–");
      if (error.name === "AbortError") $("range-facts").hidden = done === 0;
      else {
        say($("range-error"), error.message);
        $("range-error").hidden = false;
      }
    } finally {
      clearInterval(ticker);
      if (this.#running === running) {
        this.#running = null;
        $("range-stop").hidden = true;
        tell();
        $("range-meter").hidden = true;
      }
    }
  }

  #show(held, start, wanted) {
    this.#held = held;
    this.#start = start;
    this.#page = Math.min(this.#page, Math.max(0, Math.ceil(held.length / PAGE_BYTES) - 1));
    this.wanted = wanted;
    $("hex-box").hidden = held.length === 0;
    this.#turn(this.#page);
  }
  #turn(page) {
    const pages = Math.max(1, Math.ceil(this.#held.length / PAGE_BYTES));
    this.#page = Math.max(0, Math.min(page, pages - 1));
    const from = this.#page * PAGE_BYTES;
    const shown = this.#held.subarray(from, from + PAGE_BYTES);
    const digits = Math.max(8, (this.#start + this.#held.length).toString(16).length);
    const rows = [];
    for (let at = 0; at < shown.length; at += ROW_BYTES) {
      const row = shown.subarray(at, at + ROW_BYTES);
      const code = Array.from(row, (byte, i) => (i === 8 ? " " : "") + byte.toString(16).padStart(2, "0")).join(" ").padEnd(ROW_BYTES * 3);
      const text = Array.from(row, (byte) => (byte >= 32 && byte < 127 ? String.fromCharCode(byte) : "·")).join("");
      rows.push(make("span", { class: "off" }, (this.#start + from + at).toString(16).padStart(digits, "0")), `  ${code}  `, make("span", { class: "txt" }, text), "\n");
    }
    $("hex").replaceChildren(...rows);
    const isCut = this.wanted > HELD_BYTES_MAX ? ` (the first ${bytes(HELD_BYTES_MAX)} can be looked at)` : "";
    say($("hex-text"), `Page ${count(this.#page + 1)} of ${count(pages)}${isCut}`);
    $("hex-previous").disabled = this.#page === 0;
    $("hex-next").disabled = this.#page >= pages - 1;
  }
}
