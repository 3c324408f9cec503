// The list of files of the open torrent.
import { $, make, named, say } from "./dom.js";
import { bytes, count, plural } from "./numbers.js";
import { isPad } from "./web-seed.js";

const SHOWN_MAX = 500;

export class Files {
  #files = [];
  #name = "";
  #chosen = null;
  #onChoose;
  constructor(onChoose) {
    this.#onChoose = onChoose;
    $("file-search").addEventListener("input", () => this.#show());
  }
  /** Takes another torrent's files; chooses the only one. */
  take(torrent) {
    this.#files = (torrent?.files ?? []).filter((file) => !isPad(file));
    this.#name = torrent?.name ?? "";
    this.#chosen = null;
    $("file-search").value = "";
    $("file-search-box").hidden = this.#files.length < 8;
    say($("files-count"), this.#files.length ? count(this.#files.length) : "");
    this.#show();
    if (this.#files.length === 1) this.choose(this.#files[0]);
  }
  /** The file's path below the torrent's name. */
  pathOf(file) {
    return file.path.startsWith(`${this.#name}/`) ? file.path.slice(this.#name.length + 1) : file.path;
  }
  choose(file) {
    this.#chosen = file;
    for (const button of document.querySelectorAll("#files button")) button.setAttribute("aria-pressed", String(button.file === file));
    this.#onChoose(file, this.pathOf(file));
  }
  #show() {
    const words = $("file-search").value.toLowerCase().split(/\s+/).filter(Boolean);
    const matching = this.#files.filter((file) => words.every((word) => file.path.toLowerCase().includes(word)));
    $("files").replaceChildren(...matching.slice(0, SHOWN_MAX).map((file) => {
      const button = make("button", { type: "button", "aria-pressed": String(file === this.#chosen) },
        make("span", { class: "name" }, named(this.pathOf(file))), make("span", { class: "about" }, bytes(file.length)));
      button.file = file;
      button.addEventListener("click", () => this.choose(file));
      return make("li", {}, button);
    }));
    const more = matching.length - SHOWN_MAX;
    say($("files-note"), this.#files.length === 0 ? "The names of the files are not known yet."
      : matching.length === 0 ? "No file matches." : more > 0 ? `${plural(more, "more file")}: search to find them.` : "");
  }
}
