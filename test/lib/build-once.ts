// Compiles the product and the test processes before the system tests start. HOLDFAST_DIST names another output folder
// (a child of the package's root, as dist is), for several runs in one tree.

import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const tree = join(dirname(fileURLToPath(import.meta.url)), '../..');
const isCompiled = !existsSync(join(tree, 'package.json'));
const root = isCompiled ? dirname(tree) : tree;

/** The folder with the compiled tree: `src/` and `test/` lie below it. */
export const distFolder = isCompiled ? tree : join(root, process.env.HOLDFAST_DIST ?? 'dist');

export default function buildOnce(): void {
  const tsc = join(root, 'node_modules/typescript/bin/tsc');
  const { status, stdout } = spawnSync(process.execPath, [tsc, '-p', root, '--outDir', distFolder], {
    encoding: 'utf8',
  });
  if (status !== 0) process.stderr.write(`the build has errors:\n${stdout}\n`);
  if (!existsSync(join(distFolder, 'src/main/attach.js'))) throw new Error('the build made no src/main/attach.js');
}
