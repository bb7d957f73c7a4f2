// What of a victim the mover takes to be alive: what it overlooks keeps the segment from dying, what it takes too much of is written for nothing.

import { describe, expect, it } from 'vitest';
import { type GroupId, type SnapshotId, zeroUuid } from '../../../src/base/index.js';
import { BlockHeat } from '../../../src/engine/block-heat.js';
import { burstFrom, Mover, type MoverParts } from '../../../src/engine/mover.js';
import { PieceList, RecordList } from '../../../src/engine/record-list.js';
import { placeWord0, placeWord1 } from '../../../src/format/index.js';
import { BlockMap, PageCache } from '../../../src/hotpath/index.js';

const VICTIM = 7;
const NEWER = 8;
const word1 = (i: number) => placeWord1(4096 + i * 8192, 8192);

/** A map of records in VICTIM, one every 8 blocks from block 1020 on, so that some lie across two pages. */
function victim(runs: readonly number[]) {
  const map = new BlockMap(64 * 1024 * 1024, new PageCache(1024 * 1024));
  const records = new RecordList();
  for (const [i, run] of runs.entries()) {
    map.setRun(1020 + i * 8, run, placeWord0(VICTIM, 0), word1(i));
    map.stored(VICTIM, 1, run);
    records.add(1020 + i * 8, run, placeWord0(VICTIM, 0), word1(i));
  }
  const living = (canReseal: boolean, from = 0, to = records.count, leftAlone = new Set<number>()) => {
    const heat = new BlockHeat(() => 16_384);
    const mover = new Mover({ map, heat, canReseal } as MoverParts);
    const pieces = mover.living(records, from, to, leftAlone);
    return Array.from({ length: pieces.count }, (_, i) => [
      pieces.blocks[i],
      pieces.runs[i],
      pieces.word0[i],
      pieces.word1[i],
      pieces.isPart(i),
    ]);
  };
  const overwrite = (block: number, run: number) => map.setRun(block, run, placeWord0(NEWER, 0), placeWord1(64, 4160));
  return { map, living, overwrite };
}

describe('what lives of a victim', () => {
  it('is every record that nothing has overwritten, the first and the last of a part too', () => {
    const { living, overwrite } = victim([8, 1, 3, 8]);
    overwrite(1028, 1);
    const whole = (i: number, run: number) => [1020 + i * 8, run, placeWord0(VICTIM, 0), word1(i), false];
    expect(living(true)).toEqual([whole(0, 8), whole(2, 3), whole(3, 8)]);
    expect(living(true, 2, 3)).toEqual([whole(2, 3)]);
    expect(living(true, 0, 4, new Set([VICTIM]))).toEqual([]);
  });

  it('is what is left of a record in adjacent blocks, or all of it where nobody can open it', () => {
    const { living, overwrite } = victim([8, 8]);
    overwrite(1022, 2);
    overwrite(1026, 1);
    overwrite(1028, 8);
    const part = (index: number, run: number) => [1020 + index, run, placeWord0(VICTIM, index), word1(0), true];
    expect(living(true)).toEqual([part(0, 2), part(4, 2), part(7, 1)]);
    expect(living(false)).toEqual([[1020, 8, placeWord0(VICTIM, 0), word1(0), false]]);
  });

  it('is also what only a snapshot sees', () => {
    const { map, living, overwrite } = victim([8]);
    map.freeze('50000000-0000-4000-8000-000000000001' as SnapshotId, zeroUuid as GroupId, 1, 0);
    overwrite(1020, 8);
    expect(living(true)).toEqual([[1020, 8, placeWord0(VICTIM, 0), word1(0), false]]);
  });

  it('is not looked for in a segment that is left alone: its pages may be what could not be read', () => {
    const records = new RecordList();
    records.add(1020, 1, placeWord0(VICTIM, 0), word1(0));
    const map = {
      liveBlocks: () => {
        throw new Error('the page is not in memory');
      },
    };
    const mover = new Mover({ map, heat: new BlockHeat(() => 1), canReseal: true } as unknown as MoverParts);
    expect(mover.living(records, 0, 1, new Set([VICTIM])).count).toBe(0);
  });
});

describe('a burst', () => {
  /** How many records of 8 KiB each burst takes, of so many of each heat. */
  function bursts(...heats: readonly (readonly [count: number, heat: number])[]): number[] {
    const pieces = new PieceList();
    for (const [count, heat] of heats)
      for (let i = 0; i < count; i++)
        pieces.addPiece(pieces.count, 1, placeWord0(VICTIM, 0), word1(pieces.count), heat, false);
    const order = pieces.byHeat();
    const taken: number[] = [];
    for (let from = 0; from < order.length; ) {
      const { to, bytes } = burstFrom(pieces, order, from);
      expect(bytes).toBe((to - from) * 8192);
      taken.push(to - from);
      from = to;
    }
    return taken;
  }

  it('takes 4 MiB, and of cold, warm and hot records one kind only', () => {
    expect(bursts([600, 0])).toEqual([512, 88]);
    expect(bursts([100, 9], [50, 0], [50, 1], [40, 2], [60, 5], [600, 6])).toEqual([100, 100, 512, 188]);
  });

  it('takes both where one of them is less than a segment is worth', () => {
    expect(bursts([31, 0], [100, 4])).toEqual([131]);
    expect(bursts([32, 0], [100, 4])).toEqual([32, 100]);
  });
});
