// Making directories. Not by mkdir's `recursive`: where a filesystem answers ENOENT under a directory that exists (/proc), Node
// 20 tries for ever.

import { existsSync, mkdirSync } from 'node:fs';
import { dirname } from 'node:path';
import { errnoOf } from '../base/index.js';

/** Makes `path` and what is missing above it, private; fine when it is there. Throws the system's error. */
export function makeDirectory(path: string): void {
  try {
    mkdirSync(path, { mode: 0o700 });
  } catch (error) {
    if (errnoOf(error) === 'EEXIST') return;
    const parent = dirname(path);
    if (errnoOf(error) !== 'ENOENT' || existsSync(parent)) throw error;
    makeDirectory(parent);
    mkdirSync(path, { mode: 0o700 });
  }
}
