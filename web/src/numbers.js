// How numbers are written.

const UNITS = ["B", "KB", "MB", "GB", "TB", "PB"];
const grouped = new Intl.NumberFormat("en");

export const count = (n) => grouped.format(Math.round(n));
export const plural = (n, one, many = `${one}s`) => `${count(n)} ${n === 1 ? one : many}`;

/** A number of bytes in three digits, and its unit. */
export function scaled(n) {
  let unit = 0;
  while (n >= 999.5 && unit < UNITS.length - 1) { n /= 1000; unit += 1; }
  return [unit === 0 || n >= 100 ? n.toFixed(0) : n >= 10 ? n.toFixed(1) : n.toFixed(2), UNITS[unit]];
}
export const bytes = (n) => scaled(n).join(" ");
export const rate = (n) => `${bytes(n)}/s`;
/** A share of one; 100 % only when nothing is missing, and not 0 % when there is something. */
export function percent(share) {
  const tenths = Math.round(share * 1000);
  if (share >= 1 || share <= 0) return `${share >= 1 ? 100 : 0} %`;
  return `${(Math.min(999, Math.max(1, tenths)) / 10).toFixed(1)} %`;
}
export function duration(seconds) {
  if (seconds < 1) return `${Math.max(1, Math.round(seconds * 1000))} ms`;
  if (seconds < 60) return `${seconds.toFixed(1)} s`;
  return `${Math.floor(seconds / 60)} min ${Math.floor(seconds % 60)} s`;
}

/**
 * A number of bytes as people type it: 4096, 64 KiB, 1.5 MB, 0x1000. Null if it is none.
 */
export function parseBytes(text) {
  const typed = text.trim().replaceAll(/[_,\s]/g, "");
  if (/^0x[0-9a-f]+$/i.test(typed)) return Number(typed);
  const found = /^(\d+(?:\.\d+)?)(?:([kmgt])(i?)b?|b)?$/i.exec(typed);
  if (!found) return null;
  const power = found[2] ? "kmgt".indexOf(found[2].toLowerCase()) + 1 : 0;
  const value = Math.round(Number(found[1]) * (found[3] ? 1024 : 1000) ** power);
  return Number.isSafeInteger(value) ? value : null;
}

export const hex = (array) => Array.from(array, (byte) => byte.toString(16).padStart(2, "0")).join("");
/** Two strings as people sort them. */
export const byName = new Intl.Collator("en", { numeric: true }).compare;
