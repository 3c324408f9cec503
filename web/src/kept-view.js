// What this browser keeps, how much it may, and letting it go.
import { $, choices, make, named, say, toast } from "./dom.js";
import { bytes, plural } from "./numbers.js";
import { BOUND_DEFAULT, BOUND_MIN, BOUNDS } from "./shelf.js";

/** The bound the user chose, or the usual one. */
export function chosenBound() {
  const chosen = Number(choices.get("keep-bytes"));
  return Number.isSafeInteger(chosen) && chosen >= BOUND_MIN ? chosen : BOUND_DEFAULT;
}

export class KeptView {
  #shelf;
  #shown = "";
  #onOpen;
  constructor(shelf, onOpen) {
    this.#shelf = shelf;
    this.#onOpen = onOpen;
    const select = $("bound");
    select.append(...BOUNDS.map((bound) => make("option", { value: bound }, bound >= 1e9 ? `${bound / 1e9} GB` : `${bound / 1e6} MB`)));
    const chosen = chosenBound();
    if (!BOUNDS.includes(chosen)) select.prepend(make("option", { value: chosen }, bytes(chosen)));
    select.value = String(chosen);
    select.addEventListener("change", async () => {
      choices.set("keep-bytes", select.value);
      await shelf.setBound(Number(select.value));
      this.show();
    });
    $("clear").addEventListener("click", async () => {
      $("clear").disabled = true;
      try {
        await shelf.clear();
        toast("Nothing is kept any more");
      } catch (error) {
        toast(`It could not be cleared: ${error.message}`);
      }
      this.show();
    });
  }
  show() {
    const { used, bound, isLasting, isFull } = this.#shelf;
    $("bound").disabled = !isLasting;
    $("kept-bar").style.width = `${Math.min(100, used / bound * 100)}%`;
    $("kept-bar").dataset.used = used;
    $("kept-bar").classList.toggle("full", used > bound * 0.98);
    $("clear").disabled = used === 0;
    $("kept-text").dataset.state = isFull ? "full" : "";
    const kept = this.#shelf.kept();
    const lasting = !isLasting ? "This browser lends no storage: they are gone when the tab is closed."
      : isFull ? "The browser has no more room on the disk: what comes now is kept in memory, and gone when the tab is closed. Free some disk space and reload."
      : "They are here after a reload, and are hashed again before they are used.";
    say($("kept-text"), used === 0 ? `Nothing is kept. ${isLasting && !isFull ? "Pieces that come are, until there is no room." : lasting}`
      : `${bytes(used)} of ${bytes(bound)} in ${plural(kept.length, "torrent")}. ${lasting}`);
    const signature = kept.map((entry) => `${entry.hash} ${bytes(entry.bytes)}`).join();
    if (signature === this.#shown) return;
    this.#shown = signature;
    $("kept").replaceChildren(...kept.map((entry) => {
      const open = make("button", { type: "button", class: "button", "aria-label": `Open ${named(entry.name)}` }, "Open");
      open.addEventListener("click", () => this.#onOpen({ hash: entry.hash }));
      const drop = make("button", { type: "button", class: "button", "aria-label": `Do not keep ${named(entry.name)}` }, "Let go");
      drop.addEventListener("click", async () => { await this.#shelf.forget(entry.hash); this.show(); });
      return make("li", {}, make("span", { class: "name" }, named(entry.name)), make("span", { class: "about" }, bytes(entry.bytes)), open, drop);
    }));
  }
}
