// When an open volume does something by itself: soon after something happened, and else as good as never.

import { beforeEach, describe, expect, it } from 'vitest';
import { silentLogger } from '../../../src/base/index.js';
import { Maintenance, type MaintenanceParts } from '../../../src/engine/maintenance.js';
import { ProcessClock, VirtualTime } from '../../lib/crash/virtual-time.js';

const minute = 60_000;
const hour = 60 * minute;
const week = 7 * 24 * hour;

class Volume {
  readonly time = new VirtualTime();
  readonly clock = new ProcessClock(this.time, 0);
  timers = 0;
  closed = false;
  due = false;
  broken = false;
  synced = 1;
  lastSeq = 1;
  segments = 1;
  holdsMuch = false;
  /** No segment is open: the log ends with a sealed one. */
  sealed = false;
  readonly checkpoints: number[] = [];
  readonly notes: number[] = [];
  readonly scrubs: number[] = [];
  readonly maintenance: Maintenance;

  constructor() {
    const { clock } = this;
    const volume = this;
    this.maintenance = new Maintenance({
      reign: { epoch: 1 },
      set: {
        get synced() {
          return volume.synced;
        },
      },
      writer: {
        get lastSeq() {
          return volume.lastSeq;
        },
        get position() {
          return volume.sealed ? undefined : {};
        },
        digest: Buffer.alloc(32),
      },
      checkpointer: {
        due: () => this.due,
        write: async () => {
          this.checkpoints.push(this.time.now);
          if (this.broken) throw new Error('disk is full');
          this.due = false;
        },
      },
      space: { wake: () => {}, holdsMuch: () => this.holdsMuch },
      scrubber: {
        get segments() {
          return volume.segments;
        },
        step: async () => {
          this.scrubs.push(this.time.now);
        },
      },
      membership: {
        noteFlushed: async ({ seq }: { seq: number }) => {
          this.notes.push(seq);
        },
      },
      describe: async () => {},
      durable: async (seq: number) => {
        this.synced = seq;
      },
      closed: () => this.closed,
      clock: {
        monotonicMs: () => clock.monotonicMs(),
        after: (delayMs: number, fn: () => void) => {
          this.timers++;
          return clock.after(delayMs, fn);
        },
      },
      logger: silentLogger,
    } as unknown as MaintenanceParts);
  }

  async pass(ms: number): Promise<void> {
    const end = this.time.now + ms;
    this.clock.after(ms, () => {});
    while (this.time.now < end) await this.time.step();
    await new Promise((resolve) => setImmediate(resolve));
  }
}

describe('an open volume', () => {
  let volume: Volume;
  beforeEach(() => {
    volume = new Volume();
    volume.maintenance.start();
  });

  it('on which nothing happens sets about one timer an hour', async () => {
    await volume.pass(2 * minute);
    expect(volume.notes).toEqual([1]);
    const before = volume.timers;
    await volume.pass(10 * hour);
    expect(volume.timers - before).toBeLessThanOrEqual(11);
    // Written and never flushed: no reason to look again and again either.
    volume.lastSeq = 9;
    volume.maintenance.noteWork();
    await volume.pass(minute);
    const after = volume.timers;
    await volume.pass(10 * hour);
    expect(volume.timers - after).toBeLessThanOrEqual(11);
    expect(volume.notes).toEqual([1]);
  });

  it('looks two seconds after something happened, once for any number of frames', async () => {
    await volume.pass(2 * minute);
    const before = volume.timers;
    for (let seq = 2; seq <= 1_000; seq++) {
      volume.lastSeq = seq;
      volume.synced = seq;
      volume.maintenance.noteWork();
    }
    await volume.pass(1_900);
    expect(volume.notes).toEqual([1]);
    await volume.pass(200);
    expect(volume.notes).toEqual([1, 1_000]);
    expect(volume.timers - before).toBe(1);
  });

  it('makes a log durable that ends with a sealed segment, and notes that this is its end', async () => {
    await volume.pass(minute);
    volume.sealed = true;
    volume.lastSeq = 9;
    volume.maintenance.noteWork();
    await volume.pass(3_000);
    expect(volume.notes).toEqual([1, 9]);
  });

  it('does not wait when dead segments hold much, and writes one checkpoint for each time that is found', async () => {
    await volume.pass(minute);
    volume.maintenance.noteWork();
    volume.holdsMuch = true;
    for (let i = 0; i < 5; i++) volume.maintenance.noteWork();
    await volume.pass(1);
    expect(volume.checkpoints).toEqual([minute]);
    volume.holdsMuch = false;
    for (let i = 0; i < 5; i++) volume.maintenance.noteWork();
    await volume.pass(minute);
    expect(volume.checkpoints).toEqual([minute]);
  });

  it('tries a checkpoint again until it is written', async () => {
    volume.due = true;
    volume.broken = true;
    await volume.pass(11_000);
    expect(volume.checkpoints).toEqual([2_000, 4_000, 6_000, 8_000, 10_000]);
    volume.broken = false;
    await volume.pass(minute);
    expect(volume.checkpoints.length).toBe(6);
  });

  it('reads everything at rest once a week, one segment soon after the open', async () => {
    volume.segments = 7;
    await volume.pass(week + hour);
    expect(volume.scrubs[0]).toBe(45_000);
    expect(volume.scrubs.length).toBeGreaterThanOrEqual(7);
    expect(volume.scrubs.length).toBeLessThanOrEqual(9);
    // It grows: the pace follows within the hour, and never runs away.
    volume.segments = 1_000_000;
    const before = volume.scrubs.length;
    await volume.pass(2 * hour);
    const more = volume.scrubs.length - before;
    expect(more).toBeGreaterThan(hour / 45_000 - 2);
    expect(more).toBeLessThanOrEqual((2 * hour) / 45_000 + 1);
  });

  it('that is closed does nothing any more', async () => {
    volume.due = true;
    volume.closed = true;
    volume.maintenance.stop();
    volume.maintenance.noteWork();
    const before = volume.timers;
    await volume.pass(2 * week);
    expect([volume.timers, volume.checkpoints, volume.scrubs]).toEqual([before, [], []]);
  });
});
