import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { projectRoot } from '../../../bench/history.js';
import { budgetOf, type Profile, timeByStage } from '../../../bench/micro/budget.js';
import { withoutChecksum } from '../../../bench/micro/unsummed.js';
import { cpuUs, moved, rate, sumOf, type Usage, usedBetween } from '../../../bench/targets/alternating.js';
import { checkPieces, fillUntilFull, PIECE, type PieceDevice, pieceBytes } from '../../../bench/targets/full-pool.js';
import { parseRss } from '../../../bench/targets/idle-stage.js';
import { losses, measurePairs, pairsOf, writePairs } from '../../../bench/targets/pairs.js';
import { BlockRequestError } from '../../../src/nbd/index.js';

/** Takes `room` pieces. A piece that was not flushed may be lost afterwards. */
class SmallDevice implements PieceDevice {
  readonly stored = new Map<number, Buffer>();
  readonly durable = new Set<number>();
  readonly #room: number;

  constructor(room: number) {
    this.#room = room;
  }
  async write(offset: number, data: Uint8Array): Promise<void> {
    await new Promise((resolve) => setImmediate(resolve));
    if (this.stored.size >= this.#room) throw new BlockRequestError('ENOSPC', 'write');
    this.stored.set(offset / PIECE, Buffer.from(data));
  }
  async flush(): Promise<void> {
    const covered = [...this.stored.keys()];
    await new Promise((resolve) => setImmediate(resolve));
    for (const piece of covered) this.durable.add(piece);
  }
  async read(offset: number): Promise<Buffer> {
    return this.stored.get(offset / PIECE) ?? Buffer.alloc(PIECE);
  }
}

describe('filling a pool', () => {
  it('stops at the first error, and counts as flushed only what was acknowledged before a flush', async () => {
    const device = new SmallDevice(200);
    const filled = await fillUntilFull(device, 1000 * PIECE);
    expect(filled).toMatchObject({ error: 'ENOSPC', acknowledged: 200 });
    expect(filled.flushed.size).toBeGreaterThan(100);
    expect([...filled.flushed].filter((piece) => !device.durable.has(piece))).toEqual([]);
    expect(await checkPieces(device, filled.flushed)).toBe('');
  });

  it('finds a flushed piece that is lost, old or in the wrong place', async () => {
    const device = new SmallDevice(100);
    const { flushed } = await fillUntilFull(device, 1000 * PIECE);
    const piece = [...flushed][10]!;
    for (const wrong of [Buffer.alloc(PIECE), pieceBytes(piece + 1)]) {
      device.stored.set(piece, wrong);
      expect(await checkPieces(device, flushed)).toContain(`piece ${piece}`);
    }
  });

  it('says when nothing stopped it', async () => {
    expect((await fillUntilFull(new SmallDevice(64), 20 * PIECE)).error).toBe('nothing');
  });
});

describe('what a feature or something in the background takes', () => {
  it('is the fraction lost, and negative where nothing is', async () => {
    const speeds = { without: 100, with: 80 };
    const order: string[] = [];
    const run = (name: keyof typeof speeds) => async () => {
      order.push(name);
      return speeds[name];
    };
    const pairs = await measurePairs(2, run('without'), run('with'));
    expect(order).toEqual(['without', 'with', 'with', 'without']);
    expect(losses(pairs).map((loss) => loss.toFixed(2))).toEqual(['0.20', '0.20']);
    expect(losses([{ without: 100, with: 125 }])).toEqual([-0.25]);
  });

  it('is taken of sums over slices, since it comes in bursts', () => {
    const usage = (ms: number, cpu: number, writes: number, movedBytes = 0): Usage => ({
      ...{ ms, cpuUs: cpu, writes, writeBytes: writes * 4096, movedBytes, reclaimedBytes: 0 },
    });
    const calm = usedBetween(usage(1000, 500, 10), usage(1250, 1500, 110));
    expect(calm).toEqual(usage(250, 1000, 100));
    // Nothing in most slices, all of the work in one: a median of slices would not see it.
    const busy = sumOf([calm, calm, usedBetween(usage(0, 0, 0), usage(250, 3000, 40, 40 * 4096))]);
    expect([rate(calm), cpuUs(calm), moved(calm)]).toEqual([400, 10, 0]);
    expect(rate(busy)).toBe(320);
    expect(cpuUs(busy)).toBeCloseTo(5000 / 240);
    expect(moved(busy)).toBeCloseTo(1 / 6);
    expect(losses(pairsOf([{ without: calm, with: busy }], rate))[0]).toBeCloseTo(0.2);
    expect(writePairs(pairsOf([{ without: calm, with: busy }], rate))).toBe('320 : 400');
  });
});

describe('the budget of a write', () => {
  const frame = (functionName: string, url = '') => ({ functionName, url });
  const url = (file: string) => `file:///x/dist/src/${file}`;
  // root > parse > (submit > seal > native, append > node:fs), root > gc, root > idle
  const profile: Profile = {
    nodes: [
      { id: 1, callFrame: frame('(root)'), children: [2, 8, 9, 10] },
      { id: 2, callFrame: frame('received', url('nbd/server-transmission.js')), children: [3, 6] },
      { id: 3, callFrame: frame('submit', url('engine/write-path.js')), children: [4] },
      { id: 4, callFrame: frame('seal', url('hotpath/kernel-native.js')), children: [5] },
      { id: 5, callFrame: frame('sealFrame') },
      { id: 6, callFrame: frame('write', url('segment/node-disk.js')), children: [7] },
      { id: 7, callFrame: frame('writevSync', 'node:fs') },
      { id: 8, callFrame: frame('(garbage collector)') },
      { id: 9, callFrame: frame('(idle)') },
      { id: 10, callFrame: frame('processTicks', 'node:internal/process') },
    ],
    samples: [2, 3, 4, 5, 6, 7, 8, 9, 10],
    timeDeltas: [10, 20, 30, 40, 5, 15, 25, 1000, 55],
  };

  it('counts native code for the stage that called it, and leaves idle time out', () => {
    expect(Object.fromEntries(timeByStage(profile))).toEqual({
      parse: 10,
      engine: 20,
      seal: 70,
      append: 20,
      'garbage collector': 25,
      'event loop, kernel': 55,
    });
  });

  it('counts whatever the cleaner or the scrubber calls for them', () => {
    const nodes = [
      { id: 1, callFrame: frame('(root)'), children: [2] },
      { id: 2, callFrame: frame('move', url('engine/mover.js')), children: [3] },
      { id: 3, callFrame: frame('transmit', url('engine/pipeline.js')), children: [4] },
      { id: 4, callFrame: frame('append', url('segment/segment-log.js')) },
    ];
    const times = timeByStage({ nodes, samples: [2, 3, 4], timeDeltas: [1, 2, 4] });
    expect(Object.fromEntries(times)).toEqual({ 'cleaner, scrubber': 7 });
  });

  it('adds up to what a write costs', () => {
    const parts = budgetOf(timeByStage(profile), 8);
    expect(parts.get('seal')).toBeCloseTo(2.8);
    expect([...parts.values()].reduce((sum, part) => sum + part, 0)).toBeCloseTo(8);
  });
});

describe('a build without checksums', () => {
  it('differs from the crate in its checksum alone, and is refused when that is not found', () => {
    const source = readFileSync(join(projectRoot(), 'src/hotpath/native/src/record.rs'), 'utf8');
    const changed = withoutChecksum(source).split('\n');
    const lines = source.split('\n');
    const differing = lines.flatMap((line, i) => (line === changed[i] ? [] : [i]));
    expect(changed).toHaveLength(lines.length);
    expect(differing).toHaveLength(1);
    expect(lines[differing[0]! - 1]).toContain('fn crc32c(');
    expect(() => withoutChecksum('fn crc32c() {}')).toThrow('checksum is not');
  });
});

describe('resident memory', () => {
  it('is read from a process status', () => {
    expect(parseRss('Name:\tx\nVmPeak:\t  99 kB\nVmRSS:\t  2048 kB\n')).toBe(2 << 20);
    expect(parseRss('Name:\tkthreadd\n')).toBeUndefined();
  });
});
