// Elements of the page. Text is put in as text nodes and attributes, never as markup: names come from torrents.

const NAME_CHARS_MAX = 300;
/**
 * A name as it is shown. Characters that control what others look like (a name may say `exe.gnp` backwards) are shown as
 * what they are: unreadable.
 */
export function named(name) {
  const shown = name.length > NAME_CHARS_MAX ? `${name.slice(0, NAME_CHARS_MAX)}…` : name;
  return shown.replaceAll(/[\p{Cc}\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/gu, "\ufffd");
}

/** The element with this id, which stands in index.html. */
export const $ = (id) => document.getElementById(id);

/** An element with attributes and children; strings become text. */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== null) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

/** Sets a text only if it is another one: selections and screen readers are left in peace. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** A number with its unit in small. */
export function figure(element, [number, unit]) {
  const text = `${number} ${unit}`;
  if (element.dataset.text === text) return;
  element.dataset.text = text;
  element.replaceChildren(number, ...(unit ? [make("small", {}, unit)] : []));
}

/** Shows one of some elements and hides the others. */
export function showOnly(shown, ...others) {
  for (const element of others) element.hidden = element !== shown;
  if (shown) shown.hidden = false;
}

let toastTimer;
/** Tells something in passing. */
export function toast(text) {
  const element = $("toast");
  say(element, text);
  element.classList.add("is-shown");
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => element.classList.remove("is-shown"), 2600);
}

/** Puts a text on the clipboard, also where the page is not in a secure context. */
export async function copy(text, told) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = make("textarea", { class: "hidden", "aria-hidden": "true" });
    area.value = text;
    document.body.append(area);
    area.select();
    const isDone = document.execCommand("copy");
    area.remove();
    if (!isDone) return toast("The clipboard cannot be reached");
  }
  toast(told);
}

/** Hands bytes to the user as a file. */
export function save(blob, name) {
  const url = URL.createObjectURL(blob);
  make("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

/** What is kept of the user's choices; nothing where the browser keeps nothing. */
export const choices = {
  get(name) {
    try { return localStorage.getItem(`wtfs-${name}`); } catch { return null; }
  },
  set(name, value) {
    try { localStorage.setItem(`wtfs-${name}`, value); } catch { /* For this visit only. */ }
  },
};
