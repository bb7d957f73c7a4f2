// The check of frames before they are appended: native and twin give the same answer and the same tail.

import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { nativeBinding } from '../../../src/hotpath/index.js';
import { LogTail } from '../../../src/segment/index.js';
import { FrameMaker, reignOf, volumeA } from '../../lib/frame-maker.js';

function start(anyVolume = false): { maker: FrameMaker; tail: LogTail } {
  const maker = new FrameMaker(reignOf(3));
  const tail = new LogTail();
  tail.enter(
    { name: { epoch: 3, ordinal: 1 }, volumeId: anyVolume ? null : volumeA },
    0,
    Buffer.alloc(16),
    4096,
    false,
  );
  return { maker, tail };
}

function copyOf(tail: LogTail): LogTail {
  const copy = new LogTail();
  copy.copyFrom(tail);
  return copy;
}

function both(tail: LogTail, bytes: Uint8Array, from: number) {
  const native = copyOf(tail);
  const twin = copyOf(tail);
  const faults = [native.verify(bytes, from), twin.verifyTwin(bytes, from)];
  expect(faults[0]).toBe(faults[1]);
  expect(native.bytes.equals(twin.bytes)).toBe(true);
  return { fault: faults[0]!, tail: native };
}

describe.skipIf(nativeBinding() === null)('frames against a tail, native and twin', () => {
  it('agree on good frames, one and many at once, and on the seal', () => {
    const { maker, tail } = start();
    const frames = [maker.next(0), maker.next(5000), maker.next(100_000)];
    maker.flushedThrough = 2;
    frames.push(maker.next(10), maker.seal());
    const all = Buffer.concat(frames.map((frame) => frame.bytes));
    const { fault, tail: after } = both(tail, all, 4096);
    expect(fault).toBeNull();
    expect([after.seq, after.sealed, after.flushedThrough, after.offset]).toEqual([5, true, 2, all.length]);
    expect(after.digest.toString('hex')).toBe(frames[4]!.digest);
    expect(both(after, frames[3]!.bytes, 0).fault).toBe('after-seal');
    expect(both(tail, all.subarray(0, 4096), 4096).fault).toBeNull();
  });

  it('agree on the fault of whatever bytes, and where it is', () => {
    const { maker, tail } = start();
    const bytes = Buffer.concat([maker.next(300), maker.next(300), maker.next(300)].map((frame) => frame.bytes));
    const seen = new Set<string>();
    const change = fc.record({
      at: fc.integer({ min: 4096, max: bytes.length - 1 }),
      mask: fc.integer({ min: 1, max: 255 }),
      cut: fc.option(fc.integer({ min: 0, max: bytes.length - 4096 }), { freq: 5 }),
      blank: fc.option(fc.integer({ min: 4096, max: bytes.length }), { freq: 5 }),
    });
    fc.assert(
      fc.property(change, ({ at, mask, cut, blank }) => {
        const changed = Buffer.from(bytes);
        changed[at] = changed[at]! ^ mask;
        if (blank !== null) changed.fill(0, blank);
        const { fault } = both(tail, cut === null ? changed : changed.subarray(0, 4096 + cut), 4096);
        if (cut !== 0) expect(fault).not.toBeNull();
        seen.add(String(fault));
      }),
      { numRuns: 600, seed: 11 },
    );
    expect([...seen]).toEqual(expect.arrayContaining(['blank', 'short', 'header-checksum', 'body-checksum', 'magic']));
  });

  it('agree on good frames that belong elsewhere', () => {
    const { maker, tail } = start();
    const first = maker.next(100).bytes;
    const second = maker.next(100).bytes;
    expect(both(tail, second, 0).fault).toBe('place');
    const shifted = (change: (tail: LogTail) => void) => {
      const other = copyOf(tail);
      change(other);
      return both(other, first, 4096).fault;
    };
    const name = { epoch: 3, ordinal: 1 };
    const context = { name, volumeId: volumeA };
    expect(shifted((other) => other.enter(context, 5, Buffer.alloc(16), 4096, false))).toBe('seq');
    expect(shifted((other) => other.enter(context, 0, Buffer.alloc(16, 1), 4096, false))).toBe('digest');
    expect(
      shifted((other) => other.enter({ ...context, name: { epoch: 2, ordinal: 1 } }, 0, Buffer.alloc(16), 4096, false)),
    ).toBe('epoch');
    expect(
      shifted((other) => other.enter({ ...context, name: { epoch: 3, ordinal: 2 } }, 0, Buffer.alloc(16), 4096, false)),
    ).toBe('place');
    const otherVolume = '0a000000-0000-4000-8000-0000000000ee' as typeof volumeA;
    expect(shifted((other) => other.enter({ name, volumeId: otherVolume }, 0, Buffer.alloc(16), 4096, false))).toBe(
      'volume',
    );
    expect(both(start(true).tail, first, 4096).fault).toBeNull();
    maker.committedThrough = 3;
    const claims = maker.next(100).bytes;
    const after = copyOf(tail);
    expect(after.verify(Buffer.concat([first, second]), 4096)).toBeNull();
    expect(both(after, claims, 0).fault).toBe('claims');
  });
});
