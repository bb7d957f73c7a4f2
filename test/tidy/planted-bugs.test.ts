// Every planted bug still has its place in the source: one that can't be planted proves nothing.

import { readFileSync } from 'node:fs';
import { expect, it } from 'vitest';
import { plantedBugs } from '../planted/bugs.js';
import { membershipBugs } from '../planted/membership.js';
import { parserBugs } from '../planted/parsers.js';

it.each([...plantedBugs, ...membershipBugs, ...parserBugs])('has its place: $name', ({ file, edits }) => {
  const source = readFileSync(file, 'utf8');
  for (const [find, replace] of edits) {
    expect(source.split(find).length - 1, `${file}: ${find}`).toBe(1);
    expect(replace).not.toBe(find);
  }
});
