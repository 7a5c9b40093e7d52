// @ts-check
// Corrections: each is one request; its answer is said in a toast with a way back.

import { ApiError, post } from "./api.js";
import { askNumber } from "./dialogs.js";
import { images } from "./format.js";
import { pickGroup } from "./picker.js";
import { store } from "./store.js";
import { complain, toast } from "./toasts.js";

// What the last toast with a way back is about. Undo takes back the last edit, so no older toast may offer it.
let dismiss = () => {};

async function send(path, body, { quiet = false, undoable = true } = {}) {
  try {
    const answer = await post(path, body);
    // After a merge or an undo a changed group may be gone: then all are read again.
    await store.note(answer.version, { own: true, groups: ["merge", undefined].includes(body.kind) ? null : answer.groups });
    dismiss();
    dismiss = quiet ? () => {} : toast(answer.text, undoable ? { actions: [["Undo", undo]] } : {});
    return answer;
  } catch (error) {
    complain(error);
    if (error instanceof ApiError && [404, 409].includes(error.status)) await store.look();
    return null;
  }
}

/** Apply an edit of the contract, `{kind, …}`; resolves to the answer, or null if it wasn't taken. */
export const edit = (body, options) => send("/api/edits", body, options);
export const undo = () => send("/api/undo", {}, { undoable: false });
export const redo = () => send("/api/redo", {}, { undoable: true });

export const renameGroup = (group, name) => edit({ kind: "rename", group, name: name || null });
export const lockGroup = (group, locked) => edit({ kind: "lock", groups: [group], locked });
export const markRows = (rows, mark) => edit({ kind: "mark", rows, mark });
export const confirmRows = (rows) => edit({ kind: "confirm", rows });
export const moveTo = (rows, group, name = null) => edit({ kind: "move", rows, group, name });

/** Ask where `rows` should go, and move them. `first` are groups to suggest. */
export async function moveRows(rows, { first = [], from = null } = {}) {
  const chosen = await pickGroup({ title: `Move ${images(rows.length)} to`, first, without: from === null ? [] : [from], fresh: true });
  return chosen ? moveTo(rows, chosen.group, chosen.name ?? null) : null;
}

/** Ask for the group that takes all of `group`'s images. Resolves to its id, or null. */
export async function mergeGroup(group, { first = [] } = {}) {
  const chosen = await pickGroup({ title: `Merge “${store.label(group)}” into`, first, without: [group] });
  if (!chosen) return null;
  return (await edit({ kind: "merge", groups: [group], into: chosen.group })) && chosen.group;
}

/** Ask into how many, and split. */
export async function splitGroup(group) {
  const size = store.groups.get(group)?.size ?? 2;
  const parts = await askNumber({
    title: `Split “${store.label(group)}”`,
    text: `Its ${images(size)} are sorted again, by their features, into groups of their own.`,
    label: "Into how many groups",
    value: 2,
    min: 2,
    max: Math.max(2, Math.min(size, 100)),
    action: "Split",
  });
  return parts ? edit({ kind: "split", group, n_clusters: parts }) : null;
}
