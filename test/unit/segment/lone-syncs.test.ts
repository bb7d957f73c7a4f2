// Which data syncs are waited for in place, and that each of them ends once, after it was asked for and not before its disk is done.

import { closeSync, mkdtempSync, openSync, rmSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { nativeBinding } from '../../../src/hotpath/index.js';
import { NodeDisk } from '../../../src/segment/index.js';
import { IN_PLACE_AFTER, IN_PLACE_BYTES, IN_PLACE_US, IN_PLACE_WRITES } from '../../../src/segment/limits.js';
import { LoneSyncs, type SyncableFile } from '../../../src/segment/lone-syncs.js';

type Done = (error: Error | null) => void;

/** A disk whose syncs say where they were done, and whose turns end when told. */
class Bench {
  readonly said: string[] = [];
  readonly pool: (() => void)[] = [];
  turns: (() => void)[] = [];
  takes = 100;
  readonly syncs = new LoneSyncs((action) => void this.turns.push(action));

  file(name: string): SyncableFile {
    return {
      syncInPlace: () => {
        this.said.push(`${name} in place`);
        return this.takes;
      },
      syncInPool: (done) => {
        this.said.push(`${name} in pool`);
        this.pool.push(() => done(null));
      },
      syncError: (negative) => new Error(`${name} failed with ${negative}`),
    };
  }
  endTurn(): void {
    for (const action of this.turns.splice(0)) action();
  }
  endPool(): void {
    for (const end of this.pool.splice(0)) end();
  }
  /** Writes and syncs, each alone in its turn, until the file has been the only one for long enough. */
  accustom(file: SyncableFile): void {
    for (let i = 0; i < IN_PLACE_AFTER; i++) this.flush(file);
    this.said.length = 0;
  }
  /** One write and its sync, to its end; where it was done. */
  flush(file: SyncableFile, bytes = 4096, lone = true): string {
    let ended = 0;
    this.syncs.wrote(file, bytes);
    const done = (error: Error | null) => {
      expect(error).toBeNull();
      ended++;
    };
    this.syncs.sync(file, done, lone);
    expect(ended).toBe(0);
    this.endTurn();
    this.endPool();
    expect(ended).toBe(1);
    return this.said.at(-1)!;
  }
}

describe('lone syncs', () => {
  it('wait in place once a file has had the thread to itself for a while, at the end of the turn', () => {
    const bench = new Bench();
    const a = bench.file('a');
    const places = Array.from({ length: IN_PLACE_AFTER }, () => bench.flush(a));
    const first = places.indexOf('a in place');
    expect(first).toBeGreaterThanOrEqual(IN_PLACE_AFTER / 2 - 1);
    expect(new Set(places.slice(first))).toEqual(new Set(['a in place']));
    bench.said.length = 0;
    bench.syncs.wrote(a, 4096);
    bench.syncs.sync(a, () => void bench.said.push('answered'), true);
    expect(bench.said).toEqual([]);
    bench.endTurn();
    expect(bench.said).toEqual(['a in place', 'answered']);
  });

  it('go to the pool beside any other use of the disk, also one that comes later in the turn', () => {
    const bench = new Bench();
    const [a, b] = [bench.file('a'), bench.file('b')];
    for (const disturb of [() => bench.syncs.read(), () => bench.syncs.wrote(b, 1), () => bench.flush(b)]) {
      bench.accustom(a);
      expect(bench.flush(a)).toBe('a in place');
      disturb();
      expect(bench.flush(a)).toBe('a in pool');
      bench.accustom(a);
      let ended = 0;
      bench.syncs.sync(a, () => void ended++, true);
      disturb();
      bench.endTurn();
      expect(bench.said).toContain('a in pool');
      expect(bench.said).not.toContain('a in place');
      bench.endPool();
      expect(ended).toBe(1);
    }
  });

  it('of which others could be served meanwhile go to the pool', () => {
    const bench = new Bench();
    const a = bench.file('a');
    bench.accustom(a);
    expect(bench.flush(a, 4096, false)).toBe('a in pool');
    expect(bench.flush(a, 4096, true)).toBe('a in place');
  });

  it('two in a turn both go to the pool, and none waits in place while the pool has one', () => {
    const bench = new Bench();
    const a = bench.file('a');
    bench.accustom(a);
    const ended: string[] = [];
    bench.syncs.sync(a, () => void ended.push('first'), true);
    bench.syncs.sync(a, () => void ended.push('second'), true);
    bench.endTurn();
    bench.syncs.sync(a, () => void ended.push('third'), true);
    bench.endTurn();
    expect(bench.said).toEqual(['a in pool', 'a in pool', 'a in pool']);
    expect(ended).toEqual([]);
    bench.endPool();
    expect(ended).toEqual(['first', 'second', 'third']);
    expect(bench.flush(a)).toBe('a in place');
  });

  it('of many bytes go to the pool, also when they were written in the rest of the turn', () => {
    const bench = new Bench();
    const a = bench.file('a');
    bench.accustom(a);
    expect(bench.flush(a, IN_PLACE_BYTES + 1)).toBe('a in pool');
    expect(bench.flush(a, IN_PLACE_BYTES)).toBe('a in place');
    bench.syncs.wrote(a, IN_PLACE_BYTES);
    bench.syncs.sync(a, () => {}, true);
    bench.syncs.wrote(a, 1);
    bench.endTurn();
    expect(bench.said.at(-1)).toBe('a in pool');
    bench.endPool();
    expect(bench.flush(a)).toBe('a in place');
  });

  it('of several writes go to the pool: other clients have something to do meanwhile', () => {
    const bench = new Bench();
    const a = bench.file('a');
    bench.accustom(a);
    for (const [writes, place] of [
      [IN_PLACE_WRITES, 'a in place'],
      [IN_PLACE_WRITES + 1, 'a in pool'],
      [1, 'a in place'],
    ] as const) {
      for (let i = 1; i < writes; i++) bench.syncs.wrote(a, 4096);
      expect(bench.flush(a)).toBe(place);
    }
  });

  it('leave more and more to the pool while the disk is slow, and come back when it is not', () => {
    const bench = new Bench();
    const a = bench.file('a');
    bench.accustom(a);
    bench.takes = IN_PLACE_US;
    const runs: number[] = [];
    for (let i = 0, inPool = 0; i < 200; i++) {
      if (bench.flush(a) === 'a in pool') inPool++;
      else {
        runs.push(inPool);
        inPool = 0;
      }
    }
    expect(runs).toEqual([0, 1, 2, 4, 8, 16, 32, 64]);
    bench.takes = 100;
    while (bench.flush(a) !== 'a in place');
    for (let i = 0; i < 100; i++) expect(bench.flush(a)).toBe('a in place');
  });

  it.each([
    [8, 0, 0.2],
    [50, 0.8, 1],
  ])('are left to the pool where one of %i is slow as often as that costs', (each, least, most) => {
    const bench = new Bench();
    const a = bench.file('a');
    bench.accustom(a);
    let inPlace = 0;
    for (let i = 0; i < 5000; i++) {
      bench.takes = inPlace % each === 0 ? 20_000 : 100;
      if (bench.flush(a) === 'a in place') inPlace++;
    }
    expect(inPlace / 5000).toBeGreaterThanOrEqual(least);
    expect(inPlace / 5000).toBeLessThanOrEqual(most);
  });

  it('tell of a failure once', () => {
    const bench = new Bench();
    const a = bench.file('a');
    bench.accustom(a);
    bench.takes = -5;
    const told: (Error | null)[] = [];
    bench.syncs.sync(a, (error) => void told.push(error), true);
    bench.endTurn();
    expect(told).toEqual([new Error('a failed with -5')]);
  });
});

describe('files of the disk', () => {
  it('are synced in either way, and a sync in place of what can not be synced fails as the pool says it', async () => {
    const directory = mkdtempSync(join(tmpdir(), 'lone-syncs-'));
    try {
      const file = new NodeDisk().openFile(join(directory, 'a'), 'create');
      for (let i = 0; i < 2 * IN_PLACE_AFTER; i++) {
        file.write([Buffer.alloc(64, i)], i * 64);
        const asked: Promise<Error | null> = new Promise((resolve: Done) => file.datasync(resolve, true));
        expect(await asked).toBeNull();
      }
      file.close();
      const native = nativeBinding();
      if (native === null) return;
      const fd = openSync(join(directory, 'b'), 'w');
      writeSync(fd, 'b');
      expect(native.syncInPlace(fd)).toBeGreaterThan(0);
      closeSync(fd);
      expect(native.syncInPlace(fd)).toBe(-9);
    } finally {
      rmSync(directory, { recursive: true, force: true });
    }
  });
});
