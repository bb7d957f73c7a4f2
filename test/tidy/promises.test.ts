// test/PROMISES.md must not rot: every promise has its row, every row a proof, and every test it names exists.

import { readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { describe, expect, it } from 'vitest';

const root = resolve(import.meta.dirname, '../..');

interface Row {
  readonly id: string;
  readonly proof: string;
}

function numbered(letter: string, count: number): string[] {
  return Array.from({ length: count }, (_, index) => `${letter}${index + 1}`);
}

const rows: Row[] = readFileSync(join(root, 'test/PROMISES.md'), 'utf8')
  .split('\n')
  .map((line) => line.split(' | '))
  .flatMap(([first, , proof]) => {
    const id = /^\| ([PRS]\d+)$/.exec(first ?? '')?.[1];
    return id === undefined || proof === undefined ? [] : [{ id, proof }];
  });

/** `file` "title" "title": the files of a proof, each with the titles that stand behind it. */
function cited(proof: string): { file: string; titles: string[] }[] {
  return [...proof.matchAll(/`(test\/[^`]+)`((?: "[^"]+")*)/g)].map((match) => ({
    file: match[1]!,
    titles: [...match[2]!.matchAll(/"([^"]+)"/g)].map((title) => title[1]!),
  }));
}

describe('test/PROMISES.md', () => {
  it('has one row for each promise', () => {
    expect(rows.map((row) => row.id)).toEqual([...numbered('P', 9), ...numbered('R', 16), ...numbered('S', 4)]);
  });

  it.each(rows)('$id names tests that exist', ({ proof }) => {
    const citations = cited(proof);
    expect(citations).not.toEqual([]);
    for (const { file, titles } of citations) {
      const text = readFileSync(join(root, file), 'utf8');
      for (const title of titles) expect(text, `${file} has no test named "${title}"`).toContain(title);
    }
  });
});
