import { describe, expect, it } from 'vitest';
import { crc32c } from '../../../src/base/index.js';
import {
  encodeHeader,
  MESSAGE_HEADER_SIZE,
  type MessageHead,
  messageType,
  noReign,
} from '../../../src/wire/message.js';
import { type MessageHandler, MessageReader } from '../../../src/wire/message-reader.js';
import { readPlan } from '../../../src/wire/read-plan.js';
import { lcg } from '../../lib/recording-disk.js';

function message(requestId: number, body: Buffer, checksummed = true): Buffer {
  const header = Buffer.alloc(MESSAGE_HEADER_SIZE);
  encodeHeader(
    header,
    { type: messageType.reply, requestId, a: requestId * 3, b: 2 ** 52, c: 7, d: 8 },
    noReign,
    body.length,
    checksummed ? crc32c(body) : null,
  );
  return Buffer.concat([header, body]);
}

class Collector implements MessageHandler {
  readonly seen: { id: number; a: number; body: Buffer }[] = [];
  batches = 0;
  sinks: Uint8Array[] | null = null;
  max = 1 << 20;
  bodyMax(): number {
    return this.max;
  }
  sink(head: MessageHead): readonly Uint8Array[] | null {
    return head.requestId === 99 ? this.sinks : null;
  }
  message(head: MessageHead, body: Buffer): void {
    this.seen.push({ id: head.requestId, a: head.a, body: Buffer.from(body) });
  }
  batchEnd(): void {
    this.batches++;
  }
}

describe('message reader', () => {
  const bodies = [0, 1, 80, 5000, 0, 200_000, 3].map((size, i) => Buffer.alloc(size, i + 1));
  const stream = Buffer.concat(bodies.map((body, i) => message(i, body, i % 2 === 0)));

  it('finds the same messages however the stream is cut', () => {
    for (const step of [1, 7, 79, 80, 81, 4096, 65_536, stream.length]) {
      const collector = new Collector();
      const reader = new MessageReader(collector);
      for (let at = 0; at < stream.length; at += step) reader.feed(stream.subarray(at, at + step));
      expect(collector.seen.map(({ id, a }) => [id, a])).toEqual(bodies.map((_, i) => [i, i * 3]));
      for (const [i, body] of bodies.entries()) expect(collector.seen[i]!.body.equals(body)).toBe(true);
      expect(collector.batches).toBe(Math.ceil(stream.length / step));
    }
  });

  it('pours a body into the places named for it', () => {
    const data = Buffer.from(Array.from({ length: 1000 }, (_, i) => i & 0xff));
    const bytes = Buffer.concat([message(99, data, false), message(5, Buffer.from('x'))]);
    for (const step of [1, 13, 80, bytes.length]) {
      const collector = new Collector();
      collector.sinks = [Buffer.alloc(1), Buffer.alloc(500), Buffer.alloc(499)];
      const reader = new MessageReader(collector);
      for (let at = 0; at < bytes.length; at += step) reader.feed(bytes.subarray(at, at + step));
      expect(Buffer.concat(collector.sinks).equals(data)).toBe(true);
      expect(collector.seen.map(({ id }) => id)).toEqual([99, 5]);
    }
  });

  it('refuses any flipped bit of a header and of a checksummed body', () => {
    const bytes = message(1, Buffer.from('hello hello'));
    for (let bit = 0; bit < bytes.length * 8; bit++) {
      const bad = Buffer.from(bytes);
      bad[bit >> 3] = bad[bit >> 3]! ^ (1 << (bit & 7));
      const collector = new Collector();
      expect(() => new MessageReader(collector).feed(bad), `bit ${bit}`).toThrow(
        expect.objectContaining({ reason: 'Protocol' }),
      );
      expect(collector.seen).toEqual([]);
    }
  });

  it('refuses a body above the bound before it takes memory for it', () => {
    const header = Buffer.alloc(MESSAGE_HEADER_SIZE);
    encodeHeader(header, { type: messageType.reply, requestId: 1 }, noReign, 0xffff_ffff, null);
    expect(() => new MessageReader(new Collector()).feed(header)).toThrow(/4294967295 bytes, at most 1048576/);
  });

  it('throws nothing but protocol errors at random bytes', () => {
    const random = lcg(7);
    for (let round = 0; round < 300; round++) {
      const bytes = Buffer.from(stream.subarray(0, 6000));
      for (let i = 0; i < 1 + (round % 5); i++) bytes[Math.floor(random() * bytes.length)] = Math.floor(random() * 256);
      try {
        new MessageReader(new Collector()).feed(bytes);
      } catch (error) {
        expect(error).toMatchObject({ reason: 'Protocol' });
      }
    }
  });
});

describe('read plan', () => {
  it('splits reads so that every byte is asked for once, within the bounds', () => {
    const segment = { epoch: 1, ordinal: 1 };
    const into = Buffer.alloc(9_000_000);
    const ranges = [
      { segment, offset: 10, into: into.subarray(0, 5) },
      { segment, offset: 4096, into: into.subarray(5, 8_800_005) },
      ...Array.from({ length: 3000 }, (_, i) => ({
        segment,
        offset: i * 64,
        into: into.subarray(8_800_005 + i * 64, 8_800_069 + i * 64),
      })),
    ];
    const { requests, bytes } = readPlan(ranges);
    expect(bytes).toBe(5 + 8_800_000 + 3000 * 64);
    let at = 0;
    for (const request of requests) {
      expect(request.length).toBeLessThanOrEqual(1024);
      expect(request.reduce((sum, range) => sum + range.into.length, 0)).toBeLessThanOrEqual(4 << 20);
      for (const range of request) {
        expect(range.into.byteOffset).toBe(into.byteOffset + at);
        at += range.into.length;
      }
    }
    expect(at).toBe(bytes);
    expect(readPlan([]).requests).toEqual([]);
  });
});
