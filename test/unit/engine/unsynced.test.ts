// The bound on bytes that are written but not synced: kept, followed, and no reason for anything to stop for good.

import { randomBytes } from 'node:crypto';
import { describe, expect, it, vi } from 'vitest';
import type { Engine } from '../../../src/engine/index.js';
import { UnsyncedBound } from '../../../src/engine/unsynced-bound.js';
import { DiskRig } from '../../lib/disk-rig.js';
import { ManualClock } from '../nbd/manual-clock.js';

// An eighth of the real numbers, so that less has to be written.
vi.mock('../../../src/engine/limits.js', async (original) => ({
  ...(await original<object>()),
  UNSYNCED: { first: 4096 * 1024, least: 256 * 1024, most: 8192 * 1024, slowMs: 250, quickMs: 50 },
}));
const unit = 128 * 1024;
const turns = async (count: number) => {
  for (let i = 0; i < count; i++) await new Promise<void>((resolve) => setImmediate(resolve));
};

describe('the bound', () => {
  const started = () => {
    const clock = new ManualClock();
    const bound = new UnsyncedBound(clock);
    let seq = 0;
    const write = (bytes: number) => {
      for (let left = bytes; left > 0; left -= 16_384) bound.wrote(++seq, Math.min(left, 16_384));
      return seq;
    };
    return { clock, bound, write };
  };

  it('asks for one sync at a time, at a quarter, of what is committed', () => {
    const { bound, write } = started();
    const first = write(7 * unit);
    expect(bound.due(first)).toBe(0);
    const second = write(2 * unit);
    expect(bound.due(1)).toBe(0);
    expect(bound.due(first)).toBe(first);
    expect(bound.due(second)).toBe(0);
    write(20 * unit);
    bound.synced(first);
    expect(bound.bytes).toBe(22 * unit);
    expect(bound.due(second)).toBe(second);
  });

  it('is exceeded until enough is synced, and halves for a slow disk', () => {
    const { clock, bound, write } = started();
    const all = write(32 * unit);
    expect(bound.exceeded).toBe(false);
    const more = write(unit);
    expect(bound.exceeded).toBe(true);
    expect(bound.due(all)).toBe(all);
    clock.pass(400);
    bound.synced(all);
    expect([bound.exceeded, bound.bytes, bound.limit]).toEqual([false, unit, 16 * unit]);
    // A quarter of the lower bound.
    const last = write(4 * unit);
    expect(bound.due(more)).toBe(more);
    clock.pass(10);
    bound.synced(last);
    expect([bound.bytes, bound.limit]).toEqual([0, 32 * unit]);
    for (let i = 0; i < 9; i++) {
      const seq = write(40 * unit);
      expect(bound.due(seq)).toBe(seq);
      clock.pass(3000);
      bound.synced(seq);
    }
    expect(bound.limit).toBe(2 * unit);
    for (let i = 0; i < 9; i++) {
      const seq = write(40 * unit);
      bound.due(seq);
      bound.synced(seq);
    }
    expect(bound.limit).toBe(64 * unit);
  });
});

function write(engine: Engine, count: number, bytes: number): { done: number; errors: string[] } {
  const state = { done: 0, errors: [] as string[] };
  for (let i = 0; i < count; i++) {
    const data = randomBytes(bytes);
    engine.submit([
      {
        op: 'write',
        offset: (i % 8) * bytes,
        length: bytes,
        fua: false,
        data,
        dataAt: 0,
        cancelled: false,
        complete: (error) => {
          state.done++;
          if (error !== null) state.errors.push(error);
        },
      },
    ]);
  }
  return state;
}

describe('an engine over disks whose syncs hang', () => {
  it.each([1, 3])(
    'admits no more than the bound, and goes on when they end (%i replicas)',
    async (replicas) => {
      const rig = await DiskRig.make(replicas);
      const engine = await rig.open();
      await turns(20);
      for (const node of rig.nodes) node.disk.holdSyncs = true;
      const state = write(engine, 80, unit);
      await turns(400);
      // 32 units, and what was in flight when they were reached.
      expect(state.done).toBeGreaterThanOrEqual(31);
      expect(state.done).toBeLessThan(36);
      expect(engine.status().replicas.every(({ state: one }) => one === 'in-sync')).toBe(true);
      for (const node of rig.nodes) node.disk.holdSyncs = false;
      for (const node of rig.nodes) node.disk.releaseSyncs();
      for (let i = 0; i < 200 && state.done < 80; i++) await turns(10);
      expect(state).toEqual({ done: 80, errors: [] });
      await engine.close();
    },
    20_000,
  );

  it('asks for the sync itself, before anybody flushes', async () => {
    const rig = await DiskRig.make(1);
    const engine = await rig.open();
    await turns(20);
    const before = rig.nodes[0]!.disk.syncs;
    const state = write(engine, 40, unit);
    for (let i = 0; i < 200 && state.done < 40; i++) await turns(10);
    expect(rig.nodes[0]!.disk.syncs).toBeGreaterThan(before + 1);
    expect(state).toEqual({ done: 40, errors: [] });
    await engine.close();
  }, 20_000);
});
