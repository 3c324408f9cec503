// "Load these tensors of this file": the header by range reads, then the bytes of the tensors that were chosen.
import { sha256Stream } from "./crypto.js";
import { $, make, named, say } from "./dom.js";
import { bytes, count, duration, hex, plural, rate } from "./numbers.js";
import { readAll, readRange, whyWaiting } from "./reading.js";
import { Numbers, readHeader } from "./safetensors.js";

const SHOWN_MAX = 400;
const short = new Intl.NumberFormat("en", { maximumSignificantDigits: 5, notation: "standard" });
const digits = (value) => (value !== 0 && (Math.abs(value) < 1e-4 || Math.abs(value) >= 1e9) ? value.toExponential(3) : short.format(value));

export class TensorsView {
  #swarm;
  #file = null;
  #tensors = [];
  #chosen = new Set();
  #told = new Map();
  #rows = new Map();
  #running = null;
  #cameAt = 0;
  constructor(swarm) {
    this.#swarm = swarm;
    $("tensor-search").addEventListener("input", () => this.#show());
    $("tensor-all").addEventListener("click", () => { for (const tensor of this.#matching()) this.#chosen.add(tensor); this.#show(); });
    $("tensor-none").addEventListener("click", () => { this.#chosen.clear(); this.#show(); });
    $("tensor-load").addEventListener("click", () => this.#load());
    $("tensor-stop").addEventListener("click", () => this.stop());
  }
  take(file) {
    this.stop();
    this.#file = file;
    this.#tensors = [];
    this.#chosen.clear();
    this.#told.clear();
    $("tensor-search").value = "";
    $("tensor-error").hidden = true;
    $("tensor-meter").hidden = true;
    say($("tensor-note"), "");
    this.#show();
  }
  stop() { this.#running?.abort(new DOMException("stopped", "AbortError")); }

  /** Reads the header, when the tensors are first looked at. */
  async open() {
    if (!this.#file || this.#tensors.length || this.#running) return;
    await this.#run(async (signal) => {
      say($("tensor-note"), "Reading the header…");
      const file = this.#file;
      this.#tensors = await readHeader((start, end) => readAll(this.#swarm, file, start, end, signal), file.length);
      const numbers = this.#tensors.reduce((sum, tensor) => sum + tensor.shape.reduce((a, b) => a * b, 1), 0);
      say($("tensor-note"), `${plural(this.#tensors.length, "tensor")}, ${count(numbers)} numbers. Choose which to load.`);
      this.#show();
    });
  }
  async #run(work) {
    this.stop();
    const running = this.#running = new AbortController();
    $("tensor-error").hidden = true;
    $("tensor-stop").hidden = false;
    say($("tensor-said"), "");
    this.#cameAt = performance.now();
    let told = "";
    // While nothing comes, it is said why.
    const ticker = setInterval(() => {
      const why = whyWaiting(this.#swarm, this.#cameAt), note = $("tensor-note");
      if (why) say(note, told = why);
      else if (told && note.textContent === told) say(note, "Loading…");
    }, 1000);
    try {
      await work(running.signal);
    } catch (error) {
      if (this.#running === running && error.name !== "AbortError") {
        say($("tensor-note"), "");
        say($("tensor-error"), error.message);
        $("tensor-error").hidden = false;
      } else if (this.#running === running) say($("tensor-note"), "Stopped.");
    } finally {
      clearInterval(ticker);
      if (this.#running === running) {
        this.#running = null;
        $("tensor-stop").hidden = true;
        $("tensor-meter").hidden = true;
      }
    }
  }

  async #load() {
    const chosen = this.#tensors.filter((tensor) => this.#chosen.has(tensor));
    const total = chosen.reduce((sum, tensor) => sum + tensor.end - tensor.start, 0);
    const file = this.#file;
    await this.#run(async (signal) => {
      const began = performance.now();
      let done = 0;
      $("tensor-meter").hidden = false;
      delete $("tensor-note").dataset.state;
      for (const tensor of chosen) {
        const numbers = new Numbers(tensor.dtype), hash = sha256Stream();
        this.#tell(tensor, "loading…");
        for await (const chunk of readRange(this.#swarm, file, tensor.start, tensor.end, signal)) {
          numbers.add(chunk);
          hash.update(chunk);
          done += chunk.length;
          this.#cameAt = performance.now();
          const seconds = (performance.now() - began) / 1000;
          $("tensor-bar").style.width = `${done / total * 100}%`;
          $("tensor-meter").setAttribute("aria-valuenow", Math.floor(done / total * 100));
          say($("tensor-note"), `${bytes(done)} of ${bytes(total)} · ${rate(done / seconds)}`);
          await new Promise((resolve) => setTimeout(resolve));
        }
        this.#tell(tensor, describe(numbers), hex(hash.digest()));
      }
      const seconds = (performance.now() - began) / 1000;
      const told = `Loaded ${plural(chosen.length, "tensor")}, ${bytes(total)}, in ${duration(seconds)} (${rate(total / seconds)}).`;
      say($("tensor-note"), told);
      say($("tensor-said"), told);
      $("tensor-note").dataset.state = "done";
    });
  }
  #tell(tensor, text, hash) {
    this.#told.set(tensor, { text, hash });
    const row = this.#rows.get(tensor);
    if (row) this.#fill(row.lastChild, this.#told.get(tensor));
  }
  #fill(cell, told) {
    cell.replaceChildren(told?.text ?? "", ...(told?.hash ? [make("br"), make("span", { class: "mono faint", title: "SHA-256 of its bytes" }, told.hash)] : []));
  }

  #matching() {
    const words = $("tensor-search").value.toLowerCase().split(/\s+/).filter(Boolean);
    return this.#tensors.filter((tensor) => words.every((word) => tensor.name.toLowerCase().includes(word)));
  }
  #show() {
    const matching = this.#matching();
    this.#rows.clear();
    $("tensor-table").hidden = matching.length === 0;
    $("tensor-nothing").hidden = matching.length > 0 || this.#tensors.length === 0;
    $("tensor-rows").replaceChildren(...matching.slice(0, SHOWN_MAX).map((tensor) => this.#row(tensor)));
    this.#count();
  }
  #count() {
    const load = $("tensor-load");
    const total = [...this.#chosen].reduce((sum, tensor) => sum + tensor.end - tensor.start, 0);
    load.disabled = this.#chosen.size === 0;
    say(load, this.#chosen.size ? `Load ${plural(this.#chosen.size, "tensor")} (${bytes(total)})` : "Load tensors");
  }
  #row(tensor) {
    const box = make("input", { type: "checkbox", "aria-label": `Load ${named(tensor.name)}` });
    box.checked = this.#chosen.has(tensor);
    box.addEventListener("change", () => { this.#chosen[box.checked ? "add" : "delete"](tensor); this.#count(); });
    const cell = (content, extra = {}) => make("td", { role: "cell", ...extra }, content);
    const row = make("tr", { role: "row", "data-tensor": tensor.name }, cell(box), cell(named(tensor.name)), cell(named(tensor.dtype)),
      cell(tensor.shape.length ? tensor.shape.join(" × ") : "scalar"), cell(bytes(tensor.end - tensor.start), { class: "number" }), cell("", { class: "what" }));
    this.#fill(row.lastChild, this.#told.get(tensor));
    this.#rows.set(tensor, row);
    return row;
  }
}

function describe(numbers) {
  if (!numbers.isKnown) return "loaded; its type is not known here";
  if (numbers.count === 0) return "empty";
  const strange = numbers.strange ? `, ${count(numbers.strange)} not finite` : "";
  if (numbers.strange === numbers.count) return `${count(numbers.count)} numbers${strange}`;
  return `${digits(numbers.min)} … ${digits(numbers.max)}, mean ${digits(numbers.mean)} ± ${digits(numbers.deviation)}, ${count(numbers.zeros)} zeros${strange}`;
}
