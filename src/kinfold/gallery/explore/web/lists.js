// @ts-check
// Lists of images as the server gives them.

import { get } from "./api.js";

/** A loader for ImageGrid: `asked()` is what /api/images is asked for besides offset and limit. */
export function imageList(asked) {
  return async (offset, limit) => {
    const { total, images } = await get("api/images", { ...asked(), offset, limit });
    return { total, items: images };
  };
}

/** The row numbers of a whole list, in its order. */
export async function allRows(asked) {
  const { rows } = await get("api/rows", asked);
  return rows;
}

/** A loader over images that are already here. */
export const fixedList = (items) => async (offset, limit) => ({ total: items.length, items: items.slice(offset, offset + limit) });
