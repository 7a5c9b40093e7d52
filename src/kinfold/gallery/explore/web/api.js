// The server's answers. Every request names its tab (X-Client), so that undo takes back what this tab did.

/** An answer that isn't one: `status` and the server's own words. */
export class ApiError extends Error {
  constructor(status, text) {
    super(text);
    this.name = "ApiError";
    this.status = status;
  }
}

function tabName() {
  try {
    const kept = sessionStorage.getItem("kinfold.client");
    if (kept) return kept;
  } catch {
    // Without storage the tab has a new name after a reload.
  }
  const name = [...crypto.getRandomValues(new Uint8Array(9))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  try {
    sessionStorage.setItem("kinfold.client", name);
  } catch {
    // As above.
  }
  return name;
}

const client = tabName();

async function ask(path, options) {
  let answer;
  try {
    answer = await fetch(path, { credentials: "same-origin", ...options, headers: { "X-Client": client, ...options?.headers } });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, "Kinfold doesn't answer. Is `kinfold explore` still running?");
  }
  if (answer.ok) return answer;
  let text = `The server answered ${answer.status}.`;
  try {
    text = (await answer.json()).error ?? text;
  } catch {
    // Not JSON: the status must do.
  }
  throw new ApiError(answer.status, text);
}

/** `api/images` and `{group: 3}` to one address; empty values are left out. */
export function address(path, query = {}) {
  const parts = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    if (value !== null && value !== undefined && value !== "") parts.set(name, value);
  }
  const text = parts.toString();
  return text ? `${path}?${text}` : path;
}

/** JSON of a GET. */
export async function get(path, query, { signal } = {}) {
  return (await ask(address(path, query), { signal })).json();
}

/** JSON of a POST of JSON. */
export async function post(path, body = {}) {
  const headers = { "Content-Type": "application/json" };
  return (await ask(path, { method: "POST", headers, body: JSON.stringify(body) })).json();
}

/** JSON of a POST of a file's bytes. */
export async function postFile(path, file, query) {
  const headers = { "Content-Type": file.type || "application/octet-stream" };
  return (await ask(address(path, query), { method: "POST", headers, body: file })).json();
}

/** The bytes of a GET, with the answer for its headers. */
export async function getBytes(path, query, { signal } = {}) {
  const answer = await ask(address(path, query), { signal });
  return { bytes: await answer.arrayBuffer(), headers: answer.headers };
}

/** A thumbnail's address for a tile `width` CSS pixels wide. */
export function thumb(row, width = 120) {
  return `thumb/${row}?side=${width * Math.min(devicePixelRatio || 1, 2) > 150 ? 256 : 128}`;
}

export const original = (row) => `image/${row}`;
