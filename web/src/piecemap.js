// The piece map: one cell a piece, or one for several where there are more pieces than cells fit.
//
// Cells are filled by where their pieces came from. Only what changed is drawn again, once a frame.
import { $, make, say } from "./dom.js";
import { count, percent } from "./numbers.js";
import { FROM } from "./swarm.js";

const KINDS = [
  { from: FROM.webSeed, name: "web-seed", label: "Web seed", colour: "--a" },
  { from: FROM.browser, name: "browser", label: "Browser, by WebRTC", colour: "--b" },
  { from: FROM.native, name: "native", label: "wtfs and others, by WebRTC", colour: "--d" },
  { from: FROM.kept, name: "kept", label: "Kept from before", colour: "--e" },
];
export const nameOf = (from) => KINDS.find((kind) => kind.from === from)?.name;
export const labelOf = (from) => KINDS.find((kind) => kind.from === from)?.label ?? "Not here";
const CELL_PX_MAX = 18;
const HEIGHT_PX_MAX = 216;
const CELL_PX_MIN = 3;

export class PieceMap {
  #canvas = $("map");
  #swarm;
  #dirty = new Set();
  #frame = 0;
  #colours = [];
  #empty = "";
  /** Columns, rows, pixels of a cell with its gap, and pieces in a cell. */
  #grid = { columns: 1, rows: 1, cell: CELL_PX_MAX, each: 1 };

  constructor(swarm) {
    this.#swarm = swarm;
    let width = 0;
    new ResizeObserver(([entry]) => {
      // Its height is our doing.
      if (entry.contentRect.width !== width) this.repaint();
      width = entry.contentRect.width;
    }).observe(this.#canvas);
    this.#canvas.addEventListener("pointermove", (event) => this.#point(event));
    this.#canvas.addEventListener("pointerleave", () => say($("map-tip"), ""));
  }
  /** Everything may have changed: another torrent, other colours, another size. */
  repaint() {
    this.#dirty.clear();
    this.#dirty.add(-1);
    this.#schedule();
  }
  /** One piece came or went. */
  changed(index) {
    this.#dirty.add(Math.floor(index / this.#grid.each));
    this.#schedule();
  }
  #schedule() {
    this.#frame ||= requestAnimationFrame(() => { this.#frame = 0; this.#draw(); });
  }

  #layout(width, height, total) {
    let cell = CELL_PX_MAX;
    while (cell > CELL_PX_MIN && Math.floor(width / cell) * Math.floor(height / cell) < total) cell -= 1;
    const columns = Math.max(1, Math.floor(width / cell));
    const capacity = columns * Math.max(1, Math.floor(height / cell));
    const each = Math.max(1, Math.ceil(total / capacity));
    this.#grid = { columns, cell, each, rows: Math.ceil(Math.ceil(total / each) / columns) };
  }
  #draw() {
    const canvas = this.#canvas, total = this.#swarm.from.length;
    const width = canvas.clientWidth;
    if (!width) return;
    const context = canvas.getContext("2d");
    if (this.#dirty.has(-1)) {
      const scale = window.devicePixelRatio || 1;
      this.#layout(width, HEIGHT_PX_MAX, total);
      const height = Math.max(1, this.#grid.rows) * this.#grid.cell;
      canvas.style.height = `${height}px`;
      canvas.width = Math.round(width * scale);
      canvas.height = Math.round(height * scale);
      context.setTransform(scale, 0, 0, scale, 0, 0);
      const style = getComputedStyle(document.documentElement);
      this.#colours = [];
      for (const kind of KINDS) this.#colours[kind.from] = style.getPropertyValue(kind.colour).trim();
      this.#empty = style.getPropertyValue("--line").trim();
      const cells = Math.ceil(total / this.#grid.each);
      for (let at = 0; at < cells; at += 1) this.#cell(context, at, total);
    } else {
      for (const at of this.#dirty) this.#cell(context, at, total);
    }
    this.#dirty.clear();
    this.#describe(total);
  }
  #cell(context, at, total) {
    const { columns, cell, each } = this.#grid;
    const x = (at % columns) * cell, y = Math.floor(at / columns) * cell;
    const size = cell > 5 ? cell - 2 : cell - 1;
    const shares = new Array(KINDS.length + 1).fill(0);
    const end = Math.min(total, (at + 1) * each);
    for (let index = at * each; index < end; index += 1) shares[this.#swarm.from[index]] += 1;
    const have = end - at * each - shares[FROM.nobody];
    context.clearRect(x, y, cell, cell);
    context.fillStyle = this.#empty;
    context.fillRect(x, y, size, size);
    if (have === 0) return;
    let most = 1;
    for (let from = 2; from < shares.length; from += 1) if (shares[from] > shares[most]) most = from;
    context.globalAlpha = 0.3 + 0.7 * have / (end - at * each);
    context.fillStyle = this.#colours[most];
    context.fillRect(x, y, size, size);
    context.globalAlpha = 1;
  }
  #point(event) {
    const { columns, cell, each } = this.#grid;
    const column = Math.floor(event.offsetX / cell), at = Math.floor(event.offsetY / cell) * columns + column;
    const first = at * each, total = this.#swarm.from.length;
    if (column >= columns || first >= total) return say($("map-tip"), "");
    const last = Math.min(total, first + each) - 1;
    if (first === last) return say($("map-tip"), `Piece ${count(first)} · ${labelOf(this.#swarm.from[first])}`);
    let have = 0;
    for (let index = first; index <= last; index += 1) if (this.#swarm.from[index]) have += 1;
    say($("map-tip"), `Pieces ${count(first)}–${count(last)} · ${count(have)} here`);
  }
  #describe(total) {
    const have = this.#swarm.haveCount;
    say($("map-count"), total ? `${count(have)} of ${count(total)}` : "");
    const label = total ? `${count(have)} of ${count(total)} pieces are here (${percent(have / total)})` : "No pieces yet";
    if (this.#canvas.getAttribute("aria-label") !== label) this.#canvas.setAttribute("aria-label", label);
    const shares = new Array(KINDS.length + 1).fill(0);
    for (const from of this.#swarm.from) shares[from] += 1;
    const list = $("map-legend");
    if (!list.childElementCount) {
      list.append(...KINDS.map((kind) => make("li", { "data-from": kind.name }, make("span", {}, kind.label), make("b", {}, "0"))));
    }
    KINDS.forEach((kind, at) => say(list.children[at].lastChild, count(shares[kind.from])));
  }
}
