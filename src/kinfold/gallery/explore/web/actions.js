// @ts-check
// Corrections: each is one request; its answer is said in a toast with a way back.

import { ApiError, post } from "./api.js";
import { askNumber } from "./dialogs.js";
import { count, images, plural } from "./format.js";
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
export const edit = (body, options) => send("api/edits", body, options);
export const undo = () => send("api/undo", {}, { undoable: false });
export const redo = () => send("api/redo", {}, { undoable: true });

export const renameGroup = (group, name) => edit({ kind: "rename", group, name: name || null });
export const lockGroups = (groups, locked) => edit({ kind: "lock", groups, locked });
export const lockGroup = (group, locked) => lockGroups([group], locked);
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

/** Ask which group takes the images of all of `groups`, and merge them as one edit. */
export async function mergeGroups(groups) {
  if (groups.length === 1) return mergeGroup(groups[0]);
  const size = (id) => store.groups.get(id)?.size ?? 0;
  const named = (id) => Boolean(store.groups.get(id)?.name);
  const first = [...groups].sort((a, b) => Number(named(b)) - Number(named(a)) || size(b) - size(a));
  const total = groups.reduce((sum, id) => sum + size(id), 0);
  const chosen = await pickGroup({ title: `Merge ${plural(groups.length, "group")} into`, text: `Their ${images(total)} go into the group you choose, which keeps its name. One undo takes it back.`, first, preselect: true });
  if (!chosen) return null;
  return edit({ kind: "merge", groups: groups.filter((id) => id !== chosen.group), into: chosen.group });
}

const splitting = new Set();

/** Whether a group is being split, which can take a while. */
export const isSplitting = (group) => splitting.has(group);

/** Ask into how many, and split. One split of a group at a time. */
export async function splitGroup(group) {
  if (splitting.has(group)) return void toast(`“${store.label(group)}” is being split already.`);
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
  if (!parts || splitting.has(group)) return null;
  splitting.add(group);
  store.dispatchEvent(new Event("busy"));
  const said = toast(`Sorting the ${images(size)} of “${store.label(group)}” into ${count(parts)} groups…`, { kind: "working", stay: Infinity });
  try {
    return await edit({ kind: "split", group, n_clusters: parts });
  } finally {
    splitting.delete(group);
    said();
    store.dispatchEvent(new Event("busy"));
  }
}
