// Part of `npm run generate`: proto-loader-gen-types writes one file per message and no way in. This writes an index.ts
// into every folder of generated files, so that src/rpc/index.ts can export a package's types under one name.

import { readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

const root = new URL('./generated/', import.meta.url).pathname;

function writeIndex(folder) {
  const names = [];
  for (const entry of readdirSync(folder, { withFileTypes: true })) {
    if (entry.isDirectory()) writeIndex(join(folder, entry.name));
    else if (entry.name.endsWith('.ts') && entry.name !== 'index.ts') names.push(entry.name.slice(0, -3));
  }
  const lines = names.sort().map((name) => `export type * from './${name}.js';\n`);
  if (lines.length > 0) writeFileSync(join(folder, 'index.ts'), lines.join(''));
}

for (const entry of readdirSync(root, { withFileTypes: true })) {
  if (entry.isDirectory()) writeIndex(join(root, entry.name));
}
