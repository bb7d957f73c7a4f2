// Making directories. Not by mkdir's `recursive`: where a filesystem answers ENOENT under a directory that exists (/proc), Node
// 20 tries for ever, and a path may come from outside.

import { existsSync, mkdirSync } from 'node:fs';
import { dirname } from 'node:path';
import { errnoOf } from '../base/index.js';

/** Makes `path` and what is missing above it; fine when it is there. Throws the system's error. */
export function makeDirectory(path: string, mode = 0o700): void {
  try {
    mkdirSync(path, { mode });
  } catch (error) {
    if (errnoOf(error) === 'EEXIST') return;
    const parent = dirname(path);
    if (errnoOf(error) !== 'ENOENT' || existsSync(parent)) throw error;
    makeDirectory(parent, mode);
    mkdirSync(path, { mode });
  }
}
