// Pages that are to leave a segment: the map's own part of what the cleaner does for records.

import type { BlockMap } from './block-map.js';
import { LOAD_PAGES } from './page-loads.js';

/**
 * The next checkpoint writes whole the pages that lie in this slot, or whose base does. `goOn` is asked after each LOAD_PAGES of them: what is
 * left then stays for another time. Rejects when a page can't be read.
 */
export async function rewritePages(map: BlockMap, slot: number, goOn: () => Promise<boolean>): Promise<void> {
  const ids: number[] = [];
  map.table.storedIn(slot, (id) => ids.push(id));
  for (let at = 0; at < ids.length; at += LOAD_PAGES) {
    const some = ids.slice(at, at + LOAD_PAGES);
    await new Promise<void>((resolve, reject) => {
      map.loadIds(some, (error) => {
        if (error !== null) return reject(error);
        for (const id of some) {
          if (!map.table.isPage(id)) continue;
          const page = map.resident(id);
          map.changing(page);
          page.based = false;
          page.changed = null;
        }
        resolve();
      });
    });
    if (!(await goOn())) return;
  }
}
