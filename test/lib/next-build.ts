// A next release as a program: this one's compiled files with the numbers of its versions raised.

import { cpSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { distFolder } from './build-once.js';

const raised: readonly (readonly [file: string, find: string, replace: string])[] = [
  ['wire/versions.js', 'PROTOCOL = { min: 1, max: 1 }', 'PROTOCOL = { min: 1, max: 2 }'],
  ['rpc/versions.js', 'API = { min: 1, max: 1 }', 'API = { min: 1, max: 2 }'],
  ['format/constants.js', 'FORMATS_READ = { min: 1, max: 1 }', 'FORMATS_READ = { min: 1, max: 2 }'],
];

/** Makes it below `folder`, which must not exist, and returns the path of its program. */
export function nextBuild(folder: string): string {
  const dist = join(folder, 'dist');
  mkdirSync(folder, { recursive: true });
  cpSync(join(distFolder, 'src'), join(dist, 'src'), { recursive: true });
  // The crate as cargo left it is found from there, too, but not from here.
  const root = dirname(distFolder);
  for (const name of ['node_modules', 'proto', 'package.json', 'src'])
    symlinkSync(join(root, name), join(folder, name));
  for (const [file, find, replace] of raised) {
    const path = join(dist, 'src', file);
    const text = readFileSync(path, 'utf8');
    if (text.split(find).length !== 2) throw new Error(`${path} does not hold ${find} once`);
    writeFileSync(path, text.replace(find, replace));
  }
  return join(dist, 'src/main/holdfast.js');
}
