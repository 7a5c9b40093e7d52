// @ts-check
// Numbers, times and sizes as people read them.

const whole = new Intl.NumberFormat("en");
const short = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });

export const count = (n) => whole.format(n ?? 0);
export const brief = (n) => (n < 10_000 ? whole.format(n) : short.format(n));
export const images = (n) => (n === 1 ? "1 image" : `${count(n)} images`);
export const plural = (n, one, many = `${one}s`) => `${count(n)} ${n === 1 ? one : many}`;

/** A probability with two digits; none as a dash. */
export function sure(p) {
  if (p === null || p === undefined || Number.isNaN(p)) return "–";
  return p >= 0.995 && p < 1 ? "0.99" : p.toFixed(2);
}

/** A share in percent. */
export function percent(share) {
  if (share === null || share === undefined || Number.isNaN(share)) return "–";
  const value = share * 100;
  return `${value >= 10 || value === 0 ? value.toFixed(0) : value.toFixed(1)} %`;
}

export function bytes(n) {
  if (n === null || n === undefined) return "";
  const units = ["bytes", "kB", "MB", "GB"];
  let value = n;
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${unit === 0 ? whole.format(value) : value.toFixed(value < 10 ? 1 : 0)} ${units[unit]}`;
}

/** The end of a path, which tells images apart. */
export function fileName(key) {
  const parts = String(key).split("/").filter(Boolean);
  return parts.at(-1) ?? String(key);
}

/** The folder of a key, "" where it has none. */
export const folderOf = (key) => String(key).split("/").slice(0, -1).join("/");

/** When something happened: the time today, else the day too. Takes seconds, milliseconds or ISO text. */
export function when(time) {
  const date = new Date(typeof time === "number" && time < 1e11 ? time * 1000 : time);
  if (Number.isNaN(date.getTime())) return String(time);
  const clock = date.toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" });
  if (date.toDateString() === new Date().toDateString()) return clock;
  return `${date.toLocaleDateString("en-GB", { day: "numeric", month: "short" })}, ${clock}`;
}

/** "moved 3 images" as the beginning of a sentence. */
export const sentence = (text) => (text ? text[0].toUpperCase() + text.slice(1) : "");
