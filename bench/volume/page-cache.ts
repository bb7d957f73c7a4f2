// Cold reads: the kernel forgets every clean page of every file, whoever's it is, so both sides of a comparison start alike.

import { writeFile } from 'node:fs/promises';

const DROP_CACHES = '/proc/sys/vm/drop_caches';

/** Needs root, on the machine itself. */
export function canDropPageCache(): boolean {
  return process.getuid?.() === 0;
}

export async function dropPageCache(): Promise<void> {
  await writeFile(DROP_CACHES, '1');
}
