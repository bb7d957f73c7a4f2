// Inputs kept beside the targets: every one that once failed, by the first digits of its digest.

import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

const folder = (target: string) => join(process.cwd(), 'test/fuzz/corpus', target);

export interface KeptInput {
  readonly name: string;
  readonly bytes: Buffer;
}

export function keptInputs(target: string): KeptInput[] {
  const path = folder(target);
  if (!existsSync(path)) return [];
  return readdirSync(path)
    .sort()
    .map((name) => ({ name, bytes: readFileSync(join(path, name)) }));
}

/** Returns the file's path. */
export function keepInput(target: string, bytes: Buffer): string {
  const path = folder(target);
  mkdirSync(path, { recursive: true });
  const file = join(path, `${createHash('sha256').update(bytes).digest('hex').slice(0, 12)}.bin`);
  writeFileSync(file, bytes);
  return file;
}
